"""Rows of tables in files. The characters of a field are its value, and only an empty field is missing: nothing is guessed."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.contracts import Columns
from compressor.contracts.recipe import spread
from compressor.errors import SourceError
from compressor.files import plain_file
from compressor.foreign import is_text
from compressor.plan.specs import DataSpec
from compressor.tasks.csv_tables import read_csv
from compressor.tasks.encodings import encoding_of, misfit
from compressor.tasks.json_tables import read_json_rows
from compressor.tasks.places import with_places
from compressor.tasks.strangers import stranger
from compressor.tasks.table import Table

if TYPE_CHECKING:
    from datasets import Dataset

FORMATS = {
    ".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".ndjson": "json", ".parquet": "parquet", ".txt": "text",
}  # fmt: skip
MOST_BYTES = 4 * 2**30
"""Of a file of text that is read into memory."""
MOST_READ_BYTES = 16 * 2**30
"""Of what a compressed table unfolds to."""
BATCH = 256
"""Rows of parquet that are unfolded at a time."""
MOST_GROUPS = 20
"""Groups of rows of a file of parquet of which some rows will do."""


def read_table(
    path: Path, kind: str, columns: Columns | Sequence[str], spec: DataSpec, *, most: int | None = None
) -> tuple[Dataset, list[str]]:
    """Rows of one file, of the named columns and their places, and findings. Labels of csv and json are their characters.

    Args:
        path: a plain file.
        kind: csv, json, parquet or text.
        columns: what a task reads; plain names, of which none is a label.
        spec: how csv is written, and the encoding.
        most: about so many rows will do, spread over the file; only parquet heeds it, and their places are not those in the file.

    Raises:
        SourceError: the file cannot be read so, or holds no rows.
        MissingColumn: it lacks a column.
    """
    label = columns.label if isinstance(columns, Columns) else None
    table = Table(path, columns.all if isinstance(columns, Columns) else tuple(columns), label)
    check_file(path, kind)
    if kind == "parquet":
        rows = _parquet(table, most)
        return with_places(rows, [f"{path}, row {number}" for number in range(1, len(rows) + 1)]), table.findings
    with _decoded(path, spec.encoding):
        {"csv": read_csv, "json": read_json_rows, "text": _lines}[kind](table, spec)
    if not table.lines:
        raise SourceError(f"{path} holds no rows")
    return with_places(_dataset(table), [table.place(line) for line in table.lines]), table.findings


def check_file(path: Path, kind: str = "") -> None:
    """Refuse what is no table of a kind before it is opened.

    Raises:
        SourceError: it is a pipe or device, too large, a pointer of Git LFS, or a file of another kind.
    """
    try:
        plain_file(path, None if path.suffix == ".parquet" else MOST_BYTES)
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}{'; split it' if error.errno == errno.EFBIG else ''}") from error
    if what := stranger(path, kind):
        raise SourceError(f"{path} is {what}")


# ------------------------------------------------------------------ text


@contextmanager
def _decoded(path: Path, encoding: str | Sequence[str] | None) -> Iterator[None]:
    """While a file is read: the line that is in another encoding."""
    try:
        yield
    except UnicodeError as error:
        raise misfit(path, encoding, error) from error


def _lines(table: Table, spec: DataSpec) -> None:
    """Each line is a row of the column `text`."""
    table.check_columns(["text"], "; a line of a file of text is a text and nothing else: write rows with labels as csv or json")
    with table.path.open(encoding=encoding_of(table.path, spec.encoding)) as file:
        for number, line in enumerate(file, start=1):
            table.add(number, [line.removesuffix("\n")] * len(table.wanted))


# ------------------------------------------------------------------ tables in memory


def _dataset(table: Table) -> Dataset:
    from datasets import Dataset, Features, Value

    features: Any = {}
    for name, values in table.cells.items():
        texts = all(value is None or isinstance(value, str) for value in values)
        features[name] = Value("string") if texts else _feature(table, name, values)
    try:
        return Dataset.from_dict(table.cells, features=Features(features))
    except UnicodeError as error:
        line, name = _not_text(table)
        raise table.fault(line, f"'{name}' holds half of a character (a lone surrogate), which is no text") from error


def _not_text(table: Table) -> tuple[int, str]:
    """Line and column of what no encoding can write."""
    places = (
        (line, name, value) for name, values in table.cells.items() for line, value in zip(table.lines, values, strict=True)
    )
    return next((line, name) for line, name, value in places if not is_text(str(value)))


def _feature(table: Table, name: str, values: Sequence[Any]) -> Any:
    """The type of a column that holds more than texts.

    Raises:
        SourceError: values are of several types.
    """
    import pyarrow as pa
    from datasets.features.features import generate_from_arrow_type

    try:
        return generate_from_arrow_type(pa.array(values).type)
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        first = next(value for value in values if value is not None)
        at = next((at for at, value in enumerate(values) if not _of_one_column(first, value)), None)
        if at is None:  # each goes with the first one, and not all with each other
            at = next((at for at, value in enumerate(values) if value is not None and type(value) is not type(first)), 0)
        kinds = [type(each).__name__ for each in (values[at], first)]
        shown = f"{json.dumps(values[at])[:40]} ({kinds[0]})"
        parts = json.dumps(values[at])[:120]
        if kinds[0] == kinds[1] and "{" in parts:
            raise table.fault(
                table.lines[at], f"'{name}' holds {parts}: inside of it, or of rows before, one name has values of several types"
            ) from error
        before = kinds[1] if kinds[0] != kinds[1] else f"{json.dumps(first)[:40]} ({kinds[1]})"
        raise table.fault(table.lines[at], f"'{name}' is {shown}, and {before} before: a column is of one type") from error


def _of_one_column(first: Any, value: Any) -> bool:
    """Whether both may stand in one column."""
    import pyarrow as pa

    try:
        pa.array([first, value])
    except (pa.ArrowException, ValueError, TypeError, OverflowError):
        return False
    return True


def _unfolded(batch: Any) -> Any:
    """Rows with their values in full: a column may lie there as numbers of values."""
    import pyarrow as pa

    columns = [column.dictionary_decode() if pa.types.is_dictionary(column.type) else column for column in batch.columns]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _some_batches(file: Any, wanted: Sequence[str], most: int | None) -> Iterator[Any]:
    """Rows of a file of parquet, or about `most` of them: of some of its groups, spread over the file and in each."""
    if most is None or file.metadata.num_rows <= most:
        yield from file.iter_batches(batch_size=BATCH, columns=list(wanted))
        return
    groups = spread(file.metadata.num_row_groups, MOST_GROUPS)
    every = max(1, sum(file.metadata.row_group(group).num_rows for group in groups) // most)
    for batch in file.iter_batches(batch_size=BATCH, row_groups=groups, columns=list(wanted)):
        yield batch.take(list(range(0, len(batch), every)))


def _parquet(table: Table, most: int | None) -> Dataset:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Dataset
    from datasets.table import InMemoryTable

    try:
        with pq.ParquetFile(table.path) as file:
            table.check_columns(names := file.schema_arrow.names)
            if twice := next((name for name in table.wanted if names.count(name) > 1), None):
                raise SourceError(f"{table.path}: the column '{twice}' stands there more than once")
            batches, size = list[pa.RecordBatch](), 0
            for batch in _some_batches(file, table.wanted, most):
                batches.append(_unfolded(batch))
                size += batches[-1].nbytes
                if size > MOST_READ_BYTES:
                    raise SourceError(f"{table.path} unfolds to more than {MOST_READ_BYTES / 1e9:.0f} GB: split it")
            metadata = file.schema_arrow.metadata
        if not batches:
            raise SourceError(f"{table.path} holds no rows")
        read = pa.Table.from_batches(batches).select(list(table.wanted)).replace_schema_metadata(metadata)
        return Dataset(InMemoryTable(read))
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError, NotImplementedError, AttributeError) as error:
        raise SourceError(f"{table.path} cannot be read as parquet: {' '.join(str(error).split())}") from error
