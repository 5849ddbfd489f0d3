"""Which columns a table has, and how its fields are separated, before anybody says what is read of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from compressor.errors import SourceError
from compressor.foreign import told
from compressor.plan.specs import DataSpec
from compressor.tasks.encodings import encoding_of, mark_of, misfit
from compressor.tasks.tables import TABS, Table, check_file, records_in, records_of_csv

SEPARATORS = (",", ";", "\t", "|")
FIRST_RECORDS = 200
"""Of json: a column that comes later is not met."""
MOST_HEADER = 2**20
"""Characters."""


def columns_in(path: Path, kind: str, spec: DataSpec) -> tuple[str, ...]:
    """Names of the columns of a table, in order.

    Raises:
        SourceError: it cannot be read, or is empty.
    """
    check_file(path)
    if kind == "parquet":
        return tuple(_schema(path).names)
    if kind == "text":
        return ("text",)
    try:
        names = _of_json(path, spec) if kind == "json" else _header(path, spec)
    except UnicodeError as error:
        raise misfit(path, spec.encoding, error) from error
    if not names:
        raise SourceError(f"{path} holds no rows")
    return names


def csv_options(path: Path) -> Iterator[Mapping[str, Any]]:
    """What `data:` may have to say of a csv for it to be read, the likeliest first."""
    usual = "\t" if path.suffix.lower() == TABS else ","
    marked = mark_of(path)
    for encoding in ({"encoding": marked},) if marked else ({}, {"encoding": "cp1252"}):
        try:
            line = _first_line(path, encoding.get("encoding"))
        except UnicodeError:
            continue
        counts = {sign: line.count(sign) for sign in (usual, *SEPARATORS)}
        best = usual if counts[usual] else max(counts, key=lambda sign: counts[sign])
        separated = {} if best == usual else {"separator": best}
        yield {**separated, **encoding}
        yield {**separated, **encoding, "quoting": "minimal" if best == "\t" else "none"}


def _first_line(path: Path, wanted: str | Sequence[str] | None) -> str:
    """The first one with a character in it: those before it are passed over by whoever reads rows."""
    with path.open(encoding=encoding_of(path, wanted)) as file:
        return next((line for line in iter(partial(file.readline, MOST_HEADER), "") if line != "\n"), "")


def _header(path: Path, spec: DataSpec) -> tuple[str, ...]:
    with closing(records_of_csv(Table(path, (), None), spec)) as records:
        return tuple(next((fields for _, _, fields in records), ()))


def _of_json(path: Path, spec: DataSpec) -> tuple[str, ...]:
    records = islice(records_in(Table(path, (), None), spec), FIRST_RECORDS)
    return tuple(dict.fromkeys(str(name) for _, record, _ in records if isinstance(record, dict) for name in record))


def types_in(path: Path) -> Mapping[str, Any]:
    """Types of `datasets` that columns of a file of parquet are noted to have; none where it notes none.

    Raises:
        SourceError: it cannot be read.
    """
    from datasets import Features

    schema = _schema(path)
    if b"huggingface" not in (schema.metadata or {}):
        return {}
    try:
        return dict(Features.from_arrow_schema(schema))
    except (ValueError, TypeError, KeyError, AttributeError, NotImplementedError) as error:
        raise SourceError(f"{path}: what it notes of its columns cannot be read: {told(error)}") from error


def _schema(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_schema(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise SourceError(f"{path} cannot be read as parquet: {' '.join(str(error).split())}") from error
