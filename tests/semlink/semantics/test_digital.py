"""Source coders: exactly the bits that are there, more bits are nearer, both ends agree, batch mates do not matter."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lab.training.codec import Embedded
from lab.training.source_coders import fit
from semlink.errors import InvalidField, NotFound
from semlink.semantics import digital
from semlink.semantics.digital import (
    DIGITAL_CODINGS,
    MAX_PAYLOAD_BITS,
    SourceCoder,
    Statistics,
    allocate_bits,
    lloyd_max,
    load_source_coder,
)
from semlink.semantics.gallery import GalleryEmbeddings
from semlink.semantics.int8_tensors import pack

LENGTHS = (1, 2, 5, 8, 9, 18, 27, 45, 64, 97, 127, 153, 463, 937)


def features(count: int, seed: int = 0) -> torch.Tensor:
    """Unit vectors with falling variance along axes, as trained features have."""
    generator = torch.Generator().manual_seed(seed)
    spread = 0.97 ** torch.arange(256)
    return F.normalize(torch.randn(count, 256, generator=generator) * spread, dim=1)


@pytest.fixture(scope="module")
def statistics() -> Statistics:
    text, media = features(1500, 1), features(1500, 2)
    nobody = torch.zeros(0, dtype=torch.int64)
    return fit(Embedded(text, media, nobody, nobody), num_stages=3)


def distortion(coder: SourceCoder, sent: torch.Tensor, num_bits: int) -> float:
    bits = coder.encode(sent, "text", num_bits)
    assert bits.shape == (len(sent), num_bits)
    assert bits.dtype == torch.uint8
    assert bits.max() <= 1
    found = coder.decode(bits, "text")
    torch.testing.assert_close(found.norm(dim=1), torch.ones(len(sent)))
    return float(1 - (found * sent).sum(1).mean())


@pytest.mark.parametrize("coding", DIGITAL_CODINGS)
def test_more_bits_are_nearer(statistics: Statistics, coding: digital.DigitalCoding) -> None:
    coder = SourceCoder(statistics, coding)
    errors = [distortion(coder, features(200, 3), n) for n in LENGTHS]
    assert all(later < earlier for earlier, later in pairwise(errors))
    assert errors[0] > 0.5
    assert errors[-1] < 0.01


@pytest.mark.parametrize("coding", DIGITAL_CODINGS)
def test_every_bit_of_a_message_says_something(
    statistics: Statistics, coding: digital.DigitalCoding
) -> None:
    """A bit that is flipped changes the feature, so no payload bit is padding."""
    coder = SourceCoder(statistics, coding)
    for n in (1, 7, 18, 45, 153):
        bits = coder.encode(features(1, 4), "text", n)
        flipped = bits ^ torch.eye(n, dtype=torch.uint8)
        changed = (coder.decode(flipped, "text") - coder.decode(bits, "text")).abs().amax(1)
        assert (changed > 0).all()


@pytest.mark.parametrize("coding", DIGITAL_CODINGS)
def test_coding_again_what_was_decoded_costs_little(
    statistics: Statistics, coding: digital.DigitalCoding
) -> None:
    coder = SourceCoder(statistics, coding)
    once = coder.decode(coder.encode(features(50, 5), "text", 153), "text")
    twice = coder.decode(coder.encode(once, "text", 153), "text")
    assert (once * twice).sum(1).mean() > 0.97


@pytest.mark.parametrize("coding", DIGITAL_CODINGS)
def test_batch_mates_change_nothing(statistics: Statistics, coding: digital.DigitalCoding) -> None:
    coder = SourceCoder(statistics, coding)
    sent = features(40, 6)
    for n in (5, 45, 463):
        together = coder.encode(sent, "text", n)
        alone = torch.cat([coder.encode(row[None], "text", n) for row in sent])
        assert torch.equal(together, alone)
        assert torch.equal(
            coder.decode(together, "text"),
            torch.cat([coder.decode(row[None], "text") for row in together]),
        )


def test_both_ends_agree_after_the_file(statistics: Statistics) -> None:
    """What a file holds gives the same formats and words as the object that was saved."""
    stored = {
        n: t.half() if t.is_floating_point() and not n.endswith("scale") else t
        for n, t in pack(statistics.tensors()).items()
    }
    for coding in DIGITAL_CODINGS:
        one, other = (
            SourceCoder(statistics, coding),
            SourceCoder(Statistics.from_tensors(stored), coding),
        )
        bits = one.encode(features(20, 7), "image", 127)
        assert torch.allclose(one.decode(bits, "image"), other.decode(bits, "image"), atol=2e-3)
        assert (bits == other.encode(features(20, 7), "image", 127)).float().mean() > 0.97


@pytest.mark.parametrize("task", ["person", "image", "audio"])
@pytest.mark.parametrize("coding", DIGITAL_CODINGS)
def test_shipped_coders_bring_gallery_vectors_back(task: str, coding: str) -> None:
    corpus = {"person": "pedestrians", "image": "scenes", "audio": "soundscapes"}[task]
    sent = torch.from_numpy(GalleryEmbeddings.load(corpus).items[:200]).float()
    coder = load_source_coder(task, coding)
    near = [
        (coder.decode(coder.encode(sent, "image", n), "image") * sent).sum(1).mean()
        for n in (18, 127)
    ]
    assert near[0] > 0.6
    assert near[1] > 0.95


def test_vector_quantisation_beats_scalars_where_bits_are_few() -> None:
    sent = torch.from_numpy(GalleryEmbeddings.load("pedestrians").items[:300]).float()
    for n in (8, 18, 27):
        scalar, vector = (
            coder.decode(coder.encode(sent, "image", n), "image")
            for coder in (load_source_coder("person", c) for c in DIGITAL_CODINGS)
        )
        assert (vector * sent).sum(1).mean() > (scalar * sent).sum(1).mean()


def test_lloyd_max_equals_the_published_table() -> None:
    """Max, IRE Trans. Inf. Theory 6(1), 1960, table I: N = 2, 4, 8, 16, 32."""
    for bits, error in ((1, 0.3634), (2, 0.1175), (3, 0.03454), (4, 0.009497), (5, 0.002499)):
        assert lloyd_max(bits).error == pytest.approx(error, rel=5e-3)


def test_bits_go_where_the_water_is() -> None:
    """The exchange argument: no bit would lower the error more elsewhere."""
    variance = 0.8 ** np.arange(30)
    bits = allocate_bits(variance, 60)
    assert bits.sum() == 60
    assert (np.diff(bits) <= 0).all()
    errors = np.array([lloyd_max(b).error for b in range(9)])
    last = variance * (errors[np.maximum(bits - 1, 0)] - errors[bits])
    following = variance * (errors[bits] - errors[bits + 1])
    assert last[bits > 0].min() >= following.max()


def test_what_is_not_allowed_is_named(statistics: Statistics, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    coder = SourceCoder(statistics, "separation")
    for feature, modality, n, field in (
        (features(2)[:, 1:], "text", 9, "feature"),
        (features(2) * float("nan"), "text", 9, "feature"),
        (features(2), "video", 9, "modality"),
        (features(2), "text", 0, "payload"),
        (features(2), "text", MAX_PAYLOAD_BITS + 1, "payload"),
    ):
        with pytest.raises(InvalidField) as raised:
            coder.encode(feature, modality, n)
        assert raised.value.field == field
    with pytest.raises(InvalidField, match="separation"):
        load_source_coder("person", "morse")
    with pytest.raises(InvalidField, match="audio"):
        load_source_coder("video", "separation")
    monkeypatch.setenv("SEMLINK_WEIGHTS_DIR", "/nowhere")
    with pytest.raises(NotFound, match="train vq"):
        load_source_coder("person", "separation")
