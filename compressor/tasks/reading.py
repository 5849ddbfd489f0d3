"""Rows and columns of a dataset, many at a time: asked for one by one, each row costs some fifty times as much as its share of many."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset

MOST_ROWS, MOST_BYTES = 256, 16_000_000
"""That are asked for at once: some rows are whole files of pictures and sounds."""


def column_of(rows: Dataset, name: Any) -> list[Any]:
    """All values of a column, in order."""
    return list(values_of(rows, name))


def values_of(rows: Dataset, name: Any) -> Iterator[Any]:
    """The values of a column, in order, of which few are in memory at once."""
    for row in each_row(rows.select_columns([name])):
        yield row[name]


def each_row(rows: Dataset) -> Iterator[dict[str, Any]]:
    """The rows, in order, of which few are in memory at once."""
    mean = rows.data.nbytes / max(1, rows.data.num_rows)
    for some in rows.iter(max(1, min(MOST_ROWS, int(MOST_BYTES // max(1.0, mean))))):
        yield from (dict(zip(some, row, strict=True)) for row in zip(*some.values(), strict=True))
