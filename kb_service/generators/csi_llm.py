"""``csi-llm``: CSI-LLM (arXiv 2409.00005) over CSI reports.

As there: a language model reads snapshots as tokens, predicts the next one at every position, as in its own
pre-training, takes histories of any length and reaches far slots by roll-out; the loss is the NMSE alone. Ours: the
model's blocks stay frozen; a step is as long as a token says, so that a near slot of transmission is one step away and
only steps longer than ``step_slots`` are divided; at the last position the truth is the target, and the prediction
starts from the anchor with the heads that all generators share.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Final

import torch
from torch import nn

from kb_service.generators.base import (
    CONDITION_SIZE,
    REPORT_FEATURES,
    Antennas,
    ChannelGenerator,
    Prepared,
)
from kb_service.generators.heads import ComponentGains, DenseHead
from kb_service.generators.trunk import TRUNK_WIDTH, Trunk

NEXT_STEP_WEIGHT: Final = 0.5
"""Of the mean over the earlier positions, beside the last one."""
AGE: Final = 1
"""Place of the age [10 slots] in :attr:`Prepared.about`."""


@dataclass(frozen=True, slots=True)
class CsiLlmSettings:
    """Sizes; ``depth``: blocks of the language model."""

    depth: int = 2
    pretrained: bool = True
    width: int = 128
    step_slots: int = 5
    """Longest step; what is farther away is rolled out, at most ``MAX_STEPS`` (chosen on val). 0: always one step."""


MAX_STEPS: Final = 4


class CsiLlm(ChannelGenerator):
    """See the module. One token a report."""

    name: ClassVar[str] = "csi-llm"
    settings: CsiLlmSettings

    def __init__(self, settings: CsiLlmSettings, antennas: Antennas) -> None:
        super().__init__(settings, antennas)
        width = settings.width
        self.embed = nn.Linear(2 * antennas.size, width)
        self.about = nn.Linear(REPORT_FEATURES + 1, width)
        self.condition = nn.Linear(CONDITION_SIZE, width)
        self.norm = nn.LayerNorm(width)
        self.enter = nn.Linear(width, TRUNK_WIDTH)
        self.trunk = Trunk(settings.depth, pretrained=settings.pretrained)
        self.leave = nn.Linear(TRUNK_WIDTH, width)
        self.gains = ComponentGains(antennas, width)
        self.dense = DenseHead(antennas, width)
        self._next_step_error: torch.Tensor | None = None

    def further_loss(self) -> torch.Tensor | float:
        """See :class:`ChannelGenerator`: NMSE of the next report, over the earlier positions."""
        error, self._next_step_error = self._next_step_error, None
        return 0.0 if error is None else NEXT_STEP_WEIGHT * error

    def residual(self, prepared: Prepared) -> torch.Tensor:
        """See :class:`ChannelGenerator`."""
        reports, about = prepared.reports, prepared.about
        summaries = self._read(reports, about, prepared.condition)
        if self.training:
            self._next_step_error = self._error(prepared, summaries)
        summary = summaries[:, -1]
        for _ in range(MAX_STEPS - 1 if self.settings.step_slots and not self.training else 0):
            step = self.settings.step_slots / 10
            far = about[:, -1, AGE] > 1.5 * step
            if not bool(far.any()):
                break
            predicted = reports[:, -1] + self.dense(summary)
            reports, about = self._rolled(reports, about, predicted, step, far)
            summary = self._read(reports, about, prepared.condition)[:, -1]
        residual: torch.Tensor = self.gains(prepared, summary) + self.dense(summary)
        return residual

    def _read(
        self, reports: torch.Tensor, about: torch.Tensor, condition: torch.Tensor
    ) -> torch.Tensor:
        """What is understood at every position: float32 ``[n, num_reports, width]``; causal."""
        ages = about[..., AGE]
        length = ages - nn.functional.pad(ages[:, 1:], (0, 1))
        context = self.about(torch.cat([about, length[..., None]], dim=-1))
        context = context + self.condition(condition)[:, None]
        numbers = torch.view_as_real(reports.contiguous()).flatten(2)
        tokens = self.norm(nn.functional.gelu(self.embed(numbers)) + context)
        read = self.leave(self.trunk(self.enter(tokens)))
        summaries: torch.Tensor = nn.functional.gelu(read + tokens)
        return summaries

    def _error(self, prepared: Prepared, summaries: torch.Tensor) -> torch.Tensor:
        """Mean NMSE of the next report where it and the one before are there."""
        predicted = prepared.reports[:, :-1] + self.dense(summaries[:, :-1])
        truth = prepared.reports[:, 1:]
        both = (prepared.present[:, :-1] & prepared.present[:, 1:]).float()
        error = (predicted - truth).abs().square().sum(-1) / truth.abs().square().sum(-1).clamp_min(
            1e-6
        )
        mean: torch.Tensor = (error * both).sum() / both.sum().clamp_min(1.0)
        return mean

    @staticmethod
    def _rolled(
        reports: torch.Tensor,
        about: torch.Tensor,
        predicted: torch.Tensor,
        step: float,
        far: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Histories with what was predicted as their newest report, where the slot of transmission is still far."""
        newest = about[:, -1:].clone()
        ratio = (newest[..., AGE] - step) / newest[..., AGE].clamp_min(step)
        newest[..., AGE] -= step
        newest[..., AGE + 1] *= ratio
        longer = torch.cat([reports[:, 1:], predicted[:, None]], dim=1)
        context = torch.cat([about[:, 1:], newest], dim=1)
        return (
            torch.where(far[:, None, None], longer, reports),
            torch.where(far[:, None, None], context, about),
        )


def csi_llm(antennas: Antennas, **settings: Any) -> CsiLlm:
    """A new generator with these settings."""
    return CsiLlm(CsiLlmSettings(**settings), antennas)
