"""From what a network has understood of a history to the residual of the CSI. Our definition."""

from __future__ import annotations

from typing import Final

import torch
from torch import nn

from kb_service.generators.base import Antennas, Prepared
from semlink.signal.feedback import HISTORY_REPORTS
from semlink.signal.quantizers.layers import unit_phase

WIDTH: Final = 64


class ComponentGains(nn.Module):
    """Combines the reports anew in each angular-delay component, with gains from what is seen there.

    A component that keeps its phase from report to report is a path that is really there; one that does not is noise of
    the quantiser. ``Σ_p g[p, c] x[p, c] + g[a, c] a[c]`` with complex gains of a small network that all components
    share, told of the component's reports relative to the anchor's phase in it, which component it is, and ``summary``.
    It starts as zero.
    """

    def __init__(self, antennas: Antennas, summary_size: int) -> None:
        super().__init__()
        self.seen = nn.Linear(2 * HISTORY_REPORTS + 2, WIDTH)
        self.place = nn.Parameter(0.02 * torch.randn(antennas.size, WIDTH))
        self.told = nn.Linear(summary_size, WIDTH)
        self.scaled = nn.Linear(summary_size, WIDTH)
        self.mix = nn.Linear(WIDTH, WIDTH)
        self.gains = nn.Linear(WIDTH, 2 * (HISTORY_REPORTS + 1))
        for last in (self.gains, self.scaled):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, prepared: Prepared, summary: torch.Tensor) -> torch.Tensor:
        """``summary``: float32 ``[n, summary_size]``. Returns complex64 ``[n, size]``."""
        anchor = prepared.anchor
        relative = prepared.reports * unit_phase(anchor).conj()[:, None]
        level = anchor.abs()
        seen = torch.cat(
            [
                torch.view_as_real(relative).permute(0, 2, 1, 3).flatten(2),
                level[..., None],
                (level[..., None] + 1e-3).log(),
            ],
            dim=-1,
        )
        hidden = self.seen(seen) + self.place + self.told(summary)[:, None]
        hidden = nn.functional.gelu(hidden)
        hidden = nn.functional.gelu(self.mix(hidden) * (1 + self.scaled(summary)[:, None])) + hidden
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
