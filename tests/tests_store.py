"""The bundled server of the store, as `semlink up` starts it."""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path

from semlink.deployment.processes import store_command
from semlink.store import RedisStore, Store


def start_store(path: Path, data_dir: Path | None = None) -> subprocess.Popen[bytes]:
    """The server at the Unix socket ``path``, answering."""
    process = subprocess.Popen(
        store_command(path, data_dir), stdout=subprocess.DEVNULL, cwd=path.parent
    )
    for _ in range(200):
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(path)) == 0:
                return process
        time.sleep(0.05)
    process.kill()
    raise RuntimeError("the store's server did not start")


async def empty(store: RedisStore) -> None:
    """Forget everything; the server's users may not flush it."""
    keys = [key async for key in store._redis.scan_iter("semlink:*")]
    if keys:
        await store._redis.unlink(*keys)


async def count_knowledge(store: Store) -> int:
    """How many entries are kept."""
    keys: set[str] = set()
    cursor = 0
    while True:
        cursor, found = await store.scan_knowledge(cursor, 1_000)
        keys |= found.keys()
        if cursor == 0:
            return len(keys)
