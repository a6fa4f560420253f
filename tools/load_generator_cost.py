"""CPU time of a call: `semlink load` against locust, on a server that answers the same bytes after 20 ms.

``python -m tools.load_generator_cost --locust VENV/bin/python``, with ``pip install locust`` in an environment of its
own: gevent, which it needs, patches the standard library.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import subprocess
import time
from functools import partial
from typing import cast

import httptools
import uvloop

from semlink.load.plan import Load, Plan
from semlink.load.resources import Processes
from semlink.load.run import Course, run

DELAY_S = 0.02
CAPTIONS = ["Wearing an orange shirt, a lady is in a station hall; she has long brown hair."] * 2
ANSWER = {
    "results": [
        {"item_id": f"p-{i}", "score": 0.5, "similarity": 0.5, "captions": CAPTIONS}
        for i in range(5)
    ],
    "link": {"channel_uses": 64, "feedback_bits": 64, "slot": 200, "co_scheduled": 0},
    "timings_ms": {f"service.stage-{i}": 1.0 + i for i in range(10)},
    "emulated_ms": {"slot_wait": 0.0, "air_time": 0.071429, "report_delay": 5.0},
    "degraded": [],
}
LOCUST = """
import gevent.monkey; gevent.monkey.patch_all()
import random, sys, time, gevent
from locust import FastHttpUser, HttpUser, constant, task
from locust.env import Environment
class User({kind}):
    host, wait_time = "{url}", constant(0)
    @task
    def ask(self):
        body = {{"task": "person", "query": {{"text": "a man in a red jacket %d" % random.getrandbits(20)}},
                "seed": random.getrandbits(53), "symbols": 64, "link": {{"seed": random.getrandbits(53)}}}}
        answer = self.client.post("/v1/queries", json=body).json()
        answer["results"][0]["item_id"], answer["timings_ms"]
environment = Environment(user_classes=[User])
runner = environment.create_local_runner()
runner.start({users}, spawn_rate=1000)
gevent.sleep(1)
before, cpu = environment.stats.total.num_requests, time.process_time()
gevent.sleep({seconds})
number = environment.stats.total.num_requests - before
print(1e3 * (time.process_time() - cpu) / number)
runner.quit()
"""


class _Server(asyncio.Protocol):
    def __init__(self, reply: bytes) -> None:
        self._reply = reply
        self._transport: asyncio.Transport
        self._parser = httptools.HttpRequestParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        """See httptools."""
        asyncio.get_running_loop().call_later(DELAY_S, self._answer)

    def _answer(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(self._reply)


def serve(port: multiprocessing.Queue[int]) -> None:
    """Answer every request alike, until the process is ended."""
    body = json.dumps(ANSWER).encode()
    reply = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)

    async def forever() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(partial(_Server, reply), "127.0.0.1", 0)
        port.put(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    uvloop.run(forever())


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--locust", help="python of an environment that has locust")
    parser.add_argument("--users", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=8.0)
    asked = parser.parse_args()
    port: multiprocessing.Queue[int] = multiprocessing.Queue()
    server = multiprocessing.Process(target=serve, args=(port,), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{port.get()}"
    time.sleep(0.5)
    plan = Plan(url=url, seed=1, duration_s=asked.seconds)
    (step,) = run(plan, Course((Load(users=asked.users),)), Processes({})).steps
    rate = step.values["queries_per_s"]
    print(
        f"semlink load: {step.values['generator_cpu_ms_per_call']:.3f} CPU-ms a call, {rate:.0f}/s"
    )
    for kind in ("FastHttpUser", "HttpUser") if asked.locust else ():
        script = LOCUST.format(kind=kind, url=url, users=asked.users, seconds=asked.seconds)
        command = [asked.locust, "-c", script]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        print(f"locust {kind}: {float(done.stdout.split()[-1]):.3f} CPU-ms a call")
    server.terminate()


if __name__ == "__main__":
    main()
