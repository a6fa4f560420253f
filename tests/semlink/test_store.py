"""One contract for both stores; what only Redis can do: die, freeze, come back."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests_store import count_knowledge, empty, start_store

from semlink.errors import NotFound, Unavailable
from semlink.links import MAX_USERS, Link
from semlink.settings import Settings
from semlink.store import (
    BREAKER_FAILURES,
    BREAKER_S,
    BUCKET_SLOTS,
    REPORT_TTL_S,
    MemoryStore,
    RedisStore,
    Store,
    open_store,
)
from semlink.telemetry import registry
from semlink.v1 import channel_pb2, common_pb2


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(params=["memory", "redis"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    made: MemoryStore | RedisStore
    if request.param == "memory":
        made = MemoryStore()
    else:
        made = RedisStore(request.getfixturevalue("redis_url"), timeout_s=10.0)
        await empty(made)
    yield made
    await made.close()


def _report(slot: int, user: int = 0, payload: bytes = b"\x01\x02") -> common_pb2.CsiReport:
    return common_pb2.CsiReport(
        user=user, slot=slot, report_index=slot // 5, bits=8 * len(payload), payload=payload
    )


def _link(link_id: str, slot: int = 0) -> channel_pb2.Link:
    return channel_pb2.Link(link_id=link_id, config=Link().to_proto(), slot=slot)


async def test_reports_come_back_by_slot_then_user_and_only_those_wanted(store: Store) -> None:
    everything = [
        _report(slot, user, bytes([slot % 256, user])) for slot in (15, 5, 10) for user in (1, 0)
    ]
    await store.put_reports("a", everything)
    await store.put_reports("b", [_report(5, MAX_USERS - 1)])
    first, second, third = await store.reports([("a", [15, 5, 7]), ("b", [5]), ("a", [10])])
    by_order = sorted(everything, key=lambda report: (report.slot, report.user))
    assert first == [report for report in by_order if report.slot in (5, 15)]
    assert second == [_report(5, MAX_USERS - 1)]
    assert third == [report for report in by_order if report.slot == 10]
    assert await store.reports([]) == []
    assert await store.reports([("never", [0, 5]), ("a", [])]) == [[], []]


async def test_reports_across_buckets(store: Store) -> None:
    slots = [BUCKET_SLOTS - 5, BUCKET_SLOTS, 7 * BUCKET_SLOTS]
    await store.put_reports("a", [_report(slot) for slot in slots])
    (found,) = await store.reports([("a", slots[::-1])])
    assert [report.slot for report in found] == slots


async def test_writing_a_report_again_changes_nothing(store: Store) -> None:
    for _ in range(2):
        await store.put_reports("a", [_report(5), _report(10)])
    assert await store.reports([("a", [5, 10])]) == [[_report(5), _report(10)]]


async def test_what_is_kept_is_a_copy(store: Store) -> None:
    report, link = _report(5), _link("a")
    await store.put_reports("a", [report])
    await store.put_link(link)
    report.payload, link.config.snr_db = b"\xff\xff", -7.0
    (found,) = await store.reports([("a", [5])])
    found[0].payload = b"\x00\x00"
    assert await store.reports([("a", [5])]) == [[_report(5)]]
    assert await store.link("a") == _link("a")


async def test_links_are_listed_and_forgotten_with_their_reports(store: Store) -> None:
    for link_id in ("b", "a"):
        await store.put_link(_link(link_id, slot=3 * BUCKET_SLOTS))
        await store.put_reports(link_id, [_report(5), _report(3 * BUCKET_SLOTS)])
    assert [link.link_id for link in await store.links()] == ["a", "b"]
    await store.delete_link("a")
    assert await store.links() == [_link("b", slot=3 * BUCKET_SLOTS)]
    gone, kept = await store.reports([(name, [5, 3 * BUCKET_SLOTS]) for name in ("a", "b")])
    assert (len(gone), len(kept)) == (0, 2)
    for call in (store.link("a"), store.delete_link("a"), store.advance("a", 1)):
        with pytest.raises(NotFound, match="'a'") as error:
            await call
        assert error.value.field == "link_id"
    assert [link.link_id for link in await store.links()] == ["b"], "a refused call left a link"


async def test_slots_are_granted_once_also_to_callers_at_once(store: Store) -> None:
    await store.put_link(_link("a", slot=128))
    sizes = [1 + number % 3 for number in range(60)]
    firsts = await asyncio.gather(*(store.advance("a", size) for size in sizes))
    granted = [first + k for first, size in zip(firsts, sizes, strict=True) for k in range(size)]
    assert sorted(granted) == list(range(128, 128 + sum(sizes)))
    assert (await store.link("a")).slot == 128 + sum(sizes)


async def test_knowledge_is_kept_byte_for_byte(store: Store) -> None:
    entries = {"k": bytes(range(256)), "empty": b""}
    await store.put_knowledge(entries)
    await store.put_knowledge({})
    assert await store.knowledge(["k", "never", "empty"]) == [entries["k"], None, b""]
    assert await store.knowledge([]) == []
    await store.ping()


async def test_memory_reports_expire_when_neither_written_nor_read() -> None:
    now = [0.0]
    store = MemoryStore(clock=lambda: now[0])
    await store.put_reports("a", [_report(5)])
    now[0] = 0.9 * REPORT_TTL_S
    assert await store.reports([("a", [5])]) == [[_report(5)]]
    now[0] = 1.8 * REPORT_TTL_S  # read 0.9 TTL ago
    assert await store.reports([("a", [5])]) == [[_report(5)]]
    now[0] = 2.9 * REPORT_TTL_S
    assert await store.reports([("a", [5])]) == [[]]
    await store.put_reports("a", [_report(10)])
    assert await store.reports([("a", [5, 10])]) == [[_report(10)]], "an expired report came back"


async def test_memory_of_a_link_that_runs_for_ever_is_bounded() -> None:
    now = [0.0]
    store = MemoryStore(clock=lambda: now[0])
    for bucket in range(50):
        now[0] = bucket * REPORT_TTL_S / 4
        await store.put_reports("a", [_report(bucket * BUCKET_SLOTS)])
    assert len(store._reports) == len(store._expires) <= 5


async def test_redis_reports_expire_one_hour_after_the_last_use(redis_url: str) -> None:
    store = RedisStore(redis_url)
    await empty(store)
    await store.put_reports("a", [_report(5)])
    (key,) = [key async for key in store._redis.scan_iter("semlink:reports:*")]
    for use in (store.put_reports("a", [_report(5)]), store.reports([("a", [5])])):
        await store._redis.expire(key, 7)
        await use
        assert await store._redis.ttl(key) == REPORT_TTL_S
    await store.close()


async def test_a_batch_is_one_round_trip(redis_url: str) -> None:
    store = RedisStore(redis_url)
    await store.put_reports("a", [_report(slot, user) for slot in range(64) for user in range(4)])
    sent: list[Any] = []
    connection = await store._redis.connection_pool.get_connection()
    original = type(connection).send_packed_command

    async def counted(self: Any, command: Any, check_health: bool = True) -> None:
        sent.append(command)
        await original(self, command, check_health)

    await store._redis.connection_pool.release(connection)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(connection), "send_packed_command", counted)
        answers = await store.reports([("a", range(at, at + 8)) for at in range(56)])
    assert [len(answer) for answer in answers] == [32] * 56
    assert len(sent) == 1
    await store.close()


async def test_a_dead_redis_is_a_typed_error_and_costs_little() -> None:
    store = RedisStore(f"redis://127.0.0.1:{_free_port()}/0")
    before = registry.get_sample_value("semlink_store_failures_total")
    assert before is not None
    for _ in range(5):
        started = time.perf_counter()
        with pytest.raises(Unavailable, match="Redis") as error:
            await store.reports([("a", [5])])
        assert time.perf_counter() - started < 0.5
        assert error.value.field == "store"
    await store.close()
    assert registry.get_sample_value("semlink_store_failures_total") == before + 5


async def test_a_frozen_redis_trips_the_breaker_and_a_thawed_one_is_found_again(
    tmp_path: Path,
) -> None:
    path = tmp_path / "redis.sock"
    process = start_store(path)
    store = RedisStore(f"unix://{path}", timeout_s=0.2)
    try:
        await store.put_knowledge({"k": b"v"})
        os.kill(process.pid, signal.SIGSTOP)
        for _ in range(BREAKER_FAILURES):
            started = time.perf_counter()
            with pytest.raises(Unavailable):
                await store.knowledge(["k"])
            assert time.perf_counter() - started < 0.5
        started = time.perf_counter()
        for _ in range(50):
            with pytest.raises(Unavailable):
                await store.knowledge(["k"])
        assert time.perf_counter() - started < 5, "the open breaker still waits for Redis"
        os.kill(process.pid, signal.SIGCONT)
        await asyncio.sleep(BREAKER_S)
        assert await store.knowledge(["k"]) == [b"v"]
    finally:
        process.kill()
        process.wait()
        await store.close()


async def test_a_restarted_redis_is_used_again(tmp_path: Path) -> None:
    path = tmp_path / "redis.sock"
    process = start_store(path)
    store = RedisStore(f"unix://{path}")
    try:
        await store.put_link(_link("a"))
        process.kill()
        process.wait()
        process = start_store(path)
        assert await store.links() == []  # the pooled connection is dead: made anew, not reported
        await store.put_link(_link("a", 5))
        assert await store.advance("a", 2) == 5
    finally:
        process.kill()
        process.wait()
        await store.close()


def test_open_store_follows_the_setting() -> None:
    assert isinstance(open_store(Settings(redis_url="memory://")), MemoryStore)
    assert isinstance(open_store(Settings(redis_url="redis://127.0.0.1:1/0")), RedisStore)


async def _scanned(store: Store, count: int) -> list[tuple[str, bytes]]:
    found, cursor = [], 0
    while True:
        cursor, entries = await store.scan_knowledge(cursor, count)
        found += entries.items()
        if not cursor:
            return found


@pytest.mark.parametrize("count", [1, 7, 1000])
async def test_a_scan_of_knowledge_meets_everything(store: Store, count: int) -> None:
    entries = {f"key {i}": bytes([i]) * 100 for i in range(200)}
    await store.put_knowledge(entries)
    assert await count_knowledge(store) == 200
    found = await _scanned(store, count)
    assert dict(found) == entries
    assert await store.scan_knowledge(0, 10) != (0, {}), "a scan is no state"


async def test_a_scan_of_nothing_ends_at_once(store: Store) -> None:
    assert await store.scan_knowledge(0, 10) == (0, {})
    assert await count_knowledge(store) == 0


async def test_deleted_knowledge_is_gone_and_counted(store: Store) -> None:
    await store.put_knowledge({f"key {i}": bytes(100) for i in range(20)})
    assert await store.delete_knowledge(["key 1", "key 1", "key 2", "never"]) == 2
    assert await store.delete_knowledge([]) == 0
    assert await store.knowledge(["key 1", "key 2", "key 3"]) == [None, None, bytes(100)]
    assert await count_knowledge(store) == 18
    await store.put_knowledge({"key 1": b"again"})
    assert dict(await _scanned(store, 3))["key 1"] == b"again"


async def test_a_scan_meets_what_stays_while_others_come_and_go(store: Store) -> None:
    stays = {f"stays {i}": bytes(100) for i in range(300)}
    await store.put_knowledge(stays | {f"goes {i}": bytes(100) for i in range(300)})
    met: set[str] = set()
    cursor = turn = 0
    while True:
        cursor, entries = await store.scan_knowledge(cursor, 20)
        met |= set(entries)
        await store.delete_knowledge([f"goes {turn * 10 + i}" for i in range(10)])
        await store.put_knowledge({f"new {turn}": bytes(100)})
        turn += 1
        if not cursor:
            break
    assert set(stays) <= met
