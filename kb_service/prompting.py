"""Prompt strategies, and how their turns become text for any causal language model.

*instruction* is the form of arXiv 2604.05504: an instruction, then the caption. *few-shot* and *attribute-preserving*
are our definition: examples first, and in the latter every caption comes with what it says (as the attribute test of
:mod:`kb_service.caption_reading` reads it) to be kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from kb_service.caption_reading import read
from semlink.errors import InvalidField
from semlink.knowledge import DEFAULT_STRATEGY, PROMPT_STRATEGIES, PromptStrategy

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
ATTRIBUTE_EXAMPLES: Final = EXAMPLES[1:]
"""Fewer than few-shot's, whose prompt stays the longest: shorter ones are padded to it, so that all share batches."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a dialogue."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Strategy:
    """A way to ask. ``shared`` opens every dialogue; ``ask`` makes the last turn of a caption.

    ``version`` is part of the keys; raise it when ``shared`` or ``ask`` changes.
    """

    name: PromptStrategy
    version: int
    description: str
    shared: tuple[Turn, ...]
    ask: Callable[[str], str]


def plainly(caption: str) -> str:
    """The turn of a caption by itself."""
    return f"Rewrite this caption: {caption}"


def with_attributes(caption: str) -> str:
    """The turn of a caption with what must stay."""
    named = attributes(caption)
    return f"{plainly(caption)}\nKeep: {'; '.join(named)}" if named else plainly(caption)


def attributes(caption: str) -> list[str]:
    """What a caption says, in its own words: attributes with their things ("red jacket"), other things, denials."""
    reading = read(caption)
    bound = {concept for pair in reading.belongs for concept in pair}
    phrases = [*reading.belongs.values()]
    phrases += [word for concept, word in reading.affirmed.items() if concept not in bound]
    phrases += [f"no {word}" for word in reading.denied.values()]
    return list(dict.fromkeys(phrases))


def _dialogue(
    examples: Sequence[tuple[str, str]], ask: Callable[[str], str] = plainly
) -> tuple[Turn, ...]:
    turns = [Turn("system", INSTRUCTION)]
    for caption, rewrite in examples:
        turns += [Turn("user", ask(caption)), Turn("assistant", rewrite)]
    return tuple(turns)


STRATEGIES: Final[dict[PromptStrategy, Strategy]] = {
    strategy.name: strategy
    for strategy in (
        Strategy(
            "instruction", 1, "an instruction, then the caption (SC-LMKB)", _dialogue(()), plainly
        ),
        Strategy(
            "few-shot", 1, "instruction, four examples, the caption", _dialogue(EXAMPLES), plainly
        ),
        Strategy(
            "attribute-preserving",
            1,
            "instruction, three examples, the caption; each caption with its attributes to be kept",
            _dialogue(ATTRIBUTE_EXAMPLES, with_attributes),
            with_attributes,
        ),
    )
}


def strategy_named(name: str, *, field: str) -> Strategy:
    """The strategy of a name, the default for "". Raises InvalidField."""
    for known in PROMPT_STRATEGIES:
        if known == (name or DEFAULT_STRATEGY):
            return STRATEGIES[known]
    raise InvalidField(
        f"{field} is {name!r}, allowed: {', '.join(PROMPT_STRATEGIES)}; empty: {DEFAULT_STRATEGY}",
        field=field,
    )


_MARK: Final = "[[caption]]"


class TextFormat:
    """Turns as text for a tokenizer: by its chat template where it has one, else as paragraphs.

    A caption cannot leave its turn: what the tokenizer would read as a special token is broken up.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._chat = bool(tokenizer.chat_template)
        added = {*tokenizer.all_special_tokens, *map(str, tokenizer.get_added_vocab())}
        self._special = sorted(token for token in added if len(token.strip()) > 1)
        self._system = not self._chat or self._takes_system()

    def beginning(self, shared: Sequence[Turn]) -> str:
        """The text that dialogues with these turns share."""
        if not self._chat:
            return "".join(map(_paragraph, shared))
        if self._system or len(shared) > 1:
            return self._rendered(self._turns(shared), asking=False)
        # The instruction opens the user's own turn: shared is what stands before the caption.
        marked = self._rendered(self._turns((*shared, Turn("user", _MARK))), asking=True)
        return marked.partition(_MARK)[0].rstrip()

    def request(self, shared: Sequence[Turn], ask: str) -> str:
        """The text after :meth:`beginning` that ends where the answer begins.

        Raises InvalidField for a chat template whose beginning changes with what follows.
        """
        turn = Turn("user", self._escaped(ask))
        if not self._chat:
            return f"{_paragraph(turn)}Rewrite:"
        start = self.beginning(shared)
        text = self._rendered(self._turns((*shared, turn)), asking=True)
        if not text.startswith(start):
            raise InvalidField(
                "the chat template of the LLM rewrites earlier turns, which this knowledge base cannot serve; "
                "serve the model behind an endpoint instead",
                field="SEMLINK_LLM_MODEL",
            )
        return text.removeprefix(start)

    def _escaped(self, text: str) -> str:
        for special in self._special:
            text = text.replace(special, f"{special[0]} {special[1:]}")
        return text

    def _turns(self, turns: Sequence[Turn]) -> list[Turn]:
        """As the template takes them: without a system role its text stands before the first user's."""
        if self._system or not turns or turns[0].role != "system":
            return list(turns)
        system, first, *rest = turns
        return [Turn(first.role, f"{system.content}\n\n{first.content}"), *rest]

    def _takes_system(self) -> bool:
        from jinja2.exceptions import TemplateError

        try:
            return _MARK in self._rendered([Turn("system", _MARK), Turn("user", "a")], asking=True)
        except TemplateError:
            return False

    def _rendered(self, turns: Sequence[Turn], *, asking: bool) -> str:
        text: str = self._tokenizer.apply_chat_template(
            [{"role": turn.role, "content": turn.content} for turn in turns],
            tokenize=False,
            add_generation_prompt=asking,
        )
        return text


def _paragraph(turn: Turn) -> str:
    match turn.role:
        case "system":
            return f"{turn.content}\n\n"
        case "user":
            return f"{turn.content}\n"
        case "assistant":
            return f"Rewrite: {turn.content}\n\n"
