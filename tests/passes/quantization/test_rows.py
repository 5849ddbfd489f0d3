"""Rows brought to one magnitude: the same products, each row with a largest value of 1 on the way."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from passes.quantization.quantizers.onnx_rows import even_rows

WEIGHT = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
X = np.random.default_rng(1).normal(size=(2, 5, 4)).astype(np.float32) * np.asarray([1e3, 1, 1e-3, 0, 10], np.float32)[:, None]


def graph(opset, domain="", products=2):
    nodes = [helper.make_node("MatMul", ["x", "w"], [f"y{at}"], name=f"product{at}") for at in range(products)]
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", "t", 4])]
    told = [helper.make_tensor_value_info(f"y{at}", TensorProto.FLOAT, ["b", "t", 3]) for at in range(products)]
    made = helper.make_graph(nodes, "g", given, told, [numpy_helper.from_array(WEIGHT, "w")])
    others = [helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(made, opset_imports=[*others, helper.make_opsetid(domain, opset)], ir_version=8)


def ran(model, *outputs):
    for name in outputs:
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": X})


@pytest.mark.parametrize(("opset", "domain"), [(17, ""), (18, ""), (20, "ai.onnx")])
def test_products_are_the_same_and_rows_have_a_largest_value_of_one(opset, domain):
    model = graph(opset, domain)
    even_rows(model, {"product0", "product1"})
    first, second, even, magnitude = ran(model, "x_even", "x_magnitude")
    for found in (first, second):
        np.testing.assert_allclose(found, X @ WEIGHT, rtol=1e-5, atol=1e-6)
    assert even.shape == X.shape
    assert magnitude.shape == (2, 5, 1), "a magnitude for each token"
    largest = np.abs(even).max(axis=-1)
    np.testing.assert_allclose(np.delete(largest, 3, axis=1), 1.0, rtol=1e-6)
    assert not largest[:, 3].any(), "a row of zeros stays one"


def test_a_tensor_that_two_products_read_is_divided_once_and_every_node_has_a_name():
    model = graph(20)
    even_rows(model, {"product0", "product1"})
    names = [each.name for each in model.graph.node]
    assert [each.op_type for each in model.graph.node].count("Div") == 1
    assert all(names)
    assert len(set(names)) == len(names)


def test_other_products_are_left():
    model = graph(20)
    even_rows(model, {"product1"})
    assert [each.op_type for each in model.graph.node] == ["MatMul", "Abs", "ReduceMax", "Max", "Div", "MatMul", "Mul"]
    assert list(model.graph.node[0].input) == ["x", "w"]


def test_small_rows_are_divided_by_their_magnitude_and_not_by_one():
    model = graph(20)
    even_rows(model, {"product0"})
    *_, magnitude = ran(model, "x_magnitude")
    np.testing.assert_allclose(magnitude[..., 0], np.maximum(np.abs(X).max(axis=-1), 1e-12))
