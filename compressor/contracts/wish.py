"""What passes, targets and probes are proposed by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from compressor.contracts.task import Task


@dataclass(frozen=True)
class Wish:
    """A task with its model and rows, and how much of its quality may be lost."""

    config: Mapping[str, Any]
    """The model's configuration."""
    task: Task
    rows: Mapping[str, int]
    """By split."""
    trained: bool
    """Whether the model has a head for the task, or needs none."""
    max_drop: float
    """What may be lost against the reference: points of a fraction, per cent of any other measure."""
    reference: str
    """What quality is held against: `source`, or the step that teaches the task."""
    without: Mapping[str, str] | None
    """Parts of the model that no pass can work on, with the reason; None where no part is known."""
    length: int | None = None
    """Length that rows are timed at; None where each has its own."""
    threads: int = 1
    """Processors to use."""
