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
from compressor.tasks.csv_tables import records_of_csv, usual_separator, written_with
from compressor.tasks.encodings import encoding_of, misfit
from compressor.tasks.json_tables import records_in
from compressor.tasks.table import Table
from compressor.tasks.tables import check_file

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
    check_file(path, kind)
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


def csv_options(path: Path, encoding: str | Sequence[str] | None) -> Iterator[Mapping[str, Any]]:
    """What `data:` may have to say of a csv for it to be read in an encoding, the likeliest first."""
    found = separator_in(path, encoding)
    separated = {} if found == usual_separator(path) else {"separator": found}
    yield separated
    yield {**separated, "quoting": "minimal" if found == "\t" else "none"}


def separator_in(path: Path, encoding: str | Sequence[str] | None) -> str:
    """What most likely separates the fields of a csv: its usual sign where that is in the header, else the most frequent one there.

    Raises:
        SourceError: it is in another encoding.
    """
    try:
        line = _first_line(path, encoding)
    except UnicodeError as error:
        raise misfit(path, encoding, error) from error
    counts = {sign: line.count(sign) for sign in (usual_separator(path), *SEPARATORS)}
    return next(iter(counts)) if next(iter(counts.values())) else max(counts, key=lambda sign: counts[sign])


def _first_line(path: Path, wanted: str | Sequence[str] | None) -> str:
    """The first one with a character in it: those before it are passed over by whoever reads rows."""
    with path.open(encoding=encoding_of(path, wanted)) as file:
        return next((line for line in iter(partial(file.readline, MOST_HEADER), "") if line != "\n"), "")


def _header(path: Path, spec: DataSpec) -> tuple[str, ...]:
    table = Table(path, (), None)
    with closing(records_of_csv(table, spec, written_with(table, spec))) as records:
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
