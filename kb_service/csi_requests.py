"""Requests for predicted CSI: checked, given the reports of their links, and predicted in batches.

Prediction has a thread of its own, so that seconds of generation never stand before milliseconds of prediction.
"""

from __future__ import annotations

from typing import Final

from kb_service.prediction import predict_items, predictor_named
from semlink.batching import MicroBatcher, ThreadExecutor
from semlink.errors import InvalidField, Unavailable
from semlink.links import checked_link
from semlink.settings import Settings
from semlink.signal.feedback import needed_report_slots
from semlink.store import Store
from semlink.telemetry import record_degraded, timed
from semlink.v1 import common_pb2
from semlink.v1 import knowledge_pb2 as pb

CSI: Final = "knowledge.csi"


class CsiRequests:
    """Answers requests for predicted CSI from the reports in the store. Use from one event loop, and drain."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._weights = settings.weights
        self._batcher = MicroBatcher(
            ThreadExecutor(self._predict, "knowledge.predict"),
            name="knowledge.predict",
            max_batch=settings.max_batch,
            max_queue=settings.max_queue,
            delay_s=settings.batch_delay_s,
        )

    async def predict_csi(self, request: pb.PredictCsiRequest) -> pb.PredictCsiResponse:
        """CSI of each item's slot from the reports that it may use; "none" and degraded where the store is away.

        Raises InvalidField naming ``items[i].…``.
        """
        items = list(request.items)
        for i, item in enumerate(items):
            self._check(item, field=f"items[{i}]")
        wanted = [
            (item.link_id, needed_report_slots(checked_link(item.config), item.slot))
            for item in items
        ]
        try:
            with timed("knowledge.reports"):
                reports = await self._store.reports(wanted)
        except Unavailable as error:
            degraded = [common_pb2.Degradation(part=CSI, reason=error.message)]
            predictions = [pb.PredictedCsi(source="none", degraded=degraded) for _ in items]
        else:
            with timed("knowledge.predict"):
                predictions = await self._batcher.submit_many(
                    list(zip(items, reports, strict=True))
                )
        for prediction in predictions:
            record_degraded("knowledge", prediction.degraded)
        return pb.PredictCsiResponse(predictions=predictions)

    async def drain(self) -> None:
        """Finish what waits and give the thread back."""
        await self._batcher.drain()

    def _check(self, item: pb.PredictCsiItem, *, field: str) -> None:
        link = checked_link(item.config, field=f"{field}.config")
        if item.predictor:
            predictor_named(item.predictor, link, self._weights, field=f"{field}.predictor")
        if item.slot < 0:
            raise InvalidField(f"{field}.slot is {item.slot}, allowed: ≥ 0", field=f"{field}.slot")

    def _predict(
        self, work: list[tuple[pb.PredictCsiItem, list[common_pb2.CsiReport]]]
    ) -> list[pb.PredictedCsi]:
        items, reports = zip(*work, strict=True)
        return predict_items(items, reports, self._weights)
