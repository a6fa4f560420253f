"""A cell as REST clients meet it: what is in flight on one opened link at once shares its slots."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tests_live import Live

from semlink.corpora.registry import corpus_named

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

CELL: dict[str, Any] = {
    "scenario": "cdl-c",
    "snr_db": 20.0,
    "num_users": 4,
    "delay_spread_ns": 200.0,
    "power_allocation": "equal",
    "feedback": {"quantizer": "rvq", "bits": 64, "memory": "none"},
    "seed": 3,
}
IN_FLIGHT = 16


def test_clients_of_one_cell_share_its_slots(live: Live) -> None:
    opened = live.http.post("/v1/links", json=CELL)
    assert opened.status_code == 201, opened.text
    link = opened.json()
    assert link["config"]["delay_spread_ns"] == 200.0
    assert link["config"]["power_allocation"] == "equal"
    assert link["config"]["feedback"]["memory"] == "none"
    captions = [item.captions[0] for item in corpus_named("pedestrians").items("test")[::20]]

    def ask(number: int) -> dict[str, Any]:
        response = live.http.post(
            "/v1/queries",
            json={
                "task": "person",
                "query": {"text": captions[number]},
                "method": "deepsc-mimo",
                "link": {"id": link["id"]},
            },
        )
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    ask(0)  # the channel's first window takes its time
    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        answers = list(pool.map(ask, range(1, 1 + 2 * IN_FLIGHT)))
    slots = Counter(a["link"]["slot"] for a in answers)
    places = {(a["link"]["slot"], a["link"]["user"]) for a in answers}
    assert len(places) == len(answers)  # no query uses another's streams
    assert all(a["link"]["user"] < 4 for a in answers)
    for answer in answers:
        assert answer["link"]["co_scheduled"] == slots[answer["link"]["slot"]] - 1
        assert answer["degraded"] == []
        assert len(answer["results"]) == 5
    assert len(slots) < len(answers)
    clock = live.http.get(f"/v1/links/{link['id']}").json()["slot"]
    assert clock == link["slot"] + 1 + len(slots)  # as many slots as were needed, none more
    assert live.http.delete(f"/v1/links/{link['id']}").status_code == 204


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"delay_spread_ns": 20_000.0}, "delay_spread_ns"),
        ({"scenario": "umi-los"}, "delay_spread_ns"),
        ({"num_rx_ant": 4, "num_layers": 3}, "num_layers"),  # no codebook for three rows
        ({"num_users": 8, "num_layers": 2, "num_tx_ant": 8}, "num_users"),
        ({"power_allocation": "waterfilling"}, "power_allocation"),
        ({"feedback": {"quantizer": "rvq", "bits": 64, "memory": "all"}}, "feedback.memory"),
    ],
)
def test_a_cell_that_cannot_be_is_refused_and_named(
    live: Live, changes: dict[str, Any], field: str
) -> None:
    response = live.http.post("/v1/links", json=CELL | changes)
    assert response.status_code == 422, response.text
    assert response.json()["field"] == field
