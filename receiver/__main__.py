"""``python -m receiver``: the receiver service."""

import asyncio

from receiver.service import run
from semlink.settings import Settings

if __name__ == "__main__":
    asyncio.run(run(Settings()))
