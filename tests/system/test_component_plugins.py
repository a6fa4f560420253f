"""A predictor, a precoder, a codec and a fusion rule registered outside the packages carry a query in process."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from channel_service.handler import Channel
from kb_service.handler import KnowledgeBase
from kb_service.prediction import untrained_predictors
from lab.evaluation.local_system import System
from receiver.handler import Receiver
from semlink import components, methods
from semlink.errors import InvalidField
from semlink.links import Link
from semlink.registry import load_plugins
from semlink.settings import Settings
from semlink.store import MemoryStore
from semlink.v1 import knowledge_pb2, transmitter_pb2
from transmitter.handler import Transmitter

REGISTRIES = (
    components.PREDICTORS,
    components.PRECODERS,
    components.CODECS,
    components.FUSIONS,
)
OWN = ("mean-report", "one-by-one", "jscc-again", "rewrites-only")
TEXT, REWRITE = "a red circle above a blue square", "a blue square lies below a red circle"


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process with the plug-in, as if it had started so."""
    monkeypatch.setenv("SEMLINK_PLUGINS", "own_components")
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "plugins"))
    for registry in REGISTRIES:
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    monkeypatch.setattr(methods, "METHODS", dict(methods.METHODS))
    load_plugins.cache_clear()
    yield
    sys.modules.pop("own_components", None)
    load_plugins.cache_clear()


async def rewritten(request: knowledge_pb2.RewriteRequest) -> knowledge_pb2.RewriteResponse:
    """One rewrite, whatever is asked."""
    rewrite = knowledge_pb2.Rewrite(text=REWRITE, kept=True, similarity=0.9, reason="kept")
    sets = [knowledge_pb2.RewriteSet(rewrites=[rewrite]) for _ in request.items]
    return knowledge_pb2.RewriteResponse(sets=sets)


async def asked(*queries: transmitter_pb2.Query) -> list[transmitter_pb2.Answer]:
    settings, store = Settings(redis_url="memory://"), MemoryStore()
    receiver, knowledge = Receiver(settings), KnowledgeBase(store, settings)
    knowledge.rewrite = rewritten
    channel = Channel(receiver, store, settings, knowledge=knowledge)
    transmitter = Transmitter(channel, receiver, knowledge, store, settings)
    system = System(transmitter, channel, receiver, knowledge, store)
    try:
        request = transmitter_pb2.RetrieveRequest(queries=queries)
        return list((await transmitter.retrieve(request)).answers)
    finally:
        await system.close()


def query(text: str, method: str) -> transmitter_pb2.Query:
    return transmitter_pb2.Query(
        id=method,
        task="image",
        corpus="scenes",
        text=text,
        method=method,
        symbols=64,
        top_k=5,
        link_config=Link(snr_db=25.0, num_users=1).to_proto(),
        seed=3,
    )


@pytest.mark.usefixtures("plugin")
async def test_a_query_is_carried_by_all_of_them() -> None:
    assert [registry.names[-1] for registry in REGISTRIES] == list(OWN)
    own, of_rewrite = await asked(query(TEXT, "sc-own"), query(REWRITE, "ideal"))
    assert own.csi_source == "mean-report"
    assert not own.degraded
    assert [r.text for r in own.rewrites] == [REWRITE]
    # The rule leaves the rewrite alone in the message: what is found is what the rewrite finds.
    assert own.matches[0].item_id in [m.item_id for m in of_rewrite.matches]
    assert own.matches[0].score == pytest.approx(of_rewrite.matches[0].score, abs=0.05)
    assert set(import_module("own_components").CALLED) == set(OWN)


@pytest.mark.usefixtures("plugin")
def test_it_is_offered_with_the_others() -> None:
    load_plugins()
    assert list(untrained_predictors()) == ["hold-last", "wiener", "kalman", "mean-report"]
    assert methods.method_named("sc-own").fusion == "rewrites-only"


def test_without_the_plugin_its_method_is_unknown() -> None:
    with pytest.raises(InvalidField, match="sc-own"):
        methods.method_named("sc-own")


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.kind)
def test_two_of_one_name_are_an_error_that_names_both_places(
    registry: components.Registry[components.Entry],
) -> None:
    taken = registry.entries[0]
    with pytest.raises(InvalidField) as caught:
        registry.add(components.Entry(name=taken.name, target="other.module:thing"))
    assert taken.place in caught.value.message
    assert "other.module:thing" in caught.value.message


@pytest.mark.parametrize("column", ["fusion", "predictor", "precoder", "coding"])
def test_a_method_names_only_what_is_registered(column: str) -> None:
    with pytest.raises(InvalidField, match="no-such") as caught:
        methods.Method("x", "x", "x", available=True, **{column: "no-such"})  # type: ignore[arg-type]
    assert caught.value.field == f"{column} of method 'x'"


def test_every_registered_component_can_be_loaded() -> None:
    for registry in REGISTRIES:
        for entry in registry.entries:
            assert callable(entry.load()), entry
