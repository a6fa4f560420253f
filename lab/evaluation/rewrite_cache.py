"""Rewrites of embedded captions, made once by the LLM and kept: for calibration, training and link sweeps.

``python -m lab.evaluation.rewrite_cache`` makes what :data:`PLAN` names, in this order, with the very
:class:`Rewriter` that the knowledge base runs; an interrupted run goes on. A rewrite depends on caption, temperature,
number and seed alone, so that the cache holds what the service would have generated.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Console

from kb_service.llm import MODEL_NAME
from kb_service.rewriting import PROMPT_VERSION, Rewriter, Task, task_of
from lab.evaluation.cache import Cache, append_line, whole_lines
from semlink.corpora.corpus import Item, Split
from semlink.corpora.registry import corpus_named, default_corpus
from semlink.errors import NotFound
from semlink.progress import progress
from semlink.settings import Settings
from semlink.v1 import knowledge_pb2

NUM_CANDIDATES: Final = 5
TEMPERATURE: Final = 0.4
CAPTIONS_AT_ONCE: Final = 24
"""Generated between two writes of the file."""


@dataclass(frozen=True, slots=True)
class Source:
    """A caption to rewrite and whose it is: caption ``index`` of ``item``."""

    item: Item
    index: int

    @property
    def text(self) -> str:
        """The caption as a query would carry it."""
        return self.item.captions[self.index]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Rewrites of ``captions`` captions of a split; of test, of each of the first three seeds' queries."""

    task: str
    split: Split
    captions: int
    temperature: float = TEMPERATURE


PLAN: Final = (
    Wanted("person", "val", 100),
    Wanted("image", "val", 100),
    Wanted("audio", "val", 100),
    Wanted("image", "test", 50),
    Wanted("audio", "test", 50),
    Wanted("person", "test", 50),
    Wanted("image", "test", 100),
    Wanted("audio", "test", 100),
    Wanted("person", "test", 100),
    Wanted("person", "train", 600),
    Wanted("person", "val", 50, 0.7),
    Wanted("image", "val", 50, 0.7),
    Wanted("audio", "val", 50, 0.7),
)
"""The most needed first; later entries hold earlier ones."""
TEST_SEEDS: Final = 3


def sources(task: str, split: Split, captions: int) -> list[Source]:
    """Captions of a split in a fixed order whose beginning stays the same however many are asked for.

    Of val and train one caption an item, items in the order of the golden ratio's multiples (spread evenly over the
    split), the caption in turn. Of test the first ``captions`` queries of each of the seeds 0, 1, 2, as
    :func:`lab.experiments.retrieval_sweep.draw_queries` draws them, without repeats.
    """
    items = corpus_named(default_corpus(task)).items(split)
    if split == "test":
        every = [Source(item, i) for item in items for i in range(len(item.captions))]
        drawn = [np.random.default_rng(s).permutation(len(every)) for s in range(TEST_SEEDS)]
        return [every[i] for i in dict.fromkeys(int(i) for d in drawn for i in d[:captions])]
    order: dict[int, None] = {}
    step = 0
    while len(order) < min(captions, len(items)):
        order.setdefault(int(step * (5.0**0.5 - 1.0) / 2.0 % 1.0 * len(items)))
        step += 1
    return [
        Source(items[number], turn % len(items[number].captions))
        for turn, number in enumerate(order)
    ]


def item_of(text: str, temperature: float = TEMPERATURE) -> knowledge_pb2.RewriteItem:
    """What the transmitter asks the knowledge base for a query of this text."""
    return knowledge_pb2.RewriteItem(
        text=text, num_candidates=NUM_CANDIDATES, temperature=temperature
    )


class RewriteCache:
    """The file of rewrites, of one LLM and prompt: one JSON line a caption and temperature, appended as generated."""

    def __init__(self, path: Path | None = None) -> None:
        name = f"rewrites-{MODEL_NAME}-{PROMPT_VERSION}.jsonl"
        # an entry is named by all that it depends on, as in the store of the knowledge base
        self.path = path or Cache("rewrite-bank").path(name)
        self._known: dict[tuple[str, float], knowledge_pb2.RewriteSet] = {}
        for entry in whole_lines(self.path):
            found = knowledge_pb2.RewriteSet()
            for text, similarity, reason in entry["rewrites"]:
                found.rewrites.add(text=text, similarity=similarity, reason=reason)
            self._known[entry["text"], entry["temperature"]] = found

    def __contains__(self, wanted: tuple[str, float]) -> bool:
        return wanted in self._known

    def rewrites(self, text: str, temperature: float = TEMPERATURE) -> knowledge_pb2.RewriteSet:
        """All candidates of a caption, as generated: not yet judged. Raises NotFound."""
        found = self._known.get((text, temperature))
        if found is None:
            raise NotFound(
                f"the rewrite cache holds no rewrites of {text!r} at temperature {temperature}; "
                "make them: python -m lab.evaluation.rewrite_cache",
                field="text",
            )
        return found

    def entries(self, tasks: Iterable[Task]) -> dict[str, bytes]:
        """The store's entries of some rewrites, as the knowledge base looks them up. Raises NotFound.

        Candidates are as generated: which are kept is judged when a query asks, by its own filter.
        """
        return {
            t.key(MODEL_NAME): self.rewrites(t.text, t.temperature).SerializeToString()
            for t in tasks
        }

    def generate(self, rewriter: Rewriter, tasks: Sequence[Task]) -> None:
        """Generate what is missing of ``tasks``, a few captions at a time, each batch written before the next."""
        missing = [t for t in tasks if (t.text, t.temperature) not in self._known]
        # Captions of one length share a batch of the LLM.
        missing.sort(key=lambda t: len(t.text))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with progress() as bar:
            line = bar.add_task("rewrites", total=len(missing))
            for start in range(0, len(missing), CAPTIONS_AT_ONCE):
                batch = missing[start : start + CAPTIONS_AT_ONCE]
                for task, found in zip(batch, rewriter(batch), strict=True):
                    self._keep(task, found)
                    bar.advance(line)

    def _keep(self, task: Task, found: knowledge_pb2.RewriteSet) -> None:
        self._known[task.text, task.temperature] = found
        entry = {
            "text": task.text,
            "temperature": task.temperature,
            "rewrites": [[r.text, r.similarity, r.reason] for r in found.rewrites],
        }
        append_line(self.path, entry)


def load_rewriter() -> Rewriter:
    """The knowledge base's rewriter, in this process. Raises NotFound with the command that installs the LLM."""
    from kb_service.llm import load_language_model
    from semlink.semantics.text import sentence_embeddings

    settings = Settings()
    return Rewriter(load_language_model(settings.cache_dir), sentence_embeddings)


def main() -> None:
    """Make what the plan names."""
    console = Console(stderr=True)
    cache, rewriter = RewriteCache(), load_rewriter()
    for wanted in PLAN:
        chosen = sources(wanted.task, wanted.split, wanted.captions)
        console.print(f"{wanted}: {len(chosen)} captions")
        items = [item_of(s.text, wanted.temperature) for s in chosen]
        cache.generate(rewriter, [task_of(item, field="text") for item in items])


if __name__ == "__main__":
    main()
