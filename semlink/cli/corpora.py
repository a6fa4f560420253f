"""`semlink corpora …` and `semlink evaluate`: sets of pictures and sounds, embedded and the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from semlink.cli.console import Out, console

corpora_app = typer.Typer(
    help="List the corpora; add your own, make noisy texts.",
    invoke_without_command=True,
    no_args_is_help=False,
)
Root = Annotated[Path, typer.Option(help="folder of the set in its public layout")]


@corpora_app.callback()
def corpora(context: typer.Context) -> None:
    """List the corpora that can be asked, and the layouts that can be added."""
    if context.invoked_subcommand is None:
        list_corpora()


@corpora_app.command("list")
def list_corpora() -> None:
    """Every corpus: sizes, licence, where from; and the public layouts that can be added."""
    from semlink.corpora.corpus import SPLITS
    from semlink.corpora.registry import READERS, added_corpora, corpus_named, known_corpora
    from semlink.errors import SemlinkError
    from semlink.semantics.spaces import space_of

    added = added_corpora()
    table = Table(
        "corpus", "task", "heads", "media", "train / val / test", "licence", "from", "what"
    )
    for name, task in known_corpora().items():
        try:
            corpus = corpus_named(name)
        except SemlinkError as error:  # a folder that was moved must not hide the others
            why = f"[red]{escape(error.message)}[/red]"
            table.add_row(name, task, "", "", "", "", added[name].root, why)
            continue
        sizes = " / ".join(
            str(len(corpus.items(split))) if split in corpus.splits else "–" for split in SPLITS
        )
        info = corpus.info
        told = (info.licence, info.source, info.description)
        table.add_row(name, task, space_of(name), info.media_type, sizes, *told)
    console.print(table)
    console.print(f"layouts for `semlink corpora add`: {', '.join(READERS)}")


@corpora_app.command("add")
def add(
    name: Annotated[str, typer.Argument(help="a layout, or any name with --reader")],
    root: Root,
    reader: Annotated[str | None, typer.Option(help="layout, when the name is another")] = None,
    split: Annotated[
        str | None,
        typer.Option(help="of the gallery: test, val or train; default: the last there is"),
    ] = None,
    train: Annotated[
        bool,
        typer.Option(help="train heads and codec on its train split; else the task's own serve it"),
    ] = True,
    seed: int = 0,
) -> None:
    """Make a set of your own a corpus: read it, train on it, build its gallery. Goes on where it was interrupted."""
    from lab.training.add_corpus import run

    run(name, root, reader=reader, split=split, train=train, seed=seed, console=console)


@corpora_app.command("remove")
def remove(name: str) -> None:
    """Forget an added corpus with its heads, codec and gallery; its source files stay."""
    from semlink.corpora.registry import unregister_corpus

    unregister_corpus(name)
    console.print(f"removed {name}")


@corpora_app.command("make-noisy")
def make_noisy(
    corpus: Annotated[str, typer.Argument(help="any captioned corpus")],
    split: str = "test",
    items: Annotated[int | None, typer.Option(help="the first so many; default all")] = None,
    noise: Annotated[int, typer.Option(help="noise sentences a text, 0…3")] = 3,
    seed: int = 0,
    out: Annotated[Path | None, typer.Option(help="file; default noisy-CORPUS-SPLIT.jsonl")] = None,
) -> None:
    """Texts of key captions among sentences that the LLM goes on with, labelled (ItrievalKD's noisy sets)."""
    from lab.training.noisy_texts import run
    from semlink.corpora.corpus import check_split
    from semlink.corpora.registry import corpus_named

    path = out or Path(f"noisy-{corpus}-{split}.jsonl")
    known, of = corpus_named(corpus), check_split(split)
    run(known, of, num_items=items, n_noise=noise, seed=seed, out=path)
    console.print(f"written: {path}")


def evaluate(
    method: Annotated[
        str, typer.Option(help="global, sew-mcm, gpa, itrieval-kd, linear-probe, …")
    ] = "global",
    corpus: Annotated[
        str, typer.Option(help="embedded, added, or a layout with --root")
    ] = "pedestrians",
    split: Annotated[str, typer.Option(help="choose on val, report on test")] = "test",
    root: Annotated[Path | None, typer.Option(help="of a set that was not added")] = None,
    noisy: Annotated[
        Path | None, typer.Option(help="texts of `corpora make-noisy`, for itrieval-kd")
    ] = None,
    out: Out = Path("results"),
) -> None:
    """Print and store the paper's table of a method on a corpus, over the ideal link."""
    from lab.experiments.paper_tables import run

    run(method, corpus, split, root=root, noisy=noisy, out=out, console=console)
