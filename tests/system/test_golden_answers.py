"""Queries over tasks, methods and links are answered as they were: see ``golden.ask`` and ``golden/answers.json``.

After a change that is meant to change answers: ``PYTHONPATH=$PWD:$PWD/tests python -m golden.ask --store``.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable

import pytest
from golden.ask import (
    STORED,
    TOLERANCE,
    Answer,
    Answers,
    ask_in_process,
    ask_over_rest,
    differences,
    differences_from_stored,
)
from tests_live import Live

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]
NAME = "deepsc-mimo person rvq"


async def test_in_process() -> None:
    found = differences_from_stored(await ask_in_process())
    assert not found, "\n".join(found)


async def test_over_rest(live: Live) -> None:
    found = differences_from_stored(await ask_over_rest(live.settings))
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda a: a["link"].update(erased=True), "link"),
        (lambda a: a.update(payloads="0" * 64), "payloads"),
        (lambda a: a["results"][0].__setitem__(0, "another"), "another"),
        (lambda a: a["results"].__setitem__(slice(0, 2), a["results"][1::-1]), "place 0"),
        (lambda a: a["results"].pop(), "9 results"),
        (lambda a: a["results"][3].__setitem__(1, a["results"][3][1] + 2 * TOLERANCE), "place 3"),
    ],
)
def test_a_difference_is_named(change: Callable[[Answer], object], named: str) -> None:
    stored: Answers = json.loads(STORED.read_text())
    changed = copy.deepcopy(stored)
    change(changed[NAME])
    found = differences(changed, stored, TOLERANCE)
    assert found
    assert all(line.startswith(f"{NAME}: ") for line in found)
    assert any(named in line for line in found)


def test_items_whose_scores_tie_may_change_places() -> None:
    stored: Answers = json.loads(STORED.read_text())
    tied = copy.deepcopy(stored)
    tied[NAME]["results"][1][1] = tied[NAME]["results"][0][1] - TOLERANCE / 4
    swapped = copy.deepcopy(tied)
    first, second = (item_id for item_id, _ in tied[NAME]["results"][:2])
    swapped[NAME]["results"][0][0], swapped[NAME]["results"][1][0] = second, first
    assert differences(swapped, tied, TOLERANCE) == []
