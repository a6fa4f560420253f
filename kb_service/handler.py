"""The knowledge base: rewrites that are stored until they are deleted, and CSI from past reports."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kb_service.csi_requests import CsiRequests
from kb_service.enrichment import Enrichments
from kb_service.entries import Entries
from kb_service.exchange import shipped
from kb_service.generation import MAX_WAITING, GenerationQueue
from kb_service.llm import MODEL_NAME
from kb_service.prediction import load_default_generators
from kb_service.prompting import STRATEGIES
from kb_service.rewrite_pipeline import RewritePipeline
from kb_service.rewriting import Embed, Rewriter
from kb_service.sources import load_rewriter as load_configured
from kb_service.sources import model_name
from semlink.errors import SemlinkError
from semlink.knowledge import DEFAULT_STRATEGY
from semlink.settings import Settings
from semlink.store import Store
from semlink.telemetry import logger
from semlink.v1 import knowledge_pb2 as pb

EXAMPLE_CAPTION: Final = "A man in a red jacket walks a dog."

_log = logger(__name__)


class KnowledgeBase:
    """Satisfies :class:`semlink.services.KnowledgeBaseService`. Use it from one event loop, and close it.

    Every request is answered by the component whose trade it is. Without the LLM's package it serves CSI and what is
    stored already, and names the command that installs the package in what it says of the rest.

    :param load_rewriter: loads the LLM in place of what the settings name; called once, in the LLM's thread. Raises
        NotFound naming the command that installs it.
    :param embed: sentences to unit vectors, by default MiniLM's.
    :param attribute_filter: switches the second test of :mod:`kb_service.filtering`.
    :param max_waiting: captions of queries that may wait for the LLM.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings | None = None,
        *,
        load_rewriter: Callable[[], Rewriter] | None = None,
        embed: Embed | None = None,
        attribute_filter: bool = True,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        settings = settings or Settings()
        embed = embed or partial(_minilm, device=settings.device)
        closing = threading.Event()
        load = load_rewriter or partial(load_configured, settings, embed, closing.is_set)
        self._model = model_name(settings)
        self._entries = entries = Entries(store, embed)
        self.queue = GenerationQueue(
            entries, self._model, load, embed, closing=closing, max_waiting=max_waiting
        )
        self._enrichments = Enrichments(entries, self.queue, self._model)
        self._csi = CsiRequests(store, settings)
        self._weights = settings.weights
        pipeline = RewritePipeline(
            entries, self.queue, self._model, attribute_filter=attribute_filter
        )
        self.rewrite = pipeline.rewrite
        self.predict_csi = self._csi.predict_csi
        self.list_entries = entries.list_entries
        self.get_entry = entries.get_entry
        self.search_entries = entries.search_entries
        self.export_entries = entries.export_entries
        self.import_entries = entries.import_entries
        self.delete_entries = entries.delete_entries
        self.start_enrichment = self._enrichments.start_enrichment
        self.get_enrichment = self._enrichments.get_enrichment
        self.list_enrichments = self._enrichments.list_enrichments
        self.cancel_enrichment = self._enrichments.cancel_enrichment

    async def list_strategies(self, _: pb.ListStrategiesRequest) -> pb.ListStrategiesResponse:
        """The prompt strategies and the LLM's identity."""
        return pb.ListStrategiesResponse(
            model=self._model,
            strategies=[
                pb.PromptStrategy(
                    name=strategy.name,
                    default=strategy.name == DEFAULT_STRATEGY,
                    description=strategy.description,
                    turns=[f"{turn.role}: {turn.content}" for turn in strategy.shared],
                    example=strategy.ask(EXAMPLE_CAPTION),
                )
                for strategy in STRATEGIES.values()
            ],
        )

    async def get_statistics(self, _: pb.GetStatisticsRequest) -> pb.KnowledgeStatistics:
        """How much is stored, and how the LLM is."""
        found = await self._entries.statistics()
        found.MergeFrom(
            pb.KnowledgeStatistics(
                model=self._model, problem=self.queue.problem, waiting=self.queue.num_waiting
            )
        )
        return found

    async def warm_up(self) -> None:
        """Store the rewrites that come with semlink where they are missing, and begin to load the LLM.

        Nobody waits for the LLM: the first time it is converted, which takes half a minute.
        """
        if self._model == MODEL_NAME:
            try:
                await self.import_entries(pb.ImportEntriesRequest(entries=shipped()))
            except SemlinkError as error:
                _log.warning(
                    "the rewrites that come with semlink are not stored", why=error.message
                )
        # after it: the generators read the LLM's converted blocks
        self.queue.warm_up(partial(load_default_generators, self._weights))

    async def close(self) -> None:
        """Stop generating between two tokens; answer those who wait; give the threads back. The store stays open."""
        self.queue.stop()
        await self._enrichments.close()
        await self.queue.close()
        await self._csi.drain()


def _minilm(texts: Sequence[str], *, device: str) -> NDArray[np.float32]:
    from semlink.semantics.text import sentence_embeddings

    return sentence_embeddings(texts, device)
