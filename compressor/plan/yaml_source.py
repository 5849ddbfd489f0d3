"""YAML read as plain data of which every value knows its file and line: no tags, no duplicate keys, bounded size and depth.

Plain scalars follow the core schema of YAML 1.2: `1e-4` is a number, `on` and `1:30` are text.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import yaml

from compressor.errors import Fault

MAX_BYTES = 256 * 1024
MAX_DEPTH = 24
MAX_VALUES = 20_000

Scalar: TypeAlias = str | int | float | bool | None


@dataclass(frozen=True)
class Located:
    """A value of a YAML file and where it stands. A value in a mapping stands where its key does."""

    data: Scalar | list[Located] | dict[str, Located]
    file: str
    line: int

    def plain(self) -> Any:
        """The same value as dicts, lists and scalars."""
        if isinstance(self.data, dict):
            return {key: value.plain() for key, value in self.data.items()}
        if isinstance(self.data, list):
            return [value.plain() for value in self.data]
        return self.data

    def items(self) -> dict[str, Located]:
        """The entries of a mapping; none of anything else."""
        return self.data if isinstance(self.data, dict) else {}

    def values(self) -> list[Located]:
        """The items of a list; none of anything else."""
        return self.data if isinstance(self.data, list) else []

    def walk(self, where: str = "") -> Iterator[tuple[str, str | None, Located]]:
        """Every value with its dotted path and, in a mapping, its key; parents first."""
        for key, value in self.items().items():
            inner = f"{where}.{key}" if where else key
            yield inner, key, value
            yield from value.walk(inner)
        for index, value in enumerate(self.values()):
            yield f"{where}[{index}]", None, value
            yield from value.walk(f"{where}[{index}]")

    def fault(self, where: str, what: str) -> Fault:
        return Fault(self.file, self.line, where, what)

    def __str__(self) -> str:
        """The value as it is quoted in a message: short, and telling `"3"` from `3`."""
        if isinstance(self.data, dict):
            return "a mapping" if self.data else "an empty mapping"
        if isinstance(self.data, list):
            return "a list" if self.data else "an empty list"
        if isinstance(self.data, str):
            return repr(self.data if len(self.data) <= 60 else self.data[:57] + "...")
        return json.dumps(self.data)


class UnreadableError(Exception):
    """The text is not data we take; `fault` says why and where."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        super().__init__(str(fault))


def read_yaml(text: str | bytes, file: str, *, line: int = 1) -> tuple[Located, tuple[Fault, ...]]:
    """Read one YAML document.

    Args:
        text: the document; bytes are UTF-8.
        file: name that faults carry.
        line: number of the first line.

    Returns:
        The data, and the faults that leave the rest of it readable: duplicate keys, tags, numbers that are not finite.

    Raises:
        UnreadableError: it is not YAML, or too large or too deep.
    """
    return _Reader(file, line - 1).read(_decoded(text, file, line))


def write_yaml(data: Any, *, compact: bool = False) -> str:
    """Data as YAML that `read_yaml` reads back to the same values; where it is `compact`, the innermost mappings and lists in a line."""
    flow = None if compact else False
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110, default_flow_style=flow)


def _decoded(text: str | bytes, file: str, line: int) -> str:
    if len(text) > MAX_BYTES:
        raise UnreadableError(Fault(file, line, "", f"the file has {len(text)} bytes; at most {MAX_BYTES} are read"))
    if isinstance(text, str):
        return text
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        at = line + text.count(b"\n", 0, error.start)
        raise UnreadableError(
            Fault(file, at, "", f"byte 0x{text[error.start]:02x} is not UTF-8; save the file as UTF-8")
        ) from error


class _Reader:
    """Turns the parser's events into values, so that nothing is ever built that has not been counted."""

    def __init__(self, file: str, lines_before: int) -> None:
        self.file = file
        self.before = lines_before
        self.faults: list[Fault] = []
        self.anchors: dict[str, tuple[Located, int] | None] = {}
        self.count = 0

    def read(self, text: str) -> tuple[Located, tuple[Fault, ...]]:
        try:
            self.events = yaml.parse(text, Loader=yaml.SafeLoader)
            root = self._document()
        except yaml.YAMLError as error:
            raise UnreadableError(self._not_yaml(error, text)) from error
        except (ValueError, OverflowError, IndexError) as error:  # the scanner meets odd escapes and directives with these
            raise UnreadableError(Fault(self.file, self.before + 1, "", f"not YAML: {error}")) from error
        return root, tuple(self.faults)

    def _document(self) -> Located:
        next(self.events)  # the stream begins
        event = next(self.events)
        if isinstance(event, yaml.StreamEndEvent):
            return Located(None, self.file, self.before + 1)
        root = self._value(next(self.events), 0)
        next(self.events)  # the document ends
        event = next(self.events)
        if isinstance(event, yaml.DocumentStartEvent):
            raise UnreadableError(self._fault(event, "a second document begins; a file holds one"))
        return root

    def _value(self, event: yaml.Event, depth: int) -> Located:
        self._counted(event, depth)
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, depth)
        assert isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent)
        if event.tag is not None:
            self.faults.append(self._fault(event, f"tag {event.tag} found; a plan is plain data, write the value alone"))
        if event.anchor is not None:
            self.anchors[event.anchor] = None
        first = self.count
        value = Located(self._data(event, depth), self.file, self._line(event))
        if event.anchor is not None:
            self.anchors[event.anchor] = (value, self.count - first + 1)
        return value

    def _data(self, event: yaml.Event, depth: int) -> Scalar | list[Located] | dict[str, Located]:
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event)
        if isinstance(event, yaml.SequenceStartEvent):
            return list(self._sequence(depth + 1))
        return self._mapping(depth + 1)

    def _sequence(self, depth: int) -> Iterator[Located]:
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            yield self._value(event, depth)

    def _mapping(self, depth: int) -> dict[str, Located]:
        found: dict[str, Located] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            key = self._key(event, depth)
            value = replace(self._value(next(self.events), depth), line=self._line(event))
            if key is None:
                continue
            if key in found:
                what = f"duplicate key '{key}'; it stands on line {found[key].line} already"
                self.faults.append(Fault(self.file, value.line, "", what))
                continue
            found[key] = value
        return found

    def _key(self, event: yaml.Event, depth: int) -> str | None:
        """The key's text as written; anything but one scalar is a fault."""
        merges = isinstance(event, yaml.ScalarEvent) and event.value == "<<" and event.style is None
        if isinstance(event, yaml.ScalarEvent) and event.tag is None and not merges:
            self._scalar(event)  # says what is wrong with its characters
            if event.anchor is not None:
                self.anchors[event.anchor] = (Located(event.value, self.file, self._line(event)), 1)
            return event.value
        what = "a key is one word of text"
        if merges:
            what = "merge keys (<<) are not read; repeat the values, or put them into a file that `include:` names"
        self.faults.append(self._fault(event, what))
        self._value(event, depth)
        return None

    def _scalar(self, event: yaml.ScalarEvent) -> Scalar:
        text = event.value
        if not text.isprintable() and any(0xD800 <= ord(char) <= 0xDFFF for char in text):
            self.faults.append(self._fault(event, "a surrogate escape found; it stands for no character"))
            return ""
        if event.style is not None:  # in quotes, or a block
            return text
        value = _resolved(text)
        if isinstance(value, float) and not math.isfinite(value):
            self.faults.append(self._fault(event, f"{text[:40]} found; expected a finite number (or text in quotes)"))
        return value

    def _alias(self, event: yaml.AliasEvent, depth: int) -> Located:
        name = event.anchor or ""
        if name not in self.anchors:
            raise UnreadableError(self._fault(event, f"*{name} names no anchor above it"))
        known = self.anchors[name]
        if known is None:
            raise UnreadableError(self._fault(event, f"*{name} stands inside the value that it names"))
        value, size = known
        self.count += size
        self._counted(event, depth + _depth(value))
        return value

    def _counted(self, event: yaml.Event, depth: int) -> None:
        self.count += 1
        if depth > MAX_DEPTH:
            raise UnreadableError(self._fault(event, f"values nest deeper than {MAX_DEPTH} levels"))
        if self.count > MAX_VALUES:
            raise UnreadableError(self._fault(event, f"more than {MAX_VALUES} values, aliases counted as what they stand for"))

    def _line(self, event: yaml.Event) -> int:
        return (event.start_mark.line if event.start_mark else 0) + 1 + self.before

    def _fault(self, event: yaml.Event, what: str) -> Fault:
        return Fault(self.file, self._line(event), "", what)

    def _not_yaml(self, error: yaml.YAMLError, text: str) -> Fault:
        mark = getattr(error, "problem_mark", None)
        at = mark.line if mark else text.count("\n", 0, getattr(error, "position", 0) or 0)
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error).splitlines()[0]
        context = f" ({error.context})" if isinstance(error, yaml.MarkedYAMLError) and error.context else ""
        return Fault(self.file, at + 1 + self.before, "", f"not YAML: {problem}{context}")


_INTEGER = re.compile(r"[-+]?[0-9]{1,300}|0o[0-7]{1,300}|0x[0-9a-fA-F]{1,300}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORDS: dict[str, Scalar] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


def _resolved(text: str) -> Scalar:
    """What a plain scalar stands for."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return math.nan if _NOT_FINITE.fullmatch(text) else text


def _depth(value: Located) -> int:
    children: Sequence[Located] = [*value.items().values(), *value.values()]
    return 1 + max(map(_depth, children)) if children else 0


class _Dumper(yaml.SafeDumper):
    """Quotes text that either version of YAML would read as something else."""

    def ignore_aliases(self, _data: Any) -> bool:
        return True

    def represent_text(self, text: str) -> yaml.ScalarNode:
        style = '"' if any(char in text for char in "\x85\u2028\u2029\ufeff") else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _Dumper.represent_text)
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
_Dumper.add_implicit_resolver("tag:yaml.org,2002:int", _INTEGER, list("-+0123456789"))
