"""``python -m kb_service``: the knowledge base service."""

import asyncio

from kb_service.service import run
from semlink.settings import Settings

if __name__ == "__main__":
    asyncio.run(run(Settings()))
