"""Which LLM the knowledge base asks, as the settings say: embedded, from the hub or a folder, behind an endpoint."""

from __future__ import annotations

from collections.abc import Callable

from kb_service.endpoints import ChatEndpoint, endpoint_identity
from kb_service.llm import (
    MODEL_NAME,
    GenerationCancelled,
    identity_of,
    load_causal_lm,
    load_language_model,
)
from kb_service.rewriting import Embed, Generator, Rewriter
from semlink.errors import InvalidField
from semlink.settings import Settings


def model_name(settings: Settings) -> str:
    """Identity of the LLM, part of every key; known without loading it.

    Raises InvalidField naming the variable that is missing.
    """
    match settings.llm_kind:
        case "endpoint":
            for name in ("llm_url", "llm_model"):
                if not getattr(settings, name):
                    raise _missing(f"SEMLINK_{name.upper()}", "endpoint")
            return endpoint_identity(settings.llm_url.get_secret_value(), settings.llm_model)
        case "hub":
            if not settings.llm_model:
                raise _missing("SEMLINK_LLM_MODEL", "hub")
            return identity_of(settings.llm_model, settings.llm_revision)
        case _:
            return MODEL_NAME


def load_generator(settings: Settings) -> Generator:
    """The LLM, ready. Raises NotFound or InvalidField for one that cannot be used; an endpoint is not tried yet."""
    match settings.llm_kind:
        case "endpoint":
            return ChatEndpoint(
                settings.llm_url.get_secret_value(),
                settings.llm_model,
                settings.llm_api_key.get_secret_value(),
                settings.llm_timeout_s,
                settings.llm_retries,
            )
        case "hub":
            return load_causal_lm(
                settings.llm_model, revision=settings.llm_revision, device=settings.device
            )
        case _:
            return load_language_model(settings.cache_dir, device=settings.device)


def load_rewriter(settings: Settings, embed: Embed, cancelled: Callable[[], bool]) -> Rewriter:
    """The rewriter that the settings name, its sentence encoder loaded first.

    Raises what :func:`load_generator` raises, and GenerationCancelled between two models once ``cancelled()`` is true.
    """
    from semlink.semantics.text import minilm

    if not cancelled():
        minilm(settings.device)
    if not cancelled():
        return Rewriter(load_generator(settings), embed)
    raise GenerationCancelled("loading the LLM was cancelled")


def _missing(variable: str, kind: str) -> InvalidField:
    return InvalidField(f"{variable} is empty, but SEMLINK_LLM is {kind!r}", field=variable)
