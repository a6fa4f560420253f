"""Cells of the CSI experiments: measured anywhere, kept by content, measured again when asked, bit for bit the same."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from lab.evaluation import csi_metrics
from lab.evaluation.cache import JsonlTable
from lab.experiments import csi_quantization, plotting
from lab.experiments.csi_quantization import QUICK, Plan, cells, measure_cell
from lab.experiments.registry import experiment

PLAN = replace(
    Plan(),
    scenarios=("umi-los",),
    bits=(16,),
    seeds=1,
    drops=1,
    training_drops=2,
    speeds_kmh=(30.0,),
)


@pytest.fixture(autouse=True)
def few_forms(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Three forms of report are enough here."""
    monkeypatch.setattr(
        csi_quantization, "FORMS", (("scalar", ""), ("rvq", ""), ("rvq", "channel"))
    )
    monkeypatch.setattr(plotting, "draw", lambda *_, **__: None)
    csi_quantization.offered_reports.cache_clear()
    yield
    csi_quantization.offered_reports.cache_clear()


def never(*_: object, **__: object) -> None:
    raise AssertionError("measured again")


def test_a_cell_is_the_same_in_two_caches_whatever_the_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cell,) = pickle.loads(pickle.dumps(cells(PLAN)))
    found = []
    for threads in (1, 2):
        monkeypatch.setenv("SEMLINK_CACHE_DIR", str(tmp_path / str(threads)))
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            found.append(pickle.loads(pickle.dumps(measure_cell))(PLAN, cell))
            assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(before)
    assert found[0] == found[1]
    # two bounds and two forms with SGCS and gain, one with NMSE as well, against three references
    assert len(found[0]) == 3 * (2 * 2 + 2 * 2 + 3)


def test_an_interrupted_run_goes_on_and_a_second_measures_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEMLINK_CACHE_DIR", str(tmp_path / "cache"))
    asked: list[object] = []

    def counted(*values: object) -> object:
        if len(asked) == 2 and interrupted:
            raise KeyboardInterrupt
        asked.append(values[2])
        return csi_metrics.measured(*values)  # type: ignore[arg-type]

    monkeypatch.setattr(csi_quantization, "measured", counted)
    interrupted = True
    with pytest.raises(KeyboardInterrupt):
        experiment("csi-rate", PLAN).run(tmp_path, Console(quiet=True))
    interrupted = False
    report = experiment("csi-rate", PLAN).run(tmp_path, Console(quiet=True))
    assert len(asked) == len(set(asked)), "nothing is measured twice"
    monkeypatch.setattr(csi_quantization, "draw_samples", never)
    monkeypatch.setattr(csi_quantization, "training_spectrum", never)
    assert experiment("csi-rate", PLAN).run(tmp_path, Console(quiet=True)).rows == report.rows
    with pytest.raises(AssertionError, match="measured again"):
        experiment("csi-rate", PLAN).run(tmp_path, Console(quiet=True), fresh=True)


def test_figures_come_back_as_they_were_and_the_last_line_counts(tmp_path: Path) -> None:
    path, value = tmp_path / "a" / "kept.jsonl", [["x", 0.1 + 0.2], 1e-320]
    kept = JsonlTable(path)
    place = ["cell", 1, {"bits": 3.0}]
    assert place not in kept
    kept.put(0, place)
    kept.put(value, place)
    assert kept.get(place) == value
    assert JsonlTable(path).get(("cell", 1, {"bits": 3.0})) == value
    with pytest.raises(KeyError):
        JsonlTable(path).get(["cell", 2, {"bits": 3.0}])


def test_quick_plans_measure_less_and_held_out_takes_its_own_bits() -> None:
    full, quick = Plan(), replace(Plan(), **QUICK)
    assert len(cells(quick)) < len(cells(full))
    held_out = replace(Plan(), held_out=True)
    assert held_out.report_bits == csi_quantization.HELD_OUT_BITS
    few = replace(held_out, **{**QUICK, "bits": (64,)})
    assert few.report_bits == (64,)
    assert {c for c, _ in cells(few)} == {c for pair in few.held_out_pairs() for c in pair}
