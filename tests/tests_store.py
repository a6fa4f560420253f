"""The bundled server of the store, as `semlink up` starts it."""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path

from semlink.deployment.supervisor import store_command
from semlink.store import RedisStore


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
