"""What all trained channel generators share: invariances, normalisation, the linear anchor, and how they are stored.

A generator predicts what is missing from the best linear combination of the reports
(:func:`kb_service.generators.linear.linear_fusion`). It works on coordinates in which nothing arbitrary is left: phases
of reports, subbands and users are turned away, magnitudes divided by the user's own, and subbands and ports
transformed to delays and angles. Every user is an item by itself. Our definition.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Final

import torch
from torch import nn

from kb_service.generators.linear import LinearFusion, linear_fusion
from semlink.errors import InvalidField
from semlink.grid import NUM_SUBBANDS, SLOT_SECONDS
from semlink.semantics.int8_tensors import pack, unpack
from semlink.signal.csi import doppler_hz
from semlink.signal.csi.layers import phase_factor, rows_of_layers
from semlink.signal.csi.transform import PANELS
from semlink.signal.feedback import HISTORY_REPORTS
from semlink.signal.link import LinkLike

CONTEXT_SIZE: Final = 4
CONDITION_SIZE: Final = 10
"""Of :attr:`Prepared.condition`."""
REPORT_FEATURES: Final = 5
"""Of each report in :attr:`Prepared.about`."""
TRUNK: Final = "trunk."
"""What names of frozen weights, which are not stored, begin with."""


def context_of(config: LinkLike) -> torch.Tensor:
    """What the transmitter knows of a link beside its reports: float32 ``[CONTEXT_SIZE]``.

    Largest Doppler shift [rad a slot], log₂ of a report's bits, report period [slots], SNR [dB].
    """
    feedback = config.feedback
    return torch.tensor(
        [
            2 * math.pi * doppler_hz(config) * SLOT_SECONDS,
            math.log2(max(1, feedback.bits)),
            feedback.report_period_slots,
            config.snr_db,
        ],
        dtype=torch.float32,
    )


@dataclass(frozen=True, slots=True)
class Antennas:
    """Ports and rows that a generator is for."""

    num_tx_ant: int = 16
    num_rows: int = 1

    @property
    def size(self) -> int:
        """Complex numbers of one report."""
        return NUM_SUBBANDS * self.num_rows * self.num_tx_ant


@dataclass(frozen=True, slots=True)
class Prepared:
    """Histories without anything arbitrary; ``size`` is that of the antennas.

    ``reports`` complex64 ``[n, num_reports, size]``, angular-delay domain, oldest first, zeros where missing;
    ``anchor`` complex64 ``[n, size]``, their best linear combination, its strongest component real and positive;
    ``present`` bool ``[n, num_reports]``; ``about`` float32 ``[n, num_reports, REPORT_FEATURES]``: there or not, age
    [10 slots], turns of the fastest ray in that age, weight in the anchor, similarity to the anchor; ``condition``
    float32 ``[n, CONDITION_SIZE]``: context and shares of the linear fit, all of order 1.
    """

    reports: torch.Tensor
    anchor: torch.Tensor
    present: torch.Tensor
    about: torch.Tensor
    condition: torch.Tensor


class ChannelGenerator(nn.Module, ABC):
    """CSI at the slot of transmission from a history of reports.

    A subclass has a ``name``, a ``settings`` dataclass of plain values as its first argument, and predicts
    :meth:`residual`. Nothing in it may mix items of a batch.
    """

    name: ClassVar[str]

    def __init__(self, settings: Any, antennas: Antennas) -> None:
        super().__init__()
        self.settings = settings
        self.antennas = antennas

    @abstractmethod
    def residual(self, prepared: Prepared) -> torch.Tensor:
        """What to add to the anchor: complex64 ``[n, size]``, angular-delay domain."""

    def forward(
        self,
        history: torch.Tensor,
        present: torch.Tensor,
        age_slots: torch.Tensor,
        context: torch.Tensor,
    ) -> torch.Tensor:
        """CSI of every user at the slot of transmission, up to the phase of each row and subband.

        ``history``: complex64 ``[n, num_reports, num_subbands, num_rows, num_tx_ant]``, oldest first, anything where
        missing; ``present``: bool ``[n, num_reports]``; ``age_slots``: int64 ``[n, num_reports]``, slot of
        transmission − slot of the report; ``context``: float32 ``[n, CONTEXT_SIZE]`` of :func:`context_of`. At most
        ``HISTORY_REPORTS`` reports. Returns complex64 ``[n, num_subbands, num_rows, num_tx_ant]``, zeros for a user
        without reports. Raises InvalidField for other antennas or too many reports.
        """
        expected = (NUM_SUBBANDS, self.antennas.num_rows, self.antennas.num_tx_ant)
        if tuple(history.shape[2:]) != expected or history.shape[1] > HISTORY_REPORTS:
            raise InvalidField(
                f"history has shape {tuple(history.shape)}, {self.name} expects "
                f"[n, at most {HISTORY_REPORTS}, {', '.join(map(str, expected))}]",
                field="history",
            )
        missing = HISTORY_REPORTS - history.shape[1]
        if missing:
            history = nn.functional.pad(history, (0, 0, 0, 0, 0, 0, missing, 0))
            present, age_slots = (nn.functional.pad(x, (missing, 0)) for x in (present, age_slots))
        prepared, scale = prepare(history, present, age_slots, context)
        csi = (prepared.anchor + self.residual(prepared)) * scale[:, None]
        rows = from_angles(csi, self.antennas)
        return torch.where(present.any(1)[:, None, None, None], rows, torch.zeros_like(rows))

    def start_training(self) -> None:
        """Bring in what only training needs."""

    def end_training(self) -> None:
        """Let go of what only training needs; what is stored is complete then."""

    def further_loss(self) -> torch.Tensor | float:
        """What a generator adds to the NMSE of the batch that it has just predicted in training."""
        return 0.0

    def stored(self) -> dict[str, torch.Tensor]:
        """What is stored of it: everything but the frozen trunk."""
        return {n: t for n, t in self.state_dict().items() if not n.startswith(TRUNK)}

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take what :meth:`stored` gave, packed or not."""
        known = self.stored()
        state = {
            name: t.to(known[name].dtype) for name, t in unpack(state).items() if name in known
        }
        if missing := set(known) - set(state):
            raise InvalidField(
                f"weights of {self.name} lack {', '.join(sorted(missing))}", field="weights"
            )
        self.load_state_dict(state, strict=False)

    def packed(self) -> dict[str, torch.Tensor]:
        """What is stored of it, wide matrices in eight bits."""
        return pack(self.stored())

    def description(self) -> dict[str, str]:
        """Metadata of its file."""
        return {
            "name": self.name,
            "settings": json.dumps(asdict(self.settings)),
            "antennas": json.dumps(asdict(self.antennas)),
        }


# --- coordinates -------------------------------------------------------------------------------


def to_angles(rows: torch.Tensor) -> torch.Tensor:
    """Unitary DFT over subbands (to delays), columns and rows of the panel (to angles): ``[..., size]``.

    ``rows``: complex64 ``[..., num_subbands, num_rows, num_tx_ant]``.
    """
    grid = rows.reshape(*rows.shape[:-1], *PANELS[rows.shape[-1]])
    x: torch.Tensor = torch.fft.fftn(grid, dim=(-5, -2, -1), norm="ortho")
    return x.flatten(-5)


def from_angles(x: torch.Tensor, antennas: Antennas) -> torch.Tensor:
    """Inverse of :func:`to_angles`."""
    panel = PANELS[antennas.num_tx_ant]
    grid = x.reshape(*x.shape[:-1], NUM_SUBBANDS, antennas.num_rows, *panel)
    rows: torch.Tensor = torch.fft.ifftn(grid, dim=(-5, -2, -1), norm="ortho")
    return rows.flatten(-3)


def delays_to_subbands(x: torch.Tensor, antennas: Antennas) -> torch.Tensor:
    """From the angular-delay to the angular-frequency domain: complex ``[..., size]`` of either."""
    grid = x.reshape(*x.shape[:-1], NUM_SUBBANDS, antennas.num_rows * antennas.num_tx_ant)
    subbands: torch.Tensor = torch.fft.ifft(grid, dim=-2, norm="ortho")
    return subbands.flatten(-2)


def newest_of(reports: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """The last report that is there, ``[n, …]``; the first place's content where there is none."""
    positions = torch.arange(1, present.shape[1] + 1, device=present.device)
    last = ((present * positions).amax(1) - 1).clamp_min(0)
    return reports[torch.arange(len(reports), device=present.device), last]


def phase_aligned(rows: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """``rows`` with the phase of each row of each subband turned to agree with ``reference``."""
    return rows * phase_factor((rows.conj() * reference).sum(-1, keepdim=True))


def prepare(
    history: torch.Tensor, present: torch.Tensor, age_slots: torch.Tensor, context: torch.Tensor
) -> tuple[Prepared, torch.Tensor]:
    """Histories without anything arbitrary, and the scale to multiply results by, float32 ``[n]``.

    Inputs as in :meth:`ChannelGenerator.forward`, of any number of reports.
    """
    reports = torch.where(present[..., None, None, None], history, torch.zeros_like(history))
    doppler = context[:, :1].double()
    reports = phase_aligned(reports, newest_of(reports, present)[:, None])
    fusion = linear_fusion(reports.flatten(2), present, doppler / 2 * age_slots)
    weights = fusion.weights.to(reports.dtype)
    anchor = (weights[..., None, None, None] * reports).sum(1)
    # Phases of the anchor go on from subband to subband; the reports follow it.
    anchor = _smooth(anchor)
    reports = phase_aligned(reports, anchor[:, None])

    power = anchor.abs().square().mean((1, 2, 3))
    scale = torch.where(power > 0, power, torch.ones_like(power)).sqrt()
    scaled_anchor, scaled = (
        to_angles(anchor) / scale[:, None],
        to_angles(reports) / scale[:, None, None],
    )
    strongest = scaled_anchor.abs().argmax(1, keepdim=True)
    phase = phase_factor(scaled_anchor.gather(1, strongest)).conj()
    scaled_anchor, scaled = scaled_anchor * phase, scaled * phase[..., None]
    similarity = (scaled.conj() * scaled_anchor[:, None]).real.mean(-1)
    prepared = Prepared(
        reports=scaled,
        anchor=scaled_anchor,
        present=present,
        about=_about(present, age_slots, doppler, fusion, similarity),
        condition=_condition(context, age_slots, present, fusion),
    )
    return prepared, scale


def _smooth(rows: torch.Tensor) -> torch.Tensor:
    """Phases of the rows continued from subband to subband."""
    each = rows.transpose(-3, -2).unsqueeze(-2)
    return rows_of_layers(each, 1).squeeze(-2).transpose(-3, -2)


def _about(
    present: torch.Tensor,
    age_slots: torch.Tensor,
    doppler: torch.Tensor,
    fusion: LinearFusion,
    similarity: torch.Tensor,
) -> torch.Tensor:
    here = present.float()
    turns = doppler * age_slots / (2 * math.pi)
    context = torch.stack(
        [here, age_slots / 10, turns, fusion.weights, similarity.double()], dim=-1
    ).float()
    return context * here[..., None]


def _condition(
    context: torch.Tensor, age_slots: torch.Tensor, present: torch.Tensor, fusion: LinearFusion
) -> torch.Tensor:
    newest = newest_of(age_slots[..., None].float(), present)
    context = torch.cat(
        [
            context[:, :1],
            context[:, 1:2] / 8,
            context[:, 2:3] / 10,
            context[:, 3:4] / 20,
            newest / 10,
            present.float().mean(1, keepdim=True),
            fusion.shares.float(),
        ],
        dim=1,
    )
    return context * present.any(1, keepdim=True)
