"""The codec keeps its promises: power, independence of batch mates, prefixes, and more SNR helps."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from semlink.errors import InvalidField, NotFound
from semlink.semantics import codec as codec_module
from semlink.semantics.codec import SYMBOL_COUNTS, Codec, CodecConfig, load_codec

TASKS = ("person", "image", "audio")


def features(count: int, seed: int = 0) -> torch.Tensor:
    """Unit vectors with falling variance along axes, as trained features have."""
    generator = torch.Generator().manual_seed(seed)
    spread = torch.linspace(1.0, 0.05, 256)
    return F.normalize(torch.randn(count, 256, generator=generator) * spread, dim=1)


@pytest.fixture(scope="module")
def untrained() -> Codec:
    """A codec whose networks are random, not zero: the properties must hold for any weights."""
    torch.manual_seed(0)
    codec = Codec(CodecConfig(hidden=64))
    codec.start_from(features(2_000))
    for parameter in codec.parameters():
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    return codec.eval().requires_grad_(False)


@pytest.mark.parametrize("k", SYMBOL_COUNTS)
def test_every_message_has_unit_mean_power(untrained: Codec, k: int) -> None:
    snr_db = torch.empty(50, k).uniform_(-30, 50, generator=torch.Generator().manual_seed(k))
    symbols = untrained.encode(features(50), snr_db, k)
    assert symbols.shape == (50, k)
    assert symbols.dtype == torch.complex64
    torch.testing.assert_close(symbols.abs().square().mean(1), torch.ones(50))


def test_a_feature_with_nothing_to_say_still_has_unit_power(untrained: Codec) -> None:
    codec = Codec(CodecConfig(hidden=64))
    for parameter in codec.parameters():
        parameter.data.zero_()
    symbols = codec.encode(features(2), torch.zeros(2, 16), 16)
    torch.testing.assert_close(symbols.abs().square().mean(1), torch.ones(2))


def test_batch_mates_change_nothing(untrained: Codec) -> None:
    feature, snr_db = features(8), torch.randn(8, 32) * 10
    variance = torch.rand(8, 32) + 0.01
    together = untrained.encode(feature, snr_db, 32)
    alone = torch.cat(
        [untrained.encode(feature[i : i + 1], snr_db[i : i + 1], 32) for i in range(8)]
    )
    torch.testing.assert_close(together, alone)
    decoded = untrained.decode(together, variance)
    one = torch.cat([untrained.decode(together[i : i + 1], variance[i : i + 1]) for i in range(8)])
    torch.testing.assert_close(decoded, one)
    torch.testing.assert_close(decoded.norm(dim=1), torch.ones(8))


def test_the_linear_start_is_lossless_without_noise_at_full_length() -> None:
    codec = Codec().requires_grad_(False)
    data = features(3_000)
    codec.start_from(data)
    codec.prior.data.fill_(20.0)
    sent = features(20, seed=1)
    symbols = codec.encode(sent, torch.full((20, 128), 40.0), 128)
    # Undo the normalisation that only the sender knows: the direction from the mean is what is carried.
    flat = torch.view_as_real(symbols).flatten(1)
    carried = F.normalize(codec.synthesis(flat), dim=1)
    torch.testing.assert_close(carried, F.normalize(sent - codec.mean, dim=1), atol=1e-4, rtol=0)


def test_the_linear_start_puts_the_most_important_first() -> None:
    codec = Codec().requires_grad_(False)
    data = features(3_000)
    codec.start_from(data)
    sent = features(200, seed=1) - codec.mean
    components = codec.analysis(sent)
    shares = []
    for k in SYMBOL_COUNTS:
        kept = torch.zeros_like(components)
        kept[:, : 2 * k] = components[:, : 2 * k]
        rest = (codec.synthesis(kept) - sent).square().sum() / sent.square().sum()
        shares.append(1.0 - rest.item())
    assert shares == sorted(shares)
    for k, share in zip(SYMBOL_COUNTS[:-1], shares, strict=False):
        assert share > 2 * k / 256 + 0.02
    assert shares[-1] == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("task", TASKS)
class TestTrained:
    """The shipped weights, over a flat noisy link."""

    @staticmethod
    def over(codec: Codec, sent: torch.Tensor, k: int, snr_db: float) -> float:
        """Mean cosine between what is sent and what arrives."""
        generator = torch.Generator().manual_seed(int(1000 + snr_db) * 1000 + k)
        variance = 10.0 ** (-snr_db / 10.0)
        noise = torch.randn(len(sent), k, dtype=torch.complex64, generator=generator)
        symbols = codec.encode(sent, torch.full((len(sent), k), snr_db), k)
        received = codec.decode(
            symbols + noise * math.sqrt(variance), torch.full((len(sent), k), variance)
        )
        return float((received * sent).sum(1).mean())

    @staticmethod
    def gallery(task: str) -> torch.Tensor:
        """Real features of the task: every second item and caption of its test gallery."""
        from semlink.corpora.registry import default_corpus
        from semlink.semantics.gallery import GalleryEmbeddings

        shipped = GalleryEmbeddings.load(default_corpus(task))
        return torch.cat([torch.from_numpy(shipped.items), torch.from_numpy(shipped.captions)])[::4]

    def test_more_snr_and_more_symbols_help(self, task: str) -> None:
        codec, sent = load_codec(task), self.gallery(task)
        by_snr = [self.over(codec, sent, 64, snr_db) for snr_db in (-10, -5, 0, 5, 10, 20)]
        assert by_snr == sorted(by_snr)
        by_length = [self.over(codec, sent, k, 5.0) for k in SYMBOL_COUNTS]
        assert by_length == sorted(by_length)
        assert by_snr[-1] > 0.9

    def test_beats_no_information(self, task: str) -> None:
        codec, sent = load_codec(task), self.gallery(task)
        guess = float((sent @ F.normalize(sent.mean(0), dim=0)).mean())
        assert self.over(codec, sent, 64, -5.0) > guess + 0.02

    def test_a_wrong_promise_of_snr_is_survived(self, task: str) -> None:
        codec, sent = load_codec(task), self.gallery(task)[:64]
        for promised in (-30.0, 60.0):
            symbols = codec.encode(sent, torch.full((len(sent), 64), promised), 64)
            received = codec.decode(symbols, torch.full((len(sent), 64), 1e-2))
            assert float((received * sent).sum(1).mean()) > 0.6

    def test_loaded_once(self, task: str) -> None:
        assert load_codec(task) is load_codec(task, torch.device("cpu"))


def test_bad_input_names_the_field(untrained: Codec) -> None:
    one = features(2)
    cases = [
        (lambda: untrained.encode(one, torch.zeros(2, 12), 12), "symbols"),
        (lambda: untrained.encode(one, torch.zeros(2, 16), 8), "snr_db"),
        (lambda: untrained.encode(one, torch.full((2, 8), math.nan), 8), "snr_db"),
        (lambda: untrained.encode(one[:, :9], torch.zeros(2, 8), 8), "feature"),
        (
            lambda: untrained.decode(torch.ones(2, 9, dtype=torch.complex64), torch.ones(2, 9)),
            "symbols",
        ),
        (
            lambda: untrained.decode(torch.ones(2, 8, dtype=torch.complex64), torch.zeros(2, 8)),
            "noise_variance",
        ),
        (lambda: untrained.decode(torch.full((2, 8), math.inf) + 0j, torch.ones(2, 8)), "symbols"),
        (lambda: load_codec("smell"), "task"),
    ]
    for call, field in cases:
        with pytest.raises(InvalidField) as caught:
            call()
        assert caught.value.field == field


def test_missing_weights_name_the_command(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEMLINK_WEIGHTS_DIR", str(tmp_path))
    with pytest.raises(NotFound, match="semlink train codec --task audio"):
        codec_module.codec_path("audio")


def test_eight_bits_keep_a_wide_layer_and_leave_the_rest() -> None:
    from semlink.semantics.int8_tensors import pack, unpack

    generator = torch.Generator().manual_seed(0)
    state = {
        "wide": torch.randn(384, 384, generator=generator) * torch.logspace(-3, 1, 384)[:, None],
        "narrow": torch.randn(4, 4, generator=generator),
        "bias": torch.randn(384, generator=generator),
    }
    stored = pack(state)
    assert stored["wide"].dtype == torch.int8
    back = unpack(stored)
    assert set(back) == set(state)
    step = state["wide"].abs().amax(1, keepdim=True) / 127
    assert bool(((back["wide"] - state["wide"]).abs() <= 0.51 * step).all())
    assert torch.allclose(back["narrow"], state["narrow"], atol=2e-3)
    assert torch.equal(unpack(pack(back))["wide"], back["wide"])
