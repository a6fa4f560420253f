"""Frozen backbones against their references; trained heads against what retrieval needs of them."""

from __future__ import annotations

import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from semlink.errors import CorruptModel, InvalidField, NotFound
from semlink.models import locate
from semlink.semantics import text
from semlink.semantics.encoders import (
    SemanticEncoder,
    heads_path,
    sentence_embeddings,
    text_tokens,
)
from semlink.semantics.heads import Head, HeadConfig
from semlink.semantics.modalities import modality_of
from semlink.semantics.modalities import sound as audio
from semlink.semantics.tokens import pad

CAPTIONS = [
    "A woman in a red coat.",
    "Two dogs play near a tree, and a man in a hat is watching them.",
]


def noise_picture(seed: int, height: int = 256, width: int = 128) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def noise_sound(seed: int, seconds: float = 2.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (0.1 * rng.standard_normal(int(seconds * 16_000))).astype(np.float32)


class TestText:
    def test_equals_the_model_card(self) -> None:
        from transformers import AutoModel, AutoTokenizer

        folder = locate("minilm").parent
        tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
        inputs = tokenizer(CAPTIONS, padding=True, return_tensors="pt")
        with torch.no_grad():
            states = model(**inputs).last_hidden_state
        mask = inputs["attention_mask"][..., None]
        expected = F.normalize((states * mask).sum(1) / mask.sum(1))
        np.testing.assert_allclose(sentence_embeddings(CAPTIONS), expected.numpy(), atol=1e-5)

    def test_similar_sentences_are_closer(self) -> None:
        a, b, c = sentence_embeddings(
            ["a dog barks", "a dog is barking loudly", "a red sports car"]
        )
        assert a @ b > 0.7
        assert a @ c < 0.3

    def test_long_text_is_cut_not_refused(self) -> None:
        tokens = text_tokens(["word " * 400, "short"])
        assert tokens.mask.sum(1).tolist() == [text.MAX_TOKENS, 3]

    @pytest.mark.parametrize("texts", [[], ["fine", "  "]])
    def test_empty_is_refused(self, texts: list[str]) -> None:
        with pytest.raises(InvalidField):
            text_tokens(texts)


class TestImage:
    def test_folding_the_norms_changes_nothing(self) -> None:
        from efficientnet_lite_pytorch import EfficientNet

        reference = EfficientNet.from_name("efficientnet-lite0")
        reference.load_state_dict(torch.load(locate("efficientnet-lite0"), weights_only=True))
        seen = {}
        for stage in (10, 15):
            reference._blocks[stage].register_forward_hook(
                lambda _module, _input, output, stage=stage: seen.__setitem__(stage, output)
            )
        picture = noise_picture(0, 224, 224)
        with torch.no_grad():
            pixels = torch.from_numpy(picture).permute(2, 0, 1)[None].float()
            reference.eval().extract_features((pixels - 127) / 128)
        tokens = modality_of("image").tokens([picture]).values[0]
        torch.testing.assert_close(tokens[:, -320:], seen[15][0].flatten(1).T, atol=1e-3, rtol=1e-3)
        # Stage 10 is laid out channel by channel as 2 × 2 cells of each token.
        cells = tokens[:, -320 - 4 * 112 : -320].reshape(7, 7, 112, 2, 2)
        grid = cells.permute(2, 0, 3, 1, 4).reshape(112, 14, 14)
        torch.testing.assert_close(grid, seen[10][0], atol=1e-3, rtol=1e-3)

    def test_colour_stays_where_it_is(self) -> None:
        picture = np.full((256, 128, 3), 127, dtype=np.uint8)
        picture[:32, :32] = (255, 0, 0)
        colours = modality_of("person").tokens([picture]).values[0, :, :12]
        red = np.abs(colours.numpy()).max(1) > 0.5
        assert red.tolist() == [True] + [False] * 31

    def test_other_shapes_are_fitted_without_distortion(self) -> None:
        wide = np.full((50, 400, 3), 255, dtype=np.uint8)
        fitted = modality_of("image").fitted(wide)
        rows = (fitted == 255).all(axis=2).all(axis=1)
        assert int(rows.sum()) == 28
        assert bool(rows[98:126].all())

    @pytest.mark.parametrize(
        "picture",
        [
            np.zeros((4, 4), np.uint8),
            np.zeros((4, 4, 3), np.float32),
            np.zeros((0, 4, 3), np.uint8),
        ],
    )
    def test_other_arrays_are_refused(self, picture: np.ndarray) -> None:
        with pytest.raises(InvalidField) as caught:
            modality_of("image").tokens([picture])
        assert caught.value.field == "image"


class TestAudio:
    def test_speech_model_reads_its_own_weights(self) -> None:
        state = audio.whisper_state(audio.read_ctranslate2(locate("whisper-tiny")))
        assert len(state) == 3 * 2 + 1 + 4 * 15
        # The sinusoids of Whisper's encoder are known: log-spaced from 1 to 1/10000.
        frequencies = np.exp(-np.log(10_000) / 191 * np.arange(192))
        phase = np.arange(1500)[:, None] * frequencies
        expected = np.concatenate([np.sin(phase), np.cos(phase)], 1)
        got = state["embed_positions.weight"].numpy()
        np.testing.assert_allclose(got, expected, atol=2e-3)

    def test_broken_files_are_refused(self, tmp_path: Path) -> None:
        for content in (
            b"",
            b"\x06",
            struct.pack("<IH", 6, 4) + b"abc\0" + struct.pack("<II", 1, 9),
        ):
            path = tmp_path / "model.bin"
            path.write_bytes(content)
            with pytest.raises(CorruptModel):
                audio.read_ctranslate2(path)

    def test_time_is_kept(self) -> None:
        sound = np.zeros(160_000, dtype=np.float32)
        sound[64_000:72_000] = noise_sound(0, 0.5)
        tokens = audio.whisper().tokens([sound]).values[0]
        energy = tokens[:, -180:-80].mean(1)
        assert int(energy.argmax()) == 8

    def test_length_decides_the_number_of_bins(self) -> None:
        tokens = audio.whisper().tokens([noise_sound(0, 1.0), noise_sound(1, 12.0)])
        assert tokens.mask.sum(1).tolist() == [20, 30]
        assert tokens.values.shape[2] == audio.WIDTH

    @pytest.mark.parametrize(
        "sound",
        [
            np.zeros(0, np.float32),
            np.zeros((2, 9), np.float32),
            np.zeros(30 * 16_000 + 1, np.float32),
        ],
    )
    def test_other_arrays_are_refused(self, sound: np.ndarray) -> None:
        with pytest.raises(InvalidField) as caught:
            modality_of("audio").tokens([sound])
        assert caught.value.field == "audio"


class TestHead:
    def test_padding_changes_nothing(self) -> None:
        torch.manual_seed(0)
        head = Head(HeadConfig(in_dim=10, max_tokens=16, width=32)).eval()
        short, long = torch.randn(3, 10), torch.randn(9, 10)
        together = head.encode(pad([short, long]))
        alone = torch.cat([head.encode(pad([short])), head.encode(pad([long]))])
        torch.testing.assert_close(together, alone)
        torch.testing.assert_close(together.norm(dim=1), torch.ones(2))

    def test_order_matters(self) -> None:
        torch.manual_seed(0)
        head = Head(HeadConfig(in_dim=10, max_tokens=16, width=32)).eval()
        head.positions.data.mul_(20)
        tokens = torch.randn(6, 10)
        assert not torch.allclose(
            head.encode(pad([tokens])), head.encode(pad([tokens.flip(0)])), atol=1e-3
        )


@pytest.mark.parametrize("task", ["person", "image", "audio"])
class TestSemanticEncoder:
    @staticmethod
    def media(task: str, encoder: SemanticEncoder, seeds: list[int]) -> np.ndarray:
        make = noise_sound if task == "audio" else noise_picture
        return encoder.media([make(seed) for seed in seeds])

    def test_unit_vectors_that_batch_mates_do_not_change(self, task: str) -> None:
        encoder = SemanticEncoder(task)
        texts = encoder.text([*CAPTIONS, "rain"])
        assert texts.shape == (3, 256)
        assert texts.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(texts, axis=1), 1.0, atol=1e-5)
        np.testing.assert_allclose(texts[:1], encoder.text(CAPTIONS[:1]), atol=1e-5)
        media = self.media(task, encoder, [1, 2])
        np.testing.assert_allclose(np.linalg.norm(media, axis=1), 1.0, atol=1e-5)
        np.testing.assert_allclose(media[1:], self.media(task, encoder, [2]), atol=1e-4)

    def test_threads_share_one_encoder(self, task: str) -> None:
        encoder = SemanticEncoder(task)
        expected = encoder.text(CAPTIONS)
        with ThreadPoolExecutor(4) as pool:
            for got in pool.map(encoder.text, [CAPTIONS] * 8):
                np.testing.assert_allclose(got, expected, atol=1e-5)

    def test_the_wrong_modality_is_refused(self, task: str) -> None:
        encoder = SemanticEncoder(task)
        wrong, media = ("image", noise_picture(0)) if task == "audio" else ("audio", noise_sound(0))
        with pytest.raises(InvalidField, match=f"not '{wrong}'") as caught:
            encoder.components(wrong, [media])
        assert caught.value.field == f"query.{wrong}"

    def test_missing_heads_name_the_command(
        self, task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SEMLINK_WEIGHTS_DIR", str(tmp_path))
        with pytest.raises(NotFound, match=f"semlink train heads --task {task}"):
            heads_path(task)


def test_a_text_is_more_than_its_bag_of_words() -> None:
    """Colours exchanged between two garments: the same words, another vector (0.93 on average; the README says so)."""
    encoder = SemanticEncoder("person")
    colours = ("red", "blue", "green", "yellow", "white", "black")
    pairs = [(a, b) for a in colours for b in colours if a != b]
    source = encoder.text([f"A man in a {a} jacket and {b} trousers." for a, b in pairs])
    swapped = encoder.text([f"A man in a {b} jacket and {a} trousers." for a, b in pairs])
    assert (source * swapped).sum(1).mean() < 0.95


def test_unknown_task_is_refused() -> None:
    with pytest.raises(InvalidField, match="person, image, audio") as caught:
        SemanticEncoder("smell")
    assert caught.value.field == "task"
