"""Rows of tables in files. The characters of a field are its value, and only an empty field is missing: nothing is guessed."""

from __future__ import annotations

import csv
import errno
import json
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.contracts import Columns
from compressor.contracts.recipe import spread
from compressor.errors import MissingColumn, SourceError, near_name
from compressor.files import FETCH_IT, is_pointer, plain_file
from compressor.foreign import is_text
from compressor.plan.specs import DataSpec
from compressor.tasks.encodings import encoding_of, misfit
from compressor.tasks.places import with_places

if TYPE_CHECKING:
    from datasets import Dataset

FORMATS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet", ".txt": "text"}
TABS = ".tsv"
MOST_BYTES = 4 * 2**30
"""Of a file of text that is read into memory."""
MOST_READ_BYTES = 16 * 2**30
"""Of what a compressed table unfolds to."""
BATCH = 256
"""Rows of parquet that are unfolded at a time."""
LONGEST_FIELD = 2**30
"""Characters of a field."""
PACKED = (b"\x1f\x8b", b"PK\x03\x04", b"BZh", b"\xfd7zX", b"\x28\xb5\x2f\xfd")
"""How files of gzip, zip, bzip2, xz and zstandard begin."""
MOST_GROUPS = 20
"""Groups of rows of a file of parquet of which some rows will do."""
SHOWN = 12
"""Columns that a message lists."""
QUOTES = "say `quoting: none` where quotation marks are part of the texts, else double those inside of quoted fields"


@dataclass
class Table:
    """Columns of one file, and what a reader should know of how they were read."""

    path: Path
    wanted: tuple[str, ...]
    label: str | None
    cells: dict[str, list[Any]] = field(default_factory=dict)
    lines: list[int] = field(default_factory=list)
    """Where each row begins, from 1."""
    unit: str = "line"
    """What `lines` count."""
    findings: list[str] = field(default_factory=list)

    def fault(self, line: int, what: str) -> SourceError:
        """An error of one line."""
        return SourceError(f"{self.place(line)}: {what}")

    def place(self, line: int) -> str:
        """Where a line is, for people to read."""
        return f"{self.path}, {self.unit} {line}"

    def check_columns(self, there: Sequence[str], advice: str = "") -> None:
        """Refuse a table that lacks a column.

        Raises:
            MissingColumn: it does.
        """
        for column in self.wanted:
            if column not in there:
                listed = ", ".join(there[:SHOWN]) + (f" and {len(there) - SHOWN} more" if len(there) > SHOWN else "")
                raise MissingColumn(
                    column, f"{self.path} has no column '{column}'{near_name(column, there)} (columns: {listed}){advice}"
                )

    def add(self, line: int, values: Sequence[Any]) -> None:
        """One more row, its values in the order of `wanted`."""
        self.lines.append(line)
        for column, value in zip(self.wanted, values, strict=True):
            self.cells.setdefault(column, []).append(value)


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
    check_file(path)
    if kind == "parquet":
        rows = _parquet(table, most)
        return with_places(rows, [f"{path}, row {number}" for number in range(1, len(rows) + 1)]), table.findings
    with _decoded(path, spec.encoding):
        {"csv": _csv, "json": _json, "text": _lines}[kind](table, spec)
    if not table.lines:
        raise SourceError(f"{path} holds no rows")
    return with_places(_dataset(table), [table.place(line) for line in table.lines]), table.findings


def check_file(path: Path) -> None:
    """Refuse what is no table before it is opened.

    Raises:
        SourceError: it is a pipe or device, too large, compressed, or a pointer of Git LFS.
    """
    try:
        plain_file(path, None if path.suffix == ".parquet" else MOST_BYTES)
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}{'; split it' if error.errno == errno.EFBIG else ''}") from error
    if is_pointer(path):
        raise SourceError(f"{path}: {FETCH_IT}")
    with path.open("rb") as file:
        if file.read(4).startswith(PACKED):
            raise SourceError(f"{path} is a compressed file: unpack it")


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
    table.check_columns(["text"])
    with table.path.open(encoding=encoding_of(table.path, spec.encoding)) as file:
        for number, line in enumerate(file, start=1):
            table.add(number, [line.removesuffix("\n")] * len(table.wanted))


# ------------------------------------------------------------------ csv


def _csv(table: Table, spec: DataSpec) -> None:
    separator, plain = _written_with(table, spec)
    rows = records_of_csv(table, spec)
    line, _, header = next(rows, (1, 1, []))
    if not header:
        raise SourceError(f"{table.path} holds no rows")
    table.check_columns(header, _other_ways(header, table.wanted, separator))
    if twice := next((name for name in table.wanted if header.count(name) > 1), None):
        raise table.fault(line, f"the column '{twice}' stands there more than once")
    places = [header.index(name) for name in table.wanted]
    for line, last, values in rows:
        if len(values) != len(header):
            raise table.fault(line, _uneven(len(values), len(header), separator, plain=plain))
        chosen = [values[place] for place in places]
        if plain and spec.quoting is None and (quoted := next(filter(_quoted, chosen), None)):
            raise table.fault(
                line,
                f"{quoted[:40]} begins and ends with a quotation mark: say `quoting: none` where these are part of the text, or "
                "`quoting: minimal` where fields are quoted",
            )
        if last > line and not table.findings and _like_rows(chosen, separator, len(header)):
            table.findings.append(
                f"{table.path}, lines {line} to {last}: a quoted field holds lines that look like rows; {QUOTES}"
            )
        table.add(line, [value or None for value in chosen])


def _written_with(table: Table, spec: DataSpec) -> tuple[str, bool]:
    """What separates fields, and whether quotation marks are part of them."""
    separator = spec.separator or ("\t" if table.path.suffix.lower() == TABS else ",")
    return separator, (spec.quoting or ("none" if separator == "\t" else "minimal")) == "none"


def records_of_csv(table: Table, spec: DataSpec) -> Generator[tuple[int, int, list[str]], None, None]:
    """First and last line of each record of a csv, the header too, and its fields; lines without any character are passed over.

    Raises:
        SourceError: it cannot be read so.
    """
    separator, plain = _written_with(table, spec)
    longest = csv.field_size_limit(LONGEST_FIELD)
    line = 1
    try:
        with table.path.open(encoding=encoding_of(table.path, spec.encoding), newline="") as file:
            reader = csv.reader(file, delimiter=separator, quoting=csv.QUOTE_NONE if plain else csv.QUOTE_MINIMAL, strict=True)
            for values in reader:
                if any("\0" in value for value in values):
                    raise table.fault(line, "holds zero bytes, as no text does: say what it is in, as `encoding: utf-16`")
                if values:
                    yield line, reader.line_num, values
                line = reader.line_num + 1
    except csv.Error as error:
        advice = "" if plain else f"; {QUOTES}"
        raise table.fault(line, f"cannot be read as csv: {error}{advice}") from error
    finally:
        csv.field_size_limit(longest)


def _uneven(found: int, wanted: int, separator: str, *, plain: bool) -> str:
    name = {",": "comma", "\t": "tab", ";": "semicolon"}.get(separator, repr(separator))
    more = f"put a text that holds a {name} into quotation marks" + (" and say `quoting: minimal`" if plain else "")
    advice = (
        more
        if found > wanted
        else "each row has as many as the header, empty ones too; `separator:` says what stands between them"
    )
    return f"{found} field{'s' if found > 1 else ''}, and the header has {wanted}: {advice}"


def _quoted(value: str) -> bool:
    return len(value) > 1 and value[0] == value[-1] == '"'


def _like_rows(values: Sequence[str], separator: str, count: int) -> bool:
    return any(inner.count(separator) == count - 1 for value in values for inner in value.splitlines()[1:-1])


def _other_ways(header: Sequence[str], wanted: Sequence[str], separator: str) -> str:
    """Advice, where another option would give the columns."""
    whole = separator.join(header)
    if set(wanted) <= {name.strip('"') for name in header}:
        return "; fields seem to be quoted: say `quoting: minimal`"
    for sign, spelled in ((",", '","'), (";", '";"'), ("\t", '"\\t"'), ("|", '"|"')):
        if sign != separator and set(wanted) <= {name.strip('"') for name in whole.split(sign)}:
            return f"; fields seem to be separated otherwise: say `separator: {spelled}`"
    return ""


# ------------------------------------------------------------------ json


def _json(table: Table, spec: DataSpec) -> None:
    """An object for each line, or one array of objects."""
    lacking, first = set(table.wanted), list[str]()
    for number, record, text in records_in(table, spec):
        if not isinstance(record, dict):
            raise table.fault(number, f"found {json.dumps(record)[:40]}, expected an object")
        lacking -= record.keys()
        first = first or list(record)
        label = record.get(table.label or "")
        if isinstance(label, float):
            label = text()[table.label]
        table.add(number, [_written(label) if name == table.label else record.get(name) for name in table.wanted])
    if lacking and table.lines:
        table.check_columns(list(dict.fromkeys((*first, *(name for name in table.wanted if name not in lacking)))))


def records_in(table: Table, spec: DataSpec) -> Iterator[tuple[int, Any, Callable[[], Any]]]:
    """Line (in an array the number) of each record, what it holds, and the same with numbers as their characters."""
    with table.path.open(encoding=encoding_of(table.path, spec.encoding)) as file:
        start = next((text for line in file if (text := line.strip())), "")
        file.seek(0)
        if start.startswith("["):
            whole = file.read()
            records = _parsed(table, 1, whole)
            table.unit = "record"
            exact = cache(_spelled)
            for number, each in enumerate(records):
                yield number + 1, each, partial(_item, exact, whole, number)
            return
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, _parsed(table, number, line.rstrip()), partial(_spelled, line)


def _item(exact: Callable[[str], Any], whole: str, number: int) -> Any:
    return exact(whole)[number]


def _spelled(text: str) -> Any:
    return json.loads(text, parse_float=str, parse_constant=str)


def _parsed(table: Table, line: int, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        what = f"cannot be read as json: {error.msg} in column {error.colno}; expected one object a line, or one array of objects"
        raise table.fault(line + error.lineno - 1, what) from error
    except RecursionError as error:
        raise table.fault(line, "cannot be read as json: nested too deep") from error


def _written(label: Any) -> Any:
    """A label by its characters; lists and objects are left to whoever can say what they are."""
    if isinstance(label, bool):
        return str(label).lower()
    return str(label) if isinstance(label, int) else label or None


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
        other = next((at for at, value in enumerate(values) if value is not None and type(value) is not type(first)), 0)
        kinds = (
            f"'{name}' is {json.dumps(values[other])[:40]} ({type(values[other]).__name__}), and {type(first).__name__} before"
        )
        raise table.fault(table.lines[other], f"{kinds}: a column is of one type") from error


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
            table.check_columns(file.schema_arrow.names)
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
