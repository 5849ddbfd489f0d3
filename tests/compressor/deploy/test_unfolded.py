"""Convolutions of bytes as products: the same numbers, and what has a kernel of its own, or none that is worth while, stays."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from compressor.deploy.integer_products import KIND, join_biases
from compressor.deploy.unfolded import unfold

CHANNELS, OUTPUTS = 3, 5


def graph_of(*, sizes, known=True, zero=128, one_step=False, bias=True, rounded=False, given=True, **settings):
    """A convolution between pairs of Q and DQ; its axes are `sizes` long, or that is not `known`."""
    draw = np.random.default_rng(0)
    taps = settings["kernel_shape"]
    channels = CHANNELS // settings.get("group", 1)
    kind = np.uint8 if zero else np.int8
    constants = {
        "s": np.array(0.02, np.float32),
        "z": np.array(zero, kind),
        "w": draw.integers(-127, 128, (OUTPUTS if channels == CHANNELS else CHANNELS, channels, *taps)).astype(np.int8),
        "b": draw.normal(size=OUTPUTS if channels == CHANNELS else CHANNELS).astype(np.float32),
    }
    constants["ws"] = np.array(0.01, np.float32) if one_step else draw.uniform(0.001, 0.01, len(constants["w"])).astype(np.float32)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "ws"], ["f"], **({} if one_step else {"axis": 0})),
        helper.make_node("Conv", ["d", "f", *(["b"] if bias else [])], ["c"], name="conv", **settings),
    ]
    if rounded:
        nodes += [helper.make_node("QuantizeLinear", ["c", "s", "z"], ["e"]), helper.make_node("DequantizeLinear", ["e", "s", "z"], ["y"])]
    else:
        nodes.append(helper.make_node("Relu", ["c"], ["y"]))
    axes = list(sizes) if known else [f"axis {at}" for at in range(len(sizes))]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", CHANNELS, *axes])]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("y", *(["c"] if given and not rounded else []))]
    kept = [numpy_helper.from_array(values, name) for name, values in constants.items() if bias or name != "b"]
    made = helper.make_graph(nodes, "g", inputs, outputs, kept)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(made, opset_imports=opsets, ir_version=10)


def answers(graph, fed):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": fed})


ONE, TWO = {"sizes": (17,)}, {"sizes": (9, 11)}
FORMS = {
    "one axis": {**ONE, "kernel_shape": [3]},
    "padded": {**ONE, "kernel_shape": [3], "pads": [1, 1]},
    "padded on one side": {**ONE, "kernel_shape": [3], "pads": [2, 0]},
    "strides": {**ONE, "kernel_shape": [3], "strides": [2], "pads": [1, 1]},
    "strides beyond taps": {**ONE, "kernel_shape": [2], "strides": [3]},
    "dilated": {**ONE, "kernel_shape": [3], "dilations": [2], "strides": [3], "pads": [1, 2]},
    "one tap": {**ONE, "kernel_shape": [1]},
    "lengths that are not known": {**ONE, "known": False, "kernel_shape": [3], "pads": [1, 1]},
    "tiles of unknown lengths": {**ONE, "known": False, "kernel_shape": [4], "strides": [4]},
    "two axes": {**TWO, "kernel_shape": [3, 2], "pads": [1, 0, 0, 1], "strides": [2, 1], "dilations": [1, 2]},
    "tiles": {**TWO, "kernel_shape": [3, 3], "strides": [3, 3]},
    "large tiles": {**TWO, "kernel_shape": [4, 8], "strides": [4, 8]},
    "one step": {**ONE, "kernel_shape": [3], "one_step": True, "pads": [1, 1]},
    "no bias": {**ONE, "kernel_shape": [3], "bias": False},
    "zero elsewhere": {**ONE, "kernel_shape": [3], "zero": 120, "pads": [1, 1]},
    "signed": {**ONE, "kernel_shape": [3], "zero": 0, "pads": [1, 1]},
    "read by one": {**ONE, "kernel_shape": [3], "given": False},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("batch", [1, 2])
def test_same_numbers_by_a_product(form, batch):
    given = FORMS[form]
    graph = graph_of(**given)
    fed = np.random.default_rng(1).normal(size=(batch, CHANNELS, *given["sizes"])).astype(np.float32)
    before = answers(graph, fed)
    assert unfold(graph) == 1
    kinds = Counter(node.op_type for node in graph.graph.node)
    assert kinds["MatMul"] == 1
    assert not kinds["Conv"]
    for now, then in zip(answers(graph, fed), before, strict=True):
        assert now.shape == then.shape
        np.testing.assert_allclose(now, then, rtol=0, atol=2e-5)
    join_biases(graph)
    if given.get("zero", 128):  # of signed bytes the operator takes weights alone
        assert {KIND} < {node.op_type for node in graph.graph.node}
    for now, then in zip(answers(graph, fed), before, strict=True):
        np.testing.assert_allclose(now, then, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    "form",
    [
        {**ONE, "kernel_shape": [3], "group": 3},
        {**ONE, "kernel_shape": [3], "rounded": True},
        {**ONE, "kernel_shape": [3], "auto_pad": "SAME_UPPER"},
        {**TWO, "kernel_shape": [6, 5]},
        {**TWO, "known": False, "kernel_shape": [4, 8], "strides": [4, 8]},
    ],
    ids=["groups", "rounded at once", "edges found at run time", "many taps", "large tiles of unknown sizes"],
)
def test_others_stay(form):
    graph = graph_of(**form)
    before = graph.SerializeToString()
    assert unfold(graph) == 0
    assert graph.SerializeToString() == before


def test_float_convolutions_stay():
    graph = graph_of(**FORMS["padded"])
    (conv,) = (node for node in graph.graph.node if node.op_type == "Conv")
    conv.input[0] = "x"
    assert unfold(graph) == 0
