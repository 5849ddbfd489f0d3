"""Small rewrites of quantised ONNX graphs."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from compressor.deploy.patterns import drop_unused

if TYPE_CHECKING:
    import onnx


def exact_inputs_elsewhere(graph: onnx.ModelProto, products: Collection[str]) -> None:
    """Give every node but the named products the exact values of tensors that were quantised for those products only.

    The quantiser replaces a tensor for all that read it, so that a residual connection would carry the rounded values.
    """
    sources = {node.output[0]: node for node in graph.graph.node if node.op_type == "QuantizeLinear"}
    exact = {
        node.output[0]: sources[node.input[0]].input[0]
        for node in graph.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in sources
    }
    for node in graph.graph.node:
        if node.name not in products:
            for number, name in enumerate(node.input):
                node.input[number] = exact.get(name, name)


def put_back(graph: onnx.ModelProto, exact: onnx.ModelProto, names: Collection[str]) -> onnx.ModelProto:
    """A copy of `graph` in which the named nodes are as they are in `exact`; both call their outputs the same."""
    originals = {node.output[0]: node for node in exact.graph.node if node.name in names}
    made = copy.deepcopy(graph)
    nodes = [originals.get(output, node) for node in made.graph.node for output in node.output[:1]]
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    known = {each.name for each in made.graph.initializer}
    read = {name for node in originals.values() for name in node.input}
    made.graph.initializer.extend(each for each in exact.graph.initializer if each.name in read - known)
    drop_unused(made)
    return made


def keep_shapes(graph: onnx.ModelProto, exact: onnx.ModelProto) -> None:
    """Give tensors the shapes that they have in `exact`, which quantisers forget and targets may go by; they are called the same in both."""
    del graph.graph.value_info[:]
    graph.graph.value_info.extend(exact.graph.value_info)


def fold_gemms(graph: onnx.ModelProto) -> None:
    """`Gemm` of a vector or matrix by a constant weight becomes `MatMul`, and `Add` where it has a bias, under the same names, scales folded in."""
    import numpy as np
    from onnx import helper, numpy_helper

    constants = {each.name: each for each in graph.graph.initializer}
    nodes = []

    def constant(name: str, values: Any, scale: float) -> str:
        graph.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values * values.dtype.type(scale)), name))
        return name

    for node in graph.graph.node:
        settings = {each.name: helper.get_attribute_value(each) for each in node.attribute}
        weight = constants.get(node.input[1]) if node.op_type == "Gemm" and not settings.get("transA") else None
        added = node.input[2] if len(node.input) > 2 else ""
        if weight is None or (added and added not in constants):
            nodes.append(node)
            continue
        values, output = numpy_helper.to_array(weight), node.output[0]
        values = values.T if settings.get("transB") else values
        read, product = constant(f"{output}_weight", values, settings.get("alpha", 1)), f"{output}_product" if added else output
        nodes.append(helper.make_node("MatMul", [node.input[0], read], [product], name=node.name))
        if added:
            bias = constant(f"{output}_bias", numpy_helper.to_array(constants[added]), settings.get("beta", 1))
            nodes.append(helper.make_node("Add", [product, bias], [output], name=f"{node.name}_bias"))
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
    drop_unused(graph)


def session_on(graph: onnx.ModelProto) -> Any:
    """A session on a graph on the processor, by way of a file, since one of 2 GB fits no message."""
    import tempfile
    from pathlib import Path

    import onnx
    import onnxruntime

    from compressor.deploy.onnx import save

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    made = onnx.ModelProto()  # writing a large one empties it
    made.CopyFrom(graph)
    with tempfile.TemporaryDirectory(prefix="compressor-watched-") as folder:
        save(made, Path(folder))
        return onnxruntime.InferenceSession(str(Path(folder) / "model.onnx"), options, providers=["CPUExecutionProvider"])
