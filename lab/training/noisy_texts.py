"""Noisy sets from any captioned corpus: ``semlink corpora make-noisy``. The knowledge base's LLM makes the noise.

Noise sentence i of an item goes on from its caption i (from the first again when captions run out): the model reads
"<caption> and", the caption without its stop, and samples up to 35 tokens; the sentence ends where the model ends it
(a stop, a new line, the end of its turn) or at the limit, and is given a capital and a stop. Its draws are a Philox
sequence of (seed, item, i). Items are generated in chunks of fixed members, so that an interrupted run and a whole one
give the same text; another machine's matrix library may differ where a draw falls on a token's edge.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from kb_service.llm import MODEL_NAME, prepare_language_model, sample_top_p
from lab.evaluation.cache import Cache, key_of, write_whole
from semlink.corpora.corpus import Corpus, Item, Split
from semlink.corpora.noisy import (
    N_KEY,
    Continuation,
    NoisePool,
    as_sentence,
    draw,
    write_texts,
)
from semlink.corpora.registry import embedded_corpora, generator_version
from semlink.errors import InvalidField
from semlink.models import MODELS, cache_dir
from semlink.progress import track
from semlink.seeds import stable_seed

MAX_NEW_TOKENS: Final = 35
MIN_NEW_TOKENS: Final = 5
"""Before them a sentence does not end: a continuation of one word is no sentence."""
TEMPERATURE: Final = 1.0
TOP_P: Final = 0.95
"""Of the 64 likeliest tokens (kb_service.llm.sample_top_p)."""
CHUNK_ITEMS: Final = 32
MIN_ROWS: Final = 8
"""Below, matrix products take kernels that differ in the last bits (kb_service.llm)."""

_STOPS: Final = tuple(".!?")


def run(
    corpus: Corpus,
    split: Split,
    *,
    num_items: int | None = None,
    n_noise: int = 3,
    seed: int = 0,
    out: Path,
) -> Path:
    """Write noisy texts of the first ``num_items`` items of a split (all by default) to ``out``; returns ``out``.

    JSON lines (:func:`semlink.corpora.noisy.read_texts`): provenance, then a text with its labels for each item, of 3
    captions and ``n_noise`` noise sentences. What the language model made is kept in the cache; an interrupted run goes
    on. Raises InvalidField for an item without captions or numbers out of range, NotFound for a missing model.
    """
    items = corpus.items(split)[:num_items]
    pool = make_pool(corpus, split, items, n_noise=n_noise, seed=seed)
    texts = draw(items, n_noise, seed=seed, pool=pool)
    write_texts(texts, {**pool.provenance, "n_key": N_KEY, "n_noise": n_noise}, out)
    return out


def make_pool(
    corpus: Corpus, split: Split, items: Sequence[Item], *, n_noise: int = 3, seed: int = 0
) -> NoisePool:
    """``n_noise`` continuations of each item, from the cache or made now; arguments as :func:`run`."""
    if n_noise < 0 or not items:
        raise InvalidField(
            f"n_noise is {n_noise} for {len(items)} items, allowed: 0 or more for at least one",
            field="n_noise",
        )
    bare = next((item.item_id for item in items if not item.captions), None)
    if bare is not None:
        raise InvalidField(f"{bare} has no caption to continue", field="corpus")
    provenance = {
        "corpus": corpus.info.name,
        "generator_version": generator_version(corpus)
        if corpus.info.name in embedded_corpora()
        else None,
        "split": split,
        "version": 1,
        "model": MODEL_NAME,
        "model_sha256": MODELS["smollm2"].sha256,
        "seed": seed,
        "temperature": TEMPERATURE,
        "top_p": TOP_P,
        "max_new_tokens": MAX_NEW_TOKENS,
        "prompt": "<caption> and",
    }
    made: dict[str, tuple[Continuation, ...]] = {}
    if n_noise:
        groups = [items[i : i + CHUNK_ITEMS] for i in range(0, len(items), CHUNK_ITEMS)]
        paths = [_chunk_path(provenance, group, n_noise) for group in groups]
        missing = [(g, p) for g, p in zip(groups, paths, strict=True) if not p.is_file()]
        writer = _Writer() if missing else None
        for group, path in track(missing, f"{corpus.info.name} {split} noise"):
            assert writer is not None
            new = json.dumps(writer.continuations(group, n_noise, seed), ensure_ascii=False)
            write_whole(path, partial(Path.write_text, data=new))
        for path in paths:
            for item_id, noise in json.loads(path.read_text()).items():
                made[item_id] = tuple(Continuation(n, text) for n, text in noise)
    return NoisePool(provenance, made)


def _chunk_path(provenance: dict[str, Any], group: Sequence[Item], n_noise: int) -> Path:
    """Where a chunk is kept: named by all that its text depends on."""
    parts = [provenance, n_noise, [(item.item_id, item.captions) for item in group]]
    return Cache("noisy", __name__).path(f"{key_of(repr(parts), 10)}.json")


@dataclass(slots=True)
class _Row:
    """One noise sentence on its way."""

    item_id: str
    continues: int
    prompt: list[int]
    draws: np.ndarray[Any, np.dtype[np.float64]]
    tokens: list[int]


class _Writer:
    """The language model, continuing many captions at once."""

    def __init__(self) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        folder = prepare_language_model(cache_dir())
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True
        )
        self._model = model.eval()
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        words = self._tokenizer.convert_ids_to_tokens(list(range(self._model.config.vocab_size)))
        # A byte-level vocabulary writes the newline as "Ċ".
        self._breaks = torch.tensor([w is None or "Ċ" in w for w in words])
        self._breaks[self._tokenizer.all_special_ids] = True
        self._stops = [w is not None and w.rstrip("\"')”").endswith(_STOPS) for w in words]
        # What stands before a document in the model's training.
        self._start = self._tokenizer.convert_tokens_to_ids("<|endoftext|>")

    def continuations(
        self, group: Sequence[Item], n_noise: int, seed: int
    ) -> dict[str, list[tuple[int, str]]]:
        """``n_noise`` (caption, sentence) of each item."""
        rows = [self._row(item, n, seed) for item in group for n in range(n_noise)]
        self._generate(rows)
        made: dict[str, list[tuple[int, str]]] = {item.item_id: [] for item in group}
        for row in rows:
            text = self._tokenizer.decode(row.tokens, skip_special_tokens=True)
            made[row.item_id].append((row.continues, as_sentence(text)))
        return made

    def _row(self, item: Item, number: int, seed: int) -> _Row:
        continues = number % len(item.captions)
        opening = item.captions[continues].strip().rstrip(".!? ") + " and"
        prompt = [self._start, *self._tokenizer(opening, add_special_tokens=False).input_ids]
        key = stable_seed("noise", 1, seed, item.item_id, number)
        draws = np.random.Generator(np.random.Philox(key=key)).random(MAX_NEW_TOKENS)
        return _Row(item.item_id, continues, prompt, draws, [])

    @torch.inference_mode()
    def _generate(self, rows: list[_Row]) -> None:
        """Sample every row's tokens to its end."""
        alive = [*range(len(rows)), *[len(rows) - 1] * (MIN_ROWS - len(rows))]
        width = max(len(row.prompt) for row in rows)
        ids = torch.zeros(len(alive), width, dtype=torch.int64)
        seen = torch.zeros(len(alive), width, dtype=torch.int64)
        for place, n in enumerate(alive):
            ids[place, width - len(rows[n].prompt) :] = torch.tensor(rows[n].prompt)
            seen[place, width - len(rows[n].prompt) :] = 1
        cache: Any = None
        for step in range(MAX_NEW_TOKENS):
            out = self._model(
                input_ids=ids,
                attention_mask=seen,
                position_ids=(seen.cumsum(1) - 1).clamp_min(0)[:, -ids.shape[1] :],
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            cache, logits = out.past_key_values, out.logits[:, -1]
            if step < MIN_NEW_TOKENS:
                logits = logits.masked_fill(self._breaks, -torch.inf)
            draws = torch.tensor([float(rows[n].draws[step]) for n in alive])
            token = sample_top_p(logits, torch.full((len(alive),), TEMPERATURE), TOP_P, draws)
            keep = []
            for place, (n, value) in enumerate(zip(alive, token.tolist(), strict=True)):
                if place and n in alive[:place]:
                    continue  # a filler repeats a row that is there
                if not self._breaks[value]:
                    rows[n].tokens.append(value)
                    if not (self._stops[value] and step + 1 >= MIN_NEW_TOKENS):
                        keep.append(place)
            if not keep:
                return
            seen = torch.cat((seen, torch.ones_like(seen[:, :1])), dim=1)
            keep += keep[-1:] * (MIN_ROWS - len(keep))
            if len(keep) < len(alive):
                chosen = torch.tensor(keep)
                cache.batch_select_indices(chosen)
                alive = [alive[place] for place in keep]
                seen, token = seen[chosen], token[chosen]
            ids = token[:, None]
