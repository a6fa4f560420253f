"""Names that the knowledge base and those who ask it agree on."""

from __future__ import annotations

from typing import Final, Literal, get_args

PromptStrategy = Literal["instruction", "few-shot", "attribute-preserving"]
"""How the LLM is asked for a rewrite: by an instruction alone (the form of arXiv 2604.05504), after examples, or after
examples with the attributes listed that must stay (both ours)."""
PROMPT_STRATEGIES: Final[tuple[PromptStrategy, ...]] = get_args(PromptStrategy)
DEFAULT_STRATEGY: Final[PromptStrategy] = "few-shot"
DUPLICATE: Final = "duplicate"
"""``reason`` of a rewrite that says what its source or an earlier one does, in the same words."""
KEPT: Final = "kept"
"""``reason`` of a rewrite that the filter keeps."""
