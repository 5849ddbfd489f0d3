"""A stage of a run as it stands."""

from __future__ import annotations

from dataclasses import dataclass

from compressor.contracts import Evaluation
from compressor.contracts.records import Stage
from compressor.store.store import StoredResult


@dataclass(frozen=True)
class StageState:
    """A stage as it stands: its stored files, their format, its record and its validation scores."""

    made: StoredResult
    format: str
    stage: Stage
    evaluation: Evaluation | None = None
