"""Make the rewrites that come with semlink: of the demo's texts and of those that the README asks with.

``python -m tools.ship_rewrites`` from a checkout, after a change of these texts, of the default prompt or of the LLM;
a test says when. Writes :data:`kb_service.exchange.SHIPPED`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Final

from kb_service.entries import entry_of
from kb_service.exchange import SHIPPED, to_json
from kb_service.llm import MODEL_NAME, load_language_model
from kb_service.rewriting import Rewriter, Task, task_of
from semlink.cli.demo import asks
from semlink.semantics.text import sentence_embeddings
from semlink.settings import Settings
from semlink.v1 import knowledge_pb2 as pb
from transmitter.knowledge import NUM_REWRITES, REWRITE_TEMPERATURE

README: Final = Path(__file__).parents[1] / "README.md"
_ASKED: Final = re.compile(r"""semlink query "([^"]+)"|"query": \{"text": "([^"]+)"\}""")


def tasks() -> list[Task]:
    """What the demo and the README have the LLM rewrite, as a query asks for it."""
    texts = [ask.text for ask in asks() if ask.text]
    texts += [command or body for command, body in _ASKED.findall(README.read_text())]
    items = [
        pb.RewriteItem(text=t, num_candidates=NUM_REWRITES, temperature=REWRITE_TEMPERATURE)
        for t in dict.fromkeys(texts)
    ]
    return [task_of(item, field="text") for item in items]


def main() -> None:
    """Generate, and write the file."""
    wanted = tasks()
    rewriter = Rewriter(load_language_model(Settings().cache_dir), sentence_embeddings)
    lines = []
    for task, found in zip(wanted, rewriter(wanted), strict=True):
        entry = entry_of(task, MODEL_NAME, found, sentence_embeddings([task.text])[0])
        entry.key = task.key(MODEL_NAME)
        lines.append(json.dumps(to_json(entry)))
    SHIPPED.write_text("\n".join(lines) + "\n")
    print(f"{len(lines)} captions: {SHIPPED}")


if __name__ == "__main__":
    main()
