"""Which operators an ONNX file holds, read without its weights: loading them would show up in the memory that is measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

MODEL_GRAPH, GRAPH_NODE, NODE_INPUT, NODE_OUTPUT, NODE_OPERATOR = 7, 1, 1, 2, 4
"""Field numbers of `ModelProto`, `GraphProto` and `NodeProto`, which ONNX never changes."""
VARINT, FIXED_64, BYTES, FIXED_32 = 0, 1, 2, 5
"""Wire types of protocol buffers."""


@dataclass(frozen=True)
class Operator:
    """One node of the main graph."""

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def operators(path: Path) -> tuple[Operator, ...]:
    """The nodes of the main graph, in order.

    Raises:
        ValueError: the file is not a protocol buffer.
    """
    with path.open("rb") as file:
        file.seek(0, 2)
        end = file.tell()
        file.seek(0)
        return tuple(
            _operator(file, node_end)
            for field, graph_end in _fields(file, end)
            if field == MODEL_GRAPH
            for field, node_end in _fields(file, graph_end)
            if field == GRAPH_NODE
        )


def _operator(file: BinaryIO, end: int) -> Operator:
    found: dict[int, list[str]] = {NODE_INPUT: [], NODE_OUTPUT: [], NODE_OPERATOR: []}
    for field, stop in _fields(file, end):
        if field in found:
            found[field].append(file.read(stop - file.tell()).decode("utf-8"))
    return Operator("".join(found[NODE_OPERATOR]), tuple(found[NODE_INPUT]), tuple(found[NODE_OUTPUT]))


def _fields(file: BinaryIO, end: int) -> Iterator[tuple[int, int]]:
    """Number and end of each length-delimited field up to `end`; what the caller leaves unread is skipped."""
    while file.tell() < end:
        key = _varint(file)
        field, wire = key >> 3, key & 7
        if wire == BYTES:
            size = _varint(file)
            stop = file.tell() + size
            yield field, stop
            file.seek(stop)
        elif wire == VARINT:
            _varint(file)
        elif wire in (FIXED_64, FIXED_32):
            file.seek(8 if wire == FIXED_64 else 4, 1)
        else:
            raise ValueError(f"wire type {wire} at byte {file.tell()}: not an ONNX file")


def _varint(file: BinaryIO) -> int:
    value = shift = 0
    while True:
        byte = file.read(1)
        if not byte:
            raise ValueError(f"the file ends at byte {file.tell()}, in the middle of a number: not an ONNX file")
        value |= (byte[0] & 0x7F) << shift
        shift += 7
        if not byte[0] & 0x80:
            return value
