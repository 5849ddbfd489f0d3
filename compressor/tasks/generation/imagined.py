"""Rows for a plan without data: labels that a model can be asked for, and no pictures."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from compressor.contracts import Columns, Data
from compressor.contracts.records import DataRecord, SplitRecord
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
