"""Rows of hidden states that no output depends on are not computed.

A classifier reads one row of the last hidden state, the first token's. Most of what comes before computes each row by itself, down to the last
attention, where one row asks and all answer: query, scores, projection and feed-forward of the last block need that row alone. Torch computes
them for all rows, since it does not know who reads. The numbers stay the same, but for the last bits: a runtime may sum a row that is multiplied
alone in another order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from compressor.deploy.patterns import UNKNOWN, Reads, Sizes

if TYPE_CHECKING:
    import onnx

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
        reads = Reads(graph)
        gather = reads.made[value]
        row = _row_of(reads, gather)
        region = _region(reads, gather, row) if row else None
        if row and region and any(each.op_type in PRODUCTS for each in region.inside):
            _narrow(reads, gather, row, region)


def _row_of(reads: Reads, gather: onnx.NodeProto) -> Row | None:
    """The row that a `Gather` reads along any axis but the first; None where it reads others."""
    from onnx import numpy_helper

    data, place = gather.input
    axis = next((each.i for each in gather.attribute if each.name == "axis"), 0)
    if place not in reads.constants or reads.constants[place].dims or data not in reads.sizes or data in reads.constants:
        return None
    axis %= len(reads.sizes[data])
    return Row(axis, int(numpy_helper.to_array(reads.constants[place]))) if len(reads.sizes[data]) > axis > 0 else None


class _Region(NamedTuple):
    """Operators that compute one row alone."""

    inside: tuple[onnx.NodeProto, ...]
    """In the graph's order."""
    axes: Mapping[str, int]
    """Of values that have one row only: the axis of rows."""


def _region(reads: Reads, gather: onnx.NodeProto, row: Row) -> _Region:
    """What computes rows that only the `Gather` reads, from it upwards."""
    wanted: dict[str, int] = {gather.input[0]: row.axis}
    inside: list[onnx.NodeProto] = []
    spared = Counter([gather.input[0]])  # reads that do with one row
    for node in reversed(reads.graph.node):
        value = node.output[0]
        read_whole = value in reads.given or spared[value] < len(reads.readers[value])
        if value not in wanted or read_whole or len(node.output) > 1:
            continue
        needs = _needs(reads, node, wanted[value])
        if needs is None or any(wanted.get(node.input[at], axis) != axis for at, axis in needs.items()):
            continue
        wanted |= {node.input[at]: axis for at, axis in needs.items()}
        spared.update(node.input[at] for at in needs)
        inside.append(node)
    return _Region(tuple(reversed(inside)), wanted)


def _needs(reads: Reads, node: onnx.NodeProto, axis: int) -> dict[int, int] | None:
    """Which inputs of an operator need one row only for it to give one, with the axis of rows in each; None where it needs more, or nobody
    knows."""
    sizes = reads.sizes.get(node.output[0])
    given = [name for name in node.input[:2] if name]
    if sizes is None or node.domain or any(name not in reads.sizes for name in given):
        return None
    first, second = (*(reads.sizes[name] for name in given), (), ())[:2]
    from_end = axis - len(sizes)
    settings = {each.name: each for each in node.attribute}
    if node.op_type in BY_ELEMENT:
        return _by_element(reads, node, from_end)
    if node.op_type in NORMS:
        normed = settings["axis"].i if "axis" in settings else -1
        return {0: axis} if normed % len(sizes) > axis else None
    if node.op_type in CONVERSIONS:
        return None if second else {0: axis}
    if node.op_type in PRODUCTS:
        return {0: len(first) - 2} if from_end == -2 and min(len(first), len(second)) > 1 else None
    if node.op_type == "Transpose":
        return {0: settings["perm"].ints[axis]} if "perm" in settings else None
    if node.op_type == "Reshape":
        return {0: axis} if _splits_behind(first, sizes, axis) else None
    return None


def _by_element(reads: Reads, node: onnx.NodeProto, from_end: int) -> dict[int, int] | None:
    """Inputs that are not the same for all rows."""
    rows, needs = reads.sizes[node.output[0]][from_end], dict[int, int]()
    for at, name in enumerate(node.input):
        sizes = reads.sizes.get(name) if name else ()
        if sizes is None:
            return None
        if len(sizes) < -from_end or sizes[from_end] == 1:
            continue
        if sizes[from_end] == UNKNOWN or sizes[from_end] != rows:
            return None
        needs[at] = len(sizes) + from_end
    return needs


def _splits_behind(taken: Sizes, given: Sizes, axis: int) -> bool:
    """Whether a `Reshape` leaves all axes up to that of rows, and knows the sizes of those behind it."""
    kept = given[: axis + 1]
    same = len(taken) > axis and taken[: axis + 1] == kept and UNKNOWN not in kept
    return same and all(isinstance(size, int) and size > 0 for size in given[axis + 1 :])


def _narrow(reads: Reads, gather: onnx.NodeProto, row: Row, region: _Region) -> None:
    """Rewire the region: what comes into it is cut to the row, reshapes keep it, and the `Gather` reads the only one."""
    made, own = {node.output[0] for node in region.inside}, gather.output[0]
    place = reads.add(f"{own}_place", [row.place])
    nodes, cut = list["onnx.NodeProto"](), dict[str, str]()
    for node in reads.graph.node:
        if node.output[0] in made:
            for at, axis in (_needs(reads, node, region.axes[node.output[0]]) or {}).items():
                name = node.input[at]
                if name in made:
                    continue
                if name not in cut:
                    cut[name] = reads.fresh(f"{name}_row_of_{own}")
                    nodes.append(_cut(reads, name, cut[name], place, axis))
                node.input[at] = cut[name]
            if node.op_type == "Reshape":
                _keep_row(reads, node, region.axes[node.output[0]])
        nodes.append(node)
    gather.input[1] = reads.add(f"{own}_only_row", 0)
    for each in reads.graph.value_info:
        if each.name in made:
            each.type.tensor_type.shape.dim[region.axes[each.name]].dim_value = 1
    del reads.graph.node[:]
    reads.graph.node.extend(nodes)


def _cut(reads: Reads, name: str, to: str, place: str, axis: int) -> onnx.NodeProto:
    """What makes a value with its row alone."""
    from onnx import helper

    scope = next((each.name.rpartition("/")[0] for each in reversed(reads.readers[name]) if "/" in each.name), "graph")
    return helper.make_node("Gather", [name, place], [to], name=f"{scope}/Gather_{to}", axis=axis)


def _keep_row(reads: Reads, reshape: onnx.NodeProto, axis: int) -> None:
    """Axes up to that of rows as they are, those behind it by their sizes."""
    behind = [int(size) for size in reads.sizes[reshape.output[0]][axis + 1 :]]
    reshape.input[1] = reads.add(f"{reshape.output[0]}_sizes_of_row", [0] * (axis + 1) + behind)
    for each in [each for each in reshape.attribute if each.name == "allowzero"]:
        reshape.attribute.remove(each)
