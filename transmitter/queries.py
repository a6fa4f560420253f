"""What a query may be: every field checked before anything is sent."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from typing import Any, Final

from numpy.typing import NDArray

from semlink.corpora.registry import check_corpus
from semlink.errors import InvalidField
from semlink.fields import check
from semlink.links import Link, checked_link
from semlink.messages import from_proto, to_proto
from semlink.methods import EXTRACTIONS, Method, check_link, check_task, method_named
from semlink.queries import QueryOptions, Retrieval
from semlink.semantics.codec import SYMBOL_COUNTS
from semlink.semantics.encoders import num_components
from semlink.semantics.media import DecodedMedia, EncodedMedia
from semlink.semantics.modalities import modality_of
from semlink.semantics.spaces import space_of, weights_file
from semlink.signal.schemes import check_feedback
from semlink.tasks import task_spec
from semlink.v1 import transmitter_pb2 as pb
from semlink.weight_files import Weights

MAX_TEXT_CHARACTERS: Final = 2_000


@dataclass(frozen=True, slots=True)
class CheckedQuery:
    """A query whose every field is allowed; media are decoded by :func:`with_media`.

    ``space``: whose heads and codec serve the corpus (:mod:`semlink.semantics.spaces`). ``retrieval``: every field set.
    ``student``: the space whose student scores the sentences, "" for none.
    ``content``: the text, or the content of decoded media (:mod:`semlink.semantics.modalities`), "" before they are.
    ``media``: as they were sent, or None. ``source_values``: real values at the encoder's input, the denominator of the
    bandwidth ratio (our definition): UTF-8 bytes of a text, pixel components, audio samples.
    """

    message: pb.Query
    task: str
    modality: str
    corpus: str
    space: str
    method: Method
    retrieval: Retrieval
    student: str
    content: str | NDArray[Any]
    source_values: int
    media: EncodedMedia | None


def check_query(query: pb.Query, weights: Weights, *, field: str) -> CheckedQuery:
    """Check one query but for its media. Raises InvalidField or NotFound naming ``{field}.name``."""
    task = task_spec(query.task, field=f"{field}.task")
    corpus = query.corpus or task.corpus
    check_corpus(corpus, query.task, field=f"{field}.corpus")
    options = from_proto(QueryOptions, query, field=field)
    method = method_named(options.method, field=f"{field}.method")
    check_task(method, query.task, field=f"{field}.method")
    if options.symbols not in SYMBOL_COUNTS:
        offered = ", ".join(map(str, SYMBOL_COUNTS))
        raise InvalidField(
            f"{field}.symbols is {options.symbols}, allowed: {offered}", field=f"{field}.symbols"
        )
    check(options, field=field)
    query = _filled(query, options)
    if query.HasField("link_config"):
        link = checked_link(query.link_config, field=f"{field}.link")
        check_feedback(link, weights, field=f"{field}.link")
        check_link(method, link, weights, field=f"{field}.link")
    if query.WhichOneof("content") is None:
        raise InvalidField(f"{field}.content is missing", field=f"{field}.content")
    modality = query.media.modality if query.HasField("media") else "text"
    if query.HasField("media") and modality != task.modality:
        name = f"{field}.{modality or 'media.modality'}"
        raise InvalidField(
            f"{name} cannot be asked with in task {query.task!r}, allowed: {', '.join(task.queries)}",
            field=name,
        )
    retrieval = _retrieval(options.retrieval, method, modality, field=f"{field}.retrieval")
    space = space_of(corpus)
    if retrieval.scoring == "prototypes" and num_components(space) == 1:
        raise InvalidField(
            f"{field}.retrieval.scoring is 'prototypes', but the heads of corpus {corpus!r} give a global feature "
            "alone, allowed: global",
            field=f"{field}.retrieval.scoring",
        )
    student = _student(retrieval, space, query.task, field=f"{field}.retrieval.extraction")
    content, media = "", None
    if modality == "text":
        content = _text(query.text, field=f"{field}.text")
    else:
        sent = query.media
        media = EncodedMedia(task.name, sent.data, sent.content_type, f"{field}.{modality}")
    return CheckedQuery(
        message=query,
        task=query.task,
        modality=modality,
        corpus=corpus,
        space=space,
        method=method,
        retrieval=retrieval,
        student=student,
        content=content,
        source_values=len(content.encode()),
        media=media,
    )


def with_media(query: CheckedQuery, decoded: DecodedMedia) -> CheckedQuery:
    """The query with its media decoded. Raises InvalidField naming media that nothing can be looked for with."""
    assert query.media is not None
    if objection := modality_of(query.task).objection(decoded.content):
        raise InvalidField(f"{query.media.field} {objection}", field=query.media.field)
    return replace(query, content=decoded.content, source_values=decoded.source_values, media=None)


def _student(retrieval: Retrieval, space: str, task: str, *, field: str) -> str:
    """The space whose student scores the sentences: the corpus's own, else its task's; "" where none is asked."""
    if retrieval.extraction != "itrieval-kd":
        return ""
    for candidate in dict.fromkeys((space, task)):
        if weights_file(candidate, "student").is_file():
            return candidate
    raise InvalidField(
        f"{field} is 'itrieval-kd', but there is no student for task {task!r}: "
        f"run `semlink train student --task {task}` or choose another of {', '.join(EXTRACTIONS)}",
        field=field,
    )


def _filled(query: pb.Query, options: QueryOptions) -> pb.Query:
    """A copy with everything set that the query leaves to others: options, a seed, the default link."""
    filled = pb.Query()
    filled.CopyFrom(query)
    to_proto(options, filled)
    if not query.HasField("seed"):
        filled.seed = secrets.randbits(53)
    if query.WhichOneof("link") is None:
        filled.link_config.CopyFrom(Link().to_proto())
    return filled


def _retrieval(asked: Retrieval, method: Method, modality: str, *, field: str) -> Retrieval:
    """What the query asks for, filled up with what its method does. Raises InvalidField for an extraction of media."""
    if modality != "text" and asked.extraction not in (None, "none"):
        raise InvalidField(
            f"{field}.extraction {asked.extraction!r} chooses among sentences, the query is {modality}",
            field=f"{field}.extraction",
        )
    return Retrieval(
        scoring=asked.scoring or method.scoring,
        reranking=asked.reranking or method.reranking,
        extraction=asked.extraction or (method.extraction if modality == "text" else "none"),
        key_sentences=asked.key_sentences,
    )


def _text(text: str, *, field: str) -> str:
    text = text.strip()
    if not 1 <= len(text) <= MAX_TEXT_CHARACTERS:
        raise InvalidField(
            f"{field} has {len(text)} characters, allowed: 1…{MAX_TEXT_CHARACTERS}", field=field
        )
    return text
