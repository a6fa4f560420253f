"""``llm4cp``: LLM4CP (arXiv 2406.14440) over CSI reports.

As there: a branch over frequency and one over delay, patches of four snapshots, in each branch a convolution from the
patch to 64 channels, four residual blocks with channel attention and a convolution back to 2; the branches' sum is
embedded and read by a language model of which only the layer norms and the position embeddings are trained; the loss is
the NMSE alone. Ours: convolutions run over subbands (or delays) and ports and are depthwise-separable, to stay within
the size of the others; per-sample normalisation and one order of real and imaginary parts in both branches (the public
code standardises over the batch and mixes the orders); the anchor, what is known of each report, and the heads, which
all generators share.
"""

from __future__ import annotations

from collections.abc import Iterator
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
    delays_to_subbands,
)
from kb_service.generators.heads import ComponentGains, DenseHead
from kb_service.generators.trunk import TRUNK_WIDTH, Trunk
from semlink.grid import NUM_SUBBANDS
from semlink.signal.feedback import HISTORY_REPORTS

PATCH_REPORTS: Final = 4
ATTENTION_RATIO: Final = 8
"""Channels over the width of the channel attention's hidden layer."""


@dataclass(frozen=True, slots=True)
class Llm4cpSettings:
    """Sizes; ``depth``: blocks of the language model."""

    depth: int = 2
    pretrained: bool = True
    channels: int = 64
    residual_blocks: int = 4
    width: int = 72
    """Between the branches and the language model, and of its summary: keeps the weights few."""


class ResidualBlock(nn.Module):
    """A separable convolution, one over channels, a channel attention (squeeze and excitation); added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.around = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        hidden = channels // ATTENTION_RATIO
        self.attention = nn.Sequential(
            nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels), nn.Sigmoid()
        )

    def forward(self, x: torch.Tensor, mix: torch.Tensor) -> torch.Tensor:
        """``x``: float32 ``[n, channels, NUM_SUBBANDS, ports]``; ``mix``: ``[2, channels, channels]``, what goes over
        channels. Returns the shape of ``x``.
        """
        y = nn.functional.relu(_over_channels(self.around(x), mix[0]))
        y = _over_channels(y, mix[1])
        weights = self.attention(y.mean((-2, -1)))
        added: torch.Tensor = y * weights[..., None, None]
        return x + added


def _over_channels(x: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    return nn.functional.conv2d(x, matrix[..., None, None])


class Branch(nn.Module):
    """Of one patch: what convolutions make of its reports, as one picture of real and imaginary parts."""

    def __init__(self, channels: int, blocks: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(2 * PATCH_REPORTS, channels, 3, padding=1)
        self.blocks = nn.ModuleList(ResidualBlock(channels) for _ in range(blocks))
        # One wide matrix, because wide ones are stored in eight bits.
        bound = channels**-0.5
        self.mix = nn.Parameter(
            torch.empty(2 * blocks * channels, channels).uniform_(-bound, bound)
        )
        self.leave = nn.Conv2d(channels, 2, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """complex64 ``[n, PATCH_REPORTS, NUM_SUBBANDS, ports]`` → float32 ``[n, 2, NUM_SUBBANDS, ports]``."""
        parts = torch.view_as_real(x.contiguous()).movedim(-1, 2).flatten(1, 2)
        # this layout makes the convolutions several times quicker on a CPU
        hidden = self.enter(parts.contiguous(memory_format=torch.channels_last))
        mixes = self.mix.view(len(self.blocks), 2, -1, self.mix.shape[1])
        for block, mix in zip(self.blocks, mixes, strict=True):
            hidden = block(hidden, mix)
        picture: torch.Tensor = self.leave(hidden)
        return picture.contiguous()


class Llm4cp(ChannelGenerator):
    """See the module."""

    name: ClassVar[str] = "llm4cp"
    settings: Llm4cpSettings

    def __init__(self, settings: Llm4cpSettings, antennas: Antennas) -> None:
        super().__init__(settings, antennas)
        width, patches = settings.width, HISTORY_REPORTS // PATCH_REPORTS
        self.subbands = Branch(settings.channels, settings.residual_blocks)
        self.delays = Branch(settings.channels, settings.residual_blocks)
        self.embed = nn.Linear(2 * antennas.size, width)
        self.about = nn.Linear(PATCH_REPORTS * REPORT_FEATURES, width)
        self.condition = nn.Linear(CONDITION_SIZE, width)
        self.norm = nn.LayerNorm(width)
        self.enter = nn.Linear(width, TRUNK_WIDTH)
        self.place = nn.Parameter(0.02 * torch.randn(patches, TRUNK_WIDTH))
        self.trunk = Trunk(settings.depth, pretrained=settings.pretrained)
        for _, weight in self.trunk_norms():
            weight.requires_grad_(True)
        self.leave = nn.Linear(TRUNK_WIDTH, width)
        self.gains = ComponentGains(antennas, width)
        self.dense = DenseHead(antennas, width)

    def trunk_norms(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The norms of the language model by name: what is trained of it."""
        return (
            (n, p) for n, p in self.named_parameters() if n.startswith("trunk.") and "norm" in n
        )

    def stored(self) -> dict[str, torch.Tensor]:
        """See :class:`ChannelGenerator`; with the norms of the trunk."""
        return super().stored() | {name: weight.detach() for name, weight in self.trunk_norms()}

    def residual(self, prepared: Prepared) -> torch.Tensor:
        """See :class:`ChannelGenerator`."""
        n, patches = len(prepared.anchor), HISTORY_REPORTS // PATCH_REPORTS
        shape = (n * patches, PATCH_REPORTS, NUM_SUBBANDS, -1)
        pictures = self.delays(prepared.reports.reshape(shape)) + self.subbands(
            delays_to_subbands(prepared.reports, self.antennas).reshape(shape)
        )
        context = self.about(prepared.about.reshape(n, patches, -1))
        context = context + self.condition(prepared.condition)[:, None]
        tokens = self.norm(self.embed(pictures.reshape(n, patches, -1)) + context)
        read = self.leave(self.trunk(self.enter(tokens) + self.place))
        summary = nn.functional.gelu(read[:, -1] + tokens.mean(1))
        residual: torch.Tensor = self.gains(prepared, summary) + self.dense(summary)
        return residual


def llm4cp(antennas: Antennas, **settings: Any) -> Llm4cp:
    """A new generator with these settings."""
    return Llm4cp(Llm4cpSettings(**settings), antennas)
