"""Messages of several components over a flat link, and powers of streams: what is sent, and which link carries it."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F

from lab.experiments import power_allocation, site_adaptation
from lab.experiments.message_components import transmitted
from lab.experiments.power_allocation import EQUAL, WATER_FILLING
from lab.experiments.retrieval_metrics import metric_rows
from lab.experiments.retrieval_sweep import METRICS, Outcome, _key
from lab.experiments.sweep import DEFAULT_SAMPLING, Point
from semlink.corpora.registry import default_corpus
from semlink.errors import InvalidField
from semlink.semantics.codec import load_codec
from semlink.semantics.gallery import GalleryEmbeddings
from semlink.semantics.message import component_symbols


def test_unequal_protection_brings_the_first_component_better_than_equal_shares() -> None:
    """Captions stand in for components; both ways have the same noise."""
    captions = torch.from_numpy(GalleryEmbeddings.load(default_corpus("person")).captions[:128])
    messages = F.normalize(captions.float(), dim=1).view(32, 4, -1)
    codec, arrived = load_codec("person"), {}
    for equally in (False, True):
        draws = torch.Generator().manual_seed(0)
        found = transmitted(codec, messages, 64, 0.0, draws, equally=equally)
        sent = 4 if equally else sum(n > 0 for n in component_symbols(64, 4))
        assert found.shape == (32, sent, messages.shape[2])
        arrived[equally] = (found * messages[:, :sent]).sum(-1).mean(0)
    assert arrived[False][0] > arrived[True][0] + 0.03
    assert arrived[True].std() < 0.05, "equal shares protect all alike"


def test_points_of_powers_differ_in_their_links_alone() -> None:
    plan = power_allocation.Plan(scenarios=("umi-los",), cells=((4, 2),), snrs_db=(5.0,))
    water, equal = (plan.points(w, "umi-los", (4, 2))[0] for w in (True, False))
    assert water != equal
    assert (water.refusal(), equal.refusal()) == (None, None)
    assert water.link(7).power_allocation != equal.link(7).power_allocation
    assert (water.link(7).num_layers, equal.link(7).num_layers) == (2, 2)
    zeros = torch.zeros((len(METRICS), 3, 4)).numpy()
    row = metric_rows(water, Outcome(zeros), DEFAULT_SAMPLING)[0]
    assert row.condition == "power_allocation water-filling, num_layers 2"
    assert plan.report == "power-person"


def test_points_of_the_default_link_keep_their_place_in_the_cache() -> None:
    scheme = json.loads(_key(Point(EQUAL), 0))[1]["scheme"]
    assert scheme == {"method": "deepsc-mimo", "quantizer": "rvq", "bits": 64, "memory": ""}
    assert "link" in json.loads(_key(Point(WATER_FILLING), 0))[1]["scheme"]


def test_a_site_that_is_none_is_named() -> None:
    with pytest.raises(InvalidField, match="sites has 'mars'"):
        site_adaptation.Plan(sites=("mars",))
