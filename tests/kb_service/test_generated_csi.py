"""Trained generators as the knowledge base serves them: batches, hand-over, what is lost, late or said twice."""

from __future__ import annotations

import random
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from kb_service import prediction
from kb_service.generators import generator_names
from kb_service.llm import MODEL_NAME
from kb_service.prediction import (
    Generated,
    default_predictor,
    predict_items,
    predictor_named,
    predictors_for,
    untrained_predictors,
)
from kb_service.predictors import CsiPredictor
from lab.evaluation.csi_prediction_samples import Drops, decoded, draw_drops, link, measured
from semlink import weight_files
from semlink.components import PREDICTORS
from semlink.errors import InvalidField, NotFound
from semlink.grid import NUM_SUBBANDS
from semlink.links import Link, checked_link
from semlink.models import INSTALL_COMMAND, cache_dir, locate
from semlink.signal.csi import quantizer_for
from semlink.signal.feedback import report_slots
from semlink.v1 import common_pb2 as pb
from semlink.v1 import knowledge_pb2
from semlink.wire import from_wire

LINEAR = untrained_predictors()
GENERATORS = generator_names()

AGE = 5
MAX_BELOW_HOLD_LAST_DB = 0.5


@pytest.fixture(params=sorted(GENERATORS))
def name(request: pytest.FixtureRequest) -> str:
    """Every generator; those with an LLM only where it is there."""
    if Generated(request.param).problem():
        try:
            locate("smollm2")
        except NotFound as missing:
            pytest.skip(missing.message)
    return str(request.param)


def item(
    predictor: str, slot: int = 131, users: int = 2, seed: int = 0, bits: int = 64, kmh: float = 3.0
) -> knowledge_pb2.PredictCsiItem:
    config = Link().replace(num_users=users, seed=seed, speed_kmh=kmh, bits=bits)
    return knowledge_pb2.PredictCsiItem(
        link_id=f"link-{seed}", config=config.to_proto(), slot=slot, predictor=predictor
    )


def reports_of(asked: knowledge_pb2.PredictCsiItem) -> list[pb.CsiReport]:
    """Reports of a channel that turns slowly, for the slots that the item may use."""
    config = checked_link(asked.config)
    quantizer = quantizer_for(config)
    generator = torch.Generator().manual_seed(config.seed)
    shape = (2, config.num_users, NUM_SUBBANDS, config.num_rx_ant, config.num_tx_ant)
    still, moving = torch.randn(shape, dtype=torch.complex64, generator=generator)
    made = []
    for number, slot in enumerate(report_slots(config, asked.slot)):
        h = still + 0.1 * number * moving
        index = torch.full((config.num_users,), slot // config.feedback.report_period_slots)
        made += [
            pb.CsiReport(
                user=user,
                slot=slot,
                report_index=int(index[user]),
                bits=quantizer.bits,
                payload=bytes(payload.tolist()),
            )
            for user, payload in enumerate(quantizer.encode(h, index))
        ]
    return made


def test_a_batch_mate_never_changes_a_prediction(name: str) -> None:
    """Bit for bit, over links of other speeds, bits, users, histories and losses; order does not matter either."""
    items = [
        item(name, seed=1),
        item(name, seed=2, users=4, bits=16, kmh=30.0),
        item(name, seed=3, slot=17),
        item(name, seed=4, users=8, bits=256, slot=504),
        item(name, seed=5, users=1, kmh=60.0),
        item(name, seed=6, users=3, slot=128),
    ]
    reports = [reports_of(i) for i in items]
    reports[1] = reports[1][::3]
    together = predict_items(items, reports)
    assert [answer.source for answer in together] == [name] * len(items)
    for one, its, expected in zip(items, reports, together, strict=True):
        assert predict_items([one], [its])[0] == expected
    assert predict_items(items[::-1], reports[::-1]) == together[::-1]


def test_the_history_is_read(name: str) -> None:
    """Not hold-last in disguise: older reports change the answer."""
    asked = item(name)
    reports = reports_of(asked)
    other = [r for r in reports if r.slot >= asked.slot - 12]
    one, two = (
        torch.from_numpy(from_wire(predict_items([asked], [r])[0].csi, field="csi").copy())
        for r in (reports, other)
    )
    assert (one - two).abs().max() > 1e-3 * one.abs().max()


def test_order_and_repetition_of_reports_do_not_matter(name: str) -> None:
    asked = item(name)
    reports = reports_of(asked)
    expected = predict_items([asked], [reports])[0]
    mixed = [*reports, *reports[::2]]
    random.Random(0).shuffle(mixed)
    assert predict_items([asked], [mixed])[0] == expected


def test_a_second_report_that_says_something_else_is_refused(name: str) -> None:
    asked = item(name)
    reports = reports_of(asked)
    other = pb.CsiReport()
    other.CopyFrom(reports[-1])
    other.payload = bytes(255 - b for b in other.payload)
    expected = predict_items([asked], [reports])[0]
    (answer,) = predict_items([asked], [[*reports, other]])
    assert answer.csi == expected.csi
    assert [d.part for d in answer.degraded] == ["link.csi"]
    assert "second, different report" in answer.degraded[0].reason


def test_what_is_late_counts_as_lost(name: str) -> None:
    """Nothing from one user, one report of the other: an answer for the one who was heard, and it is told."""
    asked = item(name)
    heard = [r for r in reports_of(asked) if r.user == 0][:1]
    (answer,) = predict_items([asked], [heard])
    csi = from_wire(answer.csi, field="csi")
    assert csi[0].any()
    assert not csi[1].any()
    assert "nothing from user 1" in answer.degraded[0].reason
    assert predict_items([asked], [[]])[0].source == "none"


def test_links_without_weights_are_refused(name: str) -> None:
    config = Link()
    for change in ({"num_tx_ant": 8}, {"num_layers": 2}):
        other = Link().replace(**change)
        with pytest.raises(InvalidField, match="has no weights") as error:
            predictor_named(name, other, field="items[3].predictor")
        assert error.value.field == "items[3].predictor"
        assert name not in predictors_for(other)
        assert default_predictor(other, AGE)[0].name in LINEAR
    config = config.replace(content="channel")
    with pytest.raises(InvalidField, match="content channel"):
        predictor_named(name, config)


def test_without_the_llm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Asked by name: NotFound with the command; as the default: another answers and says so."""

    def missing(model: str) -> Path:
        raise NotFound(f"{model} is not installed; install it with: {INSTALL_COMMAND}")

    monkeypatch.setattr(prediction, "cache_dir", lambda: tmp_path)
    monkeypatch.setattr(prediction, "locate", missing)
    monkeypatch.setattr(prediction, "best_predictors", lambda *_: ("cdg", "kalman"))
    predictor, problems = default_predictor(Link(), AGE)
    assert predictor.name == "kalman"
    assert INSTALL_COMMAND in problems[0]
    asked = item("")
    (answer,) = predict_items([asked], [reports_of(asked)])
    assert answer.source == "kalman"
    assert [d.part for d in answer.degraded] == ["knowledge.csi"]
    assert INSTALL_COMMAND in answer.degraded[0].reason
    with monkeypatch.context() as patch:
        patch.setattr("kb_service.generators.trunk.cache_dir", lambda: tmp_path)
        patch.setattr("kb_service.llm.locate", missing)
        patch.setattr(weight_files, "_loaded", OrderedDict())
        with pytest.raises(NotFound, match="smollm2 is not installed"):
            predict_items([item("cdg")], [reports_of(asked)])
    converted = tmp_path / MODEL_NAME
    converted.mkdir()
    assert default_predictor(Link(), AGE)[0].name == "cdg"
    converted.rmdir()
    assert cache_dir() != tmp_path


# --- what reports that never come cost ---------------------------------------------------------


@pytest.fixture(scope="module")
def drops() -> dict[str, Drops]:
    """Users of two scenarios at 30 km/h, where predictors differ most."""
    return {
        scenario: draw_drops(
            link(scenario, 30.0, 64), (AGE,), split="val", seed=77, drops=1, reports=16
        )
        for scenario in ("umi-los", "uma-nlos")
    }


@pytest.mark.parametrize("memory", ["none", "fused", "predictive"])
@pytest.mark.parametrize("lost", ["10 %", "30 %", "50 %", "all but the first"])
def test_loss_never_makes_a_link_much_worse_than_hold_last(
    memory: str, lost: str, drops: dict[str, Drops]
) -> None:
    """Mean precoding gain over drops, with the same reports lost, of every predictor that is installed."""
    generator = torch.Generator().manual_seed(5)
    for scenario, drawn in drops.items():
        config = link(scenario, 30.0, 64, memory=memory)
        arrived = torch.zeros(drawn.estimates.shape[:2], dtype=torch.bool)
        if lost == "all but the first":
            arrived[:, : -8 if memory == "predictive" else arrived.shape[1]] = True
            arrived[:, -5:] = False
        else:
            share = float(lost.split()[0]) / 100
            arrived = torch.rand(arrived.shape, generator=generator) >= share
        predictors: dict[str, CsiPredictor] = {
            name: p
            for name, p in predictors_for(config).items()
            if not isinstance(p, Generated) or not p.problem()
        }
        found = measured(predictors, config, drawn, decoded(config, drawn, arrived), AGE)
        held = found["hold-last"].precoding_gain_db.mean()
        for name, figures in found.items():
            gain = figures.precoding_gain_db.mean()
            assert gain > held - MAX_BELOW_HOLD_LAST_DB, (scenario, name)


def test_every_generator_is_offered() -> None:
    assert set(PREDICTORS.names) == {*LINEAR, *GENERATORS}
