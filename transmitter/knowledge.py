"""What the knowledge base adds to a query's meaning: rewrites of its text, fused with the source."""

from __future__ import annotations

from dataclasses import replace
from typing import Final, TypeAlias

import numpy as np
import torch

from semlink.errors import Unavailable
from semlink.grouping import gather_grouped
from semlink.semantics.fusion import fuse
from semlink.services import KnowledgeBaseService
from semlink.stages import Noted
from semlink.telemetry import timed
from semlink.v1 import common_pb2, knowledge_pb2
from transmitter.encoding import Components, Content, ContentBatcher, Meaning, scored
from transmitter.extraction import Selected

NUM_REWRITES: Final = 5
REWRITE_TEMPERATURE: Final = 0.4
MIN_SIMILARITY: Final = 0.58
"""The filter's α, calibrated on val: ``semlink experiment knowledge``."""
FUSION_TEMPERATURE: Final = 0.3
"""τ_f, chosen on val by the same."""

Rewrites: TypeAlias = tuple[knowledge_pb2.Rewrite, ...]


def wants_rewrites(selected: Selected) -> bool:
    """Whether its method uses rewrites and there is a text."""
    return selected.query.method.rewrites and bool(selected.text)


async def ask_for_rewrites(
    knowledge: KnowledgeBaseService, selected: list[Selected]
) -> list[Noted[Rewrites]]:
    """Rewrites of texts; none, and said so, where the knowledge base is away."""

    async def ask(alike: list[Selected]) -> list[Noted[Rewrites]]:
        request = knowledge_pb2.RewriteRequest(
            budget_ms=alike[0].query.message.knowledge_budget_ms,
            items=map(_rewrite_item, alike),
        )
        with timed("transmitter.knowledge") as clock:
            try:
                response = await knowledge.rewrite(request)
            except Unavailable as error:
                away = common_pb2.Degradation(part="knowledge.rewrites", reason=error.message)
                return [Noted((), degraded=(away,))] * len(alike)
        return [
            Noted(tuple(found.rewrites), (clock.timing(),), tuple(found.degraded))
            for found in response.sets
        ]

    # One call for every budget that occurs: it is the call that a budget bounds.
    return await gather_grouped(selected, lambda s: s.query.message.knowledge_budget_ms, ask)


def _rewrite_item(selected: Selected) -> knowledge_pb2.RewriteItem:
    return knowledge_pb2.RewriteItem(
        text=selected.text,
        num_candidates=NUM_REWRITES,
        temperature=REWRITE_TEMPERATURE,
        min_similarity=MIN_SIMILARITY,
        filter=selected.query.method.filtered,
        strategy=selected.query.message.rewrite_strategy,
        # A feature that is fused with one of less meaning finds less.
        complete=selected.query.method.filtered,
    )


def wants_fusion(pair: tuple[Meaning, Rewrites]) -> bool:
    """Whether a rewrite was kept."""
    return any(rewrite.kept for rewrite in pair[1])


def unfused(pair: tuple[Meaning, Rewrites]) -> Meaning:
    """The meaning beside rewrites that do not change it."""
    return replace(pair[0], rewrites=pair[1])


async def fuse_with_rewrites(
    encoder: ContentBatcher, pairs: list[tuple[Meaning, Rewrites]]
) -> list[Noted[Meaning]]:
    """Replace each component by its fusion with the kept rewrites' (CDFC phase 2); k stays as it was."""
    kept = [[r for r in rewrites if r.kept] for _, rewrites in pairs]
    encoded = iter(
        await encoder.submit_many(
            [
                Content(meaning.query.space, "text", rewrite.text)
                for (meaning, _), own in zip(pairs, kept, strict=True)
                for rewrite in own
            ]
        )
    )
    return [
        _fused(unfused(pair), own, [next(encoded) for _ in own])
        for pair, own in zip(pairs, kept, strict=True)
    ]


def _fused(
    meaning: Meaning, kept: list[knowledge_pb2.Rewrite], encoded: list[Noted[Components]]
) -> Noted[Meaning]:
    source = torch.from_numpy(np.asarray(meaning.components))
    others = np.stack([scored(meaning.selected, row.value) for row in encoded], axis=1)
    similarity = torch.tensor([[r.similarity for r in kept]], dtype=torch.float32)
    with timed("transmitter.fuse") as clock:
        # A component is fused with the same component of every rewrite.
        fused = fuse(
            source,
            torch.from_numpy(others),
            similarity.expand(len(source), -1),
            torch.ones(len(source), len(kept), dtype=torch.bool),
            rule=meaning.query.method.fusion,
            temperature=FUSION_TEMPERATURE,
        )
    spent = clock.timing()
    spent.milliseconds += max(t.milliseconds for row in encoded for t in row.timings)
    return Noted(replace(meaning, components=fused.numpy()), (spent,))
