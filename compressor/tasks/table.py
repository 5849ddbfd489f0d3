"""Columns of one file while they are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compressor.errors import MissingColumn, SourceError, near_name
from compressor.foreign import alike

SHOWN = 12
"""Columns that a message lists."""


@dataclass
class Table:
    """Columns of one file, and what a reader should know of how they were read."""

    path: Path
    wanted: tuple[str, ...]
    label: str | None
    cells: dict[str, list[Any]] = field(default_factory=dict)
    lines: list[int] = field(default_factory=list)
    """Where each row begins, from 1."""
    unit: str = "line"
    """What `lines` count."""
    findings: list[str] = field(default_factory=list)

    def fault(self, line: int, what: str) -> SourceError:
        """An error of one line."""
        return SourceError(f"{self.place(line)}: {what}")

    def place(self, line: int) -> str:
        """Where a line is, for people to read."""
        return f"{self.path}, {self.unit} {line}"

    def check_columns(self, there: Sequence[str], advice: str = "") -> None:
        """Refuse a table that lacks a column.

        Raises:
            MissingColumn: it does.
        """
        for column in self.wanted:
            if column not in there:
                looks = next((f" ({why})" for name in there if (why := alike(column, name))), "")
                listed = ", ".join(there[:SHOWN]) + (f" and {len(there) - SHOWN} more" if len(there) > SHOWN else "")
                raise MissingColumn(
                    column,
                    f"{self.path} has no column '{column}'{looks or near_name(column, there)} (columns: {listed}){advice}{self._outside(column)}",
                )

    def _outside(self, column: str) -> str:
        """Advice, where the values of a column stand in names of folders."""
        if not any(part.startswith(f"{column}=") for part in self.path.parent.parts):
            return ""
        return "; its values stand in names of folders, as Hive and Spark write a partitioned table: write them into the rows"

    def add(self, line: int, values: Sequence[Any]) -> None:
        """One more row, its values in the order of `wanted`."""
        self.lines.append(line)
        for column, value in zip(self.wanted, values, strict=True):
            self.cells.setdefault(column, []).append(value)
