"""Measuring retrieval at many points of the link: every query through the classes that serve, metrics as products."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from lab.evaluation.cache import Cache, JsonlTable, key_of
from lab.evaluation.local_system import RecordingReceiver, RememberingEncoder, System, build_system
from lab.evaluation.parallel import spread
from lab.evaluation.report import corpus_hash
from lab.experiments.sweep import Point, Sampling
from lab.training.data import caption_groups
from semlink.corpora.registry import (
    check_corpus,
    corpus_named,
    embedded_corpora,
    gallery_split,
)
from semlink.errors import InvalidField
from semlink.progress import progress
from semlink.semantics.gallery import GalleryEmbeddings
from semlink.semantics.metrics import per_query
from semlink.semantics.spaces import space_of
from semlink.settings import Settings
from semlink.v1 import transmitter_pb2

BATCH: Final = 256
Prepare = Callable[[Iterable[str]], Mapping[str, bytes]]
"""What a seed's texts need in the store, by key."""
CACHE: Final = Cache("measurements", __name__, weights=[""])
CACHE_BYTES: Final = 4 << 30
"""At most, for channels of a session: a sweep comes back to every one of its drops at each point."""
CELLS_AT_ONCE: Final = 6
"""Points of one seed that a process measures before it tells of them."""


class GalleryEncoder(RememberingEncoder):
    """Knows the captions' vectors from the gallery (int8, a cosine error below 1e-4); encodes what is new."""

    def __init__(self, corpus: str) -> None:
        super().__init__()
        space, captions = space_of(corpus), gallery_captions(corpus)
        vectors = GalleryEmbeddings.load(corpus).captions
        self._known = {
            (space, caption.strip()): vector[None]
            for (_, caption), vector in zip(captions, vectors, strict=True)
        }


def gallery_captions(corpus: str) -> list[tuple[int, str]]:
    """Each caption of a corpus's gallery with the number of its item."""
    by_id = {item.item_id: item for item in corpus_named(corpus).items(gallery_split(corpus))}
    ids = GalleryEmbeddings.load(corpus).item_ids
    return [(n, caption) for n, found in enumerate(ids) for caption in by_id[found].captions]


@dataclass(frozen=True, slots=True)
class Queries:
    """A seed's queries: texts, the gallery's vectors, and which gallery items are right, ``[queries, items]``."""

    texts: list[str]
    gallery: NDArray[np.float32]
    relevant: NDArray[np.bool_]


def draw_queries(sampling: Sampling, seed: int) -> Queries:
    """A random sample of the captions of the gallery's items, drawn anew for each seed.

    Right is every item of the identity; of a category where captions say no more. Raises NotFound for an unknown
    corpus, InvalidField for one of another task or more queries than captions.
    """
    name = sampling.corpus_name
    check_corpus(name, sampling.task)
    items = {item.item_id: item for item in corpus_named(name).items(gallery_split(name))}
    embeddings = GalleryEmbeddings.load(name)
    groups = caption_groups([items[i] for i in embeddings.item_ids]).numpy()
    captions = gallery_captions(name)
    if not 1 <= sampling.queries <= len(captions):
        raise InvalidField(
            f"queries is {sampling.queries}, allowed: 1…{len(captions)}, the {gallery_split(name)} captions",
            field="queries",
        )
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(captions))[: sampling.queries]
    owners = np.array([captions[i][0] for i in chosen])
    return Queries(
        texts=[captions[i][1] for i in chosen],
        gallery=np.asarray(embeddings.items, dtype=np.float32),
        relevant=groups[owners][:, None] == groups[None, :],
    )


MEASURED: Final = ("map", "r_at_1", "r_at_10")
"""Of :data:`semlink.semantics.metrics.METRICS`, in the order in which they are stored; then ``erased``."""
METRICS: Final = ("r_at_1", "r_at_10", "map", "erased")
"""In the order of a report's rows."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of each query at one point: float32 ``[metrics, seeds, queries]``, in the same order at every point.

    ``figures``: those of :data:`MEASURED`, then 1 for each query that was erased.
    """

    figures: NDArray[np.float32]

    def per_query(self, metric: str) -> NDArray[np.float32]:
        """A metric of every query, ``[seeds, queries]``."""
        found: NDArray[np.float32] = self.figures[(*MEASURED, "erased").index(metric)]
        return found

    def per_seed(self, metric: str) -> list[float]:
        """A metric's value for each seed."""
        return [float(v) for v in self.per_query(metric).mean(axis=1, dtype=np.float64)]


def judge(
    features: NDArray[np.float32], erased: NDArray[np.bool_], queries: Queries
) -> NDArray[np.float32]:
    """:data:`MEASURED` of each query, and whether it was erased: float32 ``[metrics, queries]``.

    An erased query has no result: it is a miss in every metric.
    """
    found = per_query(features @ queries.gallery.T, queries.relevant, MEASURED)
    return np.stack([*(values * ~erased for values in found.values()), erased]).astype(np.float32)


def _message(
    point: Point, sampling: Sampling, seed: int, number: int, text: str
) -> transmitter_pb2.Query:
    return transmitter_pb2.Query(
        id=str(number),
        task=sampling.task,
        corpus=sampling.corpus_name,
        text=text,
        method=point.scheme.method,
        top_k=1,
        symbols=point.symbols,
        seed=sampling.query_seed(seed, number),
        link_config=point.link(sampling.link_seed(seed, number)).to_proto(),
    )


async def _send(
    system: System,
    receiver: RecordingReceiver,
    point: Point,
    sampling: Sampling,
    seed: int,
    queries: Queries,
) -> NDArray[np.float32]:
    """Send every query of the seed and rank the whole gallery by what arrived: see :func:`judge`."""
    receiver.features.clear()
    messages = [_message(point, sampling, seed, i, text) for i, text in enumerate(queries.texts)]
    erased: list[bool] = []
    for start in range(0, len(messages), BATCH):
        request = transmitter_pb2.RetrieveRequest(queries=messages[start : start + BATCH])
        answers = (await system.transmitter.retrieve(request)).answers
        degraded = [d for a in answers for d in a.degraded]
        if degraded:
            raise RuntimeError(f"a degraded answer is no measurement: {degraded[0]}")
        erased += [a.link.erased for a in answers]
    return judge(np.stack(receiver.features), np.array(erased), queries)


def measurements(sampling: Sampling) -> JsonlTable:
    """What this program measured with these weights and this sampling, by point and seed.

    Interrupted runs go on, and experiments that run at once share it. Of an added corpus its heads, codec and gallery
    count as well.
    """
    head = {"sampling": repr(sampling)}
    if sampling.corpus_name not in embedded_corpora():
        head["corpus"] = corpus_hash(sampling.corpus_name)
    return CACHE.table(key_of(json.dumps(head), 10))


def _to_text(figures: NDArray[np.float32]) -> str:
    return base64.b64encode(figures.tobytes()).decode()


def _from_text(text: str) -> NDArray[np.float32]:
    return np.frombuffer(base64.b64decode(text), dtype=np.float32).reshape(len(METRICS), -1)


def _key(point: Point, seed: int) -> str:
    coordinates = asdict(point)
    del coordinates["scheme"]["label"]
    if not point.scheme.link:
        del coordinates["scheme"]["link"]
    return json.dumps([seed, coordinates])


def offered(points: Sequence[Point], console: Console) -> list[Point]:
    """The points that this system can measure; prints for each scheme left out why."""
    refused: dict[str, str] = {}
    kept = []
    for point in points:
        reason = point.refusal()
        if reason is None:
            kept.append(point)
        else:
            refused.setdefault(point.scheme.label, reason)
    for label, reason in refused.items():
        console.print(f"left out: {label}: {reason}", highlight=False, markup=False)
    return kept


@dataclass(frozen=True, slots=True)
class Part:
    """Points of one seed over the same channels, measured by one process in one go.

    ``kept``: what the store holds before, see :data:`Prepare`.
    """

    sampling: Sampling
    seed: int
    points: tuple[Point, ...]
    kept: Mapping[str, bytes] = field(default_factory=dict, compare=False, repr=False)


def measure(
    points: Iterable[Point],
    sampling: Sampling,
    done: JsonlTable,
    title: str,
    prepare: Prepare | None = None,
    workers: str = "1",
) -> dict[Point, Outcome]:
    """Measure every point (those of :func:`offered`) with every seed; the same bit for bit with any ``workers``.

    ``prepare``: see :data:`Prepare`; ``workers``: see :func:`lab.evaluation.parallel.spread`.
    """
    points = list(points)
    needed = dict.fromkeys(point.measured() for point in points)
    cells = [(seed, point) for seed in range(sampling.seeds) for point in needed]
    missing = [cell for cell in cells if _key(cell[1], cell[0]) not in done]
    # Points of the same channels follow each other, so that those are drawn once and need not stay.
    # Points of the same SNR share the users' observations.
    missing.sort(key=lambda cell: (cell[0], *_channels(cell[1]), cell[1].snr_db))
    _sweep(missing, sampling, done, title, prepare, workers)
    outcomes = {
        point: Outcome(
            np.stack([_from_text(done.get(_key(point, s))) for s in range(sampling.seeds)], axis=1)
        )
        for point in needed
    }
    return {point: outcomes[point.measured()] for point in points}


def _channels(point: Point) -> tuple[str, float, int]:
    return (point.scenario, point.speed_kmh, point.num_users)


def _sweep(
    cells: Sequence[tuple[int, Point]],
    sampling: Sampling,
    done: JsonlTable,
    title: str,
    prepare: Prepare | None,
    workers: str,
) -> None:
    seeds = dict.fromkeys(seed for seed, _ in cells)
    kept = {
        seed: prepare(draw_queries(sampling, seed).texts) if prepare is not None else {}
        for seed in seeds
    }
    # Here every point is told of as it is measured; a process is not asked for each.
    size = 1 if workers == "1" else CELLS_AT_ONCE
    parts: list[Part] = []
    for seed in seeds:
        by_channels: dict[tuple[str, float, int], list[Point]] = {}
        for of, point in cells:
            if of == seed:
                by_channels.setdefault(_channels(point), []).append(point)
        parts += [
            Part(sampling, seed, tuple(points[i : i + size]), kept[seed])
            for points in by_channels.values()
            for i in range(0, len(points), size)
        ]
    try:
        with progress() as bar:
            task = bar.add_task(title, total=len(cells))
            for number, figures in spread(measure_part, parts, workers):
                part = parts[number]
                for point, found in zip(part.points, figures, strict=True):
                    done.put(_to_text(found), _key(point, part.seed))
                    bar.advance(task)
    finally:
        _close_sessions()


class Session:
    """The services of one seed over one kind of channels, with what they remember from point to point."""

    def __init__(self, part: Part) -> None:
        settings = Settings(redis_url="memory://")
        self._runner = asyncio.Runner()
        self._receiver = RecordingReceiver(settings)
        self._encoder = GalleryEncoder(part.sampling.corpus_name)
        self._queries = draw_queries(part.sampling, part.seed)
        self._system = self._runner.run(self._built(settings, part.kept))

    async def _built(self, settings: Settings, kept: Mapping[str, bytes]) -> System:
        system = build_system(
            settings, receiver=self._receiver, encoder=self._encoder, cache_bytes=CACHE_BYTES
        )
        await system.store.put_knowledge(kept)
        return system

    def measure(self, part: Part) -> list[NDArray[np.float32]]:
        """See :func:`judge`, of each point."""
        return [
            self._runner.run(
                _send(self._system, self._receiver, p, part.sampling, part.seed, self._queries)
            )
            for p in part.points
        ]

    def close(self) -> None:
        """Stop the services."""
        self._runner.run(self._system.close())
        self._runner.close()


_SESSIONS: Final[dict[tuple[object, ...], Session]] = {}
"""Of this process: the one that the last part needed."""


def measure_part(part: Part) -> list[NDArray[np.float32]]:
    """Outcomes of the part's points, see :func:`judge`; parts of one seed and channels share the services."""
    key = (part.sampling, part.seed, *_channels(part.points[0]))
    if key not in _SESSIONS:
        _close_sessions()
        _SESSIONS[key] = Session(part)
    return _SESSIONS[key].measure(part)


def _close_sessions() -> None:
    while _SESSIONS:
        _SESSIONS.popitem()[1].close()
