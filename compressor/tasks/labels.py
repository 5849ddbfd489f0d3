"""Labels of rows as strings: how they are spelled, in which order they come, and what in them looks like a mistake."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from compressor.errors import SourceError
from compressor.foreign import NUMBER, alike, plain
from compressor.tasks.places import PLACE
from compressor.tasks.reading import values_of

if TYPE_CHECKING:
    from datasets import Dataset


def spelled(rows: Dataset, label: str) -> Dataset:
    """Rows with their labels as strings, or None where there is none.

    Raises:
        SourceError: a label is a list or an object.
    """
    from datasets import Value

    names = getattr(rows.features[label], "names", None)
    found = [_spelling(value, names, where) for value, where in zip(values_of(rows, label), values_of(rows, PLACE), strict=True)]
    return rows.remove_columns(label).add_column(label, found, feature=Value("string"))


def _spelling(value: Any, names: Sequence[str] | None, where: str) -> str | None:
    """Texts as they are. Whole numbers that a gap in a column of numbers made floats are whole again; -1 of named classes is no label."""
    if value is None or value != value or value == "" or (names and value < 0):
        return None
    if names:
        return str(names[value])
    if isinstance(value, list | dict | bytes):
        raise SourceError(f"{where}: the label is {value!r:.40}, expected a text or a number: one label for each row")
    whole = isinstance(value, float) and value.is_integer()
    return str(int(value) if whole else value)


def in_order(found: Iterable[str]) -> tuple[str, ...]:
    """Names in order: numbers by value, all else by letter."""
    names = set(found)
    return tuple(sorted(names, key=lambda name: (int(name), name)) if all(name.isdecimal() for name in names) else sorted(names))


def listed(value: Any) -> Any:
    """What a text holds as a list of JSON; anything else as it is.

    Raises:
        ValueError: it begins as a list, and is none.
    """
    return json.loads(value) if isinstance(value, str) and value.lstrip().startswith("[") else value


def in_any_order(value: Any) -> Any:
    """A list of names as the set that it means, in one order and spelling; what is no list of names as it is."""
    try:
        found = listed(value)
    except ValueError:
        return value
    return sorted({str(each).strip() for each in found}) if isinstance(found, list) else value


def check_classes(names: Sequence[str], column: str, source: str) -> None:
    """Refuse labels that are amounts.

    Raises:
        SourceError: all of them are numbers, and some have fractions.
    """
    fractions = [name for name in names if NUMBER.fullmatch(name) and not float(name).is_integer()]
    if fractions and all(NUMBER.fullmatch(name) for name in names):
        raise SourceError(
            f"{source}: column '{column}' holds {len(names)} different numbers, as {fractions[0]}: these are amounts and no classes; "
            "a task of regression learns them (texts have one), and names of classes are not numbers alone"
        )


def odd_names(labels: Sequence[str], column: str) -> Iterator[str]:
    """A finding for labels that look the same, for one that is called as its column is, and for one that nobody sees."""
    if column in labels:
        yield f"column '{column}' has the name of one of its labels: is the first line a row, and the header missing?"
    if blank := next((label for label in labels if not plain(label)), None):
        yield f"a label is {blank!a}, in which nothing can be seen, and is a class: leave those rows' labels empty where they have none"
    yield from look_alikes(labels)


def look_alikes(labels: Sequence[str]) -> Iterator[str]:
    """A finding for labels that look the same: told apart by blanks, letter case, forms of one letter or of one number alone."""
    first: dict[str, str] = {}
    for label in labels:
        if why := alike(first.setdefault(plain(label), label), label):
            yield f"labels {why}, and are two classes"
