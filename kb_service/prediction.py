"""CSI at the slot of transmission from the reports that the link has brought so far (CDG's linear baselines).

A predictor sees reconstructed reports only. :func:`predict_items` is what the knowledge base calls.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, Protocol

import torch

from semlink.errors import InvalidField
from semlink.links import SLOT_SECONDS
from semlink.signal.feedback import (
    HISTORY_REPORTS,
    DecodedHistory,
    ReportHistory,
    decode_histories,
    report_slots,
)
from semlink.signal.quantizers import content_of, doppler_hz
from semlink.signal.tracking import fuse_reports
from semlink.v1 import common_pb2, knowledge_pb2
from semlink.wire import to_wire


class CsiPredictor(Protocol):
    """From a history of reports to the CSI of a later slot."""

    name: str

    def predict(
        self,
        history: torch.Tensor,
        present: torch.Tensor,
        age_slots: torch.Tensor,
        config: common_pb2.LinkConfig,
    ) -> torch.Tensor:
        """CSI of every user in the slot of transmission, up to a common phase of each user.

        ``history``: complex64 ``[batch, num_users, num_reports, num_subbands, num_rx_ant, num_tx_ant]``, oldest
        first; ``present``: bool ``[batch, num_users, num_reports]``, False where a report is missing;
        ``age_slots``: int64 ``[batch, num_reports]``, slot of transmission − slot of the report. Of ``config`` only
        what the transmitter knows is read: speed and carrier. Returns complex64 ``[batch, num_users, num_subbands,
        num_rx_ant, num_tx_ant]``, zeros for a user without any report. Items do not influence each other.
        """
        ...


def newest_report(history: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """The last report that is there, zeros where there is none: ``[batch, num_users, …]``."""
    positions = torch.arange(1, present.shape[2] + 1, device=present.device)
    last = (present * positions).amax(2)
    index = (
        (last - 1).clamp_min(0)[..., None, None, None, None].expand(-1, -1, 1, *history.shape[3:])
    )
    newest = history.gather(2, index).squeeze(2)
    return torch.where((last > 0)[..., None, None, None], newest, torch.zeros_like(newest))


class HoldLast:
    """``hold-last``: the newest report as it is."""

    name = "hold-last"

    def predict(
        self,
        history: torch.Tensor,
        present: torch.Tensor,
        age_slots: torch.Tensor,  # noqa: ARG002
        config: common_pb2.LinkConfig,  # noqa: ARG002
    ) -> torch.Tensor:
        """See :class:`CsiPredictor`."""
        return newest_report(history, present)


class Wiener:
    """``wiener``: the linear MMSE combination of the last reports. Our definition.

    Each report has phases of its own (:class:`semlink.signal.quantizers.layers.Content`): it is first turned to agree
    with the newest one.
    The correlation of two turned reports, whose quantisation noise is partly the same, is modelled as

        ``C(τ) = Σ_k β_k exp(−s_k (π f_D τ)²)`` for τ ≠ 0, and 1 for a report with itself,

    ``f_D`` the Doppler shift of the link's speed; ``s = 1`` is Jakes' spectrum at small lags (``J0(x) ≈ exp(−x²/4)``),
    ``s = 0`` what does not fade at all (line of sight). ``β ≥ 0`` is fitted to the user's own correlations by least
    squares, shrunk towards ``PRIOR_SHARES``; ``g = Σ β`` < 1 where every report brings new quantisation noise. Then

        ``ĥ = Σ_p (R⁻¹ r)_p ĥ_p``, ``R[p, q] = C(t_p − t_q)``, ``r[p] = C(age_p) / √g``.

    It rests on reports being conditional means of their channels (``E⟨ĥ_p, h_p⟩ = E‖ĥ_p‖²``), as centroids are. With
    one report it is hold-last, shrunk.
    """

    name = "wiener"
    SPREADS: Final = (0.0, 0.1, 0.5, 2.0)
    """``s_k``."""
    PRIOR_SHARES: Final = (0.3, 0.3, 0.3, 0.1)
    PRIOR_PAIRS: Final = 0.5
    """Weight of the prior in the fit, in pairs of reports."""
    MAX_COHERENCE: Final = 0.99

    def predict(
        self,
        history: torch.Tensor,
        present: torch.Tensor,
        age_slots: torch.Tensor,
        config: common_pb2.LinkConfig,
    ) -> torch.Tensor:
        """See :class:`CsiPredictor`."""
        reference = newest_report(history, present)
        reports = torch.where(present[..., None, None, None], history, torch.zeros_like(history))
        reports = content_of(config).turned(reports, reference.unsqueeze(2)).flatten(3)

        turns = math.pi * doppler_hz(config) * SLOT_SECONDS * age_slots.double()[:, None]
        pairs = self._shapes(turns[..., :, None] - turns[..., None, :])
        shares = self._fit(self._correlation(reports), present, pairs)
        coherence = shares.sum(-1)

        both = present[..., :, None] & present[..., None, :]
        covariance = (pairs * shares[..., None, None, :]).sum(-1) * both
        diagonal = torch.eye(present.shape[2], dtype=torch.bool, device=present.device)
        covariance = torch.where(diagonal, torch.ones_like(covariance), covariance)
        target = (self._shapes(turns) * shares[..., None, :]).sum(-1)
        target = (target / coherence.sqrt()[..., None]) * present
        weights = torch.linalg.solve(covariance, target)
        csi: torch.Tensor = (weights[..., None].to(reports.dtype) * reports).sum(2)
        return csi.view_as(reference)

    def _shapes(self, turns: torch.Tensor) -> torch.Tensor:
        """``exp(−s_k turns²)`` for every ``k``, in a new last dimension."""
        spreads = torch.tensor(self.SPREADS, dtype=torch.float64, device=turns.device)
        shapes: torch.Tensor = torch.exp(-spreads * turns[..., None].square())
        return shapes

    @staticmethod
    def _correlation(reports: torch.Tensor) -> torch.Tensor:
        """Correlation of every pair of aligned reports, float64 ``[batch, num_users, num_reports, num_reports]``."""
        batch = reports.shape[:2]
        flat = reports.flatten(0, 1)
        gram = torch.bmm(flat, flat.mH).real.double()
        power = gram.diagonal(dim1=1, dim2=2).clamp_min(1e-30)
        rho = gram / (power[:, :, None] * power[:, None, :]).sqrt()
        return rho.view(*batch, *rho.shape[1:])

    def _fit(self, rho: torch.Tensor, present: torch.Tensor, pairs: torch.Tensor) -> torch.Tensor:
        """Shares ``β`` of every user, float64 ``[batch, num_users, len(SPREADS)]``: regularised least squares."""
        upper = torch.ones(rho.shape[-2:], dtype=torch.float64, device=rho.device).triu(1)
        weight = (present[..., :, None] & present[..., None, :]) * upper
        size = len(self.SPREADS)
        shapes = pairs.expand(*weight.shape, size).flatten(2, 3)
        weighted = shapes * weight.flatten(2)[..., None]
        prior = torch.tensor(self.PRIOR_SHARES, dtype=torch.float64, device=rho.device)
        eye = torch.eye(size, dtype=torch.float64, device=rho.device)
        left = (weighted[..., :, None] * shapes[..., None, :]).sum(2) + self.PRIOR_PAIRS * eye
        right = (weighted * rho.flatten(2)[..., None]).sum(2) + self.PRIOR_PAIRS * prior
        shares: torch.Tensor = torch.linalg.solve(left, right).clamp_min(1e-3)
        coherence = shares.sum(-1, keepdim=True)
        return shares * (self.MAX_COHERENCE / coherence).clamp_max(1.0)


class Kalman:
    """``kalman``: what the transmitter does by itself with reports that have memory, offered for all.

    :func:`semlink.signal.tracking.fuse_reports` of reports that stand for themselves; a tracked channel (memory
    "predictive") is taken as it is, since all earlier reports are in it.
    """

    name = "kalman"

    def predict(
        self,
        history: torch.Tensor,
        present: torch.Tensor,
        age_slots: torch.Tensor,
        config: common_pb2.LinkConfig,
    ) -> torch.Tensor:
        """See :class:`CsiPredictor`."""
        if config.feedback.memory == "predictive":
            return newest_report(history, present)
        content = content_of(config)
        return fuse_reports(history, present, age_slots, doppler_hz(config), content)


PREDICTORS: Final[Mapping[str, CsiPredictor]] = MappingProxyType(
    {predictor.name: predictor for predictor in (HoldLast(), Wiener(), Kalman())}
)
DEFAULT_PREDICTOR: Final = "wiener"


def predictor_named(name: str, *, field: str = "predictor") -> CsiPredictor:
    """The predictor of that name, the default for "". Raises InvalidField for an unknown one."""
    predictor = PREDICTORS.get(name or DEFAULT_PREDICTOR)
    if predictor is None:
        raise InvalidField(f"{field} is {name!r}, allowed: {', '.join(PREDICTORS)}", field=field)
    return predictor


def predict_items(
    items: Sequence[knowledge_pb2.PredictCsiItem],
    reports: Sequence[Sequence[common_pb2.CsiReport]],
) -> list[knowledge_pb2.PredictedCsi]:
    """Predicted CSI of every item, in their order, from the reports of each item's link.

    Reports outside the slots that an item may use are ignored; those that should be there and are not are masked
    and reported as ``knowledge.csi``. Items on equal links (but for the seed) are computed together. Reports
    that do not fit their link are refused, counted and named as ``link.csi``. Raises InvalidField for an unknown
    predictor (``items[i].predictor``). Runs on the CPU; call it in a worker thread.
    """
    predictors = [
        predictor_named(item.predictor, field=f"items[{i}].predictor")
        for i, item in enumerate(items)
    ]
    slots = [report_slots(item.config, item.slot, HISTORY_REPORTS) for item in items]
    decoded = decode_histories(
        [
            ReportHistory(item.config, link_reports, due, item.link_id)
            for item, link_reports, due in zip(items, reports, slots, strict=True)
        ]
    )
    groups: dict[tuple[object, ...], list[int]] = {}
    for i, (item, due) in enumerate(zip(items, slots, strict=True)):
        if due:
            groups.setdefault(_group(item, predictors[i]), []).append(i)
    answers = [knowledge_pb2.PredictedCsi(source="none") for _ in items]
    for members in groups.values():
        # Always to full length: rounding, too, must not depend on what else is in the batch.
        csi = torch.stack([_padded(decoded[i].csi, HISTORY_REPORTS) for i in members])
        known = torch.stack([_padded(decoded[i].known, HISTORY_REPORTS) for i in members])
        ages = torch.tensor(
            [
                [0] * (HISTORY_REPORTS - len(slots[i])) + [items[i].slot - s for s in slots[i]]
                for i in members
            ]
        )
        config = items[members[0]].config
        perfect = config.feedback.quantizer == "perfect"
        predictor = PREDICTORS["hold-last"] if perfect else predictors[members[0]]
        predicted = predictor.predict(csi, known, ages, config)
        source = "perfect" if perfect else predictor.name
        for i, row in zip(members, predicted, strict=True):
            answers[i] = _answer(row, decoded[i], slots[i], source)
    return answers


def _group(item: knowledge_pb2.PredictCsiItem, predictor: CsiPredictor) -> tuple[object, ...]:
    """What must be equal for two items to be computed in one batch."""
    config = item.config
    return (
        predictor.name,
        config.feedback.quantizer == "perfect",
        config.feedback.memory,
        config.feedback.content == "channel",
        config.num_users,
        config.num_rx_ant,
        config.num_tx_ant,
        config.speed_mps,
        config.carrier_frequency_hz,
    )


def _padded(x: torch.Tensor, length: int) -> torch.Tensor:
    """``[num_users, num_slots, …]`` with zeros (nothing present) before the oldest slot, up to ``length``."""
    missing = torch.zeros((x.shape[0], length - x.shape[1], *x.shape[2:]), dtype=x.dtype)
    return torch.cat([missing, x], dim=1)


def _answer(
    csi: torch.Tensor, history: DecodedHistory, slots: Sequence[int], source: str
) -> knowledge_pb2.PredictedCsi:
    """One item's answer."""
    present = history.present
    missing = int((~present).sum())
    degraded = [
        common_pb2.Degradation(part="link.csi", reason=error.message) for error in history.refused
    ]
    if missing:
        silent = (~history.known.any(1)).nonzero()[:, 0].tolist()
        reason = f"{missing} of {present.numel()} CSI reports are missing"
        if silent:
            reason += f", nothing from user {', '.join(map(str, silent))}"
        degraded.append(common_pb2.Degradation(part="knowledge.csi", reason=reason))
    heard = history.known.any(0).nonzero()[:, 0].tolist()
    if not heard:
        return knowledge_pb2.PredictedCsi(source="none", degraded=degraded)
    return knowledge_pb2.PredictedCsi(
        csi=to_wire(csi), source=source, newest_report_slot=slots[heard[-1]], degraded=degraded
    )
