"""CSI at the slot of transmission from the reports that the link has brought so far.

A predictor sees reconstructed reports only. Those of :mod:`kb_service.predictors` serve every link; the others are
trained generators (:mod:`kb_service.generators`), loaded when they are first needed. :func:`predict_items` is what the
knowledge base calls.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

import torch

from kb_service.channel_knowledge import refined_weights
from kb_service.generators import Antennas, context_of, load_generator, trained_for
from kb_service.llm import MODEL_NAME
from kb_service.predictor_choice import best_predictors
from kb_service.predictors import CsiPredictor, HoldLast
from semlink.components import PREDICTORS
from semlink.errors import InvalidField, NotFound
from semlink.links import Link, checked_link
from semlink.models import cache_dir, locate
from semlink.signal.csi import content_of
from semlink.signal.feedback import (
    HISTORY_REPORTS,
    DecodedHistory,
    ReportHistory,
    decode_histories,
    report_slots,
)
from semlink.signal.link import LinkLike
from semlink.telemetry import record_refused_reports
from semlink.v1 import common_pb2, knowledge_pb2
from semlink.weight_files import SHIPPED, Weights
from semlink.wire import to_wire

CHUNK_USERS: Final = 16
"""Users that a generator computes at once, fewer are filled up: products of one size round alike, whoever is beside."""
HOLD_LAST: Final = HoldLast()


@dataclass(frozen=True, slots=True)
class Generated:
    """A trained predictor (:func:`semlink.components.register_predictor`), for reports that ``weights`` has it for.

    ``site``: a scenario whose refined weights are used (:mod:`kb_service.channel_knowledge`), "" for the shipped ones.
    """

    name: str
    site: str = ""
    weights: Weights = SHIPPED

    @property
    def source(self) -> str:
        """What answers say of it."""
        return f"{self.name}+{self.site}" if self.site else self.name

    def check(self, config: LinkLike, *, field: str = "predictor") -> None:
        """Raise InvalidField where there are no weights for such a link."""
        if not self.fits(config):
            raise InvalidField(
                f"{field} is {self.name!r}, which has no weights for content "
                f"{config.feedback.content}, {config.num_tx_ant} ports and {config.num_layers} layers, "
                f"allowed here: {', '.join(untrained_predictors())}",
                field=field,
            )

    def fits(self, config: LinkLike) -> bool:
        """Whether there are weights for such a link."""
        return config.feedback.content != "channel" and trained_for(
            self.name, _antennas(config), self.weights
        )

    def problem(self) -> str:
        """Why it cannot answer at once: the LLM is not installed, or not converted yet. "" if it can."""
        if not PREDICTORS.get(self.name).needs_llm or (cache_dir() / MODEL_NAME).is_dir():
            return ""
        try:
            locate("smollm2")
        except NotFound as error:
            return error.message
        return "the LLM is not converted yet; `semlink models --prepare` does it"

    def predict(
        self,
        history: torch.Tensor,
        present: torch.Tensor,
        age_slots: torch.Tensor,
        config: LinkLike,
    ) -> torch.Tensor:
        """See :class:`CsiPredictor`. Raises InvalidField for other antennas, NotFound without the LLM's package."""
        content = content_of(config)
        users = history.shape[1]
        rows = self.rows(
            content.rows(history.flatten(0, 1)),
            present.flatten(0, 1),
            age_slots.repeat_interleave(users, dim=0),
            context_of(config).expand(len(history) * users, -1),
            _antennas(config),
        )
        return content.csi(rows).view(*history.shape[:2], *history.shape[3:])

    def rows(
        self,
        history: torch.Tensor,
        present: torch.Tensor,
        age_slots: torch.Tensor,
        context: torch.Tensor,
        antennas: Antennas,
    ) -> torch.Tensor:
        """As :meth:`kb_service.generators.ChannelGenerator.forward`, ``CHUNK_USERS`` users at a time."""
        generator = load_generator(self.name, antennas, weights=self.weights)
        refined = dict(refined_weights(self.name, self.site, self.weights)) if self.site else {}
        parts = []
        with torch.inference_mode():
            for chunk in zip(
                *(torch.split(x, CHUNK_USERS) for x in (history, present, age_slots, context)),
                strict=True,
            ):
                size = len(chunk[0])
                full = tuple(_filled(x) for x in chunk)
                # not the module's own weights, so that threads with other sites share it
                rows = torch.func.functional_call(generator, refined, full)
                parts.append(rows[:size])
        return torch.cat(parts).clone()


def _filled(x: torch.Tensor) -> torch.Tensor:
    """``x`` with zeros behind, up to ``CHUNK_USERS`` items."""
    missing = CHUNK_USERS - len(x)
    return torch.cat([x, torch.zeros((missing, *x.shape[1:]), dtype=x.dtype)]) if missing else x


def _antennas(config: LinkLike) -> Antennas:
    return Antennas(config.num_tx_ant, config.num_layers)


TRAINED_PERIOD_SLOTS: Final = 10
TRAINED_AGE_SLOTS: Final = 14
TRAINED_SPEED_MPS: Final = 60.0 / 3.6 + 1e-3
"""The longest, oldest and fastest of the histories that generators were trained on
(lab.training.csi_history_dataset)."""


@lru_cache(maxsize=64)
def predictor_of(name: str, weights: Weights = SHIPPED) -> CsiPredictor:
    """The registered predictor of that name. Raises InvalidField for an unknown one."""
    spec = PREDICTORS.get(name)
    if spec.trained:
        return Generated(name, weights=weights)
    predictor: CsiPredictor = spec.load()()
    return predictor


def untrained_predictors() -> dict[str, CsiPredictor]:
    """The predictors for any link; the others are for links that they have weights for."""
    return {spec.name: predictor_of(spec.name) for spec in PREDICTORS.entries if not spec.trained}


def predictors_for(config: LinkLike, weights: Weights = SHIPPED) -> dict[str, CsiPredictor]:
    """Every predictor that can serve a (validated) link."""
    every = {name: predictor_of(name, weights) for name in PREDICTORS.names}
    return {
        name: predictor
        for name, predictor in every.items()
        if not isinstance(predictor, Generated) or predictor.fits(config)
    }


def predictor_named(
    name: str,
    config: Link,
    weights: Weights = SHIPPED,
    *,
    field: str = "predictor",
) -> CsiPredictor:
    """The predictor of that name. Raises InvalidField for an unknown one, and for one that cannot serve the link."""
    PREDICTORS.get(name, field=field)
    predictor = predictor_of(name, weights)
    if isinstance(predictor, Generated):
        predictor.check(config, field=field)
        return _at_site(predictor, config)
    return predictor


def familiar(config: Link, age_slots: int) -> bool:
    """Whether generators were trained on links like this: reports every 2…10 slots, 0…14 slots old, up to 60 km/h.

    Beyond, nothing promises that they are better than the reports (reports every 40 slots: 0.5 dB worse).
    """
    return (
        config.feedback.report_period_slots <= TRAINED_PERIOD_SLOTS
        and age_slots <= TRAINED_AGE_SLOTS
        and config.speed_mps <= TRAINED_SPEED_MPS
    )


def default_predictor(
    config: Link, age_slots: int, weights: Weights = SHIPPED
) -> tuple[CsiPredictor, tuple[str, ...]]:
    """Who answers for a (validated) link when nobody is named, and why those that would be better cannot.

    ``age_slots``: slot of transmission − slot of the newest report that could be there. A trained generator answers by
    itself only for links like those that it was trained on (:func:`familiar`).
    """
    problems: list[str] = []
    for name in _registered(best_predictors(config, age_slots, weights)):
        predictor = predictor_of(name, weights)
        if isinstance(predictor, Generated):
            if not (predictor.fits(config) and familiar(config, age_slots)):
                continue
            if problem := predictor.problem():
                problems.append(f"{name} would be better here: {problem}")
                continue
            return _at_site(predictor, config), tuple(problems)
        return predictor, tuple(problems)
    return HOLD_LAST, tuple(problems)


def _registered(names: Iterable[str]) -> Iterator[str]:
    """Those of ``names`` that there are: the table may name a plug-in's."""
    return (name for name in names if name in PREDICTORS.names)


def _at_site(predictor: Generated, config: Link) -> Generated:
    """With weights that were refined on links of this scenario, if there are any."""
    refined = refined_weights(predictor.name, config.scenario, predictor.weights)
    return replace(predictor, site=config.scenario) if refined else predictor


def load_default_generators(weights: Weights = SHIPPED) -> None:
    """Load what the defaults of the default link may need, so that no query waits for it."""
    config = Link()
    for name in _registered(best_predictors(config, config.feedback.delay_slots, weights)):
        predictor = predictor_of(name, weights)
        if not isinstance(predictor, Generated):
            return
        if predictor.fits(config) and not predictor.problem():
            load_generator(name, _antennas(config), weights=weights)
            return


@dataclass(frozen=True, slots=True)
class _PredictionState:
    """One item: its reports' slots, what was decoded of them, who predicts, and what is to be said of the choice."""

    item: knowledge_pb2.PredictCsiItem
    link: Link
    slots: Sequence[int]
    decoded: DecodedHistory
    predictor: CsiPredictor
    problems: tuple[str, ...] = ()

    @property
    def source(self) -> str:
        if self.link.feedback.quantizer == "perfect":
            return "perfect"
        return (
            self.predictor.source if isinstance(self.predictor, Generated) else self.predictor.name
        )

    def group(self) -> tuple[object, ...]:
        """What must be equal for two items to be computed in one batch."""
        config = self.link
        if isinstance(self.predictor, Generated):
            return (self.predictor, config.num_layers, config.num_tx_ant)
        return (
            self.source,
            config.feedback.memory,
            config.feedback.content == "channel",
            config.num_users,
            config.num_layers,
            config.num_rx_ant,
            config.num_tx_ant,
            config.speed_mps,
            config.carrier_frequency_hz,
        )

    def history(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """CSI ``[num_users, HISTORY_REPORTS, …]``, whether it is known, and ages ``[HISTORY_REPORTS]``.

        Always of full length: rounding, too, must not depend on what else is in the batch.
        """
        missing = HISTORY_REPORTS - len(self.slots)
        csi, known = (_padded(x, missing) for x in (self.decoded.csi, self.decoded.known))
        ages = [0] * missing + [self.item.slot - slot for slot in self.slots]
        return csi, known, torch.tensor(ages)


def predict_items(
    items: Sequence[knowledge_pb2.PredictCsiItem],
    reports: Sequence[Sequence[common_pb2.CsiReport]],
    weights: Weights = SHIPPED,
) -> list[knowledge_pb2.PredictedCsi]:
    """Predicted CSI of every item, in their order, from the reports of each item's link.

    Reports outside the slots that an item may use are ignored; those that should be there and are not are masked
    and reported as ``knowledge.csi``, and so is a default that cannot answer. Items that one predictor can compute
    together are. Reports that do not fit their link are refused, counted and named as ``link.csi``. Raises InvalidField
    for an unknown or unfit predictor (``items[i].predictor``), NotFound for one whose model is not installed. Runs on
    the CPU; call it in a worker thread.
    """
    links = [checked_link(item.config) for item in items]
    slots = [
        report_slots(link, item.slot, HISTORY_REPORTS)
        for item, link in zip(items, links, strict=True)
    ]
    chosen = [
        _chosen(item, link, due, weights, f"items[{i}].predictor")
        for i, (item, link, due) in enumerate(zip(items, links, slots, strict=True))
    ]
    decoded = decode_histories(
        [
            ReportHistory(link, link_reports, due, item.link_id)
            for item, link, link_reports, due in zip(items, links, reports, slots, strict=True)
        ],
        weights,
    )
    states = [
        _PredictionState(item, link, due, history, *choice)
        for item, link, due, history, choice in zip(
            items, links, slots, decoded, chosen, strict=True
        )
    ]
    groups: dict[tuple[object, ...], list[int]] = {}
    for i, state in enumerate(states):
        if state.slots:
            groups.setdefault(state.group(), []).append(i)
    answers = [knowledge_pb2.PredictedCsi(source="none") for _ in items]
    for members in groups.values():
        together = [states[i] for i in members]
        for i, csi in zip(members, _predict_together(together), strict=True):
            answers[i] = _answer(csi, states[i])
    return answers


def _chosen(
    item: knowledge_pb2.PredictCsiItem,
    link: Link,
    slots: Sequence[int],
    weights: Weights,
    field: str,
) -> tuple[CsiPredictor, tuple[str, ...]]:
    if item.predictor:
        chosen = predictor_named(item.predictor, link, weights, field=field)
        return (HOLD_LAST if link.feedback.quantizer == "perfect" else chosen), ()
    if not slots or link.feedback.quantizer == "perfect":
        return HOLD_LAST, ()
    return default_predictor(link, item.slot - slots[-1], weights)


def _predict_together(states: Sequence[_PredictionState]) -> list[torch.Tensor]:
    """CSI of each item of one group."""
    predictor, histories = states[0].predictor, [state.history() for state in states]
    if not isinstance(predictor, Generated):
        csi, known, ages = (torch.stack(parts) for parts in zip(*histories, strict=True))
        return list(predictor.predict(csi, known, ages, states[0].link))
    configs = [state.link for state in states]
    contents = [content_of(config) for config in configs]
    users = [config.num_users for config in configs]
    rows = predictor.rows(
        torch.cat([c.rows(csi) for c, (csi, _, _) in zip(contents, histories, strict=True)]),
        torch.cat([known for _, known, _ in histories]),
        torch.cat([ages.expand(n, -1) for n, (_, _, ages) in zip(users, histories, strict=True)]),
        torch.cat([context_of(c).expand(n, -1) for n, c in zip(users, configs, strict=True)]),
        _antennas(configs[0]),
    )
    return [c.csi(part) for c, part in zip(contents, torch.split(rows, users), strict=True)]


def _padded(x: torch.Tensor, missing: int) -> torch.Tensor:
    """``[num_users, num_slots, …]`` with ``missing`` zeros (nothing present) before the oldest slot."""
    return torch.cat([torch.zeros((x.shape[0], missing, *x.shape[2:]), dtype=x.dtype), x], dim=1)


def _answer(csi: torch.Tensor, state: _PredictionState) -> knowledge_pb2.PredictedCsi:
    """One item's answer."""
    history = state.decoded
    record_refused_reports(history.refused)
    present = history.present
    missing = int((~present).sum())
    degraded = [
        common_pb2.Degradation(part="link.csi", reason=error.message) for error in history.refused
    ]
    degraded += [common_pb2.Degradation(part="knowledge.csi", reason=r) for r in state.problems]
    if missing:
        silent = (~history.known.any(1)).nonzero()[:, 0].tolist()
        reason = f"{missing} of {present.numel()} CSI reports are missing"
        if silent:
            reason += f", nothing from user {', '.join(map(str, silent))}"
        degraded.append(common_pb2.Degradation(part="knowledge.csi", reason=reason))
    received = history.known.any(0).nonzero()[:, 0].tolist()
    if not received:
        return knowledge_pb2.PredictedCsi(source="none", degraded=degraded)
    return knowledge_pb2.PredictedCsi(
        csi=to_wire(csi),
        source=state.source,
        newest_report_slot=state.slots[received[-1]],
        degraded=degraded,
    )
