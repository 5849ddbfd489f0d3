"""Where rows stand in the user's files, so that each is told by that, whatever was cleaned, drawn and split meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset

PLACE = "place of the row"
"""Column of it, from reading to splitting; no file names a column so."""


def with_places(rows: Dataset, places: Sequence[str]) -> Dataset:
    """Rows that know where they stand: `rows.csv, line 17`, or the file of a picture, sound or text. Lines and rows count from 1."""
    from datasets import Value

    return rows.add_column(PLACE, list(places), feature=Value("string"))


def with_any_places(rows: Dataset, split: str) -> Dataset:
    """Rows that know where they stand, or else which they are of what was given for a split, from 0."""
    known = PLACE in rows.column_names
    return rows if known else with_places(rows, [f"row {number} of {split}" for number in range(len(rows))])


def without_places(rows: Dataset) -> Dataset:
    """Rows as tasks read them."""
    return rows.remove_columns(PLACE)


def places_of(rows: Dataset) -> Sequence[str]:
    """Where each row stands."""
    found: Sequence[str] = rows[PLACE]
    return found
