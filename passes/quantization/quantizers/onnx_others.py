"""Weights of an ONNX graph that are neither products nor look-ups as its kernels of few bits take them: what they are, and why they stay."""

from __future__ import annotations

from collections.abc import Collection
from math import prod
from typing import TYPE_CHECKING

from passes.quantization.quantizers.onnx_blocks import FLOAT
from passes.quantization.quantizers.onnx_tables import SMALLEST_TABLE
from passes.quantization.quantizers.weight_layers import Left

if TYPE_CHECKING:
    import onnx

KINDS = {
    "Conv": "a convolution",
    "ConvTranspose": "a convolution",
    "LSTM": "a recurrent layer",
    "GRU": "a recurrent layer",
    "RNN": "a recurrent layer",
    "Einsum": "a product of another kind",
    "Gemm": "a product with a turned input or a sum that is not constant",
    "MatMul": "a product with a constant that is no matrix on its right",
    "Gather": "a table that is not only looked up row by row, or by ids of an unknown shape",
}
"""What reads weights, and why it has no kernel of few bits here."""
HALF, BFLOAT = 10, 16


def others_of(graph: onnx.ModelProto, taken: Collection[str]) -> list[Left]:
    """Layers that read a constant of two axes and more in float that is not among the taken ones, each constant once, in the graph's order."""
    stored = {each.name: each for each in graph.graph.initializer if each.data_type in (FLOAT, HALF, BFLOAT)}
    seen, found = set(taken), list[Left]()
    for node in graph.graph.node:
        if node.op_type not in KINDS:
            continue
        for name in node.input:
            if name in seen or name not in stored or sum(size > 1 for size in stored[name].dims) < 2:
                continue
            seen.add(name)
            layer = node.name.rpartition("/")[0] or node.name
            found.append(Left(layer, prod(stored[name].dims), _why(node, stored[name])))
    return found


def _why(node: onnx.NodeProto, weight: onnx.TensorProto) -> str:
    if weight.data_type != FLOAT:
        return "its weights are not in float32"
    if node.op_type == "Gather" and weight.dims[0] < SMALLEST_TABLE:
        return f"fewer than {SMALLEST_TABLE} rows"
    return KINDS[node.op_type]
