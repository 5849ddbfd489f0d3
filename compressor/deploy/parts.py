"""Which part of a model the bytes of a built file belong to: constants by the module whose operator takes them, summed up by part."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

MODULE = "module."
"""Begins the names of parameters as exported; those of operators leave it out."""
REST = "other"
NUMBERED = re.compile(r"(?:[^.]+\.)*?\d+(?:\.[^.]+)?")
"""A path up to its first number and one name behind it: `encoder.layer.0.attention` of `encoder.layer.0.attention.self.query`."""


class Operator(NamedTuple):
    """An operator of a built graph: `PATH/KIND_NUMBER` where it was traced from the module at a path, and the values it takes and gives."""

    name: str
    takes: tuple[str, ...]
    gives: tuple[str, ...]


def bytes_by_part(constants: Mapping[str, int], operators: Iterable[Operator]) -> dict[str, int]:
    """Bytes by part of the model, parts in order: blocks by what is in them, all else by its first two names.

    Args:
        constants: bytes by name of the value. Each belongs to the module of which it is a parameter, where its name says so; else to that
            of the first operator that it reaches and that names one, through conversions that a quantiser put between; else to `other`.
        operators: of the whole graph.
    """
    reached, found = _reached(tuple(operators)), Counter[str]()
    for name, size in constants.items():
        found[part_of(_parameter(name) or reached.get(name) or scope_of(name))] += size
    return dict(sorted(found.items(), key=_in_order))


def _in_order(part: tuple[str, int]) -> list[tuple[int, str]]:
    """Parts by name, the numbers in it as numbers."""
    return [(int(each), "") if each.isdecimal() else (0, each) for each in re.split(r"(\d+)", part[0])]


def part_of(path: str) -> str:
    """The part of a model that a module belongs to."""
    if found := NUMBERED.match(path):
        return found[0]
    return ".".join(path.split(".")[:2]) or REST


def _reached(operators: Sequence[Operator]) -> dict[str, str]:
    """By value, the module of the nearest operator that names one; found from such operators upwards, each value once."""
    takers, makers = defaultdict[str, list[Operator]](list), defaultdict[str, list[Operator]](list)
    for operator in operators:
        for value in operator.takes:
            takers[value].append(operator)
        for value in operator.gives:
            makers[value].append(operator)
    found = {
        value: path for value, each in takers.items() if (path := next(filter(None, map(scope_of, (op.name for op in each))), ""))
    }
    newest = list(found)
    while newest:
        above = {value for name in newest for operator in makers[name] for value in operator.takes} - found.keys()
        found |= {name: next(found[value] for op in takers[name] for value in op.gives if value in found) for name in above}
        newest = list(above)
    return found


def scope_of(name: str) -> str:
    """The path in an operator's name; none where it was traced from no module."""
    path, stroke, _ = name.partition("/")
    return path if stroke and path != "graph" else ""


def _parameter(name: str) -> str:
    """The path in `module.PATH.weight`."""
    return name.removeprefix(MODULE).rpartition(".")[0] if name.startswith(MODULE) else ""
