"""What every experiment over the link samples unless told otherwise: the same queries on the same drops.

So a point that two experiments share is measured once (:class:`lab.experiments.retrieval_sweep.Measurements`), and
figures stand side by side. Each query rides on a drop of its own: what differs from drop to drop is most of the spread.
"""

from __future__ import annotations

from typing import Final

from lab.experiments.sweep import Sampling

PERSON: Final = Sampling("person", queries=100, links=100)
IMAGE: Final = Sampling("image", queries=100, links=100)
AUDIO: Final = Sampling("audio", queries=100, links=100)
