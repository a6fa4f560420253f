"""``python -m transmitter``: the transmitter service."""

import asyncio

from semlink.settings import Settings
from transmitter.service import run

if __name__ == "__main__":
    asyncio.run(run(Settings()))
