"""Sounds, encoded by Whisper tiny.en read from a CTranslate2 file: all layers, in bins of half a second."""

from __future__ import annotations

import struct
import threading
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from semlink.corpora.corpus import AUDIO_SAMPLE_RATE_HZ as SAMPLE_RATE_HZ
from semlink.corpora.media_io import decode_audio
from semlink.decibels import lin_to_db
from semlink.errors import CorruptModel, InvalidField
from semlink.models import MODELS, locate
from semlink.runtime import FrozenNetwork
from semlink.semantics.modalities.interface import DecodedMedia, Modality
from semlink.semantics.tokens import Tokens, pad

BIN_SECONDS: Final = 0.5
FRAMES_PER_SECOND: Final = 50
MEL_FRAMES_PER_SECOND: Final = 100
NUM_MEL_BINS: Final = 80
MAX_SECONDS: Final = 30
STEP_SECONDS: Final = 5
"""Clips are padded with silence to the next multiple, 10 s at least: few lengths, few encoders."""
SHORTEST_SECONDS: Final = 10
NUM_STATES: Final = 5
"""The embedding and four layers."""
ENVELOPE: Final = (20, 5)
"""Mel bands and steps a bin of the coarse spectrogram that a token also carries: it keeps onsets and counts."""
FLOOR_FRAMES: Final = 5
"""Mel frames (10 ms each) that are averaged before the least of a bin is taken."""
SILENCE: Final = 0.1
"""Level above a clip's floor, in Whisper's units of 40 dB, under which a bin is silent."""
WIDTH: Final = NUM_STATES * 384 + ENVELOPE[0] * ENVELOPE[1] + NUM_MEL_BINS
BATCH: Final = 8

_DTYPES: Final = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}


SILENT_PEAK: Final = 2.0**-15
"""A peak below one step of 16-bit audio."""
SPECTROGRAM: Final = (160, 96)
"""Width and height in pixels of a thumbnail."""
SPECTROGRAM_FRAME: Final = 512
SPECTROGRAM_HOP: Final = 256
SPECTROGRAM_FLOOR_DB: Final = -80.0
"""Quieter than so far below the loudest is black."""


class Sounds(Modality):
    """Mono sounds at 16 kHz, float32 ``[num_samples]`` in −1…1, at most 30 s."""

    def decode(self, data: bytes, content_type: str, field: str) -> DecodedMedia:
        """As :func:`semlink.corpora.media_io.decode_audio`; samples count as source values."""
        samples = decode_audio(data, content_type, field)
        return DecodedMedia(samples, len(samples))

    def objection(self, content: NDArray[np.float32]) -> str:
        """Say that a sound is silent."""
        if float(np.abs(content).max()) >= SILENT_PEAK:
            return ""
        return f"is silent (peak below {SILENT_PEAK:g}): there is nothing to look for"

    def tokens(self, contents: Sequence[NDArray[np.float32]], device: str = "cpu") -> Tokens:
        """See :meth:`WhisperTiny.tokens`."""
        return whisper(device).tokens(contents)

    def fingerprint(self) -> tuple[int, str]:
        """See :meth:`Modality.fingerprint`."""
        return 2, MODELS["whisper-tiny"].sha256

    def thumbnail(self, content: NDArray[np.float32]) -> Image.Image:
        """The short-time spectrum: time to the right, 0…8 kHz upwards, 80 dB from black to yellow."""
        import matplotlib as mpl

        frame = SPECTROGRAM_FRAME
        padded = np.pad(content, (0, max(0, frame - len(content))))
        frames = np.lib.stride_tricks.sliding_window_view(padded, frame)[::SPECTROGRAM_HOP]
        power = np.abs(np.fft.rfft(frames * np.hanning(frame), axis=1)) ** 2
        level_db = lin_to_db(np.maximum(power / max(float(power.max()), 1e-12), 1e-12))
        shade = np.clip(1.0 - level_db / SPECTROGRAM_FLOOR_DB, 0.0, 1.0).T[::-1]
        rgb = (mpl.colormaps["inferno"](shade)[..., :3] * 255).astype(np.uint8)
        return Image.fromarray(rgb).resize(SPECTROGRAM, Image.Resampling.BOX)


def read_ctranslate2(path: Path) -> dict[str, NDArray[Any]]:
    """Variables of a CTranslate2 ``model.bin`` by name.

    Layout, little endian: u32 version, name (u16 length with the final zero), u32 revision, u32 number of variables;
    each: name, u8 rank, rank × u32 shape, u8 dtype, u32 bytes, data. Raises CorruptModel for anything else.
    """
    data = path.read_bytes()
    offset = 0

    def take(form: str) -> Any:
        nonlocal offset
        values = struct.unpack_from("<" + form, data, offset)
        offset += struct.calcsize("<" + form)
        return values[0] if len(values) == 1 else values

    def name() -> str:
        nonlocal offset
        length = take("H")
        text = data[offset : offset + length - 1].decode()
        offset += length
        return text

    variables: dict[str, NDArray[Any]] = {}
    try:
        take("I")
        name()
        take("I")
        for _ in range(take("I")):
            key = name()
            rank = take("B")
            shape = struct.unpack_from(f"<{rank}I", data, offset)
            offset += 4 * rank
            dtype = np.dtype(_DTYPES[take("B")])
            num_bytes = take("I")
            count = int(np.prod(shape, dtype=np.int64))
            if count * dtype.itemsize != num_bytes or offset + num_bytes > len(data):
                raise CorruptModel(f"{path.name}: variable {key} has a wrong length", field="model")
            variables[key] = np.frombuffer(data, dtype, count, offset).reshape(shape)
            offset += num_bytes
    except (struct.error, UnicodeDecodeError, KeyError) as error:
        raise CorruptModel(
            f"{path.name} is no CTranslate2 model ({error})", field="model"
        ) from error
    return variables


def whisper_state(variables: dict[str, NDArray[Any]]) -> dict[str, torch.Tensor]:
    """The encoder's variables under the names that ``transformers`` gives them, float32."""

    def tensor(key: str) -> torch.Tensor:
        return torch.from_numpy(variables[f"encoder/{key}"].astype(np.float32))

    state = {"embed_positions.weight": tensor("position_encodings/encodings")}

    def linear(target: str, source: str) -> None:
        state[f"{target}.weight"] = tensor(f"{source}/weight")
        state[f"{target}.bias"] = tensor(f"{source}/bias")

    def norm(target: str, source: str) -> None:
        state[f"{target}.weight"] = tensor(f"{source}/gamma")
        state[f"{target}.bias"] = tensor(f"{source}/beta")

    for conv in ("conv1", "conv2"):
        linear(conv, conv)
    norm("layer_norm", "layer_norm")
    layer = 0
    while f"encoder/layer_{layer}/ffn/linear_0/weight" in variables:
        target, source = f"layers.{layer}", f"layer_{layer}"
        norm(f"{target}.self_attn_layer_norm", f"{source}/self_attention/layer_norm")
        norm(f"{target}.final_layer_norm", f"{source}/ffn/layer_norm")
        linear(f"{target}.self_attn.out_proj", f"{source}/self_attention/linear_1")
        linear(f"{target}.fc1", f"{source}/ffn/linear_0")
        linear(f"{target}.fc2", f"{source}/ffn/linear_1")
        weights = tensor(f"{source}/self_attention/linear_0/weight").chunk(3)
        biases = tensor(f"{source}/self_attention/linear_0/bias").chunk(3)
        for part, weight, bias in zip("qkv", weights, biases, strict=True):
            state[f"{target}.self_attn.{part}_proj.weight"] = weight
            # Whisper's keys have no bias; CTranslate2 stores zeros.
            if part != "k":
                state[f"{target}.self_attn.{part}_proj.bias"] = bias
        layer += 1
    return state


class WhisperTiny:
    """Whisper tiny.en's encoder, frozen. Safe to call from several threads."""

    def __init__(self, device: str = "cpu") -> None:
        path = locate("whisper-tiny")
        self.device = torch.device(device)
        self._extractors: dict[int, Any] = {}
        self._network = FrozenNetwork(
            "whisper-tiny",
            partial(_Bins, path),
            example=lambda: (torch.zeros(2, NUM_MEL_BINS, 1000),),
            shapes=([-1, NUM_MEL_BINS, -1],),
            identity=MODELS["whisper-tiny"].sha256,
            device=device,
        )

    def tokens(self, waveforms: Sequence[NDArray[np.float32]]) -> Tokens:
        """Half-second bins, values [batch, num_bins, 2100]: mean of every layer's states, a coarse spectrogram, and
        the least level of each mel band in the bin: what goes on beneath the events.

        ``waveforms``: mono at 16 kHz, float32, −1…1, more than 0 and at most 30 s each, padded with silence to a
        multiple of 5 s, at least 10 s. Clips of one length run together. Raises InvalidField otherwise.
        """
        if not waveforms:
            raise InvalidField("audio is an empty list, expected a sound", field="audio")
        by_seconds: dict[int, list[int]] = {}
        for index, waveform in enumerate(waveforms):
            by_seconds.setdefault(_padded_seconds(waveform), []).append(index)
        rows: list[torch.Tensor] = [torch.empty(0)] * len(waveforms)
        for seconds, indices in by_seconds.items():
            for start in range(0, len(indices), BATCH):
                picked = indices[start : start + BATCH]
                values = self._features([waveforms[i] for i in picked], seconds)
                for place, index in enumerate(picked):
                    rows[index] = values[place]
        return pad([row.cpu() for row in rows]).to(self.device)

    def _features(self, waveforms: Sequence[NDArray[np.float32]], seconds: int) -> torch.Tensor:
        """[batch, num_bins, 2100], float32, of clips that are padded to ``seconds``."""
        extractor = self._extractor(seconds)
        mel = extractor(
            list(waveforms), sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt"
        ).input_features
        return self._network(mel)

    def _extractor(self, seconds: int) -> Any:
        from transformers import WhisperFeatureExtractor

        if seconds not in self._extractors:
            extractor_class: Any = WhisperFeatureExtractor
            self._extractors[seconds] = extractor_class(
                feature_size=NUM_MEL_BINS, chunk_length=seconds
            )
        return self._extractors[seconds]


class _Bins(nn.Module):
    """Log-mel spectrograms [batch, 80, num_frames] to half-second bins [batch, num_bins, 2100]."""

    def __init__(self, path: Path) -> None:
        from transformers import WhisperConfig
        from transformers.models.whisper.modeling_whisper import WhisperEncoder

        super().__init__()
        config = WhisperConfig(
            d_model=384,
            encoder_layers=NUM_STATES - 1,
            encoder_attention_heads=6,
            encoder_ffn_dim=1536,
            num_mel_bins=NUM_MEL_BINS,
            max_source_positions=MAX_SECONDS * FRAMES_PER_SECOND,
        )
        with torch.device("meta"):
            self.encoder: Any = WhisperEncoder(config)
        self.encoder.load_state_dict(whisper_state(read_ctranslate2(path)), assign=True)

    def forward(self, mel: torch.Tensor) -> torch.Tensor:
        # WhisperEncoder.forward, for clips of any length: it takes nothing but 30 s.
        encoder = self.encoder
        x = F.gelu(encoder.conv2(F.gelu(encoder.conv1(mel)))).transpose(1, 2)
        x = x + encoder.embed_positions.weight[: x.shape[1]]
        states = [x]
        for layer in encoder.layers:
            x = layer(x, attention_mask=None)
            states.append(x)
        states[-1] = encoder.layer_norm(x)
        pooled = F.avg_pool1d(
            torch.cat(states, 2).transpose(1, 2), int(FRAMES_PER_SECOND * BIN_SECONDS)
        ).transpose(1, 2)
        bands, steps = ENVELOPE
        frames = int(MEL_FRAMES_PER_SECOND * BIN_SECONDS) // steps
        coarse = F.avg_pool2d(mel[:, None], (NUM_MEL_BINS // bands, frames))[:, 0]
        # [batch, bands, bins · steps] → [batch, bins, bands · steps]
        coarse = coarse.reshape(*coarse.shape[:2], -1, steps).permute(0, 2, 1, 3).flatten(2)
        return torch.cat([pooled, coarse, floor_of(mel)], 2)


def clip_feature(tokens: Tokens) -> torch.Tensor:
    """One vector a clip from the bins that hold sound: mean, deviation and maximum, [batch, 6300], float32.

    A bin holds sound when its coarse spectrogram rises above the clip's floor anywhere: recordings are often padded
    with digital silence, and :class:`WhisperTiny` pads as well. A clip of silence alone is described by its first bin.
    Our definition.
    """
    first = NUM_STATES * 384
    coarse = tokens.values[..., first : first + ENVELOPE[0] * ENVELOPE[1]]
    loudest = coarse.amax(-1)
    floor = coarse.masked_fill(~tokens.mask[..., None], torch.inf).amin((1, 2))
    sounds = tokens.mask & (loudest - floor[:, None] > SILENCE)
    sounds[:, 0] |= ~sounds.any(1)
    weight = sounds[..., None].to(tokens.values.dtype)
    count = weight.sum(1)
    mean = (tokens.values * weight).sum(1) / count
    variance = ((tokens.values - mean[:, None]).square() * weight).sum(1) / count
    largest = tokens.values.masked_fill(~sounds[..., None], -torch.inf).amax(1)
    return torch.cat([mean, variance.sqrt(), largest], 1)


def floor_of(mel: torch.Tensor) -> torch.Tensor:
    """Least level of each mel band in each half-second bin, [batch, num_bins, 80] from [batch, 80, num_frames]."""
    smooth = F.avg_pool1d(mel, FLOOR_FRAMES)
    per_bin = int(MEL_FRAMES_PER_SECOND * BIN_SECONDS) // FLOOR_FRAMES
    return -F.max_pool1d(-smooth, per_bin).transpose(1, 2)


def _padded_seconds(waveform: NDArray[np.float32]) -> int:
    if waveform.ndim != 1 or waveform.dtype != np.float32:
        raise InvalidField(
            f"audio has shape {waveform.shape} and dtype {waveform.dtype}, "
            "expected [num_samples] float32",
            field="audio",
        )
    if not 0 < len(waveform) <= MAX_SECONDS * SAMPLE_RATE_HZ:
        raise InvalidField(
            f"audio lasts {len(waveform) / SAMPLE_RATE_HZ:.3f} s, allowed: more than 0 to "
            f"{MAX_SECONDS} s",
            field="audio",
        )
    steps = -(-len(waveform) // (STEP_SECONDS * SAMPLE_RATE_HZ))
    return max(SHORTEST_SECONDS, steps * STEP_SECONDS)


_lock = threading.Lock()


@lru_cache(maxsize=2)
def _whisper(device: str) -> WhisperTiny:
    return WhisperTiny(device)


def whisper(device: str = "cpu") -> WhisperTiny:
    """The process's audio encoder. Raises NotFound with the installing command when the package is missing."""
    with _lock:
        return _whisper(device)
