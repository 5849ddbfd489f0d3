"""What rewrites of ONNX graphs look for, and leave behind."""

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


def drop_unused(graph: onnx.ModelProto) -> None:
    """Remove nodes, constants and shapes that no output depends on, in place; what graphs inside of a node read is kept."""
    needed, kept = {each.name for each in graph.graph.output}, []
    for node in reversed(graph.graph.node):
        if needed.intersection(node.output):
            needed.update(read_by(node))
            kept.append(node)
    constants = [each for each in graph.graph.initializer if each.name in needed]
    shapes = [each for each in graph.graph.value_info if each.name in needed]
    del graph.graph.node[:], graph.graph.initializer[:], graph.graph.value_info[:]
    graph.graph.node.extend(reversed(kept))
    graph.graph.initializer.extend(constants)
    graph.graph.value_info.extend(shapes)
