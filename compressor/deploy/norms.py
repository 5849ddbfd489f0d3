"""Norms by the root of the mean square as the operator that ONNX Runtime has for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compressor.deploy.patterns import made_by

if TYPE_CHECKING:
    import onnx_ir as ir

KIND = "SimplifiedLayerNormalization"
"""Named for ONNX Runtime, which has it among the operators of ONNX itself."""


def fuse_norms(model: ir.Model) -> None:
    """`weight x (x / sqrt(mean(x^2) + e))` over the last axis becomes one operator."""
    import onnx_ir as ir

    for node in list(model.graph):
        found = _norm(node)
        if found is None:
            continue
        x, weight, epsilon = found
        made = ir.node(KIND, [x, weight], {"axis": -1, "epsilon": epsilon, "stash_type": 1}, name=node.name)
        old, new = node.outputs[0], made.outputs[0]
        new.name, new.type, new.shape = old.name, old.type, old.shape
        model.graph.insert_before(node, made)
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        model.graph.remove(node, safe=True)


def _norm(scaled: ir.Node) -> tuple[ir.Value, ir.Value, float] | None:
    """What is normed, the weight, and what is added under the root."""
    for weight, normed in _either_way(scaled, "Mul", "Mul"):
        for x, inverse in _either_way(normed, "Mul", "Reciprocal"):
            root = made_by(inverse.inputs[0], "Sqrt")
            below = made_by(root.inputs[0], "Add") if root else None
            mean = made_by(below.inputs[0], "ReduceMean") if below else None
            square = made_by(mean.inputs[0], "Pow") if mean else None
            if below and mean and square and square.inputs[0] is x and _numbers(square.inputs[1]) == [2] and _over_last(mean):
                epsilon = _numbers(below.inputs[1])
                if len(epsilon) == 1 and weight.shape is not None and len(weight.shape) == 1:
                    return x, weight, epsilon[0]
    return None


def _either_way(node: ir.Node, kind: str, inner: str) -> list[tuple[ir.Value, ir.Node]]:
    """Of a node of a kind, one input and the node of an inner kind that made the other one."""
    if node.op_type != kind or len(node.inputs) != 2:
        return []
    first, second = node.inputs
    pairs = ((first, made_by(second, inner)), (second, made_by(first, inner)))
    return [(value, made) for value, made in pairs if value is not None and made is not None]


def _over_last(mean: ir.Node) -> bool:
    kept = mean.attributes["keepdims"].as_int() if "keepdims" in mean.attributes else 1
    return kept == 1 and len(mean.inputs) == 2 and _numbers(mean.inputs[1]) == [-1]


def _numbers(value: ir.Value | None) -> list[float]:
    constant = value.const_value if value is not None else None
    return [float(each) for each in constant.numpy().reshape(-1)] if constant is not None and constant.size < 9 else []
