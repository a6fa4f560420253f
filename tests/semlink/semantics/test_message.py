"""Messages of several components: the split, the power, and who suffers first."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from semlink.errors import InvalidField
from semlink.semantics.codec import SYMBOL_COUNTS, Codec, load_codec
from semlink.semantics.gallery import GalleryEmbeddings
from semlink.semantics.message import (
    MAX_COMPONENTS,
    component_symbols,
    decode_message,
    encode_message,
)


@pytest.fixture(scope="module")
def codec() -> Codec:
    return load_codec("person")


@pytest.fixture(scope="module")
def components() -> torch.Tensor:
    """Four different captions of the test gallery as the components of each of 128 messages."""
    captions = torch.from_numpy(GalleryEmbeddings.load("pedestrians").captions[:512].copy())
    return F.normalize(captions.float(), dim=-1).view(128, 4, 256)


def over_awgn(u: torch.Tensor, snr_db: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    variance = 10.0 ** (-snr_db / 10.0)
    noise = torch.randn(
        u.shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(seed)
    )
    return u + noise * variance**0.5, torch.full(u.shape, variance)


@pytest.mark.parametrize("k", SYMBOL_COUNTS)
@pytest.mark.parametrize("count", range(1, MAX_COMPONENTS + 1))
def test_the_split_spends_every_symbol_and_never_favours_the_less_important(
    k: int, count: int
) -> None:
    lengths = component_symbols(k, count)
    assert len(lengths) == count
    assert sum(lengths) == k
    assert list(lengths) == sorted(lengths, reverse=True)
    assert all(n == 0 or n in SYMBOL_COUNTS for n in lengths)
    assert lengths[0] >= min(k, 16)


def test_one_component_is_the_plain_codec(codec: Codec, components: torch.Tensor) -> None:
    snr_db = torch.full((128, 64), 10.0)
    whole = encode_message(codec, components[:, :1], snr_db, 64)
    assert torch.equal(whole, codec.encode(components[:, 0], snr_db, 64))
    received, variance = over_awgn(whole, 10.0)
    decoded = decode_message(codec, received, variance, 1)
    assert torch.equal(decoded[:, 0], codec.decode(received, variance))


@pytest.mark.parametrize("k", SYMBOL_COUNTS)
def test_mean_power_is_one_whatever_the_split(
    codec: Codec, components: torch.Tensor, k: int
) -> None:
    u = encode_message(codec, components, torch.full((128, k), 5.0), k)
    assert u.shape == (128, k)
    assert torch.allclose(u.abs().square().mean(1), torch.ones(128), atol=1e-4)


@pytest.mark.parametrize("snr_db", [0.0, 10.0])
def test_the_important_component_arrives_best(
    codec: Codec, components: torch.Tensor, snr_db: float
) -> None:
    u = encode_message(codec, components, torch.full((128, 64), snr_db), 64)
    decoded = decode_message(codec, *over_awgn(u, snr_db), 4)
    cosine = (decoded * components).sum(-1).mean(0)
    assert cosine[0] > cosine[1] > cosine[2:].max()
    # Equal protection: four messages of 16 symbols at equal power, as many symbols in all.
    equal = codec.encode(components[:, 0], torch.full((128, 16), snr_db), 16)
    alike = codec.decode(*over_awgn(equal, snr_db))
    assert cosine[0] > (alike * components[:, 0]).sum(-1).mean() + 0.01


def test_a_short_message_still_carries_the_global_feature(
    codec: Codec, components: torch.Tensor
) -> None:
    u = encode_message(codec, components, torch.full((128, 16), 10.0), 16)
    decoded = decode_message(codec, *over_awgn(u, 10.0), 4)
    assert decoded.shape == (128, 1, 256)
    alone = codec.encode(components[:, 0], torch.full((128, 16), 10.0), 16)
    assert torch.equal(u, alone)


def test_bad_messages_are_refused_by_name(codec: Codec, components: torch.Tensor) -> None:
    with pytest.raises(InvalidField, match="symbols"):
        component_symbols(12, 2)
    with pytest.raises(InvalidField, match="components"):
        component_symbols(64, 9)
    with pytest.raises(InvalidField, match="components"):
        encode_message(codec, components[:, 0], torch.zeros(128, 64), 64)
    with pytest.raises(InvalidField, match="snr_db"):
        encode_message(codec, components, torch.zeros(128, 32), 64)
    with pytest.raises(InvalidField, match="noise_variance"):
        decode_message(codec, torch.ones(2, 64, dtype=torch.complex64), torch.ones(2, 8), 2)
