"""The LLM of the knowledge base in this process: by default SmolLM2-135M-Instruct, or any causal language model that
transformers loads, sampled in batches whose rows never touch each other.

A request's tokens depend on its prompt, temperature and seed alone. Three things see to that:

- every sample draws from a random sequence of its own (Philox, keyed by seed and sample number);
- where a row's tokens stand in the key-value memory depends on the row alone: shared prefix (of several that were
  prepared together, each padded on the left to the longest), then the prompt padded on the left to the next size of
  :data:`PROMPT_SIZES`, then what was generated; only prompts of one size share a batch;
- a step never runs with fewer than :data:`MIN_ROWS` rows (fillers are added). Matrix products of one to a few rows take
  other kernels, which differ more.

What stands beside a row still moves its logits by rounding, about 3e-5 at most: by how much is up to the matrix library
and the processor. A sample can therefore differ where a draw falls that near to a token's edge; a store keeps what was
sampled first. Nothing here promises equal bits.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from kb_service.prompting import TextFormat, Turn
from semlink.errors import InvalidField, NotFound, SemlinkError
from semlink.models import MODELS, locate
from semlink.seeds import stable_seed

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
"""Folder of the converted model and name in the keys of what is stored."""


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
    """A prompt's beginning that many requests share, with its keys and values, each [1, heads, width, size].

    ``width`` ≥ ``num_tokens``: what is more is padding on the left. Prefixes of one width share batches.
    """

    text: str
    num_tokens: int
    width: int
    keys_values: tuple[tuple[torch.Tensor, torch.Tensor], ...]


@dataclass(frozen=True, slots=True)
class Dialogue:
    """What to answer, and how often: ``shared`` turns, then a user's turn ``ask``; the rest as in GenerationRequest."""

    shared: tuple[Turn, ...]
    ask: str
    num_samples: int
    temperature: float
    seed: int
    max_new_tokens: int


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

    ``name`` identifies weights and format, for keys of what is stored.
    """

    def __init__(self, model: Any, tokenizer: Any, *, name: str, device: str = "cpu") -> None:
        self.name = name
        self.device = torch.device(device)
        self._model = model.to(self.device).eval()
        self._tokenizer = tokenizer
        self._format = TextFormat(tokenizer)
        self._prefixes: dict[tuple[Turn, ...], Prefix] = {}
        self._context: int = getattr(model.config, "max_position_embeddings", None) or 2**31
        vocabulary = tokenizer.convert_ids_to_tokens(range(model.config.vocab_size))
        # The newline of byte-level and of byte-fallback vocabularies, and itself.
        self._ends = [t is None or t == "<0x0A>" or "Ċ" in t or "\n" in t for t in vocabulary]
        ends = getattr(model.generation_config, "eos_token_id", None)
        for special in (*tokenizer.all_special_ids, *np.atleast_1d(ends if ends else [])):
            if special < len(self._ends):
                self._ends[special] = True

    def prepare(self, beginnings: Sequence[tuple[Turn, ...]]) -> None:
        """Read the beginnings of dialogues once; dialogues that begin so share batches, whichever their beginning."""
        prefixes = [self.prefix(self._format.beginning(shared)) for shared in beginnings]
        width = max(prefix.num_tokens for prefix in prefixes)
        self._prefixes |= {
            shared: _widened(prefix, width)
            for shared, prefix in zip(beginnings, prefixes, strict=True)
        }

    def answer(
        self,
        dialogues: Sequence[Dialogue],
        *,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> list[list[str]]:
        """Samples of each dialogue's next turn, as :meth:`generate`; a beginning that is not prepared is read anew."""
        prefixes = [
            self._prefixes.get(d.shared) or self.prefix(self._format.beginning(d.shared))
            for d in dialogues
        ]
        requests = [
            GenerationRequest(
                self._format.request(d.shared, d.ask),
                d.num_samples,
                d.temperature,
                d.seed,
                d.max_new_tokens,
            )
            for d in dialogues
        ]
        return self.generate(prefixes, requests, cancelled=cancelled)

    @torch.inference_mode()
    def prefix(self, text: str) -> Prefix:
        """Read a beginning once. Raises InvalidField for an empty one."""
        tokens = self._opening(text)
        if not tokens:
            raise InvalidField("prefix is empty", field="prefix")
        cache = self._model.base_model(
            input_ids=torch.tensor([tokens], device=self.device), use_cache=True
        ).past_key_values
        num = len(tokens)
        return Prefix(text, num, num, tuple((x.keys, x.values) for x in cache.layers))

    @torch.inference_mode()
    def check(self) -> None:
        """Compare one step of the batched sampler with the model run plainly.

        Raises InvalidField for a model whose memory or attention does not work as the sampler needs it.
        """
        from transformers import DynamicCache
        from transformers.cache_utils import DynamicLayer

        layers = DynamicCache(config=self._model.config).layers
        if any(type(layer) is not DynamicLayer for layer in layers):
            raise self._unusable("its memory slides or recurs")
        prefix, short, long = self.prefix("A dog and"), "one", "a cat of many colours"
        tokens = [self._tokens(short), self._tokens(long)]
        size = next(s for s in PROMPT_SIZES if s > max(map(len, tokens)))
        wide = _widened(prefix, prefix.num_tokens + 3)
        cache, seen = self._read([wide, wide], tokens, size)
        logits = self._model(
            input_ids=torch.tensor([[t[-1]] for t in tokens], device=self.device),
            attention_mask=torch.cat((seen, torch.ones_like(seen[:, :1])), 1)[:, None, None, :],
            position_ids=torch.tensor(
                [[prefix.num_tokens + len(t) - 1] for t in tokens], device=self.device
            ),
            past_key_values=cache,
            use_cache=True,
        ).logits[:, -1]
        for found, text in zip(logits, tokens, strict=True):
            whole = torch.tensor([self._opening(prefix.text) + text], device=self.device)
            plain = self._model(input_ids=whole).logits[0, -1]
            off = (found.float() - plain.float()).abs().max()
            if not off <= 0.05 * plain.float().std():
                raise self._unusable("in a padded batch it computes something else than alone")

    def _unusable(self, why: str) -> InvalidField:
        return InvalidField(
            f"{self.name} cannot be served in this process: {why}; serve it behind an endpoint instead "
            "(SEMLINK_LLM=endpoint)",
            field="SEMLINK_LLM_MODEL",
        )

    def generate(
        self,
        prefix: Prefix | Sequence[Prefix],
        requests: Sequence[GenerationRequest],
        *,
        top_p: float = 0.95,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> list[list[str]]:
        """Samples of each request, in the order of the requests; each ends at a newline or the end of its turn.

        Top-p sampling (Holtzman et al. 2020): of the tokens in descending probability the first that together reach
        ``top_p`` stay, 0 < top_p ≤ 1. ``prefix``: of all, or one a request. Raises GenerationCancelled between tokens
        once ``cancelled()`` is true, InvalidField for a prompt that is empty or longer than PROMPT_SIZES and the
        model's context allow.
        """
        prefixes = [prefix] * len(requests) if isinstance(prefix, Prefix) else list(prefix)
        prompts = [
            self._checked(request, i, prefixes[i].num_tokens) for i, request in enumerate(requests)
        ]
        texts: list[list[str]] = [[""] * r.num_samples for r in requests]
        for size, members in _by_size(prompts, prefixes):
            for chunk in _chunks(members, requests):
                rows = self._rows(chunk, requests)
                self._run(prefixes, chunk, rows, prompts, size, top_p, cancelled)
                for row in rows:
                    texts[row.request][row.sample] = self._text(row.tokens)
        return texts

    def _checked(self, request: GenerationRequest, index: int, before: int) -> list[int]:
        """The prompt's tokens, which follow ``before`` others. Raises InvalidField."""
        tokens = self._tokens(request.prompt)
        longest = min(PROMPT_SIZES[-1], self._context - before - request.max_new_tokens)
        if not 1 <= len(tokens) <= longest:
            raise InvalidField(
                f"requests[{index}].prompt has {len(tokens)} tokens, allowed: 1…{longest}",
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
        prefixes: Sequence[Prefix],
        chunk: Sequence[tuple[int, int]],
        rows: list[_Row],
        prompts: Sequence[list[int]],
        size: int,
        top_p: float,
        cancelled: Callable[[], bool],
    ) -> None:
        """Generate the rows of one chunk to their ends."""
        _check(cancelled)
        members = sorted({request for request, _ in chunk})
        cache, seen = self._read(
            [prefixes[i] for i in members], [prompts[i] for i in members], size
        )
        # From prompts to samples; fillers repeat the last one, so that a step never has fewer than MIN_ROWS rows.
        alive = list(range(len(rows)))
        source = [members.index(row.request) for row in rows]
        source += source[-1:] * (MIN_ROWS - len(source))
        chosen = torch.tensor(source, device=self.device)
        cache.batch_select_indices(chosen)
        seen = seen[chosen]
        token = torch.tensor([prompts[members[i]][-1] for i in source], device=self.device)
        position = torch.tensor(
            [prefixes[members[i]].num_tokens + len(prompts[members[i]]) - 1 for i in source],
            device=self.device,
        )
        temperature = torch.tensor(
            [rows[min(i, len(rows) - 1)].temperature for i in range(len(source))]
        )
        for step in range(max(row.limit for row in rows)):
            _check(cancelled)
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
        self, prefixes: Sequence[Prefix], prompts: Sequence[list[int]], size: int
    ) -> tuple[Any, torch.Tensor]:
        """Keys and values of prefixes and prompts without their last token, and which of them may be seen.

        The last token is left to the first step, so that all logits come from a step of at least MIN_ROWS rows.
        """
        from transformers import DynamicCache

        num, width = len(prompts), size - 1
        before = prefixes[0].width
        cache = DynamicCache(config=self._model.config)
        for layer in range(len(prefixes[0].keys_values)):
            keys, values = (
                torch.cat([prefix.keys_values[layer][part] for prefix in prefixes])
                for part in (0, 1)
            )
            cache.update(keys, values, layer)
        tokens = torch.zeros(num, width, dtype=torch.int64)
        real = torch.zeros(num, width, dtype=torch.bool)
        for row, prompt in enumerate(prompts):
            body = prompt[:-1]
            tokens[row, width - len(body) :] = torch.tensor(body, dtype=torch.int64)
            real[row, width - len(body) :] = True
        lengths = torch.tensor([prefix.num_tokens for prefix in prefixes])
        shared = torch.arange(before) >= before - lengths[:, None]
        seen = torch.cat((shared, real), dim=1)
        causal = torch.ones(width, before + width, dtype=torch.bool).tril(before)
        # What a padded place computes is never looked at, but it must see something: the prefix.
        position = lengths[:, None] + (real.cumsum(dim=1) - 1).clamp_min(0)
        self._model.base_model(
            input_ids=tokens.to(self.device),
            attention_mask=(seen[:, None, None, :] & causal).to(self.device),
            position_ids=position.to(self.device),
            past_key_values=cache,
            use_cache=True,
        )
        return cache, seen.to(self.device)

    def _opening(self, text: str) -> list[int]:
        """Tokens of a text's beginning: after the token that begins every text, where the tokenizer has one."""
        tokens = self._tokens(text)
        first = self._tokenizer.bos_token_id
        added: list[int] = self._tokenizer(text).input_ids
        starts = first is not None and added[:1] == [first] and tokens[:1] != [first]
        return [first, *tokens] if starts else tokens

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


def _check(cancelled: Callable[[], bool]) -> None:
    if cancelled():
        raise GenerationCancelled("generation was cancelled")


def _widened(prefix: Prefix, width: int) -> Prefix:
    """The prefix padded on the left, where nothing is ever seen."""
    more = (0, 0, width - prefix.num_tokens, 0)
    padded = tuple(
        (torch.nn.functional.pad(keys, more), torch.nn.functional.pad(values, more))
        for keys, values in prefix.keys_values
    )
    return Prefix(prefix.text, prefix.num_tokens, width, padded)


def _by_size(
    prompts: Sequence[list[int]], prefixes: Sequence[Prefix]
) -> Iterator[tuple[int, list[int]]]:
    """The requests of each prompt size and prefix width."""
    kinds = [
        (next(s for s in PROMPT_SIZES if len(prompt) <= s), prefix.width)
        for prompt, prefix in zip(prompts, prefixes, strict=True)
    ]
    for kind in sorted(set(kinds)):
        yield kind[0], [i for i, k in enumerate(kinds) if k == kind]


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


def load_causal_lm(name: str, *, revision: str = "", device: str = "cpu") -> LanguageModel:
    """Any causal language model of transformers, by its name on the model hub or from a local folder.

    float32 on a CPU, the checkpoint's own type on a GPU. Raises NotFound where there is no such model or the hub cannot
    be reached, InvalidField for a model that the sampler cannot serve; both name ``SEMLINK_LLM_MODEL``.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    local = Path(name).expanduser()
    source = local if local.is_dir() else name
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision or "main")
        model = AutoModelForCausalLM.from_pretrained(
            source,
            revision=revision or "main",
            dtype=torch.float32 if device == "cpu" else "auto",
        )
    except (OSError, ValueError) as error:
        raise NotFound(
            f"the language model {name!r} cannot be loaded: {str(error).splitlines()[0]}",
            field="SEMLINK_LLM_MODEL",
        ) from error
    llm = LanguageModel(model, tokenizer, name=identity_of(name, revision), device=device)
    llm.check()
    return llm


def identity_of(name: str, revision: str = "") -> str:
    """What a causal language model is called in keys: a local folder by its content, else name and revision.

    Of files over 16 MiB the size and both ends count. Pin a commit where a revision may move.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return f"hub:{name}@{revision or 'main'}"
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(p for p in folder.iterdir() if p.is_file()):
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as file:
            digest.update(file.read(_END_BYTES if size > _WHOLE_BYTES else size))
            if size > _WHOLE_BYTES:
                file.seek(-_END_BYTES, 2)
                digest.update(file.read())
    return f"local:{folder.resolve().name}-{digest.hexdigest()}"


_WHOLE_BYTES: Final = 16 * 2**20
_END_BYTES: Final = 2**20


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
