"""Source data generation (SDG): an LLM rewrites a caption; near copies are marked.

Its stages are *prompt* (a task's dialogue), *generate* (the LLM's answers), *extract* (the rewrite in each) and
*measure* (similarity, copies).

``p = softmax(logits / τ)``, sampled after an instruction and the caption (arXiv 2604.05504), or as another strategy of
:mod:`kb_service.prompting` asks. Our definition: n = 5 candidates, τ = 0.4, top-p 0.95, and what counts as a copy.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from kb_service.answers import rewrite_in
from kb_service.llm import Dialogue
from kb_service.prompting import STRATEGIES, Turn, strategy_named
from semlink.errors import InvalidField
from semlink.knowledge import DEFAULT_STRATEGY, DUPLICATE, PromptStrategy
from semlink.telemetry import timed
from semlink.v1 import knowledge_pb2

PROMPT_VERSION: Final = 1
"""Part of the default strategy's keys: raise it when its turns, their format or what is stored changes."""
DEFAULT_CANDIDATES: Final = 5
DEFAULT_TEMPERATURE: Final = 0.4
MAX_CANDIDATES: Final = 16
MAX_CHARACTERS: Final = 2000
MAX_ITEMS: Final = 1024
MAX_TEMPERATURE: Final = 2.0
MAX_NEW_TOKENS: Final = 96
KEY_PREFIX: Final = "rewrites:"

_UNWEIGHTED = frozenset({"a", "an", "the", "and", "is", "are", "was", "were", "then"})
_WORD = re.compile(r"\w+(?:[-'’]\w+)*")


class Generator(Protocol):
    """What writes: :class:`kb_service.llm.LanguageModel`, :class:`kb_service.endpoints.ChatEndpoint`."""

    @property
    def name(self) -> str:
        """Identity of the LLM, for keys."""
        ...

    def prepare(self, beginnings: Sequence[tuple[Turn, ...]]) -> None:
        """Make ready for dialogues that begin so."""
        ...

    def answer(
        self,
        dialogues: Sequence[Dialogue],
        *,
        cancelled: Callable[[], bool],
    ) -> list[list[str]]:
        """Samples of each dialogue's next turn."""
        ...


Embed = Callable[[Sequence[str]], NDArray[np.float32]]
"""Sentences to unit vectors, [n, size]."""


@dataclass(frozen=True, slots=True)
class Task:
    """One caption to rewrite; equal tasks have equal results."""

    text: str
    num_candidates: int
    temperature: float
    seed: int
    strategy: PromptStrategy = DEFAULT_STRATEGY

    def key(self, model: str) -> str:
        """Where the result is stored: a hash of model, prompt and everything that the result depends on."""
        asked = (self.text, self.num_candidates, self.temperature, self.seed)
        parts: tuple[object, ...] = (model, PROMPT_VERSION, *asked)
        if self.strategy != DEFAULT_STRATEGY:
            strategy = STRATEGIES[self.strategy]
            # Whole: what attribute-preserving asks for depends on the lexicon as well.
            turns = [(turn.role, turn.content) for turn in strategy.shared]
            parts = (model, strategy.name, strategy.version, turns, strategy.ask(self.text), *asked)
        digest = hashlib.blake2b("\x1f".join(map(repr, parts)).encode(), digest_size=20)
        return f"{KEY_PREFIX}{digest.hexdigest()}"


def task_of(item: knowledge_pb2.RewriteItem, *, field: str) -> Task:
    """The task of an item; 0 candidates and temperature 0 stand for the defaults.

    White space is made single, since a newline would end the caption. Raises InvalidField, naming ``{field}.name``.
    """
    text = checked_text(item.text.replace("<|", "< |"), field=f"{field}.text")
    for name, value, is_allowed, allowed in (
        (
            "num_candidates",
            item.num_candidates,
            item.num_candidates <= MAX_CANDIDATES,
            f"1…{MAX_CANDIDATES}, 0 for {DEFAULT_CANDIDATES}",
        ),
        (
            "temperature",
            item.temperature,
            0 <= item.temperature <= MAX_TEMPERATURE,
            f"above 0, at most {MAX_TEMPERATURE}, 0 for {DEFAULT_TEMPERATURE}",
        ),
        ("min_similarity", item.min_similarity, -1 <= item.min_similarity <= 1, "-1…1"),
    ):
        if not is_allowed:
            raise InvalidField(
                f"{field}.{name} is {value}, allowed: {allowed}", field=f"{field}.{name}"
            )
    return Task(
        text,
        item.num_candidates or DEFAULT_CANDIDATES,
        item.temperature or DEFAULT_TEMPERATURE,
        item.seed,
        strategy_named(item.strategy, field=f"{field}.strategy").name,
    )


def checked_text(text: str, *, field: str) -> str:
    """A caption with its white space made single. Raises InvalidField for a blank or too long one."""
    single = " ".join(text.split())
    if not 1 <= len(single) <= MAX_CHARACTERS:
        raise InvalidField(
            f"{field} has {len(single)} characters, allowed: 1…{MAX_CHARACTERS}", field=field
        )
    return single


class Rewriter:
    """Generates rewrites with an LLM and measures how near they are to their source."""

    def __init__(self, llm: Generator, embed: Embed) -> None:
        self.name = llm.name
        self.embed = embed
        self._llm = llm
        llm.prepare([strategy.shared for strategy in STRATEGIES.values()])

    def __call__(
        self, tasks: Sequence[Task], *, cancelled: Callable[[], bool] = lambda: False
    ) -> list[knowledge_pb2.RewriteSet]:
        """Every candidate of each task with its similarity; ``reason`` is "duplicate" or "", ``kept`` not yet set.

        Answers that hold no rewrite give no candidate; a set may be empty.
        Tasks of different strategies and temperatures share batches. Raises what the generator's ``answer`` raises.
        """
        dialogues = [prompt(task) for task in tasks]
        with timed("knowledge.generate"):
            answers = self._llm.answer(dialogues, cancelled=cancelled)
        candidates = [extract(task, of) for task, of in zip(tasks, answers, strict=True)]
        with timed("knowledge.similarity"):
            # One set at a time: an embedding must not depend on who else is rewritten.
            return [self.measure(task, of) for task, of in zip(tasks, candidates, strict=True)]

    def measure(self, task: Task, texts: Sequence[str]) -> knowledge_pb2.RewriteSet:
        """Candidates with their cosine to the source; copies are marked."""
        vectors = self.embed([task.text, *texts])
        return knowledge_pb2.RewriteSet(
            rewrites=[
                knowledge_pb2.Rewrite(
                    text=text, similarity=similarity, reason=DUPLICATE if is_copy else ""
                )
                for text, similarity, is_copy in zip(
                    texts,
                    (vectors[1:] @ vectors[0]).tolist(),
                    copies(task.text, texts),
                    strict=True,
                )
            ]
        )


def prompt(task: Task) -> Dialogue:
    """What the LLM is asked for a task."""
    strategy = STRATEGIES[task.strategy]
    return Dialogue(
        strategy.shared,
        strategy.ask(task.text),
        task.num_candidates,
        task.temperature,
        task.seed,
        # A rewrite is about as long as its source; a token holds three characters or more.
        min(MAX_NEW_TOKENS, 16 + len(task.text) // 2),
    )


def extract(task: Task, answers: Sequence[str]) -> list[str]:
    """The rewrites that answers hold."""
    return [text for text in (rewrite_in(answer, task.text) for answer in answers) if text]


def copies(source: str, texts: Sequence[str]) -> list[bool]:
    """Which texts say the source's or an earlier text's words in the same order.

    Case, punctuation, articles, "and", "then" and forms of "to be" do not count (our definition).
    """
    signatures = [
        tuple(w for w in _WORD.findall(text.lower()) if w not in _UNWEIGHTED)
        for text in (source, *texts)
    ]
    return [signature in signatures[:i] for i, signature in enumerate(signatures) if i]
