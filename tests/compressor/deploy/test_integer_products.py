"""Products of quantised tensors with their biases: the same numbers, and what is no such product stays."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from compressor.deploy.integer_products import KIND, join_biases

INPUTS, OUTPUTS = 8, 6
SHAPES = [(1, 1), (1, 7), (3, 5)]
draw = np.random.default_rng(0)
WEIGHT = draw.integers(-127, 128, (INPUTS, OUTPUTS)).astype(np.int8)
CONSTANTS = {
    "s": np.array(0.02, np.float32),
    "z": np.array(120, np.uint8),
    "w": WEIGHT,
    "wt": np.ascontiguousarray(WEIGHT.T),
    "ws": draw.uniform(0.001, 0.01, OUTPUTS).astype(np.float32),
    "wz": np.zeros(OUTPUTS, np.int8),
    "w1": np.array(0.01, np.float32),
    "b": draw.normal(size=OUTPUTS).astype(np.float32),
    "k": draw.normal(size=INPUTS).astype(np.float32),
}
READ = [
    helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
    helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
]
WEIGHTS = helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["f"], axis=1)
TURNED = helper.make_node("DequantizeLinear", ["wt", "ws", "wz"], ["f"], axis=0)
PRODUCT = helper.make_node("MatMul", ["d", "f"], ["p"])


def joined(*nodes, rank=3, more=()):
    """The graph before and after, which give the same for any batch and length; kinds of operators after."""
    rows = ["batch", "length", INPUTS][-rank:]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, rows)]
    inputs += [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", "length", OUTPUTS][-rank:]) for name in more]
    constants = [numpy_helper.from_array(values, name) for name, values in CONSTANTS.items()]
    made = helper.make_graph(
        [*READ, *nodes], "g", inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], constants
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_model(made, opset_imports=opsets, ir_version=10)
    before = graph.SerializeToString()
    join_biases(graph)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    one, other = (
        onnxruntime.InferenceSession(each, options, providers=["CPUExecutionProvider"])
        for each in (before, graph.SerializeToString())
    )
    for batch, length in SHAPES:
        shape = (batch, length)[-(rank - 1) :]
        fed = {"x": draw.normal(size=(*shape, INPUTS)).astype(np.float32)}
        fed |= {name: draw.normal(size=(*shape, OUTPUTS)).astype(np.float32) for name in more}
        np.testing.assert_allclose(other.run(None, fed)[0], one.run(None, fed)[0], rtol=0, atol=2e-5)
    return Counter(node.op_type for node in graph.graph.node)


def test_bias_behind_a_product_is_added_by_it():
    assert joined(WEIGHTS, PRODUCT, helper.make_node("Add", ["p", "b"], ["y"])) == {"QuantizeLinear": 1, KIND: 1, "Identity": 1}


def test_sum_of_product_bias_and_residual_keeps_the_residual():
    found = joined(WEIGHTS, PRODUCT, helper.make_node("Sum", ["p", "b", "r"], ["y"]), more=("r",))
    assert found == {"QuantizeLinear": 1, KIND: 1, "Sum": 1}, "of an addition and a norm ONNX Runtime makes a slower operator"


def test_gelu_is_left_without_its_bias():
    found = joined(WEIGHTS, PRODUCT, helper.make_node("BiasGelu", ["p", "b"], ["y"], domain="com.microsoft"))
    assert found == {"QuantizeLinear": 1, KIND: 1, "Gelu": 1}


@pytest.mark.parametrize(("weights", "settings"), [(TURNED, {"transB": 1}), (WEIGHTS, {})])
def test_gemm_with_its_bias_becomes_one_product(weights, settings):
    product = helper.make_node("Gemm", ["d", "f", "b"], ["y"], **settings)
    assert joined(weights, product, rank=2) == {"QuantizeLinear": 1, KIND: 1}


def test_attention_gives_its_bias_to_three_products():
    products = [helper.make_node("MatMul", ["d", "f"], [name]) for name in ("query", "key", "value")]
    bias = np.concatenate([CONSTANTS["b"], 2 * CONSTANTS["b"], -CONSTANTS["b"]])
    CONSTANTS["bias3"] = bias
    attention = helper.make_node(
        "MultiHeadAttention", ["query", "key", "value", "bias3"], ["y"], domain="com.microsoft", num_heads=2
    )
    assert joined(WEIGHTS, *products, attention) == {"QuantizeLinear": 1, KIND: 3, "MultiHeadAttention": 1}


def test_product_that_two_read_leaves_the_bias_where_it_is():
    nodes = (helper.make_node("Add", ["p", "b"], ["a"]), helper.make_node("Add", ["p", "a"], ["y"]))
    assert joined(WEIGHTS, PRODUCT, *nodes) == {"QuantizeLinear": 1, KIND: 1, "Add": 2}


def test_sum_with_a_vector_of_another_length_is_left():
    one = helper.make_node("DequantizeLinear", ["w", "w1"], ["f"])
    tokens = helper.make_node("Add", ["p", "r"], ["y"])
    assert joined(one, PRODUCT, tokens, more=("r",)) == {"QuantizeLinear": 1, KIND: 1, "Add": 1}


def test_gemm_whose_bias_is_one_number_for_all_outputs_stays():
    CONSTANTS["one"] = np.array([0.5], np.float32)
    assert joined(WEIGHTS, helper.make_node("Gemm", ["d", "f", "one"], ["y"]), rank=2)["Gemm"] == 1


def test_what_a_branch_alone_reads_is_kept():
    CONSTANTS.update(yes=np.array(True), k6=draw.normal(size=OUTPUTS).astype(np.float32))
    branch = helper.make_graph(
        [helper.make_node("Identity", ["k6"], ["i"])], "b", [], [helper.make_tensor_value_info("i", TensorProto.FLOAT, [OUTPUTS])]
    )
    asks = helper.make_node("If", ["yes"], ["c"], then_branch=branch, else_branch=branch)
    nodes = (helper.make_node("Add", ["p", "b"], ["a"]), asks, helper.make_node("Add", ["a", "c"], ["y"]))
    assert joined(WEIGHTS, PRODUCT, *nodes)[KIND] == 1


def test_product_of_floats_stays():
    scaled = helper.make_node("Mul", ["x", "k"], ["m"])
    product = helper.make_node("MatMul", ["m", "f"], ["y"])
    assert joined(WEIGHTS, scaled, product)["MatMul"] == 1


def test_weights_scaled_along_their_inputs_stay():
    CONSTANTS["ks"] = np.full(INPUTS, 0.01, np.float32)
    rows = helper.make_node("DequantizeLinear", ["w", "ks"], ["f"], axis=0)
    assert joined(rows, helper.make_node("MatMul", ["d", "f"], ["y"]))["MatMul"] == 1
