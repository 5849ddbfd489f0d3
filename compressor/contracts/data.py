"""Rows that a task is given, and which of their columns it reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from compressor.contracts.records import DataRecord
from compressor.errors import SourceError

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Columns:
    """Columns of the data that a task reads."""

    content: tuple[str, ...]
    """What models are fed from; a row without it is left out."""
    label: str | None = None
    """What rows are split by and classes are counted of; None where rows have none."""
    kept: tuple[str, ...] = ()
    """Further columns that every row needs: groups, other labels."""
    sets: tuple[str, ...] = ()
    """Those of `kept` that hold lists whose order says nothing."""

    @property
    def all(self) -> tuple[str, ...]:
        """Every column, content first and the label last."""
        return (*self.content, *self.kept, *((self.label,) if self.label else ()))


@dataclass(frozen=True)
class Data:
    """Rows by split (train, validation, test, calibration); the label column, if there is one, indexes `labels`."""

    splits: Mapping[str, Dataset]
    labels: tuple[str, ...]
    record: DataRecord
    digest: str
    """sha256 over the rows of every split as they are used, whatever folder they came from."""
    places: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """By split, where each row stands in the user's files: `rows.csv, line 17`."""

    @property
    def real(self) -> bool:
        """As the record has it."""
        return self.record.real

    def place(self, split: str, row: int) -> str:
        """What a person is told of a row of a split, which is counted from 0: where it stands, as far as that is known."""
        return self.places[split][row] if split in self.places else f"row {row} of {split}"

    def split(self, name: str) -> Dataset:
        """Rows of a split.

        Raises:
            SourceError: there is no such split.
        """
        if name not in self.splits:
            raise SourceError(f"no split '{name}' (there are {', '.join(self.splits)})")
        return self.splits[name]
