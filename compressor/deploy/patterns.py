"""What rewrites of ONNX graphs look for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx
    import onnx_ir as ir


def made_by(value: ir.Value | None, kind: str) -> ir.Node | None:
    """The node that makes a value, where it is of a kind."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == kind else None


def read_by(node: onnx.NodeProto) -> Iterator[str]:
    """Every value that a node reads, as often as it does: its inputs, and what the graphs in it (of an `If`, a `Loop`) read, some of it their own."""
    yield from filter(None, node.input)
    for each in node.attribute:
        for graph in (each.g, *each.graphs):
            for inner in graph.node:
                yield from read_by(inner)
            yield from (output.name for output in graph.output)
