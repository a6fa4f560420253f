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
from semlink.signal.feedback import HISTORY_REPORTS, ReportHistory, decode_histories, report_slots
from semlink.v1 import common_pb2, knowledge_pb2
from semlink.wire import to_wire

SPEED_OF_LIGHT: Final = 299_792_458.0


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

    The common phases of a user's reports are arbitrary: each report is first turned to agree with the newest one.
    Model: a report is the conditional mean of its channel (``E⟨ĥ_p, h_p⟩ = E‖ĥ_p‖²``, what a centroid quantiser
    gives) and the channel's correlation, common phase aside, is ``c(τ) = exp(−½(2π σ τ)²)`` with the Doppler spread
    ``σ``. Then, in units of the reports' power,

        ``R[p, q] = g·c(t_p − t_q)`` for p ≠ q and 1 on the diagonal, ``r[p] = c(age_p)``, ``ĥ = Σ_p (R⁻¹ r)_p ĥ_p``.

    ``1 − g`` is the share of quantisation noise that is new in every report. ``g`` and ``σ²`` are fitted to the
    reports' own correlations, ``ln ρ_pq ≈ ln g − ½(2πσ(t_p − t_q))²``, by least squares weighted with ``ρ²``, and
    shrunk towards a prior: ``σ² = PRIOR_SPREAD·f_D²/2`` (``f_D²/2`` is Jakes' spectrum: ``J0(x) ≈ exp(−x²/4)``) and
    ``g = PRIOR_COHERENCE``. With one report this is ``c(age)·ĥ``: hold-last, shrunk.
    """

    name = "wiener"
    PRIOR_SPREAD: Final = 0.5
    PRIOR_COHERENCE: Final = 0.8
    PRIOR_WEIGHT: Final = 1.0
    """Of the prior, in pairs of reports."""
    MAX_SPREAD: Final = 1.0
    MIN_CORRELATION: Final = 0.05

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
        reports = reports.flatten(3)
        inner = (reports * reference.flatten(2).unsqueeze(2).conj()).sum(-1)
        reports = reports * torch.polar(torch.ones_like(inner.real), -torch.angle(inner))[..., None]

        doppler_hz = config.speed_mps * config.carrier_frequency_hz / SPEED_OF_LIGHT
        # ½(2π f_D τ)²·½: minus the logarithm of Jakes' small-lag correlation.
        ages = age_slots.double()
        jakes = (math.pi * doppler_hz * SLOT_SECONDS) ** 2
        lag = jakes * (ages[:, None, :, None] - ages[:, None, None, :]).square()
        spread, coherence = self._fit(self._correlation(reports), present, lag)

        pairs = present[..., :, None] & present[..., None, :]
        covariance = coherence[..., None, None] * torch.exp(-spread[..., None, None] * lag)
        covariance = torch.where(pairs, covariance, torch.zeros_like(covariance))
        diagonal = torch.eye(present.shape[2], dtype=torch.bool, device=present.device)
        covariance = torch.where(diagonal, torch.ones_like(covariance), covariance)
        target = torch.exp(-spread[..., None] * jakes * ages[:, None].square()) * present
        weights = torch.linalg.solve(covariance, target)
        csi: torch.Tensor = (weights[..., None].to(reports.dtype) * reports).sum(2)
        return csi.view_as(reference)

    @staticmethod
    def _correlation(reports: torch.Tensor) -> torch.Tensor:
        """Correlation of every pair of aligned reports, float64 ``[batch, num_users, num_reports, num_reports]``."""
        batch = reports.shape[:2]
        flat = reports.flatten(0, 1)
        gram = torch.bmm(flat, flat.mH).real.double()
        power = gram.diagonal(dim1=1, dim2=2).clamp_min(1e-30)
        rho = gram / (power[:, :, None] * power[:, None, :]).sqrt()
        return rho.view(*batch, *rho.shape[1:])

    def _fit(
        self, rho: torch.Tensor, present: torch.Tensor, lag: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Spread relative to Jakes' and coherence ``g`` of every user: two float64 ``[batch, num_users]``.

        Minimises ``Σ w (ln ρ − ln g + spread·lag)²`` plus the prior, a 2×2 system in closed form.
        """
        upper = torch.ones(rho.shape[-2:], dtype=torch.bool, device=rho.device).triu(1)
        valid = present[..., :, None] & present[..., None, :] & upper
        rho = rho.clamp(self.MIN_CORRELATION, 1.0)
        weight = torch.where(valid, rho.square(), torch.zeros_like(rho))
        y = torch.log(rho)

        def total(values: torch.Tensor) -> torch.Tensor:
            return (weight * values).sum((-2, -1))

        prior, prior_log_g = self.PRIOR_WEIGHT, math.log(self.PRIOR_COHERENCE)
        # The prior on the spread weighs as PRIOR_WEIGHT pairs at the mean lag.
        mean_square_lag = total(lag.square()) / total(torch.ones_like(rho)).clamp_min(1e-12)
        a11 = total(torch.ones_like(rho)) + prior
        a12 = -total(lag)
        a22 = total(lag.square()) + prior * mean_square_lag
        b1 = total(y) + prior * prior_log_g
        b2 = -total(lag * y) + prior * mean_square_lag * self.PRIOR_SPREAD
        # Without any lag (speed 0, or one report) the spread is the prior's and has no effect.
        moves = a22 > 1e-12
        a22 = torch.where(moves, a22, torch.ones_like(a22))
        b2 = torch.where(moves, b2, torch.full_like(b2, self.PRIOR_SPREAD))
        determinant = a11 * a22 - a12.square()
        log_g = (a22 * b1 - a12 * b2) / determinant
        spread = (a11 * b2 - a12 * b1) / determinant
        return spread.clamp(0.0, self.MAX_SPREAD), log_g.clamp(math.log(0.05), -1e-3).exp()


PREDICTORS: Final[Mapping[str, CsiPredictor]] = MappingProxyType(
    {predictor.name: predictor for predictor in (HoldLast(), Wiener())}
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
    and reported as ``knowledge.csi``. Items on equal links (but for the seed) are computed together. Raises
    InvalidField for an unknown predictor (``items[i].predictor``) and for reports that do not fit their link
    (``reports[i].…``). Runs on the CPU; call it in a worker thread.
    """
    predictors = [
        predictor_named(item.predictor, field=f"items[{i}].predictor")
        for i, item in enumerate(items)
    ]
    slots = [report_slots(item.config, item.slot, HISTORY_REPORTS) for item in items]
    decoded = decode_histories(
        [
            ReportHistory(item.config, link_reports, due)
            for item, link_reports, due in zip(items, reports, slots, strict=True)
        ]
    )
    groups: dict[tuple[object, ...], list[int]] = {}
    for i, (item, due) in enumerate(zip(items, slots, strict=True)):
        if due:
            groups.setdefault(_group(item, predictors[i]), []).append(i)
    answers = [knowledge_pb2.PredictedCsi(source="none") for _ in items]
    for members in groups.values():
        length = max(len(slots[i]) for i in members)
        csi = torch.stack([_padded(decoded[i][0], length) for i in members])
        present = torch.stack([_padded(decoded[i][1], length) for i in members])
        ages = torch.tensor(
            [
                [0] * (length - len(slots[i])) + [items[i].slot - s for s in slots[i]]
                for i in members
            ]
        )
        config = items[members[0]].config
        perfect = config.feedback.quantizer == "perfect"
        predictor = PREDICTORS["hold-last"] if perfect else predictors[members[0]]
        predicted = predictor.predict(csi, present, ages, config)
        source = "perfect" if perfect else predictor.name
        for i, row in zip(members, predicted, strict=True):
            answers[i] = _answer(row, decoded[i][1], slots[i], source)
    return answers


def _group(item: knowledge_pb2.PredictCsiItem, predictor: CsiPredictor) -> tuple[object, ...]:
    """What must be equal for two items to be computed in one batch."""
    config = item.config
    return (
        predictor.name,
        config.feedback.quantizer == "perfect",
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
    csi: torch.Tensor, present: torch.Tensor, slots: Sequence[int], source: str
) -> knowledge_pb2.PredictedCsi:
    """One item's answer; ``present``: bool ``[num_users, num_slots]``."""
    missing = int((~present).sum())
    degraded = []
    if missing:
        silent = (~present.any(1)).nonzero()[:, 0].tolist()
        reason = f"{missing} of {present.numel()} CSI reports are missing"
        if silent:
            reason += f", nothing from user {', '.join(map(str, silent))}"
        degraded.append(common_pb2.Degradation(part="knowledge.csi", reason=reason))
    heard = present.any(0).nonzero()[:, 0].tolist()
    if not heard:
        return knowledge_pb2.PredictedCsi(source="none", degraded=degraded)
    return knowledge_pb2.PredictedCsi(
        csi=to_wire(csi), source=source, newest_report_slot=slots[heard[-1]], degraded=degraded
    )
