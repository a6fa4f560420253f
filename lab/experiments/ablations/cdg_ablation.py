"""What each part of CDG is worth, on validation: ``python -m lab.experiments.ablations.cdg_ablation`` (an hour on one
core; prints a table).

Every variant is trained by the same steps on the same histories; what is trained is kept in the cache, and what is
interrupted goes on. Rows: NMSE and SGCS over the validation bank's conditions (10 dB, reports 5 to 9 slots old), and
R@1 of person search behind precoders for one and for four users.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Final

import torch
import typer
from rich.console import Console
from rich.table import Table

from lab.evaluation.cache import Cache
from lab.training.csi_history_dataset import GROUP_USERS, validation_histories
from lab.training.csi_predictors import JOINT_TASK, RECIPES, by_condition, linear_rivals, run
from lab.training.differentiable_link import SemanticLink

VARIANTS: Final[Mapping[str, tuple[dict[str, Any], dict[str, Any]]]] = {
    "cdg": ({}, {}),
    "no trunk": ({"depth": 0}, {}),
    "random trunk": ({"pretrained": False}, {}),
    "no trunk, lambda 0": ({"depth": 0}, {"joint_weight": 0.0}),
    "no trunk, lambda 1": ({"depth": 0}, {"joint_weight": 1.0}),
    "no prototypes": ({"prototypes": 0}, {}),
    "4 blocks": ({"depth": 4}, {}),
}
"""Settings and recipe of each, where they are not the shipped ones. The joint loss is judged without a trunk, which
costs a third of the time."""


def scores_of(variant: str, seed: int, steps: int) -> dict[str, Any]:
    """Validation's scores of a variant, trained where it is not in the cache."""
    settings, changes = VARIANTS[variant]
    name = "".join(c if c.isalnum() else "-" for c in variant)
    folder = Cache("compare-cdg", run).path(f"{name}-{seed}-{steps}")
    metadata = folder / "csi-cdg-16x1.json"
    if not metadata.is_file():
        recipe = replace(RECIPES["cdg"], steps=steps, **changes)
        run("cdg", seed=seed, out=folder, recipe=recipe, **settings)
    scores: dict[str, Any] = json.loads(metadata.read_text())["scores"]
    return scores


def main(
    steps: Annotated[int, typer.Option(help="of each training")] = 1_000,
    seeds: int = 1,
    variant: Annotated[list[str] | None, typer.Option(help="can be repeated; default all")] = None,
) -> None:
    """Train the variants and print what they score."""
    table = Table(
        "variant", "seed", "NMSE dB", "SGCS", "R@1, 1 user", "SINR dB", "R@1, 4 users", "SINR dB"
    )
    val = validation_histories()
    link = SemanticLink.from_corpus(JOINT_TASK, "val")
    for name, rows in {**linear_rivals(val), "true channel": val.truth()}.items():
        scores: dict[str, Any] = dict(by_condition(val, rows))
        scores["link"] = {f"{u} users": link.scores(rows, val, u) for u in (1, GROUP_USERS)}
        _add(table, name, "", scores)
    for name in variant or VARIANTS:
        for seed in range(seeds):
            _add(table, name, str(seed), scores_of(name, seed, steps))
            Console(stderr=True).print(table)
    Console().print(table)


def _add(table: Table, name: str, seed: str, scores: Mapping[str, Any]) -> None:
    table.add_row(
        name,
        seed,
        f"{scores['all']['nmse_db']:.2f}",
        f"{scores['all']['sgcs']:.4f}",
        *(
            cell
            for value in scores["link"].values()
            for cell in (f"{value['r_at_1']:.4f}", f"{value['sinr_db']:.3f}")
        ),
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    typer.run(main)
