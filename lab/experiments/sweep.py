"""What retrieval experiments sweep: how a query is carried, over which link, and how much is sampled."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

import numpy as np

from semlink.corpora.registry import default_corpus
from semlink.errors import InvalidField
from semlink.grid import BLOCK_SLOTS, HISTORY_SLOTS
from semlink.links import Link, slot_of_query
from semlink.methods import method_named
from semlink.quantizers import quantizer_spec
from semlink.seeds import stable_seed
from semlink.settings import Settings
from semlink.signal.csi import quantizer_for

FIRST_LINK_SEED: Final = 10_000
"""Links of experiments; those that trained the codec start at another million."""
STRETCH_SLOTS: Final = 40
"""The queries of one link lie within so many slots, at a random place of the link's block: they share its reports.

What makes figures differ is the drop and its fading, so that many links with one short stretch each say more than
few links with slots all over the block, and cost a tenth of their reports.
"""


@dataclass(frozen=True, slots=True)
class Scheme:
    """One line of a plot: the method that carries a query, and what the users report of their channels.

    The label is for readers: schemes that differ in nothing else are equal and measured once.
    """

    label: str = field(compare=False)
    method: str = "deepsc-mimo"
    quantizer: str = "rvq"
    bits: int = 64
    memory: str = ""
    link: tuple[tuple[str, Any], ...] = ()
    """Other fields of the link that differ from the default's, by name."""


IDEAL: Final = Scheme("ideal link", "ideal", "none", 0)
PERFECT: Final = Scheme("perfect CSI", quantizer="perfect", bits=0)
NO_FEEDBACK: Final = Scheme("no feedback", quantizer="none", bits=0)
JSCC: Final = Scheme("JSCC")
SEPARATION: Final = Scheme("separation (LDPC)", "separation")
VQ_DIGITAL: Final = Scheme("VQ indices (LDPC)", "vq-digital")


def report_scheme(quantizer: str, bits: int, memory: str = "") -> Scheme:
    """JSCC with reports of one form."""
    title = f"{quantizer_spec(quantizer).title} {bits} bits"
    return Scheme(f"{title}, {memory}" if memory else title, "deepsc-mimo", quantizer, bits, memory)


@dataclass(frozen=True, slots=True)
class Point:
    """One point of a plot, measured over all seeds."""

    scheme: Scheme
    scenario: str = "umi-los"
    speed_kmh: float = 3.0
    num_users: int = 4
    snr_db: float = 10.0
    symbols: int = 64

    def measured(self) -> Point:
        """The point whose measurement serves this one: without a channel every link is the same."""
        return Point(IDEAL) if self.scheme.method == "ideal" else self

    def link(self, link_seed: int) -> Link:
        """One of the point's links."""
        config = Link().replace(
            scenario=self.scenario,
            snr_db=self.snr_db,
            speed_kmh=self.speed_kmh,
            num_users=self.num_users,
        )
        scheme = self.scheme
        return config.replace(
            quantizer=scheme.quantizer,
            bits=scheme.bits,
            memory=scheme.memory or "none",
            seed=link_seed,
            **dict(scheme.link),
        )

    def refusal(self) -> str | None:
        """Why this system cannot measure the point, None if it can."""
        try:
            method_named(self.scheme.method)
            config = self.link(FIRST_LINK_SEED)
            config.check()
            quantizer_for(config, Settings().weights)
        except InvalidField as error:
            return error.message
        return None


@dataclass(frozen=True, slots=True)
class Sampling:
    """How much is measured at each point."""

    task: str
    """What is looked for: person, image or audio."""
    seeds: int = 3
    """Draws of queries and links."""
    queries: int = 500
    """Captions of each seed, of the split that the corpus's gallery holds."""
    links: int = 24
    """Drops of each seed; queries are dealt out to them in turn."""
    corpus: str = ""
    """An added corpus; the task's embedded one where empty."""

    @property
    def corpus_name(self) -> str:
        """The corpus that is searched."""
        return self.corpus or default_corpus(self.task)

    def link_seed(self, seed: int, query: int) -> int:
        """Of the link of a query of a seed."""
        return FIRST_LINK_SEED + 1000 * seed + query % self.links

    def query_seed(self, seed: int, query: int) -> int:
        """Of one query: it picks the slot, within the stretch of its link."""
        per_link = -(-self.queries // self.links)
        return stretch_seeds(self.link_seed(seed, query), per_link)[query // self.links]


@lru_cache(maxsize=1024)
def stretch_seeds(link_seed: int, count: int) -> tuple[int, ...]:
    """The first ``count`` query seeds whose slots lie in the link's stretch of ``STRETCH_SLOTS`` slots."""
    config = Link(seed=link_seed)
    rng = np.random.Generator(np.random.Philox(key=stable_seed("stretch", link_seed)))
    first = int(rng.integers(HISTORY_SLOTS, BLOCK_SLOTS - STRETCH_SLOTS + 1))
    stretch = range(first, first + STRETCH_SLOTS)
    found: list[int] = []
    candidate = 0
    while len(found) < count:
        if slot_of_query(config, candidate) in stretch:
            found.append(candidate)
        candidate += 1
    return tuple(found)


DEFAULT_SAMPLING: Final = Sampling("person", queries=100, links=100)
"""What every experiment over the link samples by default: the same queries on the same drops, each query on a drop of
its own, since drops differ more than queries. A point that two experiments share is measured once."""
