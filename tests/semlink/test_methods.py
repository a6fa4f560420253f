"""Methods as data: every row of SC-LMKB's comparison, and which links a trained predictor serves."""

from __future__ import annotations

import pytest

from semlink.components import PREDICTORS
from semlink.errors import InvalidField
from semlink.links import Link
from semlink.methods import METHODS, check_link, method_named

PAPER = (
    "sc-lmkb",
    "sc-lmkb-wo-sdg",
    "sc-lmkb-wo-cdg",
    "deepsc-mimo",
    "llm-sc",
    "llm4cp",
    "csi-llm",
    "separation",
    "ideal",
)


@pytest.mark.parametrize("name", PAPER)
def test_every_row_of_the_paper_can_be_asked_for_on_the_default_link(name: str) -> None:
    method = method_named(name)
    check_link(method, Link())
    assert method.source


def test_ablations_leave_out_what_their_names_say() -> None:
    full, no_source, no_channel = (METHODS[n] for n in PAPER[:3])
    assert full.rewrites
    assert full.predictor == ""
    assert not no_source.rewrites
    assert no_source.predictor == full.predictor
    assert no_channel.rewrites
    assert no_channel.predictor == "hold-last"
    assert no_channel.fusion == full.fusion
    assert METHODS["llm-sc"].fusion == "mean"
    assert not METHODS["llm-sc"].filtered
    for name in ("llm4cp", "csi-llm"):
        assert METHODS[name].predictor == name
        assert not METHODS[name].rewrites


@pytest.mark.parametrize("name", ["llm4cp", "csi-llm"])
def test_a_trained_predictor_refuses_links_that_it_has_no_weights_for(name: str) -> None:
    method = METHODS[name]
    assert PREDICTORS.get(method.predictor).trained
    for attribute, value in (("num_layers", 2), ("num_tx_ant", 32)):
        config = Link().replace(**{attribute: value})
        with pytest.raises(InvalidField, match="16x1") as caught:
            check_link(method, config, field="queries[3].link")
        assert caught.value.field == "queries[3].link.num_tx_ant"
        check_link(METHODS["sc-lmkb"], config)
        # There is nothing to predict in a bound.
        config = config.replace(quantizer="perfect")
        check_link(method, config)
    config = Link().replace(content="channel")
    with pytest.raises(InvalidField, match="content 'channel'"):
        check_link(method, config)
