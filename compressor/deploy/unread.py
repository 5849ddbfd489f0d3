"""Rows of hidden states that no output depends on are not computed.

A classifier reads one row of the last hidden state, the first token's. Most of what comes before computes each row by itself, down to the last
attention, where one row asks and all answer: query, scores, projection and feed-forward of the last block need that row alone. Torch computes
them for all rows, since it does not know who reads. The numbers stay the same.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    import onnx

Sizes: TypeAlias = "tuple[int | str, ...]"
"""Of the axes of a value; names are dynamic."""
BY_ELEMENT = (
    "Add", "Sub", "Mul", "Div", "Sum", "Pow", "Sqrt", "Erf", "Gelu", "Relu", "Tanh", "Sigmoid", "HardSwish", "Neg", "Cast", "Clip", "Identity",
)  # fmt: skip
PRODUCTS = ("MatMul",)
NORMS = ("LayerNormalization", "Softmax", "RMSNormalization")
CONVERSIONS = ("QuantizeLinear", "DequantizeLinear")


class Row(NamedTuple):
    """One place along an axis of a value."""

    axis: int
    place: int


def skip_unread_rows(graph: onnx.ModelProto) -> None:
    """Have operators compute only the row that a `Gather` with a constant place reads of what they give, in place."""
    for value in [each.output[0] for each in graph.graph.node if each.op_type == "Gather"]:
        reads = _Reads(graph)
        gather = reads.made[value]
        row = reads.row_of(gather)
        region = _region(reads, gather, row) if row else None
        if row and region and any(each.op_type in PRODUCTS for each in region.inside):
            _narrow(reads, gather, row, region)


class _Reads:
    """Who makes and who reads a value, and what is known of its sizes."""

    def __init__(self, graph: onnx.ModelProto) -> None:
        self.graph = graph.graph
        self.made = {name: node for node in self.graph.node for name in node.output}
        self.readers = defaultdict[str, list["onnx.NodeProto"]](list)
        for node in self.graph.node:
            for name in node.input:
                self.readers[name].append(node)
        self.given = {each.name for each in self.graph.output}
        self.constants = {each.name: each for each in self.graph.initializer}
        self.sizes: dict[str, Sizes] = {each.name: tuple(each.dims) for each in self.graph.initializer}
        for each in (*self.graph.value_info, *self.graph.input):
            if each.type.tensor_type.HasField("shape"):
                axes = each.type.tensor_type.shape.dim
                self.sizes[each.name] = tuple(axis.dim_param or axis.dim_value for axis in axes)

    def row_of(self, gather: onnx.NodeProto) -> Row | None:
        """The row that a `Gather` reads along a dynamic axis; None where it reads others."""
        from onnx import numpy_helper

        data, place = gather.input
        axis = next((each.i for each in gather.attribute if each.name == "axis"), 0)
        if place not in self.constants or self.constants[place].dims or data not in self.sizes or data in self.constants:
            return None
        axis %= len(self.sizes[data])
        return Row(axis, int(numpy_helper.to_array(self.constants[place]))) if len(self.sizes[data]) > axis > 0 else None


class _Region(NamedTuple):
    """Operators that compute one row alone."""

    inside: tuple[onnx.NodeProto, ...]
    """In the graph's order."""
    axes: Mapping[str, int]
    """Of values that have one row only: the axis of rows."""


def _region(reads: _Reads, gather: onnx.NodeProto, row: Row) -> _Region:
    """What computes rows that only the `Gather` reads, from it upwards."""
    wanted: dict[str, int] = {gather.input[0]: row.axis}
    inside: list[onnx.NodeProto] = []
    narrow = {gather.output[0]}
    for node in reversed(reads.graph.node):
        value = node.output[0]
        read_whole = value in reads.given or any(each.output[0] not in narrow for each in reads.readers[value])
        if value not in wanted or read_whole or len(node.output) > 1:
            continue
        needs = _needs(reads, node, wanted[value])
        if needs is None or any(wanted.get(name, axis) != axis for name, axis in needs.items()):
            continue
        wanted |= needs
        inside.append(node)
        narrow.add(value)
    return _Region(tuple(reversed(inside)), wanted)


def _needs(reads: _Reads, node: onnx.NodeProto, axis: int) -> dict[str, int] | None:
    """Inputs of which an operator needs one row to give one, with the axis of rows in each; None where it needs more, or nobody knows."""
    sizes = reads.sizes.get(node.output[0])
    given = [name for name in node.input if name]
    if sizes is None or any(name not in reads.sizes for name in given[:2]):
        return None
    from_end = axis - len(sizes)
    settings = {each.name: each for each in node.attribute}
    if node.op_type in BY_ELEMENT:
        return _by_element(reads, given, from_end)
    if node.op_type in NORMS:
        first = settings["axis"].i if "axis" in settings else -1
        return {given[0]: axis} if first % len(sizes) > axis else None
    if node.op_type in CONVERSIONS:
        return {given[0]: axis} if not reads.sizes[given[1]] else None
    if node.op_type in PRODUCTS:
        return {given[0]: len(reads.sizes[given[0]]) - 2} if from_end == -2 and len(reads.sizes[given[0]]) > 1 else None
    if node.op_type == "Transpose":
        return {given[0]: settings["perm"].ints[axis]} if "perm" in settings else None
    if node.op_type == "Reshape":
        return {given[0]: axis} if _splits_behind(reads.sizes[given[0]], sizes, axis) else None
    return None


def _by_element(reads: _Reads, given: list[str], from_end: int) -> dict[str, int] | None:
    """Inputs that are not the same for all rows."""
    if any(name not in reads.sizes for name in given):
        return None
    return {
        name: len(sizes) + from_end for name in given if len(sizes := reads.sizes[name]) >= -from_end and sizes[from_end] != 1
    }


def _splits_behind(taken: Sizes, given: Sizes, axis: int) -> bool:
    """Whether a `Reshape` leaves all axes up to that of rows, and knows the sizes of those behind it."""
    same = len(taken) > axis and taken[: axis + 1] == given[: axis + 1]
    return same and all(isinstance(size, int) and size > 0 for size in given[axis + 1 :])


def _narrow(reads: _Reads, gather: onnx.NodeProto, row: Row, region: _Region) -> None:
    """Rewire the region: what comes into it is cut to the row, reshapes keep it, and the `Gather` reads the only one."""
    made = {node.output[0] for node in region.inside}
    nodes, cut = list["onnx.NodeProto"](), dict[str, str]()
    for node in reads.graph.node:
        if node.output[0] in made:
            needs = _needs(reads, node, region.axes[node.output[0]]) or {}
            for at, name in enumerate(node.input):
                if name in needs and name not in made:
                    nodes += _cut(reads, name, needs[name], row, cut)
                    node.input[at] = cut[name]
            if node.op_type == "Reshape":
                _keep_row(reads, node, region.axes[node.output[0]])
        nodes.append(node)
    gather.input[1] = _constant(reads, f"{gather.output[0]}_only_row", 0)
    for each in reads.graph.value_info:
        if each.name in made:
            each.type.tensor_type.shape.dim[region.axes[each.name]].dim_value = 1
    del reads.graph.node[:]
    reads.graph.node.extend(nodes)


def _cut(reads: _Reads, name: str, axis: int, row: Row, cut: dict[str, str]) -> list[onnx.NodeProto]:
    """A value with its row alone; made once."""
    from onnx import helper

    if name in cut:
        return []
    cut[name] = f"{name}_row"
    place = _constant(reads, f"{name}_place", [row.place])
    scope = next((each.name.rpartition("/")[0] for each in reversed(reads.readers[name]) if "/" in each.name), "graph")
    return [helper.make_node("Gather", [name, place], [cut[name]], name=f"{scope}/Gather_{name}_row", axis=axis)]


def _keep_row(reads: _Reads, reshape: onnx.NodeProto, axis: int) -> None:
    """Axes up to that of rows as they are, those behind it by their sizes."""
    behind = [int(size) for size in reads.sizes[reshape.output[0]][axis + 1 :]]
    reshape.input[1] = _constant(reads, f"{reshape.output[0]}_sizes_of_row", [0] * (axis + 1) + behind)
    for each in [each for each in reshape.attribute if each.name == "allowzero"]:
        reshape.attribute.remove(each)


def _constant(reads: _Reads, name: str, values: int | list[int]) -> str:
    import numpy as np
    from onnx import numpy_helper

    reads.graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))
    return name
