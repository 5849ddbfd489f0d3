"""Rows of activations brought to one magnitude, so that one scale for a whole tensor does for each of its rows."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

AXES_ARE_INPUTS = 18
"""Opset from which on `ReduceMax` reads its axes from an input."""
LEAST = 1e-12
"""Magnitude that a row counts as at least: one of zeros stays one."""


def even_rows(graph: onnx.ModelProto, products: Collection[str]) -> None:
    """Divide each row that a named product reads by its greatest magnitude, and multiply what comes of it by that, in place.

    `x @ w = s * ((x / s) @ w)` with a number `s` for each row: equal but for rounding. Rows are along the last axis, so that those of `[B, T, K]`
    are its tokens. Of language models the first token has activations that are a thousand times as large as those of others (Sun et al., Massive
    Activations in Large Language Models, 2024, arXiv:2402.17762): in int8 with one scale for all tokens the others are 0.
    """
    from onnx import helper

    opset = next(each.version for each in graph.opset_import if each.domain in ("", "ai.onnx"))
    constants = _constants(graph)
    evened: dict[str, tuple[str, str]] = {}
    nodes = []
    for node in graph.graph.node:
        if node.op_type != "MatMul" or node.name not in products:
            nodes.append(node)
            continue
        read, given = node.input[0], node.output[0]
        if read not in evened:
            evened[read] = (f"{read}_even", f"{read}_magnitude")
            nodes += _evening(read, *evened[read], constants, opset)
        node.input[0], magnitude = evened[read]
        node.output[0] = f"{given}_of_even"
        nodes += [node, helper.make_node("Mul", [node.output[0], magnitude], [given], name=f"{node.name}_magnitude")]
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)


def _constants(graph: onnx.ModelProto) -> tuple[str, str]:
    """Names of the least magnitude, and of the axis of a row."""
    import numpy as np
    from onnx import numpy_helper

    least = numpy_helper.from_array(np.array(LEAST, np.float32), "least_magnitude")
    axis = numpy_helper.from_array(np.array([-1], np.int64), "axis_of_rows")
    graph.graph.initializer.extend([least, axis])
    return least.name, axis.name


def _evening(read: str, even: str, magnitude: str, constants: tuple[str, str], opset: int) -> list[onnx.NodeProto]:
    from onnx import helper

    least, axis = constants
    sizes, greatest = f"{read}_sizes", f"{read}_greatest"
    if opset >= AXES_ARE_INPUTS:
        reduced = helper.make_node("ReduceMax", [sizes, axis], [greatest], name=greatest, keepdims=1)
    else:
        reduced = helper.make_node("ReduceMax", [sizes], [greatest], name=greatest, keepdims=1, axes=[-1])
    return [
        helper.make_node("Abs", [read], [sizes], name=sizes),
        reduced,
        helper.make_node("Max", [greatest, least], [magnitude], name=magnitude),
        helper.make_node("Div", [read, magnitude], [even], name=even),
    ]
