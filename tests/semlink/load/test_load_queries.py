"""What a load test asks: repeatable, mixed as the plan says, with the right items known."""

from __future__ import annotations

import json
from collections import Counter
from itertools import islice
from typing import Any

from gateway.schemas import BatchBody, QueryBody
from semlink.corpora.registry import corpus_named
from semlink.load.plan import Mix, Plan
from semlink.load.queries import Call, Queries, identities, warming


def plan(**values: Any) -> Plan:
    return Plan(url="http://127.0.0.1", **{"seed": 1, **values})


def calls(
    made: Plan, number: int, stage: str = "step 0", opened: tuple[str, ...] = ()
) -> list[Call]:
    queries = Queries(made, opened)
    return [queries.call(i, stage=stage) for i in range(number)]


def test_the_same_seed_asks_the_same_and_another_asks_otherwise() -> None:
    mixed = {"tasks": Mix.of("person", "audio"), "links": Mix.of("shared", "new")}
    assert calls(plan(**mixed), 20) == calls(plan(**mixed), 20)
    assert calls(plan(**mixed), 20) != calls(plan(seed=2, **mixed), 20)


def test_the_gateway_takes_what_is_asked_as_it_stands() -> None:
    link = {"snr_db": 5.0, "feedback": {"bits": 32}}
    alone = calls(plan(link=link, symbols=32, deadline_ms=500.0), 3)
    for call in alone:
        body = QueryBody.model_validate_json(call.body)
        assert (body.link.to_link().snr_db, body.link.to_link().feedback.bits) == (5.0, 32)
        assert (body.symbols, body.deadline_ms) == (32, 500.0)
    (batch,) = calls(plan(batch=Mix.of(16), deadline_ms=700.0), 1)
    assert batch.path == "/v1/queries:batch"
    assert len(BatchBody.model_validate_json(batch.body).queries) == len(batch.asked) == 16


def test_the_item_that_answers_is_the_one_that_the_caption_describes() -> None:
    person = corpus_named("pedestrians").items("test")
    described = {caption: item.identity for item in person for caption in item.captions}
    for call in calls(plan(), 50):
        text = json.loads(call.body)["query"]["text"]
        assert call.asked[0].identity == described[text]
    assert identities("person")[person[3].item_id] == person[3].identity


def test_every_caption_is_used_once_before_any_twice() -> None:
    number = sum(len(item.captions) for item in corpus_named("scenes").items("test"))
    queries = Queries(plan(tasks=Mix.of("image"), batch=Mix.of(8)))
    texts = Counter(
        query["query"]["text"]
        for i in range(number // 8)
        for query in json.loads(queries.call(i, stage="s").body)["queries"]
    )
    distinct = {c for item in corpus_named("scenes").items("test") for c in item.captions}
    assert texts.total() == number // 8 * 8
    assert len(texts) >= len(distinct) - 8


def test_links_are_shared_new_or_opened() -> None:
    def seeds(**values: Any) -> list[int]:
        return [json.loads(c.body)["link"]["seed"] for c in calls(plan(**values), 200)]

    assert len(set(seeds(num_links=5))) == 5
    new = seeds(links=Mix.of("new"))
    assert len(set(new)) == 200
    assert max(new) < 2**53
    # links of another stage of the same run are others
    other = calls(plan(links=Mix.of("new")), 200, stage="step 1")
    assert not {json.loads(c.body)["link"]["seed"] for c in other} & set(new)
    opened = calls(plan(links=Mix.of("opened"), num_links=2), 50, opened=("l-1", "l-2"))
    assert {json.loads(c.body)["link"]["id"] for c in opened} == {"l-1", "l-2"}
    assert all(json.loads(c.body)["link"].keys() == {"id"} for c in opened)


def test_a_mix_is_kept_and_its_parts_are_independent() -> None:
    made = plan(tasks=Mix((("person", 3.0), ("image", 1.0))), methods=Mix.of("jscc", "sc-lmkb"))
    asked = [call.asked[0] for call in calls(made, 2000)]
    counts = Counter((one.task, one.method) for one in asked)
    for method in ("jscc", "sc-lmkb"):
        assert 650 < counts["person", method] < 850
        assert 180 < counts["image", method] < 320


def test_warming_up_leaves_new_links_out() -> None:
    assert warming(plan(links=Mix.of("new"))).links.values == ("shared",)
    assert warming(plan(links=Mix.of("new", "opened"))).links.values == ("opened",)
    numbers = islice(iter(calls(warming(plan()), 3)), 3)
    assert [len(call.asked) for call in numbers] == [1, 1, 1]
