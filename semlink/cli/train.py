"""`semlink train`: every network that the weights folder holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from semlink.cli.console import settings_of
from semlink.errors import InvalidField
from semlink.tasks import BUILT_IN

train_app = typer.Typer(help="Train what weights/ holds; progress is kept.", no_args_is_help=True)


TaskOption = Annotated[str, typer.Option(help=", ".join(BUILT_IN))]
SpaceOption = Annotated[str, typer.Option(help=f"{', '.join(BUILT_IN)}; or give --corpus")]
TestOption = Annotated[bool, typer.Option(help="score the test split as well: once, at the end")]
AddedOption = Annotated[str, typer.Option(help="added with `semlink corpora add`")]


@train_app.command("heads")
def train_heads(
    task: SpaceOption = "",
    corpus: AddedOption = "",
    seed: int = 0,
    test: TestOption = False,
) -> None:
    """Train alignment heads: a task's on its embedded corpus, or an added corpus's own on its train split."""
    if _space(task, corpus) == corpus:
        from lab.training.add_corpus import heads

        heads(corpus, seed=seed, measure_test=test)
        return
    from lab.training.alignment_heads import run

    run(task, seed=seed, measure_test=test)


def _space(task: str, corpus: str) -> str:
    if bool(task) == bool(corpus):
        raise InvalidField("give --task or --corpus, one of them", field="task")
    return task or corpus


@train_app.command("person")
def train_person(
    objective: Annotated[
        str, typer.Option(help="cmpm-cmpc, sew-fixed, sew-adaptive, mcm, sew-mcm")
    ] = "sew-mcm",
    seed: int = 0,
    test: TestOption = False,
    out: Annotated[Path | None, typer.Option(help="folder; default the weights folder")] = None,
) -> None:
    """Train the heads of person search by Sew + MCM, or one of the objectives that it is compared to."""
    from lab.training.person_search import run

    run(objective, seed, out=out or settings_of().weights_dir, measure_test=test)


@train_app.command("gpa")
def train_gpa(
    task: TaskOption = "audio",
    seed: int = 0,
    test: TestOption = False,
    out: Annotated[Path | None, typer.Option(help="folder; default the weights folder")] = None,
) -> None:
    """Train heads with prototypes and their scorer (GPA)."""
    from lab.training.prototypes import run

    run(task, seed=seed, out=out, measure_test=test)


@train_app.command("codec")
def train_codec(task: SpaceOption = "", corpus: AddedOption = "", seed: int = 0) -> None:
    """Train the JSCC codec of a task, or of an added corpus that has heads of its own, over the emulated link."""
    from lab.training.codec import run

    run(_space(task, corpus), seed=seed)


@train_app.command("vq")
def train_vq(task: SpaceOption = "", corpus: AddedOption = "") -> None:
    """Measure the statistics that the digital baselines code features by: of a task, or of an added corpus."""
    from lab.training.source_coders import run

    run(_space(task, corpus))


@train_app.command("student")
def train_student(task: SpaceOption = "", corpus: AddedOption = "", seed: int = 0) -> None:
    """Train ItrievalKD's student, which finds a noisy text's key sentences: of task image, or of an added corpus."""
    from lab.training.sentence_student import run

    run(_space(task, corpus), seed=seed)


@train_app.command("gallery")
def train_gallery(
    corpus: Annotated[str, typer.Option(help="embedded or added")],
) -> None:
    """Encode a corpus's gallery with the heads of its space."""
    from lab.training.build_gallery import run

    run(corpus)


@train_app.command("rvq")
def train_rvq(
    rounds: Annotated[int, typer.Option(help="of the training mix of channels")] = 20,
    fresh: Annotated[bool, typer.Option(help="train also what is there already")] = False,
) -> None:
    """Train the codebooks of the RVQ CSI quantiser on generated channels."""
    from lab.training.csi_rvq import train_rvq as run

    run(rounds=rounds, fresh=fresh)


@train_app.command("cdg")
def train_cdg(
    name: Annotated[str, typer.Option(help="cdg, transformer, llm4cp, csi-llm")] = "cdg",
    seed: int = 0,
    steps: Annotated[int | None, typer.Option(help="default: the recipe's")] = None,
    out: Annotated[Path | None, typer.Option(help="folder; default the weights folder")] = None,
) -> None:
    """Train a channel generator of the knowledge base on generated histories; the first run makes those (minutes)."""
    from lab.training.csi_predictors import train_named

    train_named(name, seed=seed, steps=steps, out=out)
