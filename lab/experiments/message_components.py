"""A message of several components over a flat link of known SNR: which components are worth their symbols.

Captions of the val split, at equal k: the whole message for the global feature, scored by the cosine or by the trained
prototype scoring with one component on the query's side; or the message split between components, as
:func:`semlink.semantics.message.component_symbols` says (unequal protection) or equally. Text→media R@1, and the cosine
at which each component arrives.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch

from lab.evaluation.parallel import one_thread
from lab.evaluation.report import Row, over_seeds
from lab.experiments.interface import Measured, Run
from lab.training.build_gallery import components
from lab.training.data import SplitData, split_data, two_way
from lab.training.prototypes import score_matrix
from semlink.corpora.registry import corpus_named, default_corpus
from semlink.errors import NotFound
from semlink.progress import track
from semlink.semantics.codec import Codec, load_codec
from semlink.semantics.encoders import load_heads, load_scorer
from semlink.semantics.message import decode_message, encode_message
from semlink.semantics.prototypes import PrototypeScorer

GLOBAL: Final = "global"
QUICK: Final[Mapping[str, Any]] = {"seeds": 1, "symbols": (64,), "snrs_db": (0.0,)}
"""What ``--quick`` overrides: a smoke run, not a measurement."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is swept."""

    task: str = "audio"
    """One whose heads make prototypes."""
    seeds: int = 3
    """Draws of noise."""
    symbols: tuple[int, ...] = (16, 32, 64, 128)
    """Channel uses k of a message."""
    snrs_db: tuple[float, ...] = (-10.0, 0.0, 10.0, 20.0)
    """Of the link, dB."""


@torch.inference_mode()
def transmitted(
    codec: Codec,
    messages: torch.Tensor,
    k: int,
    snr_db: float,
    generator: torch.Generator,
    *,
    equally: bool = False,
) -> torch.Tensor:
    """Components ``[n, m, 256]`` over a flat link: those that came, ``[n, num_sent, 256]``.

    ``equally``: each has as many symbols and as much power, in place of unequal protection.
    """
    variance = 10.0 ** (-snr_db / 10.0)
    noise = torch.randn((len(messages), k), dtype=torch.complex64, generator=generator)
    noise *= variance**0.5

    def send(part: torch.Tensor, symbols: slice) -> torch.Tensor:
        here = noise[:, symbols]
        sent = encode_message(codec, part, torch.full(here.shape, snr_db), here.shape[1])
        powers = torch.full(here.shape, variance)
        return decode_message(codec, sent + here, powers, part.shape[1])

    if not equally:
        return send(messages, slice(k))
    count = messages.shape[1]
    share = k // count
    parts = (slice(i * share, (i + 1) * share) for i in range(count))
    return torch.cat([send(messages[:, i : i + 1], part) for i, part in enumerate(parts)], dim=1)


def _r_at_1(
    scorer: PrototypeScorer | None, text: torch.Tensor, media: torch.Tensor, data: SplitData
) -> float:
    return two_way(score_matrix(scorer, text, media).numpy(), data)["text_to_media"]["r_at_1"]


def measure(plan: Plan, run: Run) -> Measured:  # noqa: ARG001
    """Measure a plan. Raises NotFound where the task's heads make no prototypes."""
    scorer = load_scorer(plan.task)
    if scorer is None:
        raise NotFound(f"the heads of task {plan.task!r} make no prototypes", field="task")
    heads, codec = load_heads(plan.task), load_codec(plan.task)
    corpus = default_corpus(plan.task)
    data = split_data(corpus_named(corpus), "val")
    text, media = (
        torch.from_numpy(components(heads[side], features))
        for side, features in (("text", data.text), ("media", data.media))
    )
    at: dict[str, Any] = {"task": plan.task, "corpus": corpus, "split": "val"}
    rows = [
        Row("r_at_1", _r_at_1(None, text, media, data), method=GLOBAL, condition="no link", **at),
        Row("r_at_1", _r_at_1(scorer, text, media, data), method="components, unequal", condition="no link", **at),
    ]  # fmt: skip
    places = list(itertools.product(plan.symbols, plan.snrs_db))
    for k, snr_db in track(places, "components"):
        found: dict[tuple[str, str, str | None], list[float]] = {}
        for seed in range(plan.seeds):
            with one_thread():
                draws = torch.Generator().manual_seed(seed)
                alone = transmitted(codec, text[:, :1], k, snr_db, draws)
                arrived = {
                    "components, unequal": transmitted(codec, text, k, snr_db, draws),
                    "components, equal": transmitted(codec, text, k, snr_db, draws, equally=True),
                }
                values: dict[tuple[str, str, str | None], float] = {
                    ("r_at_1", GLOBAL, None): _r_at_1(None, alone, media, data),
                    ("r_at_1", f"{GLOBAL}, prototype scoring", None): _r_at_1(
                        scorer, alone, media, data
                    ),
                }
                for method, several in arrived.items():
                    values["r_at_1", method, None] = _r_at_1(scorer, several, media, data)
                    for place in range(several.shape[1]):
                        cosine = (several[:, place] * text[:, place]).sum(-1).mean()
                        values["cosine", method, f"component {place + 1}"] = float(cosine)
            for key, value in values.items():
                found.setdefault(key, []).append(value)
        rows += [
            Row(metric, **over_seeds(v), method=m, condition=c, snr_db=snr_db, symbols=k, **at)
            for (metric, m, c), v in found.items()
        ]
    return Measured(rows)
