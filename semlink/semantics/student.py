"""ItrievalKD's student: reads a noisy text and scores its sentences as the dual encoder would, without the picture.

Liu et al. 2023 (paper 002), §3.2, in the form of BERTSUM (Liu 2019): [CLS] before and [SEP] after each sentence,
interval segments, at most 256 word pieces, a sigmoid over each [CLS] (eq. 3). Where we differ: the trunk is the frozen
MiniLM that the transmitter has anyway, each sentence by itself, as MiniLM was trained; sentences meet in what is
trained and stored: a layer over the tokens of all of them, how much each agrees with the others (learned cosines), and
BERTSUM's inter-sentence layer. A text beyond 256 word pieces is not cut but scored in windows of whole sentences.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import safe_open
from torch import nn

from semlink.semantics.int8_tensors import unpack
from semlink.semantics.spaces import weights_of
from semlink.semantics.text import WIDTH as TRUNK_WIDTH
from semlink.semantics.text import minilm

MAX_TOKENS: Final = 256
"""Word pieces that the student sees at once (paper 002, §4.3)."""
_BATCH: Final = 32
_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class StudentConfig:
    """Shape of the trained part. ``joint`` False lets each sentence see only itself: the ablation."""

    width: int = 128
    num_layers: int = 1
    num_heads: int = 4
    num_cosines: int = 8
    dropout: float = 0.1
    joint: bool = True

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class SentenceBatch:
    """Texts as the student reads them.

    ``values`` [batch, tokens, 384] float32, the sentences of a text one after the other; ``sentence`` [batch, tokens]
    int64, the number of each token's sentence, −1 for padding; ``starts`` [batch, sentences] int64, where each
    sentence's [CLS] is; ``real`` [batch, sentences] bool, False for padding.
    """

    values: torch.Tensor
    sentence: torch.Tensor
    starts: torch.Tensor
    real: torch.Tensor


def sentence_batch(texts: Sequence[Sequence[torch.Tensor]]) -> SentenceBatch:
    """One batch of texts, each given as the trunk's states of its sentences, [tokens, 384] each."""
    lengths = [[len(states) for states in text] for text in texts]
    width = max(map(sum, lengths))
    most = max(map(len, lengths))
    values = torch.zeros(len(texts), width, TRUNK_WIDTH)
    sentence = torch.full((len(texts), width), -1)
    starts = torch.zeros(len(texts), most, dtype=torch.int64)
    real = torch.zeros(len(texts), most, dtype=torch.bool)
    for row, text in enumerate(texts):
        size = torch.tensor(lengths[row])
        values[row, : size.sum()] = torch.cat(list(text)).float()
        sentence[row, : size.sum()] = torch.arange(len(size)).repeat_interleave(size)
        starts[row, : len(size)] = size.cumsum(0) - size
        real[row, : len(size)] = True
    return SentenceBatch(values, sentence, starts, real)


class SentenceScorer(nn.Module):
    """The trained part: the trunk's states, interval segments, positions, joint layers, a score for each [CLS].

    Agreement (our definition): the means of two sentences' states are compared by ``num_cosines`` learned cosines; a
    sentence's [CLS] is told the mean and the maximum of each over the other sentences.

    ``forward(batch) -> [batch, sentences]``: ``ŝ`` before the sigmoid (eq. 3); meaningless where ``real`` is False.
    """

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        self.config = config
        self.norm = nn.LayerNorm(TRUNK_WIDTH)
        self.project = nn.Linear(TRUNK_WIDTH, config.width)
        self.segments = nn.Parameter(torch.randn(2, config.width) * 0.02)
        self.positions = nn.Parameter(torch.randn(MAX_TOKENS, config.width) * 0.02)
        self.layers = nn.ModuleList(_layer(config) for _ in range(config.num_layers))
        if config.joint:
            self.compare = nn.Linear(TRUNK_WIDTH, TRUNK_WIDTH, bias=False)
            nn.init.orthogonal_(self.compare.weight)
            self.agreement = nn.Linear(2 * config.num_cosines, config.width)
            self.between = _layer(config)
        self.out_norm = nn.LayerNorm(config.width)
        self.out = nn.Linear(config.width, 1)

    def forward(self, batch: SentenceBatch) -> torch.Tensor:
        """See the class."""
        sentence = batch.sentence
        normed = self.norm(batch.values)
        x = self.project(normed) + self.positions[: sentence.shape[1]]
        x = x + self.segments[sentence.clamp_min(0) % 2]
        hidden = (sentence < 0)[:, None, :].expand(-1, sentence.shape[1], -1)
        if not self.config.joint:
            hidden = hidden | (sentence[:, :, None] != sentence[:, None, :])
        for layer in self.layers:
            x = layer(x, src_mask=self._mask(hidden))
        h = x.gather(1, batch.starts[:, :, None].expand(-1, -1, x.shape[2]))
        if self.config.joint:
            h = h + self.agreement(self._agreement(normed, batch))
            unseen = ~batch.real[:, None, :].expand(-1, h.shape[1], -1)
            h = self.between(h, src_mask=self._mask(unseen))
        out: torch.Tensor = self.out(self.out_norm(h)).squeeze(-1)
        return out

    def _mask(self, hidden: torch.Tensor) -> torch.Tensor:
        """What a place must not see, for every head; itself it always sees, or its softmax is not a number."""
        own = torch.eye(hidden.shape[1], dtype=torch.bool, device=hidden.device)
        return (hidden & ~own).repeat_interleave(self.config.num_heads, dim=0)

    def _agreement(self, normed: torch.Tensor, batch: SentenceBatch) -> torch.Tensor:
        """Mean and maximum of each cosine over the other sentences, [batch, sentences, 2 · num_cosines]."""
        num = batch.real.shape[1]
        member = batch.sentence[:, :, None] == torch.arange(num, device=normed.device)
        share = member.float() / member.sum(1, keepdim=True).clamp_min(1)
        means = self.compare(torch.einsum("bts,btd->bsd", share, normed))
        parts = nn.functional.normalize(
            means.view(*means.shape[:2], self.config.num_cosines, -1), dim=-1
        )
        cosines = torch.einsum("bihd,bjhd->bijh", parts, parts)
        other = batch.real[:, None, :] & ~torch.eye(num, dtype=torch.bool, device=normed.device)
        mean = (cosines * other[..., None]).sum(2) / other.sum(2).clamp_min(1)[..., None]
        largest = cosines.masked_fill(~other[..., None], -1.0).amax(2)
        largest = largest * other.any(2)[..., None]
        return torch.cat((mean, largest), dim=-1)


def _layer(config: StudentConfig) -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(
        config.width,
        config.num_heads,
        2 * config.width,
        config.dropout,
        activation="gelu",
        batch_first=True,
        norm_first=True,
    )


class Student:
    """A trained scorer with its trunk; safe to call from several threads.

    ``key_sentences``: κ as chosen on val.
    """

    def __init__(self, scorer: SentenceScorer, key_sentences: int, device: str = "cpu") -> None:
        self.device = device
        self.key_sentences = key_sentences
        self._scorer = scorer.to(device).eval().requires_grad_(False)

    @torch.inference_mode()
    def scores(self, texts: Sequence[Sequence[str]]) -> list[list[float]]:
        """``ŝ`` in 0…1 of each sentence of each text (eq. 3); sentences must not be blank."""
        flat = [sentence for text in texts for sentence in text]
        if not flat:
            return []
        states = [rows.cpu() for rows in minilm(self.device).packed_states(flat)]
        spans = [span for text in _numbered(texts) for span in _windows(text, states)]
        scored: list[float] = []
        for start in range(0, len(spans), _BATCH):
            batch = sentence_batch([[states[i] for i in s] for s in spans[start : start + _BATCH]])
            moved = SentenceBatch(
                *(
                    t.to(self.device)
                    for t in (batch.values, batch.sentence, batch.starts, batch.real)
                )
            )
            scored += torch.sigmoid(self._scorer(moved))[moved.real].tolist()
        return [[scored[i] for i in text] for text in _numbered(texts)]


def _numbered(texts: Sequence[Sequence[str]]) -> list[range]:
    """Of each text, the places of its sentences when all texts are laid end to end."""
    ranges = []
    place = 0
    for text in texts:
        ranges.append(range(place, place + len(text)))
        place += len(text)
    return ranges


def _windows(text: range, states: Sequence[torch.Tensor]) -> list[list[int]]:
    """Consecutive sentences of a text, as many as fit into MAX_TOKENS; none is longer than that by itself."""
    windows: list[list[int]] = []
    free = 0
    for i in text:
        if not windows or len(states[i]) > free:
            windows.append([])
            free = MAX_TOKENS
        windows[-1].append(i)
        free -= len(states[i])
    return windows


def load_student(path: Path, device: str = "cpu") -> Student:
    """A student as `semlink train student` wrote it."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        state = unpack({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    scorer = SentenceScorer(StudentConfig(**json.loads(metadata["config"])))
    scorer.load_state_dict(state)
    return Student(scorer, int(metadata["key_sentences"]), device)


@lru_cache(maxsize=4)
def _student(path: Path, mtime_ns: int, device: str) -> Student:  # noqa: ARG001 - a new file is a new student
    return load_student(path, device)


def student_of(space: str, device: str = "cpu") -> Student:
    """The process's student of a space. Raises NotFound, with the command that trains it, when there is none."""
    path = weights_of(space, "student")
    with _lock:
        return _student(path, path.stat().st_mtime_ns, device)
