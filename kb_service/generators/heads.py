"""From what a network has understood of a history to the residual of the CSI. Our definition."""

from __future__ import annotations

from typing import Final

import torch
from torch import nn

from kb_service.generators.base import (
    CONDITION_SIZE,
    REPORT_FEATURES,
    Antennas,
    Prepared,
)
from semlink.grid import NUM_SUBBANDS
from semlink.signal.csi.layers import phase_factor
from semlink.signal.feedback import HISTORY_REPORTS

WIDTH: Final = 64
GROUPS: Final = 8
"""Of hidden features, each with weights of its own between components."""


class ComponentGains(nn.Module):
    """Combines the reports anew in each angular-delay component, with gains from what is seen there.

    A component that keeps its phase from report to report is a path that is really there; one that does not is noise of
    the quantiser. Paths of one delay, or of one angle in both polarisations, turn alike: components hear of each other.
    ``Σ_p g[p, c] x[p, c] + g[a, c] a[c]`` with complex gains of a small network that all components
    share, told of the component's reports relative to the anchor's phase in it, which component it is, what is known of
    link and reports, and ``summary``. It starts as zero.
    """

    def __init__(self, antennas: Antennas, summary_size: int) -> None:
        super().__init__()
        self.seen = nn.Linear(2 * HISTORY_REPORTS + 2, WIDTH)
        self.place = nn.Parameter(0.02 * torch.randn(antennas.size, WIDTH))
        known = CONDITION_SIZE + HISTORY_REPORTS * REPORT_FEATURES
        self.told = nn.Linear(summary_size + known, WIDTH)
        self.scaled = nn.Linear(summary_size + known, WIDTH)
        angles = antennas.size // NUM_SUBBANDS
        self.across_delays = nn.Parameter(torch.zeros(GROUPS, NUM_SUBBANDS, NUM_SUBBANDS))
        self.across_angles = nn.Parameter(torch.zeros(GROUPS, angles, angles))
        self.mix = nn.Linear(WIDTH, WIDTH)
        self.gains = nn.Linear(WIDTH, 2 * (HISTORY_REPORTS + 1))
        for last in (self.gains, self.scaled):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def _from_others(self, hidden: torch.Tensor) -> torch.Tensor:
        """What components hear from those of other delays and of other angles: ``[n, size, WIDTH]``."""
        grid = hidden.view(len(hidden), NUM_SUBBANDS, -1, GROUPS, WIDTH // GROUPS)
        mixed = torch.einsum("ndagc,ged->neagc", grid, self.across_delays)
        mixed = mixed + torch.einsum("ndagc,gba->ndbgc", grid, self.across_angles)
        return mixed.reshape(hidden.shape)

    def forward(self, prepared: Prepared, summary: torch.Tensor) -> torch.Tensor:
        """``summary``: float32 ``[n, summary_size]``. Returns complex64 ``[n, size]``."""
        anchor = prepared.anchor
        relative = prepared.reports * phase_factor(anchor).conj()[:, None]
        level = anchor.abs()
        seen = torch.cat(
            [
                torch.view_as_real(relative).permute(0, 2, 1, 3).flatten(2),
                level[..., None],
                (level[..., None] + 1e-3).log(),
            ],
            dim=-1,
        )
        context = torch.cat([summary, prepared.condition, prepared.about.flatten(1)], dim=1)
        hidden = self.seen(seen) + self.place + self.told(context)[:, None]
        hidden = nn.functional.gelu(hidden)
        hidden = hidden + self._from_others(hidden)
        hidden = nn.functional.gelu(self.mix(hidden) * (1 + self.scaled(context)[:, None])) + hidden
        gains = torch.view_as_complex(self.gains(hidden).unflatten(-1, (-1, 2)).contiguous())
        terms = torch.cat([prepared.reports, anchor[:, None]], dim=1).transpose(1, 2)
        residual: torch.Tensor = (gains * terms).sum(-1)
        return residual


class DenseHead(nn.Module):
    """All components at once from the summary: what papers do. It starts as zero."""

    def __init__(self, antennas: Antennas, summary_size: int) -> None:
        super().__init__()
        self.out = nn.Linear(summary_size, 2 * antennas.size)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, summary: torch.Tensor) -> torch.Tensor:
        """float32 ``[n, summary_size]`` → complex64 ``[n, size]``."""
        pairs = self.out(summary).unflatten(-1, (-1, 2)).contiguous()
        residual: torch.Tensor = torch.view_as_complex(pairs)
        return residual
