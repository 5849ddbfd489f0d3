"""Rows of JSON: an object a line, or one array of objects. Labels are the characters that stand there."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from typing import Any

from compressor.files import once_each
from compressor.plan.specs import DataSpec
from compressor.tasks.encodings import encoding_of
from compressor.tasks.table import Table


def read_json_rows(table: Table, spec: DataSpec) -> None:
    """An object for each line, or one array of objects.

    Raises:
        SourceError: it is something else.
        MissingColumn: no object has a column.
    """
    lacking, first, alone = set(table.wanted), list[str](), None
    for number, record, text in records_in(table, spec):
        if not isinstance(record, dict):
            raise table.fault(number, f"found {json.dumps(record)[:40]}, expected an object")
        alone = None if first else record
        lacking -= record.keys()
        first = first or list(record)
        label = record.get(table.label or "")
        if isinstance(label, float):
            label = None if math.isnan(label) else text()[table.label]
        table.add(number, [_written(label) if name == table.label else record.get(name) for name in table.wanted])
    if alone and (what := _other_shape(alone, table.wanted)):
        raise table.fault(table.lines[0], f"{what}; expected one object a row, on a line each or in one array")
    if lacking and table.lines:
        table.check_columns(list(dict.fromkeys((*first, *(name for name in table.wanted if name not in lacking)))))


def _other_shape(record: Mapping[str, Any], wanted: Sequence[str]) -> str:
    """What a file of one object holds where that is no row: columns, or rows below a name."""
    if all(isinstance(record.get(name), list | dict) for name in wanted) and any(map(_plain_values, map(record.get, wanted))):
        return "the object holds columns (pandas writes rows by `to_json(PATH, orient='records', lines=True)`)"
    for name, value in record.items():
        if (
            name not in wanted
            and isinstance(value, list)
            and value
            and isinstance(value[0], dict)
            and not set(wanted) <= set(record)
        ):
            return f"the rows lie in the object's '{name}'"
    return ""


def _plain_values(found: Any) -> bool:
    """Whether these are values of several rows: a list of them, or a mapping by the numbers of rows; turns of a talk are none."""
    if isinstance(found, dict):
        return bool(found) and all(str(key).isdecimal() for key in found)
    return isinstance(found, list) and bool(found) and not any(isinstance(each, dict | list) for each in found)


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
        return json.loads(text, object_pairs_hook=once_each)
    except json.JSONDecodeError as error:
        over = (
            " (the object goes on over further lines)"
            if text.startswith("{") and text.endswith(("{", "[", ",")) and not text.endswith("},")
            else ""
        )
        what = f"cannot be read as json: {error.msg} in column {error.colno}{over}; expected one object a line, or one array of objects"
        raise table.fault(line + error.lineno - 1, what) from error
    except RecursionError as error:
        raise table.fault(line, "cannot be read as json: nested too deep") from error
    except ValueError as error:
        raise table.fault(line, str(error)) from error


def _written(label: Any) -> Any:
    """A label by its characters; lists and objects are left to whoever can say what they are."""
    if isinstance(label, bool):
        return str(label).lower()
    return str(label) if isinstance(label, int) else label or None
