"""One process and the services over gRPC give the same answers: experiments and services cannot drift apart."""

from __future__ import annotations

import pytest
from tests_live import Live

from lab.evaluation.local_system import build_system
from semlink.corpora.registry import corpus_named, embedded_corpora
from semlink.links import Link
from semlink.rpc import TransmitterClient
from semlink.v1 import transmitter_pb2

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]


def request(method: str) -> transmitter_pb2.RetrieveRequest:
    queries = []
    for corpus, task in embedded_corpora().items():
        for i, item in enumerate(corpus_named(corpus).items("test")[:6]):
            link = Link().replace(snr_db=float(5 * i - 10), seed=40 + i % 2)
            queries.append(
                transmitter_pb2.Query(
                    id=f"{corpus}-{i}",
                    task=task,
                    text=item.captions[0],
                    method=method,
                    top_k=10,
                    symbols=64,
                    seed=i,
                    link_config=link.to_proto(),
                )
            )
    return transmitter_pb2.RetrieveRequest(queries=queries)


@pytest.mark.parametrize("method", ["deepsc-mimo", "separation", "vq-digital", "ideal"])
async def test_in_process_equals_over_grpc(live: Live, method: str) -> None:
    system = build_system()
    here = (await system.transmitter.retrieve(request(method))).answers
    await system.close()
    async with TransmitterClient(live.settings.address("transmitter"), live.settings) as client:
        there = (await client.retrieve(request(method))).answers
    assert len(here) == len(there) == 18
    for a, b in zip(here, there, strict=True):
        assert a.query_id == b.query_id
        # same arithmetic, batched in the same way: equal to rounding, and no neighbours swap unless they tie
        assert [m.score for m in a.matches] == pytest.approx([m.score for m in b.matches], abs=1e-4)
        assert a.link.erased == b.link.erased
        assert bool(a.matches) != a.link.erased
        if a.link.erased:
            continue
        gap = a.matches[0].score - a.matches[1].score
        assert gap < 2e-4 or a.matches[0].item_id == b.matches[0].item_id
        assert a.link.slot == b.link.slot
        assert a.link.post_eq_snr_db == pytest.approx(b.link.post_eq_snr_db, abs=1e-3)
        assert a.csi_source == b.csi_source
        assert not a.degraded
        assert not b.degraded
