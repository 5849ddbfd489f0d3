"""What a model can be asked for: labels, in turn for a plan without data, whose rows have no pictures, or as a person says."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from compressor.contracts import Columns, Data
from compressor.contracts.records import DataRecord, SplitRecord
from compressor.errors import SourceError
from compressor.tasks.generation.description import Description

if TYPE_CHECKING:
    from datasets import Dataset

COUNT = 64
"""In each split: parity is of so many, and timing takes them again."""
SPLITS = ("train", "validation", "test", "calibration")
FINDING = "the plan has none: quality is not judged, only parity and timing; labels are made up in turn"


def rows_of(how: Description, columns: Columns) -> Data:
    """Labels in turn, named by their numbers; equal in every split. The columns of pictures are empty."""
    names = [str(number) for number in range(max(1, how.classes))]
    rows = _rows(names, columns)
    digest = hashlib.sha256(f"imagined {COUNT} of {len(names)}".encode()).hexdigest()
    splits = tuple(SplitRecord(name=name, rows=COUNT, digest=digest) for name in SPLITS)
    record = DataRecord(source="none", digest=digest, splits=splits, findings=(FINDING,), real=False)
    return Data(dict.fromkeys(SPLITS, rows), tuple(names), record, digest)


def _rows(names: list[str], columns: Columns) -> Dataset:
    from datasets import ClassLabel, Dataset, Features, Value

    kinds = {name: Value("null") for name in columns.content}
    content = {name: [None] * COUNT for name in columns.content}
    labels = {columns.label: ClassLabel(names=names)} if columns.label else {}
    told = {name: [number % len(names) for number in range(COUNT)] for name in labels}
    return Dataset.from_dict({**content, **told}, features=Features({**kinds, **labels}))


def asked_for(content: Any, how: Description) -> tuple[int, int]:
    """Label and seed of what a person asks for: `{"label": 3, "seed": 7}`, or the label alone, as a number.

    Raises:
        SourceError: it is something else.
    """
    given = content if isinstance(content, Mapping) else {"label": content}
    try:
        label, seed = int(given.get("label", 0)), int(given.get("seed", 0))
    except (TypeError, ValueError, OverflowError) as error:
        raise SourceError(
            f"{content!r:.60} is no picture to draw: expected the number of a label, or a label and a seed"
        ) from error
    if not 0 <= label < max(1, how.classes) or not 0 <= seed < 2**63:
        raise SourceError(f"label {label} and seed {seed}: labels are 0 to {max(1, how.classes) - 1}, seeds 0 to {2**63 - 1}")
    return label, seed
