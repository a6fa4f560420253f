"""Queries of every task through the published port, and Prometheus's view: `ask.py GATEWAY PROMETHEUS` (URLs).

Standard library only, for it runs outside the containers. Exit status 1 and a sentence at the first wrong thing.
"""

from __future__ import annotations

import base64
import json
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

TEXTS = {
    "person": "a man in a red jacket and black trousers",
    "image": "a dog beside a red car",
    "audio": "a dog barks and then rain falls",
}
SCRAPED = {"transmitter", "channel", "receiver", "knowledge", "gateway"}
LINK = {"scenario": "umi-los", "snr_db": 15.0, "seed": 1}

# a proxy of the environment is for the world outside, not for this machine
_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


def fetch(url: str, body: dict[str, Any] | None = None) -> bytes:
    """Body of the answer to a GET, or with ``body`` a POST of JSON; exits unless the status is 200."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    try:
        with _open(request, timeout=200) as response:
            content: bytes = response.read()
            status = response.status
    except urllib.error.HTTPError as error:
        sys.exit(f"{url}: {error.code} {error.read().decode()}")
    if status != 200:
        sys.exit(f"{url}: {status}")
    return content


def ask(gateway: str, name: str, task: str, content: dict[str, Any]) -> dict[str, Any]:
    """One query with five results and nothing degraded but, where time was short, the rewrites."""
    started = time.monotonic()
    query = {"task": task, "query": content, "top_k": 5, "link": LINK, "deadline_ms": 180_000}
    answer: dict[str, Any] = json.loads(fetch(f"{gateway}/v1/queries", query))
    seconds = time.monotonic() - started
    if len(answer["results"]) != 5:
        sys.exit(f"{name}: {len(answer['results'])} results, 5 were asked for")
    if any(d["part"] != "knowledge.rewrites" for d in answer["degraded"]):
        sys.exit(f"{name}: degraded {answer['degraded']}")
    best, link = answer["results"][0], answer["link"]
    fetch(urllib.parse.urljoin(gateway, best["media_url"]))
    print(
        f"   {name}: {best['item_id']} ({best['score']:.2f}), {link['channel_uses']} channel uses, "
        f"{link['feedback_bits']} bit, {link['post_eq_snr_db']:.1f} dB after equalising, {seconds:.1f} s"
        + "".join(f", degraded: {d['part']}" for d in answer["degraded"])
    )
    return answer


def targets_up(prometheus: str, limit_s: float = 60.0) -> None:
    """Return when Prometheus has scraped every service, and has counted the queries; exit after ``limit_s``."""
    end = time.monotonic() + limit_s
    while True:
        found = json.loads(fetch(f"{prometheus}/api/v1/targets"))["data"]["activeTargets"]
        health = {t["labels"]["service"]: t["health"] for t in found}
        counted = urllib.parse.quote("sum by (service) (semlink_requests_total)")
        series = json.loads(fetch(f"{prometheus}/api/v1/query?query={counted}"))["data"]["result"]
        requests = {s["metric"]["service"]: float(s["value"][1]) for s in series}
        if (
            set(health) == SCRAPED
            and set(health.values()) == {"up"}
            and requests.get("transmitter", 0) >= 4
        ):
            print(f"   prometheus: up {', '.join(sorted(health))}; requests counted {requests}")
            return
        if time.monotonic() > end:
            sys.exit(f"prometheus after {limit_s:g} s: targets {health}, requests {requests}")
        time.sleep(1)


def main(gateway: str, prometheus: str) -> None:
    """Ask, then look at what was measured meanwhile."""
    for task, text in TEXTS.items():
        answer = ask(gateway, f"{task} by text", task, {"text": text})
    # the best sound of the last answer is itself a query
    sound = fetch(urllib.parse.urljoin(gateway, answer["results"][0]["media_url"]))
    content = {"content_type": "audio/wav", "data": base64.b64encode(sound).decode()}
    ask(gateway, "audio by sound", "audio", {"audio": content})
    targets_up(prometheus)


if __name__ == "__main__":
    main(*sys.argv[1:3])
