"""Source data generation (SDG): an LLM rewrites a caption; near copies are marked.

``p = softmax(logits / τ)``, sampled after an instruction, examples and the caption (arXiv 2604.05504). Our definition:
the examples, n = 5 candidates, τ = 0.4, top-p 0.95, and what counts as a copy.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from kb_service.filtering import DUPLICATE
from kb_service.llm import GenerationRequest, Prefix
from semlink.errors import InvalidField
from semlink.telemetry import timed
from semlink.v1 import knowledge_pb2

PROMPT_VERSION: Final = 1
"""Part of every key: raise it when INSTRUCTION, EXAMPLES, the format or what is stored changes."""
DEFAULT_CANDIDATES: Final = 5
DEFAULT_TEMPERATURE: Final = 0.4
MAX_CANDIDATES: Final = 16
MAX_CHARACTERS: Final = 2000
MAX_ITEMS: Final = 1024
MAX_TEMPERATURE: Final = 2.0
MAX_NEW_TOKENS: Final = 96

INSTRUCTION: Final = (
    "You rewrite captions. Say the same thing in other words. "
    "Keep every colour, object and number. Add nothing."
)
EXAMPLES: Final = (
    (
        "A woman with long blond hair is wearing a white blouse, a grey skirt and carries a brown handbag.",
        "A lady whose blond hair is long, dressed in a grey skirt and a white blouse, holding a brown handbag.",
    ),
    (
        "Two dogs are running next to a blue car.",
        "A blue car with a pair of dogs running beside it.",
    ),
    (
        "A bell rings three times while people are talking.",
        "People talk as a bell is rung three times.",
    ),
    (
        "A young man without a hat walks in black jeans and a green striped shirt.",
        "A hatless young male walking, wearing a striped green shirt with black jeans.",
    ),
)
"""Persons, scenes and sounds; each rewrite holds exactly what its caption does."""

_UNWEIGHTED = frozenset({"a", "an", "the", "and", "is", "are", "was", "were", "then"})
_WORD = re.compile(r"\w+(?:[-'’]\w+)*")


class Generator(Protocol):
    """What :class:`kb_service.llm.LanguageModel` offers."""

    name: str

    def prefix(self, text: str) -> Prefix:
        """Read a beginning once."""
        ...

    def generate(
        self,
        prefix: Prefix,
        requests: Sequence[GenerationRequest],
        *,
        cancelled: Callable[[], bool],
        deadline: float | None,
    ) -> list[list[str]]:
        """Continue each request."""
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

    def key(self, model: str) -> str:
        """Where the result is kept: a hash of model, prompt and everything that the result depends on."""
        parts = (model, PROMPT_VERSION, self.text, self.num_candidates, self.temperature, self.seed)
        digest = hashlib.blake2b("\x1f".join(map(repr, parts)).encode(), digest_size=20)
        return f"rewrites:{digest.hexdigest()}"


def task_of(item: knowledge_pb2.RewriteItem, *, field: str) -> Task:
    """The task of an item; 0 candidates and temperature 0 stand for the defaults.

    White space is made single, since a newline would end the caption. Raises InvalidField, naming ``{field}.name``.
    """
    text = " ".join(item.text.split()).replace("<|", "< |")
    if not 1 <= len(text) <= MAX_CHARACTERS:
        raise InvalidField(
            f"{field}.text has {len(text)} characters, allowed: 1…{MAX_CHARACTERS}",
            field=f"{field}.text",
        )
    if item.num_candidates > MAX_CANDIDATES:
        raise InvalidField(
            f"{field}.num_candidates is {item.num_candidates}, allowed: 1…{MAX_CANDIDATES}, 0 for "
            f"{DEFAULT_CANDIDATES}",
            field=f"{field}.num_candidates",
        )
    if not 0 <= item.temperature <= MAX_TEMPERATURE:
        raise InvalidField(
            f"{field}.temperature is {item.temperature}, allowed: above 0, at most {MAX_TEMPERATURE}, 0 for "
            f"{DEFAULT_TEMPERATURE}",
            field=f"{field}.temperature",
        )
    if not (math.isfinite(item.min_similarity) and -1 <= item.min_similarity <= 1):
        raise InvalidField(
            f"{field}.min_similarity is {item.min_similarity}, allowed: -1…1",
            field=f"{field}.min_similarity",
        )
    return Task(
        text,
        item.num_candidates or DEFAULT_CANDIDATES,
        item.temperature or DEFAULT_TEMPERATURE,
        item.seed,
    )


class Rewriter:
    """Generates rewrites with an LLM and measures how near they are to their source."""

    def __init__(self, llm: Generator, embed: Embed) -> None:
        self.name = llm.name
        self._llm = llm
        self._embed = embed
        self._prefix = llm.prefix(prompt_prefix())

    def __call__(
        self,
        tasks: Sequence[Task],
        *,
        cancelled: Callable[[], bool] = lambda: False,
        deadline: float | None = None,
    ) -> list[knowledge_pb2.RewriteSet]:
        """Every candidate of each task with its similarity; ``reason`` is "duplicate" or "", ``kept`` not yet set.

        Raises what :meth:`kb_service.llm.LanguageModel.generate` raises.
        """
        requests = [
            GenerationRequest(
                prompt_of(task.text),
                task.num_candidates,
                task.temperature,
                task.seed,
                # A rewrite is about as long as its source; a token holds three characters or more.
                min(MAX_NEW_TOKENS, 16 + len(task.text) // 2),
            )
            for task in tasks
        ]
        with timed("knowledge.generate"):
            texts = self._llm.generate(
                self._prefix, requests, cancelled=cancelled, deadline=deadline
            )
        with timed("knowledge.similarity"):
            return [
                self._measured(task.text, candidates)
                for task, candidates in zip(tasks, texts, strict=True)
            ]

    def _measured(self, source: str, candidates: Sequence[str]) -> knowledge_pb2.RewriteSet:
        written = [c for c in candidates if c]
        # One set at a time: an embedding must not depend on who else is rewritten.
        vectors = self._embed([source, *written])
        similarities = vectors[1:] @ vectors[0]
        found = knowledge_pb2.RewriteSet()
        for text, similarity in zip(written, similarities.tolist(), strict=True):
            found.rewrites.add(text=text, similarity=similarity)
        mark_duplicates(source, found)
        return found


def mark_duplicates(source: str, found: knowledge_pb2.RewriteSet) -> None:
    """Give reason "duplicate" to what says the source's or an earlier rewrite's words in the same order.

    Case, punctuation, articles, "and", "then" and forms of "to be" do not count (our definition).
    """
    seen = {_signature(source)}
    for rewrite in found.rewrites:
        signature = _signature(rewrite.text)
        if signature in seen:
            rewrite.reason = DUPLICATE
        seen.add(signature)


def _signature(text: str) -> tuple[str, ...]:
    return tuple(w for w in _WORD.findall(text.lower()) if w not in _UNWEIGHTED)


def prompt_prefix() -> str:
    """Instruction and examples, in the model's chat format."""
    turns = "".join(f"{prompt_of(caption)}{rewrite}<|im_end|>\n" for caption, rewrite in EXAMPLES)
    return f"<|im_start|>system\n{INSTRUCTION}<|im_end|>\n{turns}"


def prompt_of(caption: str) -> str:
    """The turn that asks for a rewrite."""
    return f"<|im_start|>user\nRewrite this caption: {caption}<|im_end|>\n<|im_start|>assistant\n"
