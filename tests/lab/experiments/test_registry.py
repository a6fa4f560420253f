"""Every experiment by name: plans whose values can all be given, and `all`, which skips what is unchanged."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from lab.evaluation.report import Report, Row, head_of, sign
from lab.experiments import run_all
from lab.experiments.config import changed, described, from_options, keys_of, overridden
from lab.experiments.registry import EVERY, TITLES, Experiment, experiment, plan_of
from lab.experiments.run_all import Job
from lab.experiments.tables import print_claims, print_rows
from semlink.cli.app import app
from semlink.errors import InvalidField, NotFound


def test_every_experiment_has_a_command_a_plan_a_quick_plan_and_a_place_in_all() -> None:
    for name in TITLES:
        full, quick = (described(plan_of(name, quick=q)) for q in (False, True))
        assert full != quick
        assert full.keys() == quick.keys()
        assert json.loads(json.dumps(full)) == full
    assert {name for name, _, _ in EVERY} == set(TITLES) - {"methods"}
    reports = [experiment(name, overrides).report for name, overrides, _ in EVERY]
    assert len(set(reports)) == len(reports), "no report takes another's place"


def test_every_key_of_every_plan_can_be_given_as_it_is_printed() -> None:
    """What `--show` prints, given back, is the same plan."""
    for name in TITLES:
        plan = plan_of(name)
        values = described(plan)
        given = []
        for key in keys_of(plan):
            value = values[key]
            if value is None:
                continue
            text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
            if isinstance(value, list) and any("," in str(v) for v in value):
                text = json.dumps(value)
            given.append(f"{key}={text}")
        assert overridden(plan, given) == plan, name


def test_options_say_what_overrides_say() -> None:
    plan = plan_of("feedback")
    options = ["--speed", "3", "--speed=30", "--users", "4", "--queries", "7", "--bits", "16,64"]
    found = overridden(plan, from_options(plan, options))
    assert found.speeds_kmh == (3.0, 30.0)
    assert found.user_counts == (4,)
    assert found.sampling.queries == 7
    assert found.bits == (16, 64)
    flagged = plan_of("csi-rate", options=["--held-out", "--drops", "1"])
    assert flagged.held_out
    assert flagged.drops == 1
    assert not plan_of("csi-rate", options=["--no-held-out"]).held_out
    assert plan_of("fig6", options=["--no-methods"]).methods == ()
    for wrong, at in ((["--magic", "1"], "magic"), (["loose"], "arguments")):
        with pytest.raises(InvalidField) as caught:
            plan_of("fig6", options=wrong)
        assert caught.value.field == at


def test_a_plan_without_the_key_names_it() -> None:
    with pytest.raises(InvalidField, match="wings"):
        changed(plan_of("fig6"), {"wings": 2})
    with pytest.raises(InvalidField, match="takes no corpus"):
        plan_of("gpa", corpus="flickr8k")
    with pytest.raises(NotFound, match="nowhere"):
        plan_of("fig7", corpus="nowhere")
    with pytest.raises(InvalidField, match="fig99"):
        plan_of("fig99")


def test_the_command_line_shows_a_plan_and_refuses_before_it_measures(tmp_path) -> None:
    runner = CliRunner()
    shown = runner.invoke(
        app, ["experiment", "fig9", "--show", "--queries", "9", "--set", "bits=8"]
    )
    assert shown.exit_code == 0, shown.output
    plan = json.loads(shown.stdout)
    assert (plan["queries"], plan["bits"]) == (9, 8)
    for arguments in (["--workers", "many"], ["--root", str(tmp_path)], ["--set", "bits=few"]):
        failed = runner.invoke(app, ["experiment", "fig9", "--out", str(tmp_path), *arguments])
        assert isinstance(failed.exception, InvalidField), arguments
    assert not list(tmp_path.iterdir())


@dataclass(frozen=True)
class Small:
    """A plan."""

    size: int = 1
    names: tuple[str, ...] = field(default=("a",))


def _job(
    name: str, ran: list[str], plan: Small | None = None, error: Exception | None = None
) -> Job:
    def run(out: Path, console: Console, *, fresh: bool, workers: str, quick: bool) -> Report:
        ran.append(name)
        if error is not None:
            raise error
        report = Report(name, [Row("r_at_1", 0.5)])
        report.write(out, name)
        return report

    return Job(Experiment(name, name, plan or Small(), run), 1.0)


def test_all_skips_what_is_unchanged_runs_what_changed_and_survives_a_failure(
    tmp_path, monkeypatch
) -> None:
    ran: list[str] = []
    with open(tmp_path / "log", "w") as log:
        console = Console(file=log, width=200)
        broken = _job("broken", ran, error=InvalidField("it is off", field="x"))
        wanted = [_job("a", ran), broken, _job("b", ran)]
        assert run_all.run(wanted, tmp_path, console) == ["broken"]
        assert ran == ["a", "broken", "b"]
        assert json.loads((tmp_path / "a.json").read_text())["plan"] == {"size": 1, "names": ["a"]}

        ran.clear()
        assert run_all.run([_job("a", ran), _job("b", ran)], tmp_path, console) == []
        assert ran == []
        run_all.run([_job("a", ran, Small(2)), _job("b", ran)], tmp_path, console)
        assert ran == ["a"], "another plan"
        run_all.run([_job("b", ran)], tmp_path, console, fresh=True)
        assert ran == ["a", "b"]
        with monkeypatch.context() as other:
            other.setattr("lab.evaluation.report.weights_hash", lambda: "other weights")
            run_all.run([_job("b", ran)], tmp_path, console)
        assert ran == ["a", "b", "b"]
        (tmp_path / "b.json").write_text("{cut sh")
        run_all.run([_job("b", ran)], tmp_path, console)
        assert ran == ["a", "b", "b", "b"]
    said = (tmp_path / "log").read_text()
    assert "it is off" in said
    assert "unchanged" in said
    assert "left" in said


def test_a_report_from_the_cache_still_tells_how_long_measuring_took(tmp_path) -> None:
    path = tmp_path / "a.json"

    def written(seconds: float, plan: dict[str, object]) -> float:
        before = head_of(path)
        Report("a", [Row("r_at_1", 0.5)], seconds=seconds).write(tmp_path, "a")
        sign(path, plan, before)
        return float(head_of(path)["measured_s"])

    assert written(90.0, {"size": 1}) == 90.0
    assert written(2.0, {"size": 1}) == 90.0
    assert written(3.0, {"size": 1}) == 90.0
    assert written(4.0, {"size": 2}) == 4.0, "another plan"
    assert json.loads(path.read_text())["rows"]


def test_an_interrupted_all_goes_on_where_it_was(tmp_path) -> None:
    ran: list[str] = []
    console = Console(quiet=True)
    stopped = _job("b", ran, error=KeyboardInterrupt())  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        run_all.run([_job("a", ran), stopped, _job("c", ran)], tmp_path, console)
    assert ran == ["a", "b"]
    ran.clear()
    run_all.run([_job("a", ran), _job("b", ran), _job("c", ran)], tmp_path, console)
    assert ran == ["b", "c"]


def test_a_quick_run_says_so_in_its_report_and_prints_no_verdict(tmp_path: Path) -> None:
    def run(out: Path, console: Console, *, fresh: bool, workers: str, quick: bool) -> Report:
        row = Row(
            "map_difference", 0.1, ci95=(0.05, 0.15), snr_db=0.0, baseline="b", variant="a vs b"
        )
        report = Report("a", [row])
        report.write(out, "a")
        print_claims(report.rows, console, quick=quick)
        print_rows(report.rows, console, quick=quick)
        return report

    for quick in (False, True):
        with open(tmp_path / "log", "w") as log:
            console = Console(file=log, width=200)
            Experiment("a", "a", Small(), run, quick).run(tmp_path, console)
        shown = (tmp_path / "log").read_text()
        assert ("quick run: no verdict" in shown) == quick
        assert ("yes" in shown) == (not quick)
        assert bool(head_of(tmp_path / "a.json").get("quick")) == quick
        assert "+10.0" in shown
    assert experiment("fig6", quick=True).quick
    assert not experiment("fig6").quick
