"""What the files of ONNX graphs say of themselves: operators, constants, products that hold few bits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from compressor.contracts import Graph
from compressor.deploy.parts import Operator, bytes_by_part

if TYPE_CHECKING:
    import onnx

NBITS = "MatMulNBits"


def together(folder: Path, out: Path, graphs: Sequence[Graph], *, joins: bool) -> None:
    """Copy graphs whose weights are to lie in one file; products of quantised tensors add their biases themselves where it `joins` them."""
    import onnx

    from compressor.deploy.integer_products import join_biases
    from compressor.deploy.onnx import save_together

    found = {graph.name: onnx.load(folder / f"{graph.name}.onnx") for graph in graphs}
    for each in found.values():
        if joins and fake_quantised(each.graph.node):
            join_biases(each)
    save_together(found, out)


def bytes_by_part_of(path: Path, counted: set[tuple[str, str]]) -> dict[str, int]:
    """Bytes of a graph's constants by part of the model, of those that lie in no place that is `counted` already; theirs are added to it."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    operators = (Operator(each.name, tuple(each.input), tuple(each.output)) for each in graph.node)
    found = {}
    for each in graph.initializer:
        place = {entry.key: entry.value for entry in each.external_data}
        at = (place.get("location", path.name), place.get("offset", each.name))
        found[each.name] = 0 if at in counted else _bytes_of(each)
        counted.add(at)
    return bytes_by_part(found, operators)


def _bytes_of(constant: onnx.TensorProto) -> int:
    """Bytes of a constant, wherever the file keeps them."""
    from math import prod

    from onnx.helper import tensor_dtype_to_np_dtype

    return int(prod(constant.dims) * tensor_dtype_to_np_dtype(constant.data_type).itemsize)


def nodes(path: Path) -> list[onnx.NodeProto]:
    """The operators of a graph's file."""
    import onnx

    return list(onnx.load(path, load_external_data=False).graph.node)


def in_integers(node: onnx.NodeProto) -> bool:
    """Whether a product of packed weights rounds activations too."""
    return any(each.name == "accuracy_level" and each.i == 4 for each in node.attribute)


def bits_of_products(found: Sequence[onnx.NodeProto]) -> set[int]:
    """Bits of the weights of products that hold them packed."""
    held = [each for node in found if node.op_type == NBITS for each in node.attribute if each.name == "bits"]
    return {int(each.i) for each in held}


def fake_quantised(found: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Products whose first two inputs come straight from `DequantizeLinear`."""
    dequantised = {name for each in found if each.op_type == "DequantizeLinear" for name in each.output}
    return [each for each in found if each.op_type in ("MatMul", "Gemm", "Conv") and dequantised.issuperset(each.input[:2])]
