"""Rows and columns of a dataset, many at a time: asked for one by one, each row costs some fifty times as much as its share of many."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset

AT_ONCE = 32
"""Rows that are held in memory, as some are whole files of pictures and sounds."""


def column_of(rows: Dataset, name: Any) -> list[Any]:
    """All values of a column, in order: of labels and other short ones."""
    found: list[Any] = rows[name][:]
    return found


def values_of(rows: Dataset, name: str) -> Iterator[Any]:
    """The values of a column, in order, of which few are in memory at once."""
    for row in each_row(rows.select_columns([name])):
        yield row[name]


def each_row(rows: Dataset) -> Iterator[dict[str, Any]]:
    """The rows, in order, of which few are in memory at once."""
    for some in rows.iter(AT_ONCE):
        yield from (dict(zip(some, row, strict=True)) for row in zip(*some.values(), strict=True))
