"""What rewrites of ONNX graphs look for, and leave behind."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx
    import onnx_ir as ir
    from numpy.typing import NDArray

Sizes: TypeAlias = "tuple[int | str, ...]"
"""Of the axes of a value; names are dynamic, `UNKNOWN` may be any."""
UNKNOWN = 0


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


class Reads:
    """Who makes and who reads a value, and what is known of its sizes."""

    def __init__(self, graph: onnx.ModelProto) -> None:
        self.graph = graph.graph
        self.made = {name: node for node in self.graph.node for name in node.output}
        self.readers = defaultdict[str, list["onnx.NodeProto"]](list)
        for node in self.graph.node:
            for name in read_by(node):
                self.readers[name].append(node)
        self.given = {each.name for each in self.graph.output}
        self.constants = {each.name: each for each in self.graph.initializer}
        self._names = {*self.made, *self.readers, *self.constants, *(each.name for each in self.graph.input)}
        self.sizes: dict[str, Sizes] = {each.name: tuple(each.dims) for each in self.graph.initializer}
        for each in (*self.graph.value_info, *self.graph.input):
            if each.type.tensor_type.HasField("shape"):
                axes = each.type.tensor_type.shape.dim
                self.sizes[each.name] = tuple(axis.dim_param or axis.dim_value or UNKNOWN for axis in axes)

    def fresh(self, name: str) -> str:
        """The name, or one that is like it, where a value of the graph has it."""
        while name in self._names:
            name += "_"
        self._names.add(name)
        return name

    def add(self, name: str, values: Any) -> str:
        """The name of a further constant: numbers that are whole where nothing says otherwise."""
        import numpy as np
        from onnx import numpy_helper

        array, name = values if isinstance(values, np.ndarray) else np.array(values, np.int64), self.fresh(name)
        made = numpy_helper.from_array(np.asarray(array, order="C"), name)
        self.graph.initializer.append(made)
        self.constants[name], self.sizes[name] = made, tuple(made.dims)
        return name

    def alone(self, name: str) -> onnx.NodeProto | None:
        """The node that makes a value that one other node reads, once, and no output gives; None of any other value."""
        return self.made.get(name) if len(self.readers[name]) == 1 and name not in self.given else None

    def array(self, name: str) -> NDArray[Any] | None:
        """Numbers of a constant; None of what is none."""
        from onnx import numpy_helper

        return numpy_helper.to_array(self.constants[name]) if name in self.constants else None
