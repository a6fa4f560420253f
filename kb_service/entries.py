"""What the knowledge base stores of rewrites: looked up, listed, searched, exchanged, deleted, counted.

An entry holds all candidates of a caption as generated and what they were generated from; which of them a query takes
is judged when it asks. Entries of earlier versions (rewrites alone) stay valid and are handed out as what they are.
Nothing here reads everything at once: the store is scanned, a few hundred entries at a time, and those are read in a
thread, so that a scan does not stand before queries.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import re
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from kb_service.rewriting import (
    KEY_PREFIX,
    MAX_CANDIDATES,
    MAX_CHARACTERS,
    Embed,
    Task,
    checked_text,
    task_of,
)
from semlink.errors import InvalidField, NotFound, Unavailable
from semlink.knowledge import DUPLICATE
from semlink.store import Store
from semlink.telemetry import logger, timed
from semlink.v1 import knowledge_pb2 as pb

DEFAULT_PAGE: Final = 100
MAX_PAGE: Final = 1000
MAX_SCANNED: Final = 20_000
"""Entries that one page looks at; a rare filter then gives pages with few entries and a next one."""
DEFAULT_FOUND: Final = 10
MAX_FOUND: Final = 100
MAX_KEYS: Final = 1000
SCAN: Final = 256
"""Entries of one access to the store."""

_EMBEDDING = np.dtype("<f2")
_KEY = re.compile(rf"{KEY_PREFIX}[0-9a-f]{{40}}")

_log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Stored:
    """The candidates that the store holds, by key. ``problem``: why the store could not say, "" if it could."""

    sets: Mapping[str, pb.RewriteSet]
    problem: str = ""


def entry_of(
    task: Task, model: str, found: pb.RewriteSet, embedding: NDArray[np.float32]
) -> pb.KnowledgeEntry:
    """The entry to store: what was generated now, and from what. ``embedding`` [384] is the source's."""
    return pb.KnowledgeEntry(
        rewrites=found.rewrites,
        text=task.text,
        strategy=task.strategy,
        model=model,
        seed=task.seed,
        temperature=task.temperature,
        num_candidates=task.num_candidates,
        made_unix_s=time.time(),
        embedding=embedding.astype(_EMBEDDING).tobytes(),
    )


def rewrites_of(entry: bytes | None) -> pb.RewriteSet | None:
    """The candidates of an entry as stored, of any version; None without any, and for bytes that are none of ours."""
    try:
        rewrites = pb.KnowledgeEntry.FromString(entry or b"").rewrites
    except DecodeError:
        return None
    return pb.RewriteSet(rewrites=rewrites) if rewrites else None


class Entries:
    """The entries in a store. ``embed`` runs in a thread of asyncio's. Raises Unavailable when the store is away."""

    def __init__(self, store: Store, embed: Embed) -> None:
        self._store = store
        self._embed = embed

    async def look_up(self, keys: Iterable[str]) -> Stored:
        """The candidates of those keys that have any, all in one round trip. Never raises Unavailable."""
        wanted = list(keys)
        with timed("knowledge.lookup"):
            try:
                entries = await self._store.knowledge(wanted)
            except Unavailable as error:
                return Stored({}, error.message)
        found = zip(wanted, map(rewrites_of, entries), strict=True)
        return Stored({key: rewrites for key, rewrites in found if rewrites is not None})

    async def put(self, entries: Mapping[str, pb.KnowledgeEntry]) -> str:
        """Store entries by key. Returns why that failed, "" if it did not."""
        try:
            await self._store.put_knowledge(
                {key: entry.SerializeToString() for key, entry in entries.items()}
            )
        except Unavailable as error:
            _log.warning("rewrites were not stored", why=error.message)
            return error.message
        return ""

    async def list_entries(self, request: pb.ListEntriesRequest) -> pb.ListEntriesResponse:
        """A page of entries. Raises InvalidField naming ``page_size``, ``page_token`` or ``filter.…``."""
        size = _at_most(request.page_size or DEFAULT_PAGE, MAX_PAGE, "page_size")
        matches = matcher(request.filter)
        cursor, entries = _cursor(request.page_token), list[pb.KnowledgeEntry]()
        scanned, count = 0, max(1, min(SCAN, size // 2))
        while True:
            following, stored = await self._store.scan_knowledge(cursor, count)
            found = await asyncio.to_thread(_matching, stored, matches)
            left = size - len(entries)
            if len(found) > left and count > 1:
                # What does not fit is left to the next page: the same place is read again, less at once.
                count = max(1, min(count // 2, left))
                continue
            if len(found) > left and entries:
                break
            entries += found
            cursor = following
            scanned += len(stored)
            if not cursor or len(entries) >= size or scanned >= MAX_SCANNED:
                break
            left = size - len(entries)
            count = min(SCAN, 2 * count) if 4 * len(found) <= left else min(count, left)
        return pb.ListEntriesResponse(
            entries=[_without("embedding", entry) for entry in entries],
            next_page_token=str(cursor) if cursor else "",
        )

    async def get_entry(self, request: pb.GetEntryRequest) -> pb.KnowledgeEntry:
        """One entry, without its embedding. Raises NotFound."""
        (stored,) = await self._store.knowledge([request.key])
        if stored is None:
            raise NotFound(f"nothing is kept under the key {request.key!r}", field="key")
        return _without("embedding", _parsed(request.key, stored))

    async def search_entries(self, request: pb.SearchEntriesRequest) -> pb.SearchEntriesResponse:
        """The entries with the nearest sources. Raises InvalidField naming ``text``, ``top_k`` or ``filter.…``."""
        top_k = _at_most(request.top_k or DEFAULT_FOUND, MAX_FOUND, "top_k")
        text = checked_text(request.text, field="text")
        matches = matcher(request.filter)
        (query,) = await asyncio.to_thread(self._embed, [text])
        best: list[tuple[float, str, pb.KnowledgeEntry]] = []
        searched = 0

        def compare(stored: Mapping[str, bytes]) -> list[tuple[float, str, pb.KnowledgeEntry]]:
            entries = [e for e in _matching(stored, matches) if e.embedding]
            if not entries:
                return []
            vectors = np.stack([np.frombuffer(e.embedding, _EMBEDDING) for e in entries])
            cosines = (vectors.astype(np.float32) @ query).tolist()
            return [(c, e.key, e) for c, e in zip(cosines, entries, strict=True)]

        async for stored in self._scan():
            compared = await asyncio.to_thread(compare, stored)
            searched += len(compared)
            # By key: a scan may come to the same entry twice.
            known = {key: (cosine, key, entry) for cosine, key, entry in (*best, *compared)}
            best = heapq.nlargest(top_k, known.values(), key=lambda found: (found[0], found[1]))
        return pb.SearchEntriesResponse(
            searched=searched,
            found=[
                pb.FoundEntry(entry=_without("embedding", entry), similarity=min(1.0, cosine))
                for cosine, _, entry in best
            ],
        )

    async def export_entries(
        self, request: pb.ExportEntriesRequest
    ) -> AsyncIterator[pb.KnowledgeEntry]:
        """Every entry that matches, without embedding. Raises InvalidField naming ``filter.…``."""
        matches = matcher(request.filter)
        async for stored in self._scan():
            for entry in await asyncio.to_thread(_matching, stored, matches):
                yield _without("embedding", entry)

    async def import_entries(self, request: pb.ImportEntriesRequest) -> pb.ImportEntriesResponse:
        """Store exported entries. Raises InvalidField naming ``entries[i].…``; then nothing was stored."""
        _at_most(len(request.entries), MAX_KEYS, "entries")
        answer = pb.ImportEntriesResponse()
        wanted: dict[str, pb.KnowledgeEntry] = {}
        for i, entry in enumerate(request.entries):
            key = _checked_key(entry, field=f"entries[{i}]")
            if entry.key and entry.key != key:
                answer.outdated += 1
            else:
                wanted[key] = entry
        present = dict(
            zip(wanted, await self._store.knowledge(list(wanted)), strict=True) if wanted else ()
        )
        for key, stored in present.items():
            if stored is None:
                answer.added += 1
            elif request.replace:
                answer.replaced += 1
            else:
                answer.left += 1
                del wanted[key]
        await asyncio.to_thread(self._complete, list(wanted.values()))
        await self._store.put_knowledge(
            {key: _without("key", entry).SerializeToString() for key, entry in wanted.items()}
        )
        return answer

    def _complete(self, entries: Sequence[pb.KnowledgeEntry]) -> None:
        """Set what an export leaves out."""
        sources = [entry for entry in entries if entry.text]
        if not sources:
            return
        vectors = self._embed([entry.text for entry in sources])
        for entry, vector in zip(sources, vectors, strict=True):
            entry.embedding = vector.astype(_EMBEDDING).tobytes()
            entry.made_unix_s = entry.made_unix_s or time.time()

    async def delete_entries(self, request: pb.DeleteEntriesRequest) -> pb.DeleteEntriesResponse:
        """Forget entries. Raises InvalidField for keys and filter at once, or for neither without ``everything``."""
        by_filter = request.filter != pb.EntryFilter()
        if request.keys and (by_filter or request.everything):
            raise InvalidField("give keys or a filter, not both", field="keys")
        _at_most(len(request.keys), MAX_KEYS, "keys")
        if request.keys:
            deleted = await self._store.delete_knowledge(list(request.keys))
            return pb.DeleteEntriesResponse(deleted=deleted)
        if not by_filter and not request.everything:
            raise InvalidField(
                "neither keys nor a filter is given; set everything to delete all that is kept",
                field="everything",
            )
        matches = matcher(request.filter)
        deleted = 0
        async for stored in self._scan():
            found = await asyncio.to_thread(_matching, stored, matches)
            deleted += await self._store.delete_knowledge([entry.key for entry in found])
        return pb.DeleteEntriesResponse(deleted=deleted)

    async def statistics(self) -> pb.KnowledgeStatistics:
        """How much is stored; entries that the scan meets twice count once."""
        counted = _Counted()
        async for stored in self._scan():
            await asyncio.to_thread(counted.add, stored)
        return counted.answer()

    async def _scan(self) -> AsyncIterator[dict[str, bytes]]:
        """Everything that is stored, a part at a time."""
        cursor = 0
        while True:
            cursor, stored = await self._store.scan_knowledge(cursor, SCAN)
            if stored:
                yield stored
            if not cursor:
                return


class _Counted:
    """Sums over entries, each key once."""

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._bytes = 0
        self._made_unix_s: list[float] = []
        self._shares: dict[tuple[str, str], pb.KnowledgeShare] = {}

    def add(self, stored: Mapping[str, bytes]) -> None:
        for key in stored.keys() - self._seen:
            self._seen.add(key)
            self._bytes += len(stored[key])
            entry = _parsed(key, stored[key])
            share = self._shares.setdefault(
                (entry.model, entry.strategy),
                pb.KnowledgeShare(model=entry.model, strategy=entry.strategy),
            )
            share.entries += 1
            share.rewrites += len(entry.rewrites)
            share.duplicates += sum(r.reason == DUPLICATE for r in entry.rewrites)
            if entry.made_unix_s:
                times = [*self._made_unix_s, entry.made_unix_s]
                self._made_unix_s = [min(times), max(times)]

    def answer(self) -> pb.KnowledgeStatistics:
        shares = [share for _, share in sorted(self._shares.items())]
        without_source = self._shares.get(("", ""))
        oldest, newest = self._made_unix_s or (0.0, 0.0)
        return pb.KnowledgeStatistics(
            entries=len(self._seen),
            without_source=without_source.entries if without_source else 0,
            rewrites=sum(share.rewrites for share in shares),
            duplicates=sum(share.duplicates for share in shares),
            bytes=self._bytes,
            shares=shares,
            oldest_unix_s=oldest,
            newest_unix_s=newest,
        )


def matcher(wanted: pb.EntryFilter) -> Callable[[pb.KnowledgeEntry], bool]:
    """Whether an entry has everything that the filter names. Raises InvalidField naming ``filter.text``."""
    if len(wanted.text) > MAX_CHARACTERS:
        raise InvalidField(
            f"filter.text has {len(wanted.text)} characters, allowed: ≤ {MAX_CHARACTERS}",
            field="filter.text",
        )
    part = wanted.text.casefold()

    def matches(entry: pb.KnowledgeEntry) -> bool:
        return (
            wanted.model in ("", entry.model)
            and wanted.strategy in ("", entry.strategy)
            and (not wanted.HasField("seed") or (bool(entry.text) and wanted.seed == entry.seed))
            and (not wanted.HasField("has_source") or wanted.has_source == bool(entry.text))
            and part in entry.text.casefold()
        )

    return matches


def _matching(
    stored: Mapping[str, bytes], matches: Callable[[pb.KnowledgeEntry], bool]
) -> list[pb.KnowledgeEntry]:
    return [entry for entry in itertools.starmap(_parsed, stored.items()) if matches(entry)]


def _parsed(key: str, stored: bytes) -> pb.KnowledgeEntry:
    """An entry with its key; bytes that are none of ours give an empty one, which can be listed and deleted."""
    try:
        entry = pb.KnowledgeEntry.FromString(stored)
    except DecodeError:
        entry = pb.KnowledgeEntry()
    entry.key = key
    return entry


def _without(
    field_name: Literal["embedding", "key"], entry: pb.KnowledgeEntry
) -> pb.KnowledgeEntry:
    entry.ClearField(field_name)
    return entry


def _checked_key(entry: pb.KnowledgeEntry, *, field: str) -> str:
    """The key that an entry belongs under in this version. Raises InvalidField."""
    if not 1 <= len(entry.rewrites) <= MAX_CANDIDATES:
        raise InvalidField(
            f"{field}.rewrites are {len(entry.rewrites)}, allowed: 1…{MAX_CANDIDATES}",
            field=f"{field}.rewrites",
        )
    for i, rewrite in enumerate(entry.rewrites):
        name = f"{field}.rewrites[{i}]"
        if not 1 <= len(rewrite.text) <= MAX_CHARACTERS:
            raise InvalidField(
                f"{name}.text has {len(rewrite.text)} characters, allowed: 1…{MAX_CHARACTERS}",
                field=f"{name}.text",
            )
        if not -1.001 <= rewrite.similarity <= 1.001:
            raise InvalidField(
                f"{name}.similarity is {rewrite.similarity}, allowed: -1…1",
                field=f"{name}.similarity",
            )
        if rewrite.reason not in ("", DUPLICATE):
            raise InvalidField(
                f"{name}.reason is {rewrite.reason!r}, allowed: {DUPLICATE!r} or empty",
                field=f"{name}.reason",
            )
    if not entry.text:
        if not _KEY.fullmatch(entry.key):
            raise InvalidField(
                f"{field}.key is {entry.key!r}; an entry without text needs the key it was kept under",
                field=f"{field}.key",
            )
        return entry.key
    if not entry.model:
        raise InvalidField(f"{field}.model is missing", field=f"{field}.model")
    item = pb.RewriteItem(
        text=entry.text,
        num_candidates=entry.num_candidates,
        temperature=entry.temperature,
        seed=entry.seed,
        strategy=entry.strategy,
    )
    return task_of(item, field=field).key(entry.model)


def _at_most(value: int, maximum: int, name: str) -> int:
    if value > maximum:
        raise InvalidField(f"{name} is {value}, allowed: ≤ {maximum}", field=name)
    return value


def _cursor(token: str) -> int:
    if not re.fullmatch(r"|[1-9][0-9]{0,19}", token):
        raise InvalidField(
            f"page_token is {token!r}, allowed: one that was handed out, or empty",
            field="page_token",
        )
    return int(token or 0)
