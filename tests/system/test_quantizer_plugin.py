"""A quantiser registered outside the packages, one file: in this process, and in every service over REST."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests_live import Live, running

from channel_service.fading import ChannelWindows
from channel_service.reports import Reports
from semlink import quantizers
from semlink.errors import InvalidField
from semlink.links import Link
from semlink.quantizers import QUANTIZERS
from semlink.registry import load_plugins
from semlink.signal.csi import quantizer_for
from semlink.signal.feedback import decode_reports
from semlink.signal.metrics import sgcs

PLUGINS = Path(__file__).resolve().parents[1] / "plugins"
NAME, BITS = "identity-8bit", 1024
"""8 bits for each of 8 subbands × 1 layer × 16 ports."""


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process with the plug-in, as if it had started so."""
    monkeypatch.setenv("SEMLINK_PLUGINS", "identity_8bit")
    monkeypatch.syspath_prepend(str(PLUGINS))
    monkeypatch.setattr(QUANTIZERS, "_entries", dict(QUANTIZERS._entries))
    load_plugins.cache_clear()
    yield
    sys.modules.pop("identity_8bit", None)
    load_plugins.cache_clear()


def link(bits: int = BITS, **feedback: Any) -> Link:
    return Link().replace(quantizer=NAME, bits=bits, **feedback)


def test_without_the_plugin_there_is_no_such_quantizer() -> None:
    with pytest.raises(InvalidField, match=r"rvq, learned$") as caught:
        link().check()
    assert caught.value.field == "link.feedback.quantizer"


@pytest.mark.usefixtures("plugin")
def test_reports_are_made_counted_and_decoded() -> None:
    assert quantizers.quantizer_names() == (*quantizers.BUILT_IN, NAME)
    config, slots = link(), [100, 105]
    config.check()
    source = Reports(ChannelWindows())
    reports = source.made_in(config, slots)
    assert {(r.quantizer, r.bits, len(r.payload)) for r in reports} == {(NAME, BITS, BITS // 8)}
    csi, present = decode_reports(config, reports, slots)
    assert present.all()
    for t, slot in enumerate(slots):
        alike = sgcs(source.estimates(config, [slot])[:, 0], csi[:, t])
        assert alike.min() > 0.9, alike


@pytest.mark.usefixtures("plugin")
def test_the_trivial_state_is_the_reports_themselves() -> None:
    quantizer = quantizer_for(link(memory="fused"))
    h = torch.randn((3, 4, *quantizer.shape), dtype=torch.complex64)
    index, present = torch.arange(7, 11), torch.tensor([[True, False, True, True]] * 3)
    payload = quantizer.encode_group(h, index)
    ours, theirs = quantizer.start(3), quantizer.start(3)
    found = []
    for t in range(4):
        assert torch.equal(quantizer.encode_next(ours, h[:, t], 7 + t), payload[:, t])
        quantizer.decode_next(theirs, payload[:, t], present[:, t], 7 + t)
        found.append(quantizer.csi_of(theirs, torch.arange(3)))
    assert (ours.position, theirs.position) == (4, 4)
    whole = quantizer.decode_group(payload, present, index)
    assert not whole[:, 1].any()
    assert torch.allclose(torch.stack(found, dim=1), whole, atol=1e-6)
    assert torch.equal(quantizer.decode_group(payload, present, index, last=2), whole[:, 2:])
    expected = quantizer.decode(payload[:, 3], torch.full((3,), 10))
    assert torch.allclose(whole[:, 3], expected, atol=1e-6)


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize(
    ("config", "field"),
    [
        (link(64), "link.feedback.bits"),
        (link(memory="predictive"), "link.feedback.memory"),
    ],
)
def test_what_it_does_not_offer_is_refused_by_name(config: Link, field: str) -> None:
    config.check()
    with pytest.raises(InvalidField, match=NAME) as caught:
        quantizer_for(config)
    assert caught.value.field == field


def test_a_module_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEMLINK_PLUGINS", "no_such_quantizer")
    load_plugins.cache_clear()
    with pytest.raises(InvalidField, match="no_such_quantizer") as caught:
        quantizers.quantizer_names()
    assert caught.value.field == "SEMLINK_PLUGINS"
    monkeypatch.setenv("SEMLINK_PLUGINS", "a b")
    with pytest.raises(InvalidField) as caught:
        quantizers.quantizer_names()
    assert caught.value.field == "SEMLINK_PLUGINS"
    monkeypatch.undo()
    load_plugins.cache_clear()


@pytest.mark.parametrize("name", ["rvq", "RVQ", "a+b", "-a", ""])
def test_a_name_is_registered_once_and_can_be_a_label(name: str) -> None:
    with pytest.raises(InvalidField) as caught:
        quantizers.register_quantizer(name, title="mine")(lambda request: request)
    assert caught.value.field == "name"


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with pytest.MonkeyPatch.context() as environment:
        path = [str(PLUGINS), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment.setenv("PYTHONPATH", os.pathsep.join(path))
        environment.setenv("SEMLINK_PLUGINS", "identity_8bit")
        with running(tmp_path_factory.mktemp("state")) as live:
            yield live


def asked(system: Live, **feedback: Any) -> Any:
    body = {
        "task": "image",
        "query": {"text": "a red circle"},
        "method": "deepsc-mimo",
        "link": {"snr_db": 20.0, "feedback": feedback},
    }
    return system.http.post("/v1/queries", json=body)


@pytest.mark.system
@pytest.mark.timeout(600)
def test_it_carries_queries_over_rest(system: Live) -> None:
    answer = asked(system, quantizer=NAME, bits=BITS)
    assert answer.status_code == 200, answer.text
    found, bound = answer.json(), asked(system, quantizer="perfect", bits=0).json()
    assert found["link"]["feedback_bits"] == BITS
    assert found["link"]["csi_sgcs"] > 0.9
    ids = [result["item_id"] for result in found["results"]]
    assert ids[0] in [result["item_id"] for result in bound["results"]]
    schema = system.http.get("/openapi.json").json()["components"]["schemas"]["FeedbackBody"]
    names = schema["properties"]["quantizer"]["enum"]
    assert names == [*quantizers.BUILT_IN, NAME]


@pytest.mark.system
@pytest.mark.timeout(600)
def test_bits_that_it_does_not_make_are_refused_by_name_over_rest(system: Live) -> None:
    answer = asked(system, quantizer=NAME, bits=64)
    assert answer.status_code == 422
    problem = answer.json()
    assert problem["field"] == "link.feedback.bits"
    assert "1024" in problem["detail"]
