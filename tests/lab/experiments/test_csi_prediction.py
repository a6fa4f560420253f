"""The CSI prediction experiment: its drops, its figures recomputed, its claims, and going on where it ended."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from kb_service.prediction import untrained_predictors
from lab.evaluation.csi_prediction_samples import (
    FIRST_SEED,
    Figures,
    decoded,
    draw_drops,
    figures,
    link,
    measured,
    predicted,
)
from lab.evaluation.report import Row, pick, read_rows
from lab.experiments import csi_prediction
from lab.experiments.csi_prediction import (
    Plan,
    Pooled,
    cells,
    measure_cell,
    nmse_difference_db,
)
from lab.experiments.registry import experiment
from semlink.signal.csi import content_of
from semlink.signal.feedback import HISTORY_REPORTS

LINEAR = untrained_predictors()

PLAN = replace(
    Plan(),
    scenarios=("uma-nlos",),
    speeds_kmh=(30.0,),
    bits=(16, 64),
    delays_ms=(5,),
    seeds=2,
    drops=1,
    predictors=("hold-last", "wiener"),
    losses=(),
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEMLINK_CACHE_DIR", str(tmp_path / "cache"))


def test_splits_have_drops_of_their_own_and_draws_repeat() -> None:
    config = link("umi-los", 3.0, 64)
    one, again, other = (
        draw_drops(config, (2, 5), split=split, seed=0, drops=1, reports=8)
        for split in ("test", "test", "val")
    )
    assert torch.equal(one.estimates, again.estimates)
    assert not torch.allclose(one.truth[5], other.truth[5])
    assert abs(FIRST_SEED["val"] - FIRST_SEED["test"]) > 2**40
    assert not torch.allclose(one.truth[2], one.truth[5])


def test_figures_against_a_plain_computation() -> None:
    """NMSE with the phase of each subband turned away, SGCS and gain, user by user."""
    config = link("uma-nlos", 3.0, 64)
    drops = draw_drops(config, (5,), split="val", seed=1, drops=1, reports=HISTORY_REPORTS)
    csi = predicted(LINEAR["hold-last"], config, decoded(config, drops), 5)
    content = content_of(config)
    found = figures(drops.truth[5], csi, content)
    error = power = 0.0
    for user, (h, h_hat) in enumerate(zip(drops.truth[5], csi, strict=True)):
        cosines, received = [], []
        for s in range(8):
            v = torch.linalg.svd(h[s]).Vh[0].conj()
            w = torch.linalg.svd(h_hat[s]).Vh[0].conj()
            cosines.append(float((v.conj() @ w).abs() ** 2))
            received.append(float((h[s] @ w).abs().square().sum()))
        assert found.sgcs[user] == pytest.approx(np.mean(cosines), abs=1e-4)
        gain = 10 * np.log10(np.mean(received) / float(h.abs().square().mean()))
        assert found.precoding_gain_db[user] == pytest.approx(gain, abs=1e-3)
        true_rows, rows = content.rows(h)[:, 0], content.rows(h_hat)[:, 0]
        for a, b in zip(true_rows, rows, strict=True):
            turn = (b.conj() @ a) / (b.conj() @ a).abs()
            error += float((a - turn * b).abs().square().sum())
            power += float(a.abs().square().sum())
    assert found.nmse_db == pytest.approx(10 * np.log10(error / power), abs=1e-3)


def test_users_without_reports_count_as_nothing_known() -> None:
    config = link("umi-los", 3.0, 64)
    drops = draw_drops(config, (5,), split="val", seed=1, drops=1, reports=HISTORY_REPORTS)
    arrived = torch.ones(drops.estimates.shape[:2], dtype=torch.bool)
    arrived[3] = False
    found = measured(LINEAR, config, drops, decoded(config, drops, arrived), 5)
    for of in found.values():
        assert of.sgcs[3] == 0
        assert of.precoding_gain_db[3] == 0
        assert of.error[3] == of.power[3]
        assert (of.sgcs[:3] > 0.3).all()


def test_run_writes_what_it_measured_and_does_not_measure_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = experiment("csi-prediction", PLAN).run(tmp_path / "one", Console(quiet=True))
    rows = read_rows(tmp_path / "one" / "csi-prediction.json")
    assert len(rows) == len(report.rows) == 3 * 2 * 2  # metrics, predictors, places
    assert {row.split for row in rows} == {"test"}
    (row,) = pick(rows, metric="nmse_db", method="wiener", bits=16, variant="delay 5 ms")
    config = link("uma-nlos", 30.0, 16)
    expected = []
    for seed in range(2):
        drops = draw_drops(config, (5,), split="test", seed=seed, drops=1)
        found = measured(LINEAR, config, drops, decoded(config, drops), 5)
        expected.append(found["wiener"].nmse_db)
    assert row.mean == pytest.approx(np.mean(expected), abs=1e-4)
    assert {p.name for p in (tmp_path / "one").iterdir()} >= {
        f"csi-prediction.{kind}" for kind in ("json", "csv", "png", "svg")
    }

    def never(*_: object, **__: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(csi_prediction, "draw_drops", never)
    again = experiment("csi-prediction", PLAN).run(tmp_path / "two", Console(quiet=True))
    assert again.rows == report.rows
    assert json.loads((tmp_path / "two" / "csi-prediction.json").read_text())["rows"]
    with pytest.raises(AssertionError, match="measured again"):
        experiment("csi-prediction", PLAN).run(tmp_path / "three", Console(quiet=True), fresh=True)


def test_a_cell_measured_elsewhere_is_what_a_run_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = replace(PLAN, seeds=1, bits=(16,), predictors=("hold-last",))
    (cell,) = pickle.loads(pickle.dumps(cells(plan)))
    there = measure_cell(plan, cell)
    monkeypatch.setenv("SEMLINK_CACHE_DIR", str(tmp_path / "another"))
    here = measure_cell(plan, cell)
    ((place, by_name),) = here.items()
    for name, found in by_name.items():
        for key, values in found.as_dict().items():
            np.testing.assert_array_equal(values, there[place][name].as_dict()[key])
    report = experiment("csi-prediction", plan).run(tmp_path / "out", Console(quiet=True))
    (row,) = pick(report.rows, metric="nmse_db")
    assert row.mean == by_name["hold-last"].nmse_db


def row(metric: str, mean: float, ci95: tuple[float, float] | None = None, **more: object) -> Row:
    return Row(metric=metric, mean=mean, ci95=ci95, bits=64, **more)  # type: ignore[arg-type]


def test_nmse_difference_is_of_ratios_of_sums() -> None:
    def of(error: list[float]) -> Pooled:
        ones = np.ones(len(error))
        return Pooled(Figures(ones, ones, np.array(error), 10 * ones), np.arange(len(error)) // 2)

    mean, (low, high) = nmse_difference_db(of([1, 1, 1, 1]), of([2, 2, 2, 2]))
    assert mean == pytest.approx(10 * np.log10(0.5))
    assert low == pytest.approx(mean)
    assert high == pytest.approx(mean)
    mean, (low, high) = nmse_difference_db(of([1, 1, 4, 4]), of([2, 2, 2, 2]))
    assert mean == pytest.approx(10 * np.log10(10 / 8))
    assert low < 0 < high
