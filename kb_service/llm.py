"""The LLM of the knowledge base in this process: by default SmolLM2-135M-Instruct, or any causal language model that
transformers loads, sampled in batches.

A request's tokens depend on its prompt, temperature and seed alone: every sample draws from a random sequence of its
own (Philox, keyed by seed and sample number), and no row of a batch sees another one. Samples of one prompt that have
said the same so far are one row of the model, of which each draws its own next token.

The embedded model runs on the CPU by OpenVINO, others and on other devices by torch (:mod:`kb_service.decoders`). Which
of them, and what stands beside a row, moves its logits by rounding, about 1e-4 at most. A sample can therefore differ
where a draw falls that near to a token's edge; a store keeps what was sampled first. Nothing here promises equal bits.
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
from prometheus_client import Counter

from kb_service.decoders import Decoder, KeysValues, OpenVinoDecoder, TorchDecoder
from kb_service.prompting import TextFormat, Turn
from semlink import runtime
from semlink.errors import InvalidField, NotFound, SemlinkError
from semlink.models import MODELS, locate
from semlink.seeds import stable_seed

MAX_PROMPT: Final = 1024
"""Tokens of a prompt after its shared prefix."""
MAX_ROWS: Final = 40
"""Samples generated at once; more cost memory for attention and bring little (one core, OpenVINO: 3.6 ms a row and
token at 40, 4.0 at 24, 6.1 at 8, 21 alone)."""
TOP_K: Final = 64
"""Tokens that top-p looks at; at temperatures below 1 the nucleus never holds more of this model's mass."""

_FORMAT: Final = 1
"""Of the converted model in the cache; raise it when the conversion changes."""
MODEL_NAME: Final = f"smollm2-{MODELS['smollm2'].sha256[:12]}-{_FORMAT}"
"""Folder of the converted model and name in the keys of what is stored."""
TOKENS: Final = Counter(
    "semlink_llm_tokens", "Tokens that the LLM generated, in answers that ended"
)


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
    keys_values: KeysValues


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
class _Sample:
    """One sample on its way."""

    request: int
    number: int
    limit: int
    draws: np.ndarray[Any, np.dtype[np.float64]]
    tokens: list[int] = field(default_factory=list)


class LanguageModel:
    """A causal language model that samples continuations.

    ``name`` identifies weights and format, for keys of what is stored. ``config`` and ``ends`` are those of
    transformers: the model's configuration, and the tokens that end a text.
    """

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: Any,
        *,
        name: str,
        config: Any,
        ends: int | Sequence[int] | None,
    ) -> None:
        self.name = name
        self._decoder = decoder
        self._tokenizer = tokenizer
        self._format = TextFormat(tokenizer)
        self._prefixes: dict[tuple[Turn, ...], Prefix] = {}
        self._config = config
        self._context: int = getattr(config, "max_position_embeddings", None) or 2**31
        vocabulary = tokenizer.convert_ids_to_tokens(range(config.vocab_size))
        # The newline of byte-level and of byte-fallback vocabularies, and itself.
        self._ends = [t is None or t == "<0x0A>" or "Ċ" in t or "\n" in t for t in vocabulary]
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
        num = len(tokens)
        self._decoder.begin([])
        self._decoder.step(
            [0],
            torch.tensor([tokens]),
            torch.arange(num)[None],
            torch.ones(1, num, num, dtype=torch.bool).tril(),
        )
        return Prefix(text, num, num, self._decoder.memory())

    @torch.inference_mode()
    def check(self, model: Any) -> None:
        """Compare two steps of the batched sampler with ``model``, the one of transformers that it runs, run plainly.

        Raises InvalidField for a model whose memory or attention does not work as the sampler needs it.
        """
        from transformers import DynamicCache
        from transformers.cache_utils import DynamicLayer

        layers = DynamicCache(config=self._config).layers
        if any(type(layer) is not DynamicLayer for layer in layers):
            raise self._unusable("its memory slides or recurs")
        prefix = self.prefix("A dog and")
        texts = [self._tokens("one"), self._tokens("a cat of many colours")]
        wide = _widened(prefix, prefix.num_tokens + 3)

        def compare(found: torch.Tensor) -> None:
            for logits, text in zip(found, texts, strict=True):
                whole = torch.tensor([self._opening(prefix.text) + text], device=model.device)
                plain = model(input_ids=whole).logits[0, -1].float()
                if not (logits - plain).abs().max() <= 0.05 * plain.std():
                    raise self._unusable("in a padded batch it computes something else than alone")

        logits, seen, position = self._read([wide, wide], texts)
        compare(logits)
        texts = [[*text, text[0]] for text in reversed(texts)]
        compare(self._next([1, 0], [text[-1] for text in texts], position, seen)[0])

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
        try:
            for chunk in _chunks(prompts, prefixes, requests):
                samples = _samples(chunk, requests)
                self._run(prefixes, requests, prompts, samples, top_p, cancelled)
                for sample in samples:
                    texts[sample.request][sample.number] = self._text(sample.tokens)
        finally:
            self._decoder.begin([])  # gives the memory of the batch back
        return texts

    def _checked(self, request: GenerationRequest, index: int, before: int) -> list[int]:
        """The prompt's tokens, which follow ``before`` others. Raises InvalidField."""
        tokens = self._tokens(request.prompt)
        longest = min(MAX_PROMPT, self._context - before - request.max_new_tokens)
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

    @torch.inference_mode()
    def _run(
        self,
        prefixes: Sequence[Prefix],
        requests: Sequence[GenerationRequest],
        prompts: Sequence[list[int]],
        samples: Sequence[_Sample],
        top_p: float,
        cancelled: Callable[[], bool],
    ) -> None:
        """Generate the samples of one chunk to their ends."""
        _check(cancelled)
        members = sorted({sample.request for sample in samples})
        logits, seen, position = self._read(
            [prefixes[i] for i in members], [prompts[i] for i in members]
        )
        temperature = torch.tensor([requests[i].temperature for i in members])
        # A row of the model is a prompt with what was generated; of each sample that goes on: its row.
        going = [(sample, members.index(sample.request)) for sample in samples]
        while True:
            tokens, shares = nucleus(logits, temperature, top_p)
            at = [row for _, row in going]
            draws = torch.tensor([sample.draws[len(sample.tokens)] for sample, _ in going])
            drawn = _drawn(tokens[at], shares[at], draws).tolist()
            following: dict[tuple[int, int], int] = {}
            still = []
            for (sample, row), token in zip(going, drawn, strict=True):
                if self._ends[token]:
                    continue
                sample.tokens.append(token)
                if len(sample.tokens) < sample.limit:
                    still.append((sample, following.setdefault((row, token), len(following))))
            if not still:
                return
            _check(cancelled)
            going, rows = still, [row for row, _ in following]
            logits, seen, position = self._next(
                rows, [token for _, token in following], position, seen
            )
            temperature = temperature[rows]

    def _next(
        self, rows: list[int], tokens: Sequence[int], position: torch.Tensor, seen: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Continue rows by a token each; what :meth:`_read` returns."""
        seen = torch.nn.functional.pad(seen[rows], (0, 1), value=True)
        position = position[rows]
        logits = self._decoder.step(
            rows, torch.tensor(tokens)[:, None], position[:, None], seen[:, None]
        )
        return logits, seen, position + 1

    def _read(
        self, prefixes: Sequence[Prefix], prompts: Sequence[list[int]]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Begin a batch: read prompts, each after its prefix, padded on the left to the longest.

        Returns the logits after each, which places of the memory it may see, and the position of its next token.
        """
        num, width, before = len(prompts), max(map(len, prompts)), prefixes[0].width
        tokens = torch.zeros(num, width, dtype=torch.int64)
        real = torch.zeros(num, width, dtype=torch.bool)
        for row, prompt in enumerate(prompts):
            tokens[row, width - len(prompt) :] = torch.tensor(prompt)
            real[row, width - len(prompt) :] = True
        lengths = torch.tensor([prefix.num_tokens for prefix in prefixes])
        shared = torch.arange(before) >= before - lengths[:, None]
        seen = torch.cat((shared, real), dim=1)
        causal = torch.ones(width, before + width, dtype=torch.bool).tril(before)
        # What a padded place computes is never looked at, but it must see something: the prefix.
        positions = lengths[:, None] + (real.cumsum(dim=1) - 1).clamp_min(0)
        different = {id(prefix): prefix for prefix in prefixes}
        self._decoder.begin([prefix.keys_values for prefix in different.values()])
        rows = [list(different).index(id(prefix)) for prefix in prefixes]
        logits = self._decoder.step(rows, tokens, positions, seen[:, None] & causal)
        return logits, seen, lengths + real.sum(dim=1)

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
        TOKENS.inc(len(tokens))
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=True)
        return text.strip()


def sample_top_p(
    logits: torch.Tensor, temperature: torch.Tensor, top_p: float, draws: torch.Tensor
) -> torch.Tensor:
    """One token a row by top-p sampling: the inverse of the nucleus' distribution function at ``draws``.

    ``logits`` [rows, vocabulary], ``temperature`` [rows] > 0, ``draws`` [rows] in [0, 1). Returns [rows], int64.
    Raises InvalidField for a ``top_p`` outside (0, 1].
    """
    return _drawn(*nucleus(logits, temperature, top_p), draws)


def nucleus(
    logits: torch.Tensor, temperature: torch.Tensor, top_p: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The likeliest tokens of each row [rows, TOP_K], and what the nucleus' first ones hold together, float64.

    Arguments and errors as of :func:`sample_top_p`.
    """
    if not 0 < top_p <= 1:
        raise InvalidField(f"top_p is {top_p}, allowed: above 0, at most 1", field="top_p")
    scaled = logits.double() / temperature.to(logits.device, torch.float64)[:, None]
    best, tokens = scaled.topk(min(TOP_K, scaled.shape[-1]), dim=-1)
    probability = torch.exp(best - scaled.logsumexp(dim=-1, keepdim=True))
    before = probability.cumsum(dim=-1) - probability
    return tokens, torch.where(before < top_p, probability, 0.0).cumsum(dim=-1)


def _drawn(tokens: torch.Tensor, shares: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """The token of each row's nucleus where its draw falls."""
    at = draws.to(shares.device, torch.float64)[:, None] * shares[:, -1:]
    place = torch.searchsorted(shares, at, right=True).clamp_max(shares.shape[-1] - 1)
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


def _chunks(
    prompts: Sequence[list[int]],
    prefixes: Sequence[Prefix],
    requests: Sequence[GenerationRequest],
) -> Iterator[list[tuple[int, int]]]:
    """(request, sample) pairs of prefixes of one width, MAX_ROWS at a time, prompts of similar length together."""
    for width in sorted({prefix.width for prefix in prefixes}):
        members = [i for i, prefix in enumerate(prefixes) if prefix.width == width]
        members.sort(key=lambda i: len(prompts[i]))
        pairs = [(i, sample) for i in members for sample in range(requests[i].num_samples)]
        for start in range(0, len(pairs), MAX_ROWS):
            yield pairs[start : start + MAX_ROWS]


def _samples(
    chunk: Sequence[tuple[int, int]], requests: Sequence[GenerationRequest]
) -> list[_Sample]:
    samples = []
    for request, number in chunk:
        wanted = requests[request]
        rng = np.random.Generator(np.random.Philox(key=stable_seed("llm", wanted.seed, number)))
        limit = wanted.max_new_tokens
        samples.append(_Sample(request, number, limit, rng.random(limit)))
    return samples


def load_language_model(
    cache_dir: Path, *, device: str = "cpu", runs_on: runtime.RuntimeName | None = None
) -> LanguageModel:
    """SmolLM2-135M-Instruct in float32 from the installed package, converted once into ``cache_dir``.

    On the CPU ``runs_on`` runs it, by default what runs the networks of this process; elsewhere torch does. float32
    whatever the precision of the process, so that what is stored and what is generated now are of one model. Blocks
    for about 25 s the first time, then 2. Raises NotFound with the command that installs the model, CorruptModel for
    other bytes than the pinned ones.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    folder = prepare_language_model(cache_dir)
    decoder: Decoder
    if device == "cpu" and (runs_on or runtime.current().name) == "openvino":
        decoder = OpenVinoDecoder(folder, num_threads=torch.get_num_threads())
    else:
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True
        )
        decoder = TorchDecoder(model.to(device).eval())
    return LanguageModel(
        decoder,
        AutoTokenizer.from_pretrained(folder, local_files_only=True),
        name=MODEL_NAME,
        config=AutoConfig.from_pretrained(folder, local_files_only=True),
        ends=GenerationConfig.from_pretrained(folder, local_files_only=True).eos_token_id,
    )


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
        model: Any = AutoModelForCausalLM.from_pretrained(
            source,
            revision=revision or "main",
            dtype=torch.float32 if device == "cpu" else "auto",
        )
    except (OSError, ValueError) as error:
        raise NotFound(
            f"the language model {name!r} cannot be loaded: {str(error).splitlines()[0]}",
            field="SEMLINK_LLM_MODEL",
        ) from error
    model = model.to(device).eval()
    llm = LanguageModel(
        TorchDecoder(model),
        tokenizer,
        name=identity_of(name, revision),
        config=model.config,
        ends=getattr(model.generation_config, "eos_token_id", None),
    )
    llm.check(model)
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
