"""What a column of a table seems to hold, by its values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from compressor.contracts import Column
from compressor.tasks.folders import SPLITS

MOST_CLASSES = 1000
FEW = 20
"""Different whole numbers up to which they are taken for classes."""
WORDS_OF_A_CLASS = 6
LOOKED_AT = 20_000
"""Rows, spread evenly over all."""


def column_of(name: str, values: Sequence[Any], feature: Any = None) -> Column:
    """A column by its values and, where it has one, its type in `datasets`. What is missing or no number (NaN) says nothing of it."""
    if is_known(feature):
        return _by_type(name, feature)
    there = [value for value in values if value not in (None, "") and not (isinstance(value, float) and math.isnan(value))]
    if not there:
        return Column(name, "other", "empty")
    if all(isinstance(value, list | tuple) for value in there):
        return _lists(name, there)
    if all(isinstance(value, bool) for value in there):
        return Column(name, "bits" if len(set(there)) == 2 else "other", "true and false")
    if all(isinstance(value, str | int | float) for value in there):
        numbers = [_number(value) for value in there]
        finite = [number for number in numbers if number is not None and math.isfinite(number)]
        return _amounts(name, finite) if finite and None not in numbers else _strings(name, [str(value) for value in there])
    return Column(name, "other", type(there[0]).__name__)


def is_known(feature: Any) -> bool:
    """Whether a column's type says all of it, without its values."""
    from datasets import Audio, ClassLabel, Image

    return isinstance(feature, Image | Audio | ClassLabel)


def _by_type(name: str, feature: Any) -> Column:
    from datasets import Audio, ClassLabel

    if isinstance(feature, ClassLabel):
        return Column(name, "class", f"{len(feature.names)} classes", tuple(sorted(feature.names)))
    return Column(name, "sound" if isinstance(feature, Audio) else "picture")


def _lists(name: str, values: Sequence[Sequence[Any]]) -> Column:
    if not all(isinstance(each, str) for value in values for each in value):
        return Column(name, "other", "lists")
    return Column(name, "labels", f"lists of {len({each for value in values for each in value})} labels")


def _number(value: Any) -> float | None:
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if "_" not in str(value) else None


def _amounts(name: str, values: Sequence[Any]) -> Column:
    different, whole = set(values), all(value == int(value) for value in values)
    spread = f"{min(different):g} to {max(different):g}"
    if different == {0.0, 1.0}:
        return Column(name, "bits", "0 and 1")
    if whole and len(different) == len(values) > 2:
        return Column(name, "other", f"a whole number each, {spread}")
    if whole and 2 <= len(different) <= FEW:
        return Column(name, "class", f"{len(different)} classes, whole numbers {spread}")
    recur = len(values) / len(different)
    if whole and len(different) <= MOST_CLASSES and recur >= FEW and different == set(map(float, range(len(different)))):
        return Column(name, "class", f"{len(different)} classes, numbered")
    return Column(name, "number" if len(different) > 1 else "other", f"numbers {spread}")


def _strings(name: str, values: Sequence[str]) -> Column:
    there, words = tuple(sorted(set(values))), fmean(len(value.split()) for value in values)
    different, recur = len(there), len(values) / len(there)
    if different > 1 and all(value.strip().casefold() in SPLITS for value in there):
        return Column(name, "other", f"names of splits: {', '.join(there)}", there)
    if 2 <= different <= MOST_CLASSES and words <= WORDS_OF_A_CLASS and recur >= (2 if words <= 2 else 5):
        return Column(name, "class", f"{different} classes", there)
    spaced = words >= 2 or any(not value.isascii() for value in values)
    if spaced and different > 1:
        return Column(name, "text", f"texts of {words:.0f} words" if words >= 2 else "texts")
    return Column(name, "other", "one value" if different == 1 else f"{different} different names")
