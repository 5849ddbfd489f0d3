"""Which columns a table has, and how its fields are separated, before anybody says what is read of it."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from compressor.errors import SourceError
from compressor.plan.specs import DataSpec
from compressor.tasks.encodings import encoding_of, misfit
from compressor.tasks.tables import TABS, Table, records_in

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
    if kind == "parquet":
        return _of_parquet(path)
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
    for encoding in ({}, {"encoding": "cp1252"}):
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
    with path.open(encoding=encoding_of(path, wanted)) as file:
        return file.readline(MOST_HEADER)


def _header(path: Path, spec: DataSpec) -> tuple[str, ...]:
    separator = spec.separator or ("\t" if path.suffix.lower() == TABS else ",")
    plain = (spec.quoting or ("none" if separator == "\t" else "minimal")) == "none"
    line = _first_line(path, spec.encoding)
    try:
        return tuple(
            next(csv.reader([line], delimiter=separator, quoting=csv.QUOTE_NONE if plain else csv.QUOTE_MINIMAL, strict=True), ())
        )
    except csv.Error as error:
        raise SourceError(f"{path}, line 1: cannot be read as csv: {error}") from error


def _of_json(path: Path, spec: DataSpec) -> tuple[str, ...]:
    records = islice(records_in(Table(path, (), None), spec), FIRST_RECORDS)
    return tuple(dict.fromkeys(str(name) for _, record, _ in records if isinstance(record, dict) for name in record))


def _of_parquet(path: Path) -> tuple[str, ...]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return tuple(pq.read_schema(path).names)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise SourceError(f"{path} cannot be read as parquet: {' '.join(str(error).split())}") from error
