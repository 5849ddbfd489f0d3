"""Rows of csv and its kin: each field is the characters that stand there, and each row has as many as the header."""

from __future__ import annotations

import csv
import json
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path

from compressor.errors import SourceError
from compressor.plan.specs import DataSpec
from compressor.tasks.encodings import encoding_of
from compressor.tasks.table import Table

TABS = ".tsv"
LONGEST_FIELD = 2**30
"""Characters of a field."""
EXCELS = "sep="
"""How a line begins that tells Excel what separates fields."""
QUOTES = "say `quoting: none` where quotation marks are part of the texts, else double those inside of quoted fields"


def read_csv(table: Table, spec: DataSpec) -> None:
    """Rows of csv, each with as many fields as the header.

    Raises:
        SourceError: it cannot be read so.
        MissingColumn: it lacks a column.
    """
    written = written_with(table, spec)
    separator, plain = written
    rows = records_of_csv(table, spec, written)
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
        if values == header:
            raise table.fault(line, "the header stands here again, as where files were put one behind the other: take it out")
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


def written_with(table: Table, spec: DataSpec) -> tuple[str, bool]:
    """What separates fields, and whether quotation marks are part of them.

    Where a plan names a separator, a file that has the columns by its usual one only, as one among others may, is read by that.
    """
    ways = [(sign, _plain(sign, spec)) for sign in dict.fromkeys((spec.separator, usual_separator(table.path))) if sign]
    if len(ways) == 1:
        return ways[0]
    return next((way for way in ways if set(table.wanted) <= set(_header(table, spec, way))), ways[0])


def usual_separator(path: Path) -> str:
    """What separates fields where a plan does not say it."""
    return "\t" if path.suffix.lower() == TABS else ","


def _plain(separator: str, spec: DataSpec) -> bool:
    return (spec.quoting or ("none" if separator == "\t" else "minimal")) == "none"


def _header(table: Table, spec: DataSpec, written: tuple[str, bool]) -> Sequence[str]:
    """The first record; nothing where it cannot be read so, which is told when all are."""
    with closing(records_of_csv(table, spec, written)) as records:
        try:
            return next(records, (1, 1, []))[2]
        except SourceError:
            return ()


def records_of_csv(table: Table, spec: DataSpec, written: tuple[str, bool]) -> Generator[tuple[int, int, list[str]], None, None]:
    """First and last line of each record of a csv, the header too, and its fields; lines without any character are passed over.

    Args:
        written: what separates fields, and whether quotation marks are part of them.

    Raises:
        SourceError: it cannot be read so.
    """
    separator, plain = written
    longest = csv.field_size_limit(LONGEST_FIELD)
    line = 1
    try:
        with table.path.open(encoding=encoding_of(table.path, spec.encoding), newline="") as file:
            reader = csv.reader(file, delimiter=separator, quoting=csv.QUOTE_NONE if plain else csv.QUOTE_MINIMAL, strict=True)
            for values in reader:
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
    """Advice, where another option would give the columns, or the first line is no header."""
    if header[0].lower().startswith(EXCELS):
        sign = header[0][len(EXCELS) :] or separator
        return f"; the first line is for Excel and no header: take it out, and say `separator: {json.dumps(sign)}`"
    whole = separator.join(header)
    if set(wanted) <= {name.strip('"') for name in header}:
        return "; fields seem to be quoted: say `quoting: minimal`"
    for sign, spelled in ((",", '","'), (";", '";"'), ("\t", '"\\t"'), ("|", '"|"')):
        if sign != separator and set(wanted) <= {name.strip('"') for name in whole.split(sign)}:
            return f"; fields seem to be separated otherwise: say `separator: {spelled}`"
    return "" if set(wanted) & set(header) else "; the first line has to name the columns"
