"""Every experiment by name: plans whose values are all options, and `all`, which skips what is unchanged."""

import json
from dataclasses import dataclass, field

import pytest
from rich.console import Console
from typer.testing import CliRunner

from lab.evaluation.report import Report, Row, described, head_of
from lab.experiments.interface import Measured, Run
from lab.experiments.registry import (
    EXPERIMENTS,
    Experiment,
    Job,
    changed,
    experiment,
    jobs,
    plan_of,
    run_all,
)
from lab.experiments.tables import print_claims, print_rows
from semlink.cli.app import app
from semlink.cli.experiments import asked
from semlink.errors import InvalidField, NotFound


def test_every_experiment_has_a_command_a_plan_a_quick_plan_and_a_place_in_all() -> None:
    for name in EXPERIMENTS:
        full, quick = (described(plan_of(name, quick=q)) for q in (False, True))
        assert full != quick
        assert full.keys() == quick.keys()
        assert hash(plan_of(name)) == hash(plan_of(name))
    reports = [job.experiment.report for job in jobs()]
    assert len(set(reports)) == len(reports), "no report takes another's place"
    assert {"fig6", "snr-audio-umi-los", "csi-rate-held-out", "sew-mcm"} <= set(reports)
    assert len(reports) == sum(len(entry.runs) for entry in EXPERIMENTS.values())


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_value_is_an_option_with_help_and_what_show_prints_is_the_same_plan(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = plan_of(name)
    given: list[str] = []
    for key, value in described(plan).items():
        option = f"--{key.replace('_', '-')}"
        if isinstance(value, bool):
            given += [option] if value else []
            continue
        values = value if isinstance(value, list) else [value]
        parts = [part for one in values for part in (one if isinstance(one, list) else [one])]
        given += [option, *map(str, parts)]
    assert asked(name, given).plan == plan
    with pytest.raises(SystemExit) as left:
        asked(name, ["--help"])
    assert left.value.code == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for key in described(plan):
        option = f"--{key.replace('_', '-')}"
        said = text.partition(f" {option} ")[2].partition("(default: ")[0]
        said = said.partition("]]")[2] if said.startswith("[") else said.partition(" ")[2]
        assert said.strip() or isinstance(getattr(plan, key, None), bool), f"{name} {option}"


def test_options_change_a_plan_and_mistakes_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--speeds-kmh", "3", "30", "--user-counts=4", "--queries", "7", "--bits", "16", "64"]
    found = asked("feedback", [*options, "--forms", "rvq", "", "rvq", "fused"]).plan
    assert found.speeds_kmh == (3.0, 30.0)
    assert found.user_counts == (4,)
    assert found.sampling.queries == 7
    assert found.bits == (16, 64)
    assert found.forms == (("rvq", ""), ("rvq", "fused"))
    assert asked("csi-rate", ["--held-out", "--drops", "1"]).plan.held_out
    assert asked("fig6", ["--methods", "--snrs-db", "-10", "0"]).plan.methods == ()
    quick = asked("fig6", ["--quick", "--queries", "9"])
    assert quick.run.quick
    assert quick.plan == changed(plan_of("fig6", quick=True), {"queries": 9})
    for wrong in (["--magic", "1"], ["loose"], ["--bits", "few"], ["--bits", "8,16"], ["--corpus"]):
        with pytest.raises(SystemExit) as left:
            asked("fig6", wrong)
        assert left.value.code == 2
        assert wrong[0].removeprefix("--") in capsys.readouterr().err
    with pytest.raises(InvalidField, match="--bits A B") as caught:
        asked("fig6", ["--bits", "8", "--bits=16"])
    assert caught.value.field == "bits"


def test_a_plan_without_the_key_names_it() -> None:
    with pytest.raises(TypeError, match="wings"):
        changed(plan_of("fig6"), {"wings": 2})
    with pytest.raises(TypeError, match="wings"):
        changed(plan_of("gpa"), {"wings": 2})
    with pytest.raises(InvalidField, match="takes no corpus"):
        plan_of("gpa", corpus="flickr8k")
    with pytest.raises(NotFound, match="nowhere"):
        plan_of("fig7", corpus="nowhere")
    with pytest.raises(InvalidField, match="fig99"):
        plan_of("fig99")


def test_the_command_line_shows_a_plan_and_refuses_before_it_measures(tmp_path) -> None:
    runner = CliRunner()
    shown = runner.invoke(app, ["experiment", "fig9", "--show", "--queries", "9", "--bits", "8"])
    assert shown.exit_code == 0, shown.output
    plan = json.loads(shown.stdout)
    assert (plan["queries"], plan["bits"]) == (9, 8)
    for arguments in (["--workers", "many"], ["--root", str(tmp_path)], ["--bits=8", "--bits=9"]):
        failed = runner.invoke(app, ["experiment", "fig9", "--out", str(tmp_path), *arguments])
        assert isinstance(failed.exception, InvalidField), arguments
    assert runner.invoke(app, ["experiment", "fig9", "--bits", "few"]).exit_code == 2
    assert "--sweep-bits" in runner.invoke(app, ["experiment", "fig9", "--help"]).stdout
    assert not list(tmp_path.iterdir())


@dataclass(frozen=True)
class Small:
    """A plan."""

    size: int = 1
    names: tuple[str, ...] = field(default=("a",))


def _job(
    name: str, ran: list[str], plan: Small | None = None, error: Exception | None = None
) -> Job:
    def measure(_plan: Small, _run: Run) -> Measured:
        ran.append(name)
        if error is not None:
            raise error
        return Measured([Row("r_at_1", 0.5)])

    return Job(Experiment(name, plan or Small(), measure), 1.0)


def test_all_skips_what_is_unchanged_runs_what_changed_and_survives_a_failure(
    tmp_path, monkeypatch
) -> None:
    ran: list[str] = []
    with open(tmp_path / "log", "w") as log:
        console = Console(file=log, width=200)
        broken = _job("broken", ran, error=InvalidField("it is off", field="x"))
        wanted = [_job("a", ran), broken, _job("b", ran)]
        assert run_all(wanted, tmp_path, console) == ["broken"]
        assert ran == ["a", "broken", "b"]
        assert json.loads((tmp_path / "a.json").read_text())["plan"] == {"size": 1, "names": ["a"]}

        ran.clear()
        assert run_all([_job("a", ran), _job("b", ran)], tmp_path, console) == []
        assert ran == []
        run_all([_job("a", ran, Small(2)), _job("b", ran)], tmp_path, console)
        assert ran == ["a"], "another plan"
        run_all([_job("b", ran)], tmp_path, console, fresh=True)
        assert ran == ["a", "b"]
        with monkeypatch.context() as other:
            other.setattr("lab.evaluation.report.weights_hash", lambda: "other weights")
            run_all([_job("b", ran)], tmp_path, console)
        assert ran == ["a", "b", "b"]
        (tmp_path / "b.json").write_text("{cut sh")
        run_all([_job("b", ran)], tmp_path, console)
        assert ran == ["a", "b", "b", "b"]
    said = (tmp_path / "log").read_text()
    assert "it is off" in said
    assert "unchanged" in said
    assert "left" in said


def test_a_report_from_the_cache_still_tells_how_long_measuring_took(tmp_path) -> None:
    path = tmp_path / "a.json"

    def written(seconds: float, plan: dict[str, object]) -> float:
        Report("a", [Row("r_at_1", 0.5)], seconds=seconds, plan=plan).write(tmp_path, "a")
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
        run_all([_job("a", ran), stopped, _job("c", ran)], tmp_path, console)
    assert ran == ["a", "b"]
    ran.clear()
    run_all([_job("a", ran), _job("b", ran), _job("c", ran)], tmp_path, console)
    assert ran == ["b", "c"]


def test_a_quick_run_says_so_in_its_report_and_prints_no_verdict(tmp_path) -> None:
    row = Row("map_difference", 0.1, ci95=(0.05, 0.15), snr_db=0.0, baseline="b", variant="a vs b")

    def measure(_plan: Small, run: Run) -> Measured:
        def show() -> None:
            print_claims([row], run.console, quick=run.quick)
            print_rows([row], run.console, quick=run.quick)

        return Measured([row], show=show)

    for quick in (False, True):
        with open(tmp_path / "log", "w") as log:
            console = Console(file=log, width=200)
            Experiment("a", Small(), measure, quick).run(tmp_path, console)
        shown = (tmp_path / "log").read_text()
        assert ("quick run: no verdict" in shown) == quick
        assert ("yes" in shown) == (not quick)
        assert bool(head_of(tmp_path / "a.json").get("quick")) == quick
        assert "+10.0" in shown
    assert experiment("fig6", plan_of("fig6"), quick=True).quick
    assert not experiment("fig6", plan_of("fig6")).quick
