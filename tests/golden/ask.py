"""Ask the golden queries, write the answers, compare two files of answers.

``queries.json`` holds REST bodies. In place of media a body names a corpus item whose picture or sound is sent; in
place of a link it may name one of ``links``, which is opened first. ``rewrites.jsonl`` holds what the LLM wrote for
the queries that use it, as ``semlink kb export`` writes it: it is imported first, so that no answer waits for
generation or depends on it.

Run from the repository's root::

    export PYTHONPATH=$PWD:$PWD/tests
    python -m golden.ask --out new.json               # in process and over REST, about two minutes
    python -m golden.ask --compare old.json new.json                    # bit for bit
    python -m golden.ask --compare old.json new.json --tolerance 1e-4   # as the stored copy is
    python -m golden.ask --store                   # write answers.json anew
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import torch
from google.protobuf import json_format

from gateway.app import ServiceClients, create_app
from gateway.schemas import LinkConfigBody
from lab.evaluation.local_system import build_system
from semlink.corpora.registry import corpus_named
from semlink.deployment import supervisor
from semlink.links import link_id_of
from semlink.rpc import KnowledgeClient
from semlink.settings import Settings
from semlink.signal.feedback import needed_report_slots
from semlink.store import RedisStore, Store
from semlink.v1 import knowledge_pb2

FOLDER = Path(__file__).resolve().parent
QUERIES: dict[str, Any] = json.loads((FOLDER / "queries.json").read_text())
STORED = FOLDER / "answers.json"
WAYS = ("in process", "over REST")
TOLERANCE = 1e-4
"""Of scores, between processors."""

Answer = dict[str, Any]
Answers = dict[str, Answer]
"""By the query's name."""


# --- asking ------------------------------------------------------------------------------------


async def ask_in_process() -> Answers:
    """Answers of the whole system in this process, behind the gateway's own conversion of bodies and answers."""
    settings = Settings(redis_url="memory://")
    threads = torch.get_num_threads()
    torch.set_num_threads(settings.num_threads)  # as every service does
    system = build_system(settings)

    async def health() -> dict[str, str]:
        return {}

    clients = ServiceClients(
        system.transmitter, system.channel, system.receiver, health, system.close
    )
    transport = httpx.ASGITransport(create_app(clients))
    try:
        async with httpx.AsyncClient(
            transport=transport, base_url="http://127.0.0.1", timeout=None
        ) as http:
            return await _ask_all(http, system.store, system.knowledge)
    finally:
        await system.close()
        torch.set_num_threads(threads)


async def ask_over_rest(settings: Settings) -> Answers:
    """Answers of running services. Payloads are read from their store: REST does not show them."""
    store = RedisStore(settings.redis_url.get_secret_value(), timeout_s=10)
    try:
        async with (
            httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{settings.gateway_port}", timeout=None, trust_env=False
            ) as http,
            KnowledgeClient(settings.address("knowledge"), settings) as knowledge,
        ):
            return await _ask_all(http, store, knowledge)
    finally:
        await store.close()


@asynccontextmanager
async def started(state_dir: Path) -> AsyncIterator[Settings]:
    """Services on free ports with a store of their own."""
    settings = await asyncio.to_thread(supervisor.up_on_free_ports, state_dir)
    try:
        yield settings
    finally:
        await asyncio.to_thread(supervisor.down, settings)


async def _ask_all(http: httpx.AsyncClient, store: Store, knowledge: Any) -> Answers:
    """One query after the other, so that no batch depends on timing."""
    await _import_rewrites(knowledge)
    opened: dict[str, str] = {}
    for name, config in QUERIES["links"].items():
        response = await http.post("/v1/links", json=config)
        assert response.status_code == 201, f"link {name}: {response.text}"
        opened[name] = response.json()["id"]
    answers = {}
    for name, body in QUERIES["queries"].items():
        link = body["link"]
        if isinstance(link, str):
            sent, link_id = {"id": opened[link]}, opened[link]
            config = LinkConfigBody.model_validate(QUERIES["links"][link]).to_link()
        else:
            sent, config = link, LinkConfigBody.model_validate(link).to_link()
            link_id = link_id_of(config)
        response = await http.post(
            "/v1/queries", json=body | {"query": _content(body["query"]), "link": sent}
        )
        assert response.status_code == 200, f"query {name}: {response.text}"
        answer = answers[name] = _lasting(response.json())
        if answer["link"] is not None:
            slots = needed_report_slots(config, answer["link"]["slot"])
            (reports,) = await store.reports([(link_id, slots)])
            answer["reports"] = [[r.slot, r.user, r.bits, r.payload.hex()] for r in reports]
    return answers


async def _import_rewrites(knowledge: Any) -> None:
    lines = (FOLDER / "rewrites.jsonl").read_text().splitlines()
    entries = [json_format.Parse(line, knowledge_pb2.KnowledgeEntry()) for line in lines]
    request = knowledge_pb2.ImportEntriesRequest(entries=entries, replace=True)
    answer = await knowledge.import_entries(request)
    assert answer.outdated == 0, "a prompt or the LLM has changed: export rewrites.jsonl anew"


def _content(content: Mapping[str, Any]) -> dict[str, Any]:
    """The query's content with an item's media in the place of its name."""
    (kind, value), *_ = content.items()
    if kind == "text":
        return {kind: value}
    media = corpus_named(value["corpus"]).media(value["item_id"])
    data = base64.b64encode(media.data).decode()
    return {kind: {"content_type": media.content_type, "data": data}}


def _lasting(body: Answer) -> Answer:
    """The answer without what differs from one asking to the next: ids and times."""
    return {
        "results": [[r["item_id"], r["score"], r["similarity"]] for r in body["results"]],
        "link": body["link"],
        "csi_source": body["knowledge"]["csi_source"],
        "rewrites": body["knowledge"]["rewrites"],
        "retrieval": body["retrieval"],
        "degraded": [[d["part"], d["reason"]] for d in body["degraded"]],
        "reports": [],
    }


# --- the stored copy ---------------------------------------------------------------------------


def abridged(name: str, answer: Answer) -> Answer:
    """What the stored copy holds of an answer: what has to be equal on every processor, and scores.

    "perfect" feedback reports the channel's own floating-point numbers, which differ between processors in the last
    bits: of these payloads the size is held.
    """
    link = answer["link"] or {}
    digest = hashlib.sha256()
    for slot, user, bits, payload in answer["reports"]:
        held = len(payload) if answer["csi_source"] == "perfect" else payload
        digest.update(f"{slot}:{user}:{bits}:{held}\n".encode())
    return {
        "results": [[item_id, round(score, 6)] for item_id, score, _ in answer["results"]],
        "link": {
            field: link[field]
            for field in ("erased", "slot", "user", "feedback_bits", "channel_uses", "header_bytes")
            if link
        },
        "csi_source": answer["csi_source"],
        "rewrites": [[r["text"], r["kept"]] for r in answer["rewrites"]],
        "sentences": [s["kept"] for s in answer["retrieval"]["sentences"]],
        "degraded": [part for part, _ in answer["degraded"]],
        "reports": len(answer["reports"]),
        "payloads": digest.hexdigest() if answer["reports"] else "",
    }


def differences_from_stored(answers: Answers, tolerance: float = TOLERANCE) -> list[str]:
    """What differs from ``answers.json``, a line for each query and field."""
    stored: Answers = json.loads(STORED.read_text())
    return differences({name: abridged(name, a) for name, a in answers.items()}, stored, tolerance)


def differences(new: Answers, old: Answers, tolerance: float) -> list[str]:
    """Differences of abridged answers: everything equal, scores to ``tolerance``."""
    found = [f"{name}: asked in one of both only" for name in sorted(new.keys() ^ old.keys())]
    for name in (name for name in old if name in new):
        for field in old[name]:
            a, b = new[name][field], old[name][field]
            if field == "results":
                found += [f"{name}: {d}" for d in _ranked_alike(a, b, tolerance)]
            elif a != b:
                found.append(f"{name}: {field} is {a}, was {b}")
    return found


def _ranked_alike(new: list[Any], old: list[Any], tolerance: float) -> list[str]:
    """Differences of two rankings. Items may change places only where their scores tie within ``tolerance``."""
    if len(new) != len(old):
        return [f"{len(new)} results, were {len(old)}"]
    found = [
        f"score of place {place} is {a:.6f}, was {b:.6f}"
        for place, ((_, a), (_, b)) in enumerate(zip(new, old, strict=True))
        if abs(a - b) > tolerance
    ]
    before, now = dict(old), dict(new)
    for item_id in (item_id for item_id, _ in old if item_id not in now):
        if abs(before[item_id] - old[-1][1]) > tolerance:
            found.append(f"{item_id} of score {before[item_id]:.6f} is no longer found")
    for place, ((item_id, score), (was, _)) in enumerate(zip(new, old, strict=True)):
        # an item that was not found can only have tied with the last one that was
        if item_id != was and abs(score - before.get(item_id, old[-1][1])) > tolerance:
            found.append(f"place {place} is {item_id} of score {score:.6f}, was {was}")
    return found


# --- comparing files ---------------------------------------------------------------------------


def compare(old: Mapping[str, Answers], new: Mapping[str, Answers], tolerance: float) -> list[str]:
    """What differs between two files of answers; with tolerance 0 every bit of every field counts."""
    found = []
    for way in WAYS:
        if way not in old or way not in new:
            found.append(f"{way}: asked in one of both only")
        elif tolerance:
            a, b = (
                {name: abridged(name, one) for name, one in answers[way].items()}
                for answers in (new, old)
            )
            found += [f"{way}: {d}" for d in differences(a, b, tolerance)]
        else:
            found += _unequal(new[way], old[way], way)
    return found


def _unequal(new: Any, old: Any, where: str) -> list[str]:
    """Every leaf that differs, by its path."""
    if isinstance(new, dict) and isinstance(old, dict):
        keys = [*old, *(k for k in new if k not in old)]
        return [d for k in keys for d in _unequal(new.get(k), old.get(k), f"{where}: {k}")]
    if isinstance(new, list) and isinstance(old, list) and len(new) == len(old):
        pairs = enumerate(zip(new, old, strict=True))
        return [d for i, (a, b) in pairs for d in _unequal(a, b, f"{where}[{i}]")]
    return [] if new == old else [f"{where} is {new!r}, was {old!r}"]


# --- command -----------------------------------------------------------------------------------


async def _ask_both_ways() -> dict[str, Answers]:
    here = await ask_in_process()
    with tempfile.TemporaryDirectory() as folder:
        async with started(Path(folder)) as settings:
            return dict(zip(WAYS, (here, await ask_over_rest(settings)), strict=True))


def _write(path: Path, content: Mapping[str, Any]) -> None:
    """One query a line."""
    lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in content.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def main(arguments: list[str] | None = None) -> int:
    """Exit status 1 where something differs."""
    parser = argparse.ArgumentParser(prog="golden.ask", description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, help="ask, write every bit of the answers there")
    parser.add_argument("--store", action="store_true", help="ask, write answers.json anew")
    parser.add_argument("--compare", nargs=2, type=Path, metavar=("OLD", "NEW"))
    parser.add_argument("--tolerance", type=float, default=0.0, help="of scores; 0: bit for bit")
    options = parser.parse_args(arguments)
    if options.compare:
        old, new = (json.loads(path.read_text()) for path in options.compare)
        found = compare(old, new, options.tolerance)
        print(*found, f"{len(found)} differences", sep="\n")
        return bool(found)
    if not options.out and not options.store:
        parser.error("give --out, --store or --compare")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SEMLINK_DATA_DIR"] = folder  # what this machine's user has added plays no part
        print(f"asking the code under {Path(supervisor.__file__).parents[1]}")
        answers = asyncio.run(_ask_both_ways())
    between = _unequal(answers[WAYS[1]], answers[WAYS[0]], "over REST, against in process")
    print(*between, f"{len(between)} differences between both ways", sep="\n")
    if options.store:
        copy = {name: abridged(name, a) for name, a in answers[WAYS[0]].items()}
        _write(STORED, copy)
    if options.out:
        options.out.write_text(json.dumps(answers, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
