"""Stages: every value keeps its place, and what was noted of it stands in the order of the stages."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from semlink.stages import Noted, batched, follow, side_by_side, where
from semlink.telemetry import registry
from semlink.v1 import common_pb2


def timing(stage: str) -> common_pb2.Timing:
    return common_pb2.Timing(stage=stage, milliseconds=1.0)


def why(part: str) -> common_pb2.Degradation:
    return common_pb2.Degradation(part=part)


async def double(values: list[int]) -> list[Noted[int]]:
    return [Noted(2 * v, (timing("double"),), (why("odd"),) if v % 2 else ()) for v in values]


async def word(values: list[int]) -> list[Noted[str]]:
    return [Noted(f"<{v}>", (timing("word"),), (why("word"),)) for v in values]


def notes(noted: Sequence[Noted[object]]) -> list[tuple[list[str], list[str]]]:
    return [([t.stage for t in n.timings], [d.part for d in n.degraded]) for n in noted]


async def test_what_earlier_stages_noted_stands_first() -> None:
    made = await follow(await double([3, 4]), word)
    assert [one.value for one in made] == ["<6>", "<8>"]
    assert notes(made) == [(["double", "word"], ["odd", "word"]), (["double", "word"], ["word"])]
    with pytest.raises(ValueError, match="shorter"):
        await follow(await double([3, 4]), lambda values: double(values[1:]))


async def test_stages_side_by_side_run_at_the_same_time() -> None:
    both = asyncio.Barrier(2)

    async def first(values: list[int]) -> list[Noted[int]]:
        await both.wait()
        return await double(values)

    async def second(values: list[int]) -> list[Noted[str]]:
        await both.wait()
        return await word(values)

    async with asyncio.timeout(5):
        made = await side_by_side(first, second)([5])
    assert made[0].value == (10, "<5>")
    assert notes(made) == [(["double", "word"], ["odd", "word"])]


async def test_only_those_that_want_a_stage_go_through_it() -> None:
    made = await where(lambda v: v > 2, double, lambda v: -v)([1, 5, 2, 4])
    assert [one.value for one in made] == [-1, 10, -2, 8]
    assert notes(made) == [([], []), (["double"], ["odd"]), ([], []), (["double"], [])]

    async def never(values: list[int]) -> list[Noted[int]]:
        raise AssertionError

    assert [one.value for one in await where(lambda v: v > 9, never, abs)([1])] == [1]


async def test_a_batched_stage_notes_the_time_of_its_batch() -> None:
    def square(values: list[int]) -> list[int]:
        return [v * v for v in values]

    batcher = batched("test.square", square, max_batch=8, max_queue=8)
    before = registry.get_sample_value(
        "semlink_step_seconds_count", {"service": "test", "step": "square"}
    )
    made = await batcher.submit_many([2, 3])
    await batcher.drain()
    assert before is None
    assert [one.value for one in made] == [4, 9]
    assert [[t.stage for t in one.timings] for one in made] == [["test.square"]] * 2
    assert made[0].timings == made[1].timings
    labels = {"service": "test", "step": "square"}
    assert registry.get_sample_value("semlink_step_seconds_count", labels) == 1
