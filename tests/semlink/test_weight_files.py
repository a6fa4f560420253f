"""Trained weights by name: read once, told apart by content, refused by name; every service takes those it is told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from kb_service.csi_requests import CsiRequests
from semlink.errors import CorruptModel, InvalidField, NotFound
from semlink.links import Link
from semlink.methods import METHODS, check_link
from semlink.settings import Settings
from semlink.signal.csi import quantizer_for
from semlink.signal.csi.layers import LayerRows
from semlink.signal.csi.rvq import Codebooks, load_codebooks
from semlink.signal.feedback import decode_reports
from semlink.signal.link_adaptation import load_calibration
from semlink.signal.schemes import check_feedback
from semlink.store import MemoryStore
from semlink.v1 import knowledge_pb2, transmitter_pb2
from semlink.weight_files import SHIPPED, Weights
from transmitter.queries import check_query


def written(folder: Path, value: float) -> Weights:
    save_file({"w": torch.full((3,), value)}, folder / "a-16x1.safetensors")
    return Weights(folder)


def read(path: Path, name: str = "w") -> torch.Tensor:
    return load_file(path)[name]


def load(weights: Weights, *args: str) -> torch.Tensor:
    return weights.load("a-16x1.safetensors", read, *args, made_by="make it")


def test_a_file_is_read_once_and_again_when_it_is_another(tmp_path: Path) -> None:
    weights = written(tmp_path, 1.0)
    first = load(weights)
    assert load(Weights(tmp_path)) is first
    digest = weights.digest("a-16x1.safetensors", made_by="make it")
    written(tmp_path, 2.0)
    os.utime(tmp_path / "a-16x1.safetensors", ns=(0, 12_345))
    assert float(load(weights)[0]) == 2.0
    assert weights.digest("a-16x1.safetensors", made_by="make it") != digest
    assert weights.variants("a-") == ("16x1",)
    assert "a-16x1.safetensors" in weights
    assert "b-16x1.safetensors" not in weights


def test_what_is_missing_is_named_with_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"a-16x1\.safetensors is missing: run `make it`") as error:
        load(Weights(tmp_path))
    assert error.value.field == "weights_dir"


@pytest.mark.parametrize("damage", ["cut", "another tensor"])
def test_what_is_damaged_is_refused_by_name(tmp_path: Path, damage: str) -> None:
    weights, path = written(tmp_path, 1.0), tmp_path / "a-16x1.safetensors"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(CorruptModel, match=r"a-16x1\.safetensors is damaged.*`make it`"):
        load(weights, *(["v"] if damage == "another tensor" else []))


def test_damaged_codebooks_are_refused_by_name(tmp_path: Path) -> None:
    name = "rvq-rows-16x1.safetensors"
    (tmp_path / name).write_bytes((SHIPPED.folder / name).read_bytes()[:-7])
    with pytest.raises(CorruptModel, match=name):
        load_codebooks(Weights(tmp_path), LayerRows(1, 2), 16)
    assert isinstance(load_codebooks(SHIPPED, LayerRows(1, 2), 16), Codebooks)


def test_no_weights_but_those_of_the_settings_are_used(tmp_path: Path) -> None:
    """In an empty folder everything that is trained is missing, wherever it is asked for."""
    empty, link = Settings(weights_dir=tmp_path).weights, Link()
    assert Settings().weights == SHIPPED
    for ask in (
        lambda: quantizer_for(link, empty),
        lambda: check_feedback(link, empty),
        lambda: decode_reports(link, [], [], empty),
        lambda: load_calibration(empty),
    ):
        with pytest.raises(NotFound, match=str(tmp_path)):
            ask()
    with pytest.raises(InvalidField, match="none"):
        check_link(METHODS["llm4cp"], link, empty)
    query = transmitter_pb2.Query(
        task="image",
        text="a",
        method="deepsc-mimo",
        symbols=64,
        top_k=1,
        link_config=link.to_proto(),
    )
    with pytest.raises(NotFound, match=str(tmp_path)):
        check_query(query, empty, field="queries[0]")


async def test_the_knowledge_base_predicts_with_the_weights_of_its_settings(tmp_path: Path) -> None:
    requests = CsiRequests(MemoryStore(), Settings(weights_dir=tmp_path))
    item = knowledge_pb2.PredictCsiItem(config=Link().to_proto(), slot=200, predictor="llm4cp")
    try:
        with pytest.raises(InvalidField, match="llm4cp"):
            await requests.predict_csi(knowledge_pb2.PredictCsiRequest(items=[item]))
    finally:
        await requests.drain()
