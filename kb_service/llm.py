"""The LLM of the knowledge base: SmolLM2-135M-Instruct, sampled in batches whose rows never touch each other.

A request's tokens depend on its prompt, temperature and seed alone. Three things see to that:

- every sample draws from a random sequence of its own (Philox, keyed by seed and sample number);
- where a row's tokens stand in the key-value memory depends on the row alone: shared prefix, then the prompt padded on
  the left to the next size of :data:`PROMPT_SIZES`, then what was generated; only prompts of one size share a batch;
- a step never runs with fewer than :data:`MIN_ROWS` rows (fillers are added). Matrix products of one to a few rows take
  other kernels, which differ in the last bits (3e-5 in the logits); from 5 rows on they were bit-identical.

The last is a property of the matrix library, measured and held by a test, not a law: on a library where it fails, a
sample could differ where a draw falls within about 1e-5 of a token's edge.
"""

from __future__ import annotations

import fcntl
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from semlink.errors import DeadlineExceeded, InvalidField, SemlinkError
from semlink.links import stable_seed
from semlink.models import MODELS, locate

PROMPT_SIZES: Final = (32, 64, 128, 256, 512, 1024)
"""Tokens to which prompts are padded."""
MIN_ROWS: Final = 8
MAX_ROWS: Final = 24
"""Samples generated at once; more cost memory for attention and bring little (one core: 10 ms a row and token at 24,
27 ms at 5)."""
TOP_K: Final = 64
"""Tokens that top-p looks at; at temperatures below 1 the nucleus never holds more of this model's mass."""

_FORMAT: Final = 1
"""Of the converted model in the cache; raise it when the conversion changes."""
MODEL_NAME: Final = f"smollm2-{MODELS['smollm2'].sha256[:12]}-{_FORMAT}"
"""Folder of the converted model and name in the keys of what is kept."""


class GenerationCancelled(SemlinkError):
    """The caller asked to stop between two tokens."""


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """What to continue, and how.

    ``prompt`` follows the shared prefix; ``num_samples`` ≥ 1; ``temperature`` > 0 divides the logits;
    ``max_new_tokens`` ≥ 1 ends a sample that does not end itself.
    """

    prompt: str
    num_samples: int
    temperature: float
    seed: int
    max_new_tokens: int


@dataclass(frozen=True, slots=True)
class Prefix:
    """A prompt's beginning that many requests share, with its keys and values, each [1, heads, tokens, size]."""

    text: str
    num_tokens: int
    keys_values: tuple[tuple[torch.Tensor, torch.Tensor], ...]


@dataclass(slots=True)
class _Row:
    """One sample on its way."""

    request: int
    sample: int
    temperature: float
    limit: int
    draws: np.ndarray[Any, np.dtype[np.float64]]
    tokens: list[int] = field(default_factory=list)
    ended: bool = False


class LanguageModel:
    """A causal language model that samples continuations.

    ``name`` identifies weights and format, for keys of what is kept.
    """

    def __init__(self, model: Any, tokenizer: Any, *, name: str, device: str = "cpu") -> None:
        self.name = name
        self.device = torch.device(device)
        self._model = model.to(self.device).eval()
        self._tokenizer = tokenizer
        vocabulary = tokenizer.convert_ids_to_tokens(range(model.config.vocab_size))
        # A byte-level vocabulary writes the newline as "Ċ".
        self._ends = [t is None or "Ċ" in t for t in vocabulary]
        for special in tokenizer.all_special_ids:
            self._ends[special] = True

    @torch.inference_mode()
    def prefix(self, text: str) -> Prefix:
        """Read a beginning once. Raises InvalidField for an empty one."""
        tokens = self._tokens(text)
        if not tokens:
            raise InvalidField("prefix is empty", field="prefix")
        cache = self._model.model(
            input_ids=torch.tensor([tokens], device=self.device), use_cache=True
        ).past_key_values
        return Prefix(text, len(tokens), tuple((x.keys, x.values) for x in cache.layers))

    def generate(
        self,
        prefix: Prefix,
        requests: Sequence[GenerationRequest],
        *,
        top_p: float = 0.95,
        cancelled: Callable[[], bool] = lambda: False,
        deadline: float | None = None,
    ) -> list[list[str]]:
        """Samples of each request, in the order of the requests; each ends at a newline or the end of its turn.

        Top-p sampling (Holtzman et al. 2020): of the tokens in descending probability the first that together reach
        ``top_p`` stay, 0 < top_p ≤ 1. ``deadline`` is in seconds of time.monotonic. Between tokens, raises
        GenerationCancelled once ``cancelled()`` is true and DeadlineExceeded past the deadline; InvalidField for a
        prompt that is empty or longer than PROMPT_SIZES allow.
        """
        prompts = [self._checked(r, i) for i, r in enumerate(requests)]
        texts: list[list[str]] = [[""] * r.num_samples for r in requests]
        for size, members in _by_size(prompts):
            for chunk in _chunks(members, requests):
                rows = self._rows(chunk, requests)
                self._run(prefix, chunk, rows, prompts, size, top_p, _Stop(cancelled, deadline))
                for row in rows:
                    texts[row.request][row.sample] = self._text(row.tokens)
        return texts

    def _checked(self, request: GenerationRequest, index: int) -> list[int]:
        """The prompt's tokens. Raises InvalidField."""
        tokens = self._tokens(request.prompt)
        if not 1 <= len(tokens) <= PROMPT_SIZES[-1]:
            raise InvalidField(
                f"requests[{index}].prompt has {len(tokens)} tokens, allowed: 1…{PROMPT_SIZES[-1]}",
                field=f"requests[{index}].prompt",
            )
        if request.num_samples < 1 or request.max_new_tokens < 1 or not request.temperature > 0:
            raise InvalidField(
                f"requests[{index}]: num_samples, max_new_tokens and temperature must be positive",
                field=f"requests[{index}]",
            )
        return tokens

    @staticmethod
    def _rows(
        chunk: Sequence[tuple[int, int]], requests: Sequence[GenerationRequest]
    ) -> list[_Row]:
        rows = []
        for request, sample in chunk:
            wanted = requests[request]
            rng = np.random.Generator(np.random.Philox(key=stable_seed("llm", wanted.seed, sample)))
            limit = wanted.max_new_tokens
            rows.append(_Row(request, sample, wanted.temperature, limit, rng.random(limit)))
        return rows

    @torch.inference_mode()
    def _run(
        self,
        prefix: Prefix,
        chunk: Sequence[tuple[int, int]],
        rows: list[_Row],
        prompts: Sequence[list[int]],
        size: int,
        top_p: float,
        stop: _Stop,
    ) -> None:
        """Generate the rows of one chunk to their ends."""
        stop.check()
        members = sorted({request for request, _ in chunk})
        cache, seen = self._read(prefix, [prompts[i] for i in members], size)
        # From prompts to samples; fillers repeat the last one, so that a step never has fewer than MIN_ROWS rows.
        alive = list(range(len(rows)))
        source = [members.index(row.request) for row in rows]
        source += source[-1:] * (MIN_ROWS - len(source))
        chosen = torch.tensor(source, device=self.device)
        cache.batch_select_indices(chosen)
        seen = seen[chosen]
        token = torch.tensor([prompts[members[i]][-1] for i in source], device=self.device)
        position = prefix.num_tokens + torch.tensor(
            [len(prompts[members[i]]) - 1 for i in source], device=self.device
        )
        temperature = torch.tensor(
            [rows[min(i, len(rows) - 1)].temperature for i in range(len(source))]
        )
        for step in range(max(row.limit for row in rows)):
            stop.check()
            seen = torch.cat((seen, torch.ones_like(seen[:, :1])), dim=1)
            logits = self._model(
                input_ids=token[:, None],
                attention_mask=seen[:, None, None, :],
                position_ids=(position + step)[:, None],
                past_key_values=cache,
                use_cache=True,
            ).logits[:, -1]
            draws = [rows[i].draws[min(step, rows[i].limit - 1)] for i in alive]
            draws += draws[-1:] * (len(token) - len(draws))
            token = sample_top_p(logits, temperature, top_p, torch.tensor(draws))
            for i, value in zip(alive, token[: len(alive)].tolist(), strict=True):
                rows[i].ended = rows[i].ended or self._ends[value] or step >= rows[i].limit
                if not rows[i].ended:
                    rows[i].tokens.append(value)
                    rows[i].ended = step + 1 == rows[i].limit
            if all(rows[i].ended for i in alive):
                return
            keep = [n for n, i in enumerate(alive) if not rows[i].ended]
            if max(len(keep), MIN_ROWS) <= 0.75 * len(token):
                # Ended rows leave; one of them fills up where fewer than MIN_ROWS remain.
                alive = [alive[n] for n in keep]
                keep += keep[-1:] * (MIN_ROWS - len(keep))
                chosen = torch.tensor(keep, device=self.device)
                cache.batch_select_indices(chosen)
                seen, token, position = seen[chosen], token[chosen], position[chosen]
                temperature = temperature[chosen.cpu()]

    def _read(
        self, prefix: Prefix, prompts: Sequence[list[int]], size: int
    ) -> tuple[Any, torch.Tensor]:
        """Keys and values of prefix and prompts without their last token, and which of them may be seen.

        The last token is left to the first step, so that all logits come from a step of at least MIN_ROWS rows.
        """
        from transformers import DynamicCache

        num, width = len(prompts), size - 1
        cache = DynamicCache(config=self._model.config)
        for layer, (keys, values) in enumerate(prefix.keys_values):
            cache.update(keys.expand(num, -1, -1, -1), values.expand(num, -1, -1, -1), layer)
        tokens = torch.zeros(num, width, dtype=torch.int64)
        real = torch.zeros(num, width, dtype=torch.bool)
        for row, prompt in enumerate(prompts):
            body = prompt[:-1]
            tokens[row, width - len(body) :] = torch.tensor(body, dtype=torch.int64)
            real[row, width - len(body) :] = True
        seen = torch.cat((torch.ones(num, prefix.num_tokens, dtype=torch.bool), real), dim=1)
        causal = torch.ones(width, prefix.num_tokens + width, dtype=torch.bool).tril(
            prefix.num_tokens
        )
        # What a padded place computes is never looked at, but it must see something: the prefix.
        position = prefix.num_tokens + (real.cumsum(dim=1) - 1).clamp_min(0)
        self._model.model(
            input_ids=tokens.to(self.device),
            attention_mask=(seen[:, None, None, :] & causal).to(self.device),
            position_ids=position.to(self.device),
            past_key_values=cache,
            use_cache=True,
        )
        return cache, seen.to(self.device)

    def _tokens(self, text: str) -> list[int]:
        tokens: list[int] = self._tokenizer(text, add_special_tokens=False).input_ids
        return tokens

    def _text(self, tokens: list[int]) -> str:
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=True)
        return text.strip()


def sample_top_p(
    logits: torch.Tensor, temperature: torch.Tensor, top_p: float, draws: torch.Tensor
) -> torch.Tensor:
    """One token a row by top-p sampling: the inverse of the nucleus' distribution function at ``draws``.

    ``logits`` [rows, vocabulary], ``temperature`` [rows] > 0, ``draws`` [rows] in [0, 1). Returns [rows], int64.
    Raises InvalidField for a ``top_p`` outside (0, 1].
    """
    if not 0 < top_p <= 1:
        raise InvalidField(f"top_p is {top_p}, allowed: above 0, at most 1", field="top_p")
    scaled = logits.double() / temperature.to(logits.device, torch.float64)[:, None]
    best, tokens = scaled.topk(min(TOP_K, scaled.shape[-1]), dim=-1)
    probability = torch.exp(best - scaled.logsumexp(dim=-1, keepdim=True))
    before = probability.cumsum(dim=-1) - probability
    nucleus = torch.where(before < top_p, probability, 0.0).cumsum(dim=-1)
    at = draws.to(logits.device, torch.float64)[:, None] * nucleus[:, -1:]
    place = torch.searchsorted(nucleus, at, right=True).clamp_max(nucleus.shape[-1] - 1)
    return tokens.gather(1, place).squeeze(1)


@dataclass(frozen=True, slots=True)
class _Stop:
    cancelled: Callable[[], bool]
    deadline: float | None

    def check(self) -> None:
        if self.cancelled():
            raise GenerationCancelled("generation was cancelled")
        if self.deadline is not None and time.monotonic() >= self.deadline:
            raise DeadlineExceeded("generation ran past its deadline", field="deadline_ms")


def _by_size(prompts: Sequence[list[int]]) -> Iterator[tuple[int, list[int]]]:
    """The requests of each prompt size."""
    sizes = [next(s for s in PROMPT_SIZES if len(p) <= s) for p in prompts]
    for size in sorted(set(sizes)):
        yield size, [i for i, s in enumerate(sizes) if s == size]


def _chunks(
    members: Sequence[int], requests: Sequence[GenerationRequest]
) -> Iterator[list[tuple[int, int]]]:
    """(request, sample) pairs, MAX_ROWS at a time."""
    pairs = [(i, sample) for i in members for sample in range(requests[i].num_samples)]
    for start in range(0, len(pairs), MAX_ROWS):
        yield pairs[start : start + MAX_ROWS]


def load_language_model(cache_dir: Path, *, device: str = "cpu") -> LanguageModel:
    """SmolLM2-135M-Instruct in float32 from the installed package, converted once into ``cache_dir``.

    float32, because this model steps 5 to 24 rows 1.6 to 3.3 times faster in it than in bfloat16 on a CPU without
    bfloat16 instructions (one core: 136 and 240 ms against 212 and 790 ms); the file is bfloat16's double, 538 MB.
    Blocks for about 25 s the first time. Raises NotFound with the command that installs the model, CorruptModel for
    other bytes than the pinned ones.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    folder = prepare_language_model(cache_dir)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return LanguageModel(model, tokenizer, name=MODEL_NAME, device=device)


def prepare_language_model(cache_dir: Path) -> Path:
    """Folder in ``cache_dir`` of the converted model, made if it is not there; raises as load_language_model."""
    folder = cache_dir / MODEL_NAME
    if not folder.is_dir():
        _convert(locate("smollm2"), folder)
    return folder


def _convert(weights: Path, folder: Path) -> None:
    """Dequantise the GGUF file into ``folder``, which appears whole or not at all."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    folder.parent.mkdir(parents=True, exist_ok=True)
    with _only_one(folder.with_suffix(".lock")):
        if folder.is_dir():  # another process was faster
            return
        model = AutoModelForCausalLM.from_pretrained(
            weights.parent,
            gguf_file=weights.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.float32,
        )
        tokenizer = AutoTokenizer.from_pretrained(weights.parent, gguf_file=weights.name)
        unfinished = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{folder.name}."))
        try:
            model.save_pretrained(unfinished)
            tokenizer.save_pretrained(unfinished)
            unfinished.chmod(0o755)
            unfinished.rename(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


@contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """Hold a lock file; other processes wait. The kernel lets go when the process dies."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
