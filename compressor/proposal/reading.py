"""The columns of a table, each by what it holds: one that cannot be read is told so, and is no reason to refuse the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.contracts import Column
from compressor.contracts.recipe import spread
from compressor.errors import SourceError
from compressor.plan.specs import DataSpec
from compressor.proposal.checked import checked
from compressor.proposal.columns import LOOKED_AT, column_of, is_known
from compressor.tasks.headers import columns_in, types_in
from compressor.tasks.tables import read_table

if TYPE_CHECKING:
    from datasets import Dataset

TWICE = "stands there more than once"


def columns_of(path: Path, kind: str, options: Mapping[str, Any], without: Sequence[str] = ()) -> tuple[Column, ...]:
    """What each column of a table seems to hold; those without a name that a plan can say are left out.

    Args:
        path: the table.
        kind: csv, json, parquet or text.
        options: what `data:` says of how it is written.
        without: names of columns to leave out.

    Raises:
        SourceError: the table cannot be read, or none of its columns can.
    """
    spec = checked(DataSpec, {"files": path.name, **options}, str(path))
    counts = Counter(name for name in columns_in(path, kind, spec) if _is_name(name) and name not in without)
    types = {name: each for name, each in (types_in(path) if kind == "parquet" else {}).items() if is_known(each)}
    found = {name: Column(name, "other", TWICE) for name, count in counts.items() if count > 1}
    found |= {name: column_of(name, (), types[name]) for name in counts if name in types and name not in found}
    for names, read in _parts(path, kind, [name for name in counts if name not in found], spec):
        found |= {name: _column(name, read) for name in names}
    return tuple(found[name] for name in counts)


def _is_name(name: str) -> bool:
    """Whether a plan can say it: some is there, and no half of a character."""
    return bool(name) and not any("\ud800" <= sign <= "\udfff" for sign in name)


def _column(name: str, read: Dataset | SourceError) -> Column:
    if isinstance(read, SourceError):
        return Column(name, "other", f"cannot be read: {read}")
    return column_of(name, list(read[name]), read.features[name])


def _parts(path: Path, kind: str, names: Sequence[str], spec: DataSpec) -> Iterator[tuple[Sequence[str], Dataset | SourceError]]:
    """Rows of as many columns at once as can be read together, and each column that cannot be read, with the reason.

    Raises:
        SourceError: it is not columns that cannot be read, but the file.
    """
    if not names:
        return
    read = _read(path, kind, names, spec)
    if isinstance(read, SourceError) and kind == "csv":  # its columns are all texts: what is at fault is the file
        raise read
    if not isinstance(read, SourceError) or len(names) == 1:
        yield names, read
        return
    if all(str(_read(path, kind, [name], spec)) == str(read) for name in (names[0], names[-1])):
        raise read
    middle = len(names) // 2
    yield from _parts(path, kind, names[:middle], spec)
    yield from _parts(path, kind, names[middle:], spec)


def _read(path: Path, kind: str, names: Sequence[str], spec: DataSpec) -> Dataset | SourceError:
    try:
        rows, _ = read_table(path, kind, list(names), spec, most=LOOKED_AT)
    except SourceError as error:
        return error
    return rows.select(spread(len(rows), LOOKED_AT))
