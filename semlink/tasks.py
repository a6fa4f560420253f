"""The retrieval tasks: text to person image, text to image, text to audio and back."""

from __future__ import annotations

from typing import Literal, get_args

Task = Literal["person", "image", "audio"]
TASKS: tuple[Task, ...] = get_args(Task)
