"""``python -m channel_service``."""

import asyncio

from channel_service.service import run
from semlink.settings import Settings

if __name__ == "__main__":
    asyncio.run(run(Settings()))
