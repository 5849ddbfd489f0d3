"""Rows of a plan: cleaned, de-duplicated, split, and known by a digest of their content."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from compressor.contracts import Columns, Data, derived_seed
from compressor.contracts.records import DataRecord, SplitRecord
from compressor.errors import SourceError
from compressor.model.sources import resolve
from compressor.plan.specs import DataSpec
from compressor.tasks.labels import check_classes, in_any_order, in_order, odd_names
from compressor.tasks.media import check_media, content_of, is_file_cell, undecoded
from compressor.tasks.places import PLACE, places_of, with_any_places, without_places
from compressor.tasks.reading import column_of
from compressor.tasks.sources import Source, read_rows
from compressor.tasks.split import cut

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["Data", "load_data", "resolve"]

Known: TypeAlias = tuple[str, str, str]
SHOWN_CHARACTERS = 40
"""Of what a row keeps beside its content, so much is shown."""
SHOWN_CLASSES = 5
GIVEN = ("test", "validation", "train")
"""Splits that a source may give, in the order in which equal rows are kept."""


def load_data(spec: DataSpec, *, columns: Columns, seed: int, folder: Path) -> Data:
    """Read, clean and split the rows that a task asks for.

    Args:
        spec: the plan's `data:`.
        columns: what the task reads; without a label rows are split at random and no class is counted.
        seed: of the split and of calibration rows.
        folder: relative paths start here.

    Raises:
        SourceError: a file is missing, a column is not there, the rows do not match `sha256`, a split would be empty
            or of one class, or two splits share a row.
    """
    return split_rows(read_rows(spec, folder, columns), spec, columns=columns, seed=seed)


def split_rows(read_source: Source, spec: DataSpec, *, columns: Columns, seed: int) -> Data:
    """Clean and split what `read_rows` read; see `load_data`."""
    label, source = columns.label, read_source.name
    parts = {name: with_any_places(rows, name) for name, rows in read_source.parts.items()}
    for rows in parts.values():
        check_media(rows)
    read = _whole_digest({name: _digest(rows) for name, rows in parts.items()})
    if spec.files and spec.files.sha256 and not read.startswith(spec.files.sha256):
        raise SourceError(f"the rows of {source} have sha256 {read[:16]}..., the plan says {spec.files.sha256}")
    removed: Counter[str] = Counter()
    parts = {name: _clean(rows, columns, removed) for name, rows in parts.items()}
    known = {name: _known(rows, columns) for name, rows in parts.items()}
    findings = [*read_source.findings, *_contradictions(parts, known, columns)]
    parts = _apart(parts, spec.deduplicate, known, removed)
    for name, rows in parts.items():
        if not len(rows):
            raise SourceError(f"{source}: no row of {name} has {_wanted(columns)} ({_told(removed)})")
    labels: tuple[str, ...] = ()
    if label:
        labels = in_order(column_of(parts["train"], label))
        if len(labels) < 2:
            raise SourceError(f"{source}: all rows of train have the one label '{labels[0]}'; at least 2 labels are needed")
        check_classes(labels, label, source)
        findings += odd_names(labels, label)
        parts = {name: _encoded(rows, label, labels, name) for name, rows in parts.items()}
    parts = _split(parts, spec, label, seed, removed)
    parts["calibration"] = _drawn(parts["train"], spec.calibration, derived_seed(seed, "calibration"))
    places = {name: places_of(rows) for name, rows in parts.items()}
    parts = {name: without_places(rows) for name, rows in parts.items()}
    digests = {name: _digest(rows) for name, rows in parts.items()}
    splits = tuple(
        SplitRecord(name=name, rows=len(rows), digest=digests[name], classes=_classes(rows, label, labels))
        for name, rows in parts.items()
    )
    if gone := [name for each in splits if each.name == "train" for name, count in each.classes.items() if not count]:
        findings.append(f"within its limit train has no row of {gone[:SHOWN_CLASSES]}: nothing is learned of it")
    record = DataRecord(source=source, digest=read, splits=splits, removed=dict(+removed), findings=tuple(findings))
    return Data(parts, labels, record, _whole_digest({**digests, "labels": "\0".join(labels)}), places)


def _classes(rows: Dataset, label: str | None, labels: Sequence[str]) -> dict[str, int]:
    counts = Counter(column_of(rows, label) if label else ())
    return {name: counts[number] for number, name in enumerate(labels)}


# ------------------------------------------------------------------ cleaning


def _clean(rows: Dataset, columns: Columns, removed: Counter[str]) -> Dataset:
    kept = []
    for number, row in enumerate(undecoded(rows)):
        if columns.label and not row[columns.label]:
            removed["without a label"] += 1
        elif any(_empty(row[column]) for column in columns.content):
            removed["without content"] += 1
        elif lacking := next((column for column in columns.kept if _empty(row[column])), None):
            removed[f"without '{lacking}'"] += 1
        else:
            kept.append(number)
    return _selected(rows, kept)


def _empty(value: Any) -> bool:
    if is_file_cell(value):
        return value["bytes"] is None and value["path"] is None
    return value is None or (isinstance(value, str) and not value.strip())


def _wanted(columns: Columns) -> str:
    """What every row has."""
    *others, last = ("content", *(["a label"] if columns.label else []), *(f"'{name}'" for name in columns.kept))
    return f"{', '.join(others)} and {last}" if others else last


def _told(removed: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {why}" for why, count in removed.items()) or "the file is empty"


def _selected(rows: Dataset, kept: Sequence[int]) -> Dataset:
    return rows if len(kept) == len(rows) else rows.select(kept)


def _apart(
    parts: Mapping[str, Dataset], remove: bool | None, known: Mapping[str, Sequence[Known]], removed: Counter[str]
) -> dict[str, Dataset]:
    """Splits that share no row, nor will once the missing ones are cut from train."""
    apart = dict(parts)
    for name, owners in _equal_to_earlier(known).items():
        cut = name == "train" and len(parts) < len(GIVEN)
        risky = {number for number, owner in owners.items() if owner != name or cut}
        gone = set(owners) if remove else {number for number in risky if owners[number] == name and remove is None}
        if risky - gone:
            number = min(risky - gone)
            raise SourceError(_shared(name, owners[number], len(risky - gone), places_of(parts[name])[number]))
        for number in gone:
            removed["duplicates" if owners[number] == name else "in two splits"] += 1
        apart[name] = _selected(parts[name], [number for number in range(len(parts[name])) if number not in gone])
    return apart


def _known(rows: Dataset, columns: Columns) -> list[Known]:
    """What each row is told by: a digest of its content, one of what it keeps beside it, and its label."""
    return [
        (
            _identity(row[column] for column in columns.content),
            _identity(in_any_order(row[column]) if column in columns.sets else row[column] for column in columns.kept),
            row[columns.label] if columns.label else "",
        )
        for row in undecoded(rows)
    ]


def _equal_to_earlier(known: Mapping[str, Sequence[Known]]) -> dict[str, dict[int, str]]:
    """By split the rows that an earlier row equals, its label too, and the split of that row; test comes first, train last."""
    first: dict[Known, str] = {}
    equal: dict[str, dict[int, str]] = {name: {} for name in GIVEN if name in known}
    for name in equal:
        for number, row in enumerate(known[name]):
            if row in first:
                equal[name][number] = first[row]
            first.setdefault(row, name)
    return equal


def _contradictions(parts: Mapping[str, Dataset], known: Mapping[str, Sequence[Known]], columns: Columns) -> list[str]:
    """A finding where rows of equal content have different labels: which of them is right, only a person can say.

    Without one label these are what rows keep beside their content: lists of labels, numbers, what probes read.
    """
    first: dict[str, tuple[str, int, str]] = {}
    found = []
    for name, rows in known.items():
        for number, (content, kept, label) in enumerate(rows):
            told = label if columns.label else kept
            earlier = first.setdefault(content, (name, number, told))
            if earlier[2] != told:
                found.append((earlier[:2], (name, number)))
    if not found:
        return []
    shown = ", ".join(f"{places_of(parts[name])[number]} {_shown(parts[name], number, columns)}" for name, number in found[0])
    return [f"{_counted(len(found))} with the content of another row and a different label, all kept (first: {shown})"]


def _shown(rows: Dataset, number: int, columns: Columns) -> str:
    """What a row is told to be, by its label or by what stands for one."""
    if columns.label:
        return f"'{rows[columns.label][number]}'"
    row = rows.select_columns(list(columns.kept))[number]
    return ", ".join(f"{name} {value!r:.{SHOWN_CHARACTERS}}" for name, value in row.items())


def _shared(name: str, owner: str, rows: int, first: str) -> str:
    if owner == name:
        return (
            f"{_counted(rows)} of {name} {'repeat' if rows > 1 else 'repeats'} another (first: {first}), and "
            "equal rows can come to stand in two splits: leave `deduplicate: false` out, or give all splits by hand"
        )
    return (
        f"{_counted(rows)} of {name} {'stand' if rows > 1 else 'stands'} in {owner} too (first: {first}), "
        f"so that scores would flatter: say `deduplicate: true` to keep them in {owner} only"
    )


def _counted(rows: int) -> str:
    return f"{rows} row{'s' if rows > 1 else ''}"


def _identity(values: Iterable[Any]) -> str:
    """sha256 of the content: letters folded and blanks run together, images and sounds by the bytes of their files."""
    total = hashlib.sha256()
    for value in values:
        total.update(" ".join(value.casefold().split()).encode() if isinstance(value, str) else _bytes(value))
        total.update(b"\0")
    return total.hexdigest()


def named_files(parts: Mapping[str, Dataset]) -> tuple[Path, ...]:
    """Files that the rows name instead of holding what is in them: images and sounds."""
    values = (value for rows in parts.values() for row in undecoded(rows) for value in row.values())
    return tuple(
        sorted({Path(value["path"]) for value in values if is_file_cell(value) and value["bytes"] is None and value["path"]})
    )


def _bytes(value: Any) -> bytes:
    if is_file_cell(value):
        return content_of(value)
    return json.dumps(value, sort_keys=True, default=str).encode()


def _digest(rows: Dataset) -> str:
    total = hashlib.sha256()
    for row in undecoded(rows):
        for name in sorted(set(row) - {PLACE}):
            content = row[name].encode() if isinstance(row[name], str) else _bytes(row[name])
            total.update(len(content).to_bytes(8, "little"))
            total.update(content)
    return total.hexdigest()


def _whole_digest(digests: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()


# ------------------------------------------------------------------ splitting


def _encoded(rows: Dataset, label: str, labels: Sequence[str], split: str) -> Dataset:
    from datasets import ClassLabel

    numbers = {name: number for number, name in enumerate(labels)}
    spelled = column_of(rows, label)
    if strangers := sorted(set(spelled) - set(labels)):
        raise SourceError(f"{split} has the label '{strangers[0]}', which no row of train has")
    encoded = [numbers[value] for value in spelled]
    return rows.remove_columns(label).add_column(label, encoded, feature=ClassLabel(names=list(labels)))


def _split(
    parts: dict[str, Dataset], spec: DataSpec, label: str | None, seed: int, removed: Mapping[str, int]
) -> dict[str, Dataset]:
    """Cut what is missing from train, stratified by label where there is one; then keep to the limits."""
    train, total = parts["train"], len(parts["train"])
    for name in ("test", "validation"):
        if name not in parts:
            share = getattr(spec.split, name)
            count = round(share * total) if share < 1 else int(share)
            if count < 1 or count >= len(train):
                left = f" ({_told(removed)} are left out)" if any(removed.values()) else ""
                raise SourceError(
                    f"cannot cut {count} rows of {name} from {len(train)}{left}: give more rows or another `split:`"
                )
            train, parts[name] = _cut(train, count, label, seed)
    parts["train"] = train
    for name in ("test", "validation"):
        if label and (strangers := sorted(set(column_of(parts[name], label)) - set(column_of(train, label)))):
            lost = train.features[label].int2str(strangers[0])
            raise SourceError(
                f"every row with the label '{lost}' went to {name}, train has none: give more rows of it, or splits by hand"
            )
    limits: dict[str, int | None] = spec.limit.model_dump()
    return {name: _drawn(parts[name], limit, seed) if limit else parts[name] for name, limit in limits.items()}


def _cut(rows: Dataset, count: int, label: str | None, seed: int) -> tuple[Dataset, Dataset]:
    kinds = column_of(rows, label) if label else list(range(len(rows)))  # without labels, every row is of its own kind
    stay, taken = cut(kinds, count, seed=seed)
    return rows.select(stay), rows.select(taken)


def _drawn(rows: Dataset, count: int, seed: int) -> Dataset:
    import numpy as np

    if count >= len(rows):
        return rows
    chosen = np.random.default_rng(seed).permutation(len(rows))[:count]
    return rows.select(sorted(int(number) for number in chosen))
