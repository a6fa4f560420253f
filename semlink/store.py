"""What outlives a request: feedback reports, links and their clocks, knowledge. Redis, or memory in one process."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol, cast

from prometheus_client import Counter
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from semlink import links_7fb36b6
from semlink.errors import NotFound, Unavailable
from semlink.formats import FORMATS, STORE, check_format
from semlink.grid import BLOCK_SLOTS
from semlink.links import MAX_USERS
from semlink.settings import SecretUrl, Settings, without_secrets
from semlink.v1 import channel_pb2, common_pb2

REPORT_TTL_S: Final = 3600
"""Reports expire when nobody wrote or read them for so long."""
BUCKET_SLOTS: Final = BLOCK_SLOTS
"""Slots whose reports are kept and expire together: a link that runs for ever needs bounded memory."""
BREAKER_FAILURES: Final = 2
BREAKER_S: Final = 1.0
FAILED_ACCESSES: Final = Counter(
    "semlink_store_failures",
    "Accesses to the store that failed, or were not tried while it is away",
)


class Store(Protocol):
    """Redis and memory alike. Raises :class:`semlink.errors.Unavailable` when the store is away."""

    async def put_reports(self, link_id: str, reports: Sequence[common_pb2.CsiReport]) -> None:
        """Keep reports of any users; writing the same report again changes nothing. They expire when unused."""

    async def reports(
        self, wanted: Sequence[tuple[str, Sequence[int]]]
    ) -> list[list[common_pb2.CsiReport]]:
        """For each (link id, report slots): all users' reports of those slots that are there, by slot, then user."""

    async def put_link(self, link: channel_pb2.Link) -> None:
        """Register an open link and start its clock at ``link.slot``."""

    async def link(self, link_id: str) -> channel_pb2.Link:
        """An open link with its next slot. Raises NotFound."""

    async def links(self) -> list[channel_pb2.Link]:
        """Every open link, by id."""

    async def delete_link(self, link_id: str) -> None:
        """Forget a link, its clock and its reports. Raises NotFound."""

    async def advance(self, link_id: str, slots: int) -> int:
        """Take the next ``slots`` slots of an open link, atomically; returns the first. Raises NotFound."""

    async def knowledge(self, keys: Sequence[str]) -> list[bytes | None]:
        """What is kept under each key."""

    async def put_knowledge(self, entries: Mapping[str, bytes]) -> None:
        """Keep knowledge until it is deleted."""

    async def scan_knowledge(self, cursor: int, count: int) -> tuple[int, dict[str, bytes]]:
        """About ``count`` entries from ``cursor`` on (0: the beginning) and the next cursor, 0 after the last.

        An entry that is there during the whole scan comes at least once; one that comes or goes meanwhile may.
        """

    async def delete_knowledge(self, keys: Sequence[str]) -> int:
        """Forget what is kept under the keys; returns how many there were."""

    async def ping(self) -> None:
        """Return when the store answers."""

    async def close(self) -> None:
        """Give connections back."""


_NOTHING: Final = (0, None)


class MemoryStore:
    """:class:`Store` in this process, for the lab and for tests; lost with the process.

    Safe to share between threads and event loops. ``clock`` gives seconds and never goes back.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        # (link id, bucket) -> ((slot, user) -> serialised report); messages are mutable, bytes are not
        self._reports: dict[tuple[str, int], dict[tuple[int, int], bytes]] = {}
        self._expires: OrderedDict[tuple[str, int], float] = OrderedDict()
        self._links: dict[str, bytes] = {}
        self._clocks: dict[str, int] = {}
        # key -> (running number, entry); a scan goes by the numbers, so that deletions do not move its place
        self._knowledge: dict[str, tuple[int, bytes]] = {}
        self._numbers: list[int] = []
        self._numbered: dict[int, str] = {}
        self._next_number = 1

    def _refresh(self, key: tuple[str, int]) -> None:
        now = self._clock()
        while self._expires and next(iter(self._expires.values())) <= now:
            expired, _ = self._expires.popitem(last=False)
            del self._reports[expired]
        self._reports.setdefault(key, {})
        self._expires[key] = now + REPORT_TTL_S
        self._expires.move_to_end(key)

    async def put_reports(self, link_id: str, reports: Sequence[common_pb2.CsiReport]) -> None:
        """See :meth:`Store.put_reports`."""
        with self._lock:
            for report in reports:
                key = link_id, report.slot // BUCKET_SLOTS
                self._refresh(key)
                self._reports[key][report.slot, report.user] = report.SerializeToString()

    async def reports(
        self, wanted: Sequence[tuple[str, Sequence[int]]]
    ) -> list[list[common_pb2.CsiReport]]:
        """See :meth:`Store.reports`."""
        with self._lock:
            return [
                [report for slot in sorted(set(slots)) for report in self._of_slot(link_id, slot)]
                for link_id, slots in wanted
            ]

    def _of_slot(self, link_id: str, slot: int) -> list[common_pb2.CsiReport]:
        key = link_id, slot // BUCKET_SLOTS
        if self._expires.get(key, -math.inf) <= self._clock():
            return []
        self._refresh(key)
        kept = self._reports[key]
        found = (kept.get((slot, user)) for user in range(MAX_USERS))
        return [common_pb2.CsiReport.FromString(data) for data in found if data is not None]

    async def put_link(self, link: channel_pb2.Link) -> None:
        """See :meth:`Store.put_link`."""
        with self._lock:
            self._links[link.link_id] = link.config.SerializeToString()
            self._clocks[link.link_id] = link.slot

    async def link(self, link_id: str) -> channel_pb2.Link:
        """See :meth:`Store.link`."""
        with self._lock:
            if link_id not in self._links:
                raise _no_link(link_id)
            return _link(link_id, self._links[link_id], self._clocks[link_id])

    async def links(self) -> list[channel_pb2.Link]:
        """See :meth:`Store.links`."""
        with self._lock:
            return [
                _link(link_id, config, self._clocks[link_id])
                for link_id, config in sorted(self._links.items())
            ]

    async def delete_link(self, link_id: str) -> None:
        """See :meth:`Store.delete_link`."""
        with self._lock:
            if self._links.pop(link_id, None) is None:
                raise _no_link(link_id)
            del self._clocks[link_id]
            for key in [key for key in self._expires if key[0] == link_id]:
                del self._expires[key]
                del self._reports[key]

    async def advance(self, link_id: str, slots: int) -> int:
        """See :meth:`Store.advance`."""
        with self._lock:
            if link_id not in self._links:
                raise _no_link(link_id)
            first = self._clocks[link_id]
            self._clocks[link_id] = first + slots
            return first

    async def knowledge(self, keys: Sequence[str]) -> list[bytes | None]:
        """See :meth:`Store.knowledge`."""
        with self._lock:
            return [self._knowledge.get(key, _NOTHING)[1] for key in keys]

    async def put_knowledge(self, entries: Mapping[str, bytes]) -> None:
        """See :meth:`Store.put_knowledge`."""
        with self._lock:
            for key, entry in entries.items():
                number = self._knowledge.get(key, _NOTHING)[0]
                if not number:
                    number = self._next_number
                    self._next_number += 1
                    self._numbers.append(number)
                    self._numbered[number] = key
                self._knowledge[key] = number, entry

    async def scan_knowledge(self, cursor: int, count: int) -> tuple[int, dict[str, bytes]]:
        """See :meth:`Store.scan_knowledge`."""
        with self._lock:
            start = bisect_left(self._numbers, cursor)
            numbers = self._numbers[start : start + count]
            keys = [self._numbered[number] for number in numbers]
            more = start + count < len(self._numbers)
            return self._numbers[start + count] if more else 0, {
                key: self._knowledge[key][1] for key in keys
            }

    async def delete_knowledge(self, keys: Sequence[str]) -> int:
        """See :meth:`Store.delete_knowledge`."""
        with self._lock:
            found = [
                self._knowledge.pop(key)[0] for key in dict.fromkeys(keys) if key in self._knowledge
            ]
            for number in found:
                del self._numbers[bisect_left(self._numbers, number)]
                del self._numbered[number]
            return len(found)

    async def ping(self) -> None:
        """See :meth:`Store.ping`."""

    async def close(self) -> None:
        """See :meth:`Store.close`."""


# KEYS: link; ARGV: slots. HINCRBY alone would create a link that is not there.
_ADVANCE: Final = """
if redis.call('EXISTS', KEYS[1]) == 0 then return false end
return redis.call('HINCRBY', KEYS[1], 'slot', ARGV[1]) - ARGV[1]
"""


class RedisStore:
    """:class:`Store` in Redis, shared by every replica of every service.

    Keys: ``semlink:reports:{link id}:bucket`` (hash "slot:user" → report, expires), ``semlink:link:{link id}`` (hash
    link, slot), ``semlink:links`` (set of ids), ``semlink:knowledge`` (hash), ``semlink:format`` (of all these;
    checked once, Unavailable where it is another). A batch costs one round trip.

    A Redis that is down or slow costs a caller at most ``timeout_s`` seconds and then raises Unavailable; after
    :data:`BREAKER_FAILURES` failures in a row callers fail at once for :data:`BREAKER_S` seconds, then one tries again.
    """

    def __init__(self, url: str, *, timeout_s: float = 0.4) -> None:
        self._timeout_s = timeout_s
        self._secrets = SecretUrl(url).credentials()
        self._redis = Redis.from_url(
            url,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            # once more at once when a pooled connection turns out to be dead; never after a timeout
            retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
            max_connections=64,
        )
        self._advance = self._redis.register_script(_ADVANCE)
        self._failures = 0
        self._closed_until = 0.0
        self._format_known = False

    @asynccontextmanager
    async def _available(self) -> AsyncIterator[None]:
        """One access: bounded in time, errors as Unavailable, guarded by the circuit breaker."""
        now = time.monotonic()
        if now < self._closed_until:
            FAILED_ACCESSES.inc()
            raise Unavailable("the store (Redis) is away", field="store")
        if self._failures >= BREAKER_FAILURES:  # this access is the trial; others wait for its end
            self._closed_until = now + BREAKER_S
        try:
            async with asyncio.timeout(self._timeout_s):
                if not self._format_known:
                    await self._check_format()
                yield
        except (RedisError, OSError, TimeoutError) as error:
            FAILED_ACCESSES.inc()
            self._failures += 1
            if self._failures >= BREAKER_FAILURES:
                self._closed_until = time.monotonic() + BREAKER_S
            why = without_secrets(self._secrets, str(error)) or type(error).__name__
            raise Unavailable(f"the store (Redis) is away: {why}", field="store") from error
        self._failures, self._closed_until = 0, 0.0

    async def _check_format(self) -> None:
        """Bring a store of 7fb36b6 up to date, mark an empty one with today's format; refuse another."""
        found = await self._redis.get(_FORMAT_KEY)
        if found in (None, b"1"):
            await self._migrate_links()
            await self._redis.set(_FORMAT_KEY, FORMATS[STORE])
        else:
            advice = "start the semlink that wrote it, or another store (SEMLINK_REDIS_URL)"
            check_format(STORE, cast(bytes, found).decode(), "the store (Redis)", advice)
        self._format_known = True

    async def put_reports(self, link_id: str, reports: Sequence[common_pb2.CsiReport]) -> None:
        """See :meth:`Store.put_reports`."""
        buckets: dict[str, dict[str, bytes]] = {}
        for report in reports:
            bucket = buckets.setdefault(_reports_key(link_id, report.slot // BUCKET_SLOTS), {})
            bucket[f"{report.slot}:{report.user}"] = report.SerializeToString()
        if not buckets:
            return
        async with self._available():
            pipeline = self._redis.pipeline(transaction=False)
            for key, fields in buckets.items():
                pipeline.hset(key, mapping=cast(Any, fields))
                pipeline.expire(key, REPORT_TTL_S)
            await pipeline.execute()

    async def reports(
        self, wanted: Sequence[tuple[str, Sequence[int]]]
    ) -> list[list[common_pb2.CsiReport]]:
        """See :meth:`Store.reports`."""
        # queries of one batch are often on the same link: ask for each slot once
        slots_of: dict[str, list[int]] = {}
        for link_id, slots in wanted:
            for slot in slots:
                slots_of.setdefault(_reports_key(link_id, slot // BUCKET_SLOTS), []).append(slot)
        asked = [(key, sorted(set(slots))) for key, slots in slots_of.items()]
        if not asked:
            return [[] for _ in wanted]
        async with self._available():
            pipeline = self._redis.pipeline(transaction=False)
            for key, slots in asked:
                pipeline.hmget(
                    key, [f"{slot}:{user}" for slot in slots for user in range(MAX_USERS)]
                )
                pipeline.expire(key, REPORT_TTL_S)
            answers = (await pipeline.execute())[::2]
        found = {
            (key, slot): [
                common_pb2.CsiReport.FromString(data)
                for data in fields[at * MAX_USERS : (at + 1) * MAX_USERS]
                if data is not None
            ]
            for (key, slots), fields in zip(asked, answers, strict=True)
            for at, slot in enumerate(slots)
        }
        return [
            [
                report
                for slot in sorted(set(slots))
                for report in found[_reports_key(link_id, slot // BUCKET_SLOTS), slot]
            ]
            for link_id, slots in wanted
        ]

    async def _migrate_links(self) -> None:
        """Write links of format 1 anew, beside what they were: whoever else does so writes the same."""
        members: set[bytes] = await cast(Any, self._redis.smembers(_LINKS_KEY))
        for member in members:
            key = _link_key(member.decode())
            old = await cast(Any, self._redis.hget(key, "config"))
            if old is not None:
                link = links_7fb36b6.link_of(old)
                data = link.to_proto().SerializeToString()
                await cast(Any, self._redis.hset(key, "link", cast(Any, data)))
                await cast(Any, self._redis.hdel(key, "config"))

    async def put_link(self, link: channel_pb2.Link) -> None:
        """See :meth:`Store.put_link`."""
        fields = {"link": link.config.SerializeToString(), "slot": link.slot}
        async with self._available():
            pipeline = self._redis.pipeline(transaction=True)
            pipeline.hset(_link_key(link.link_id), mapping=cast(Any, fields))
            pipeline.sadd(_LINKS_KEY, link.link_id)
            await pipeline.execute()

    async def link(self, link_id: str) -> channel_pb2.Link:
        """See :meth:`Store.link`."""
        (found,) = await self._links_named([link_id])
        if found is None:
            raise _no_link(link_id)
        return found

    async def links(self) -> list[channel_pb2.Link]:
        """See :meth:`Store.links`."""
        async with self._available():
            members: set[bytes] = await cast(Any, self._redis.smembers(_LINKS_KEY))
        found = await self._links_named(sorted(member.decode() for member in members))
        return [link for link in found if link is not None]

    async def _links_named(self, link_ids: Sequence[str]) -> list[channel_pb2.Link | None]:
        if not link_ids:
            return []
        async with self._available():
            pipeline = self._redis.pipeline(transaction=False)
            for link_id in link_ids:
                pipeline.hmget(_link_key(link_id), ["link", "slot"])
            answers = await pipeline.execute()
        return [
            None if config is None else _link(link_id, config, int(slot))
            for link_id, (config, slot) in zip(link_ids, answers, strict=True)
        ]

    async def delete_link(self, link_id: str) -> None:
        """See :meth:`Store.delete_link`."""
        link = await self.link(link_id)
        # reports lie in slots up to the link's clock; buckets long expired are free to name
        last = link.slot // BUCKET_SLOTS + 1
        async with self._available():
            pipeline = self._redis.pipeline(transaction=True)
            pipeline.unlink(_link_key(link_id))
            pipeline.srem(_LINKS_KEY, link_id)
            pipeline.unlink(*(_reports_key(link_id, bucket) for bucket in range(last + 1)))
            await pipeline.execute()

    async def advance(self, link_id: str, slots: int) -> int:
        """See :meth:`Store.advance`. After a broken connection slots may be skipped, never granted twice."""
        async with self._available():
            first = await cast(Any, self._advance(keys=[_link_key(link_id)], args=[slots]))
        if first is None:
            raise _no_link(link_id)
        return int(first)

    async def knowledge(self, keys: Sequence[str]) -> list[bytes | None]:
        """See :meth:`Store.knowledge`."""
        if not keys:
            return []
        async with self._available():
            kept: list[bytes | None] = await cast(
                Any, self._redis.hmget(_KNOWLEDGE_KEY, list(keys))
            )
        return kept

    async def put_knowledge(self, entries: Mapping[str, bytes]) -> None:
        """See :meth:`Store.put_knowledge`."""
        if not entries:
            return
        async with self._available():
            await cast(Any, self._redis.hset(_KNOWLEDGE_KEY, mapping=cast(Any, dict(entries))))

    async def scan_knowledge(self, cursor: int, count: int) -> tuple[int, dict[str, bytes]]:
        """See :meth:`Store.scan_knowledge`."""
        async with self._available():
            following, found = await cast(
                Any, self._redis.hscan(_KNOWLEDGE_KEY, cursor, count=count)
            )
        return int(following), {key.decode(): entry for key, entry in found.items()}

    async def delete_knowledge(self, keys: Sequence[str]) -> int:
        """See :meth:`Store.delete_knowledge`."""
        if not keys:
            return 0
        async with self._available():
            return int(await cast(Any, self._redis.hdel(_KNOWLEDGE_KEY, *keys)))

    async def ping(self) -> None:
        """See :meth:`Store.ping`."""
        async with self._available():
            await cast(Any, self._redis.ping())

    async def close(self) -> None:
        """See :meth:`Store.close`."""
        await self._redis.aclose()


_LINKS_KEY: Final = "semlink:links"
_KNOWLEDGE_KEY: Final = "semlink:knowledge"
_FORMAT_KEY: Final = "semlink:format"


def _reports_key(link_id: str, bucket: int) -> str:
    return f"semlink:reports:{link_id}:{bucket}"


def _link_key(link_id: str) -> str:
    return f"semlink:link:{link_id}"


def _link(link_id: str, config: bytes, slot: int) -> channel_pb2.Link:
    return channel_pb2.Link(
        link_id=link_id, config=common_pb2.LinkConfig.FromString(config), slot=slot
    )


def _no_link(link_id: str) -> NotFound:
    return NotFound(f"there is no link {link_id!r}", field="link_id")


def open_store(settings: Settings) -> MemoryStore | RedisStore:
    """The store that ``SEMLINK_REDIS_URL`` names. Connects at the first access, not here."""
    url = settings.redis_url.get_secret_value()
    if url == "memory://":
        return MemoryStore()
    return RedisStore(url, timeout_s=settings.redis_timeout_s)
