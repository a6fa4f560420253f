"""The calls of a load test: drawn by seed and number, each with the items that answer it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final

import numpy as np

from semlink.corpora.registry import corpus_named, default_corpus
from semlink.load.plan import Mix, Plan
from semlink.seeds import stable_seed

_JSON_BITS: Final = 53
"""Of a seed that JSON numbers hold exactly."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One query: its coordinates, the identity that answers it, and its link (the id or the seed)."""

    task: str
    method: str
    link_kind: str
    link: str
    identity: str


@dataclass(frozen=True, slots=True)
class Call:
    """One request: ``path``, JSON ``body``, and what it asks."""

    path: str
    body: bytes
    asked: tuple[Asked, ...]


@cache
def identities(task: str) -> dict[str, str]:
    """Identity of each item of the task's embedded test gallery, by id."""
    return {
        item.item_id: item.identity for item in corpus_named(default_corpus(task)).items("test")
    }


@cache
def _captions(task: str) -> tuple[tuple[str, str], ...]:
    """Every caption of the embedded test split with the identity that it describes."""
    items = corpus_named(default_corpus(task)).items("test")
    return tuple((caption, item.identity) for item in items for caption in item.captions)


def seed_of(*parts: object) -> int:
    """A seed of these parts that JSON numbers hold exactly."""
    return stable_seed(*parts) >> (63 - _JSON_BITS)


class Queries:
    """Makes the calls of a plan. Captions are used in an order drawn by the seed, each once before any twice.

    ``opened``: ids of the links that the run opened.
    """

    def __init__(self, plan: Plan, opened: tuple[str, ...] = ()) -> None:
        self._plan = plan
        self.opened = opened
        self._order = {
            task: np.random.default_rng(stable_seed("captions", plan.seed, task)).permutation(
                len(_captions(task))
            )
            for task in plan.tasks.values
        }
        self._shared = [seed_of("shared", plan.seed, i) for i in range(plan.num_links)]

    def call(self, number: int, *, stage: str) -> Call:
        """Call ``number`` of a stage of the run; links that are new are new in each stage."""
        plan = self._plan
        size = plan.batch.draw(_uniform(plan.seed, stage, number, "batch"))
        made = [self._query(stage, number, place) for place in range(size)]
        asked = tuple(one for one, _ in made)
        if size == 1:
            return Call("/v1/queries", json.dumps(made[0][1]).encode(), asked)
        body = {"queries": [query for _, query in made], "deadline_ms": plan.deadline_ms}
        return Call("/v1/queries:batch", json.dumps(body).encode(), asked)

    def _query(self, stage: str, number: int, place: int) -> tuple[Asked, dict[str, Any]]:
        plan, at = self._plan, (self._plan.seed, stage, number, place)
        rng = np.random.Generator(np.random.Philox(key=stable_seed("query", *at)))
        # one draw of all: each coordinate is the same whatever the others' mixes are
        task_at, method_at, kind_at, link_at = rng.random(4).tolist()
        task, method = plan.tasks.draw(task_at), plan.methods.draw(method_at)
        kind = plan.links.draw(kind_at)
        order = self._order[task]
        text, identity = _captions(task)[
            order[(number * max(plan.batch.values) + place) % len(order)]
        ]
        which = int(link_at * plan.num_links)
        if kind == "opened":
            link: dict[str, Any] = {"id": self.opened[which]}
        else:
            seed = self._shared[which] if kind == "shared" else seed_of("new", *at)
            link = {**plan.link, "seed": seed}
        query = {
            "task": task,
            "query": {"text": text},
            "method": method,
            "top_k": plan.top_k,
            "symbols": plan.symbols,
            "seed": seed_of("query", *at),
            "knowledge_budget_ms": plan.knowledge_budget_ms,
            "deadline_ms": plan.deadline_ms,
            "link": link,
        }
        name = str(link.get("id", link.get("seed")))
        return Asked(task, method, kind, name, identity), query


def warming(plan: Plan) -> Plan:
    """The plan of the calls before the clock starts: no new links, which nothing can warm."""
    kinds = tuple((kind, weight) for kind, weight in plan.links.weights if kind != "new")
    return replace(plan, links=Mix(kinds or (("shared", 1.0),)))


def _uniform(*parts: object) -> float:
    return seed_of(*parts) / float(2**_JSON_BITS)
