"""A set of the user's own from its folder to answers: a handful of pictures in Flickr8k's layout."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors import safe_open

from lab.experiments import paper_tables
from lab.training import add_corpus, codec, pooled_heads, source_coders
from lab.training.codec import CodecRecipe
from lab.training.pooled_heads import PooledRecipe
from semlink.corpora.registry import (
    added_corpora,
    corpus_folder,
    corpus_named,
    unregister_corpus,
)
from semlink.errors import InvalidField, NotFound
from semlink.semantics.codec import load_codec
from semlink.semantics.encoders import heads_sha256, load_heads, semantic_encoder
from semlink.semantics.gallery import GalleryEmbeddings
from semlink.semantics.pooled import PooledConfig, PooledHead
from semlink.semantics.spaces import space_of, weights_file

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 200, 40),
    "blue": (30, 40, 220),
    "yellow": (230, 220, 30),
    "white": (245, 245, 245),
    "black": (15, 15, 15),
}
SIZES = {"train": 30, "dev": 6, "test": 6}
FEW = PooledRecipe(epochs=3, batch=16, lexicon=32, bank=32, hidden=32, warmup_steps=2)


def _write(root: Path, *, splits: tuple[str, ...] = tuple(SIZES)) -> Path:
    rng = np.random.default_rng(0)
    pictures, texts = root / "Flicker8k_Dataset", root / "Flickr8k_text"
    pictures.mkdir(parents=True)
    texts.mkdir()
    lines = []
    for split in splits:
        names = []
        for n in range(SIZES[split]):
            (left, a), (right, b) = (list(COLOURS.items())[(n + k) % 6] for k in (0, 1 + n // 6))
            pixels = np.zeros((64, 64, 3), dtype=np.uint8)
            pixels[:, :32], pixels[:, 32:] = a, b
            noisy = pixels + rng.integers(0, 10, pixels.shape)
            name = f"{split}{n}.jpg"
            data = io.BytesIO()
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(data, "JPEG")
            (pictures / name).write_bytes(data.getvalue())
            names.append(name)
            lines += [
                f"{name}#0\t{left} beside {right}",
                f"{name}#1\tA {left} and a {right} half .",
            ]
        (texts / f"Flickr_8k.{split}Images.txt").write_text("\n".join(names))
    (texts / "Flickr8k.token.txt").write_text("\n".join(lines))
    return root


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("added")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEMLINK_DATA_DIR", str(folder / "data"))
        patch.setenv("SEMLINK_CACHE_DIR", str(folder / "cache"))
        patch.setattr(pooled_heads, "PooledRecipe", lambda: FEW)
        patch.setattr(codec, "CodecRecipe", lambda: CodecRecipe(steps=6, batch=16))
        patch.setattr(codec, "RAYLEIGH_FRAMES", 64)
        yield folder


@pytest.fixture(scope="module")
def root(folders: Path) -> Path:
    root = _write(folders / "colours")
    add_corpus.run("colours", root, reader="flickr8k", console=_said()[0])
    return root


def _said() -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, width=200), out


def test_a_set_too_small_for_source_coders_says_so(root: Path) -> None:
    with pytest.raises(InvalidField, match="60 captions to train on, expected at least"):
        source_coders.run("colours")
    console, out = _said()
    add_corpus.run("colours", root, reader="flickr8k", console=console)
    assert "source coders of the digital methods: left out, 60 captions" in out.getvalue()


def test_a_set_large_enough_gets_source_coders_of_its_heads(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are made once, and anew with other heads; fitting them is tested with the codebooks."""
    monkeypatch.setattr(source_coders, "MIN_CAPTIONS", 60)
    sidecar = weights_file("colours", "vq").with_suffix(".json")
    made = []

    def write(name: str, *, seed: int) -> None:
        made.append((name, seed))
        sidecar.write_text(json.dumps({"heads_sha256": heads_sha256(name)}))

    monkeypatch.setattr(source_coders, "run", write)
    try:
        for _ in range(2):
            add_corpus.run("colours", root, reader="flickr8k", console=_said()[0])
        assert made == [("colours", 0)]
        sidecar.write_text(json.dumps({"heads_sha256": "of other heads"}))
        add_corpus.run("colours", root, reader="flickr8k", console=_said()[0])
        assert made == [("colours", 0)] * 2
    finally:
        sidecar.unlink()


@pytest.mark.usefixtures("root")
def test_an_added_corpus_has_a_space_of_its_own() -> None:
    assert space_of("colours") == "colours"
    gallery = GalleryEmbeddings.load("colours")
    assert gallery.item_ids == tuple(f"test{n}" for n in range(6))
    encoder = semantic_encoder("colours")
    text = encoder.text(["red beside green"])
    assert text.shape == (1, 256)
    np.testing.assert_allclose(np.linalg.norm(text, axis=1), 1.0, atol=1e-5)
    codec = load_codec("colours")
    feature = torch.from_numpy(text)
    symbols = codec.encode(feature, torch.full((1, 64), 20.0), 64)
    received = codec.decode(symbols, torch.full((1, 64), 0.01))
    assert float((received * feature).sum()) > 0.5


def test_a_second_run_finds_everything_done(root: Path) -> None:
    files = {p: p.stat().st_mtime_ns for p in corpus_folder("colours").glob("*.safetensors")}
    assert {p.name for p in files} == {
        "heads.safetensors",
        "codec.safetensors",
        "gallery.safetensors",
    }
    console, out = _said()
    add_corpus.run("colours", root, reader="flickr8k", console=console)
    assert out.getvalue().count("already there") == 3
    assert files == {p: p.stat().st_mtime_ns for p in files}


def test_what_an_interruption_left_out_is_made(root: Path) -> None:
    folder = corpus_folder("colours")
    for name in ("codec.safetensors", "codec.json", "gallery.safetensors"):
        (folder / name).unlink()
    console, out = _said()
    add_corpus.run("colours", root, reader="flickr8k", console=console)
    assert "heads: already there" in out.getvalue()
    assert (folder / "codec.safetensors").is_file()
    assert len(GalleryEmbeddings.load("colours").items) == 6


def test_another_split_gives_another_gallery(root: Path) -> None:
    console, _ = _said()
    add_corpus.run("colours", root, reader="flickr8k", split="val", console=console)
    assert GalleryEmbeddings.load("colours").item_ids[0] == "dev0"
    add_corpus.run("colours", root, reader="flickr8k", split="test", console=console)
    assert GalleryEmbeddings.load("colours").item_ids[0] == "test0"


@pytest.mark.usefixtures("root")
def test_evaluate_reads_the_heads_of_the_space(tmp_path: Path) -> None:
    console, out = _said()
    paper_tables.run("global", "colours", "test", out=tmp_path, console=console)
    stored = json.loads((tmp_path / "evaluate-global-colours-test.json").read_text())
    found = {(r["variant"], r["metric"]): r["mean"] for r in stored["rows"]}
    scored = json.loads((corpus_folder("colours") / "gallery.json").read_text())["scores"]
    there = found["global, text to media", "r_at_1"]
    assert there == pytest.approx(scored["text_to_media"]["r_at_1"], abs=1e-4)
    assert "global, media to text" in out.getvalue()


def test_without_training_the_shipped_space_serves(folders: Path) -> None:
    root = _write(folders / "plain", splits=("test",))
    console, out = _said()
    add_corpus.run("plain", root, reader="flickr8k", console=console)
    assert space_of("plain") == "image"
    assert "no train split" in out.getvalue()
    assert len(GalleryEmbeddings.load("plain").items) == 6
    with pytest.raises(NotFound, match="no train split"):
        add_corpus.heads("plain")
    unregister_corpus("plain")
    assert "plain" not in added_corpora()


def test_what_cannot_be_read_leaves_no_trace(folders: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        add_corpus.run("nothing", tmp_path, reader="flickr8k")
    with pytest.raises(InvalidField, match="reader"):
        add_corpus.run("nothing", tmp_path)
    root = _write(folders / "noval", splits=("train", "test"))
    with pytest.raises(InvalidField, match="split"):
        add_corpus.run("nothing", root, reader="flickr8k", split="val")
    assert "nothing" not in added_corpora()


# --- pooled heads -------------------------------------------------------------------------------


@pytest.mark.usefixtures("root")
def test_padding_changes_no_pooled_feature() -> None:
    torch.manual_seed(0)
    for side, width in (("text", 384), ("media", 1072)):
        head = load_heads("colours")[side]
        values = torch.randn(2, 5, width)
        mask = torch.ones(2, 5, dtype=torch.bool)
        longer = torch.cat([values, torch.randn(2, 3, width)], 1)
        hidden = torch.cat([mask, torch.zeros(2, 3, dtype=torch.bool)], 1)
        torch.testing.assert_close(head(values, mask), head(longer, hidden))


def test_the_hub_coordinate_lowers_items_that_are_near_every_query() -> None:
    torch.manual_seed(0)
    media = PooledHead(PooledConfig(in_dim=8, max_tokens=4, bank=50))
    centre = torch.nn.functional.normalize(torch.randn(255), dim=0)
    bank = torch.nn.functional.normalize(torch.randn(50, 255) * 0.05 + centre, dim=1)
    media.get_buffer("bank").copy_(bank)
    media.get_buffer("hub").copy_(torch.tensor([20.0, 0.5, 0.0]))
    away = torch.nn.functional.normalize(torch.randn(255), dim=0)
    near, far = media.completed(torch.stack([centre, away]))[:, -1].tolist()
    assert near < far


def test_closed_form_correlation_finds_what_both_sides_share() -> None:
    torch.manual_seed(0)
    shared = torch.randn(400, 6)
    media = torch.cat([shared @ torch.randn(6, 20), torch.randn(400, 20)], 1)
    text = torch.cat([shared @ torch.randn(6, 12), torch.randn(400, 12)], 1)
    a, b = pooled_heads.canonical_axes(
        media, text, text, PooledRecipe(ridge_media=0.1, ridge_text=0.1)
    )
    x, y = media @ a, text @ b
    correlation = torch.corrcoef(torch.cat([x, y], 1).T)[: x.shape[1], x.shape[1] :].diagonal()
    assert bool((correlation[:6] > 0.95).all())
    assert bool((correlation[6:] < 0.6).all())
    # Axes of one side do not overlap.
    own = torch.corrcoef(x[:, :6].T) - torch.eye(6)
    assert float(own.abs().max()) < 0.1


@pytest.mark.usefixtures("root")
def test_an_interrupted_training_ends_where_a_whole_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = corpus_named("colours")
    monkeypatch.setattr(pooled_heads, "CHECKPOINT_EPOCHS", 1)
    whole = pooled_heads.run(corpus, "whole", tmp_path / "whole.safetensors", recipe=FEW)
    real, calls = pooled_heads.contrastive_loss, iter(range(100))

    def broken(*arguments: Any) -> torch.Tensor:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(pooled_heads, "contrastive_loss", broken)
    path = tmp_path / "again.safetensors"
    with pytest.raises(KeyboardInterrupt):
        pooled_heads.run(corpus, "again", path, recipe=FEW)
    assert not path.exists()
    monkeypatch.setattr(pooled_heads, "contrastive_loss", real)
    assert pooled_heads.run(corpus, "again", path, recipe=FEW) == whole
    # Not byte for byte: safetensors writes its metadata in any order.
    with (
        safe_open(path, "pt") as again,
        safe_open(tmp_path / "whole.safetensors", "pt") as at_once,
    ):
        assert again.metadata() == at_once.metadata()
        assert set(again.keys()) == set(at_once.keys())
        for name in again.keys():  # noqa: SIM118  # safe_open is no mapping
            assert torch.equal(again.get_tensor(name), at_once.get_tensor(name))
