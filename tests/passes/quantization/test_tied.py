"""A table that the output layer reads the other way round: given a weight of its own, and one matrix again where both are in int8."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from passes.quantization.quantizers.onnx_tied import tie, untie

WORDS, SIZE = 7, 3
TABLE = np.random.default_rng(0).normal(size=(WORDS, SIZE)).astype(np.float32)


def graph(nodes, stored, outputs=("logits",), ids=True):
    inputs = [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"])] if ids else []
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", SIZE])]
    told = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    tensors = [numpy_helper.from_array(values, name) for name, values in stored.items()]
    made = helper.make_graph(nodes, "g", [*inputs, *given], told, tensors)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def tied(perm=(1, 0), products=1, **more):
    """A gathered table whose transpose is multiplied with; `perm` None writes none, which turns all axes."""
    order = {} if perm is None else {"perm": list(perm)}
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"]),
        helper.make_node("Transpose", ["table"], ["turned"], **order),
        *(helper.make_node("MatMul", ["x", "turned"], [f"logits{at or ''}"]) for at in range(products)),
    ]
    outputs = ["rows", *(f"logits{at or ''}" for at in range(products))]
    return graph(nodes, {"table": TABLE}, outputs, **more)


def answers(model):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(1).normal(size=(2, SIZE)).astype(np.float32)
    return session.run(None, {"ids": np.asarray([6, 2]), "x": x})


def names(model):
    return {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}


@pytest.mark.parametrize(("perm", "products"), [((1, 0), 1), ((1, 0), 2), (None, 1)])
def test_an_output_layer_gets_a_weight_of_its_own(perm, products):
    model = tied(perm, products)
    before = answers(model)
    assert untie(model) == {"table": "table_turned"}
    assert [each.op_type for each in model.graph.node] == ["Gather", *["MatMul"] * products]
    assert {each.input[1] for each in model.graph.node if each.op_type == "MatMul"} == {"table_turned"}
    np.testing.assert_array_equal(names(model)["table_turned"], TABLE.T)
    for one, other in zip(answers(model), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_only_the_output_layer_reads_is_left():
    nodes = [
        helper.make_node("Transpose", ["table"], ["turned"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "turned"], ["logits"]),
    ]
    model = graph(nodes, {"table": TABLE}, ids=False)
    before = model.SerializeToString()
    assert untie(model) == {}
    assert model.SerializeToString() == before


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(
            lambda nodes: nodes[1].CopyFrom(helper.make_node("Transpose", ["table"], ["turned"], perm=[0, 1])), id="not turned"
        ),
        pytest.param(lambda nodes: nodes[2].CopyFrom(helper.make_node("MatMul", ["turned", "x"], ["logits"])), id="on the left"),
        pytest.param(lambda nodes: nodes[2].CopyFrom(helper.make_node("Add", ["x", "turned"], ["logits"])), id="no product"),
        pytest.param(
            lambda nodes: nodes.append(helper.make_node("Neg", ["turned"], ["other"])), id="something else reads it too"
        ),
        pytest.param(
            lambda nodes: nodes[1].CopyFrom(helper.make_node("Transpose", ["x"], ["turned"], perm=[1, 0])), id="no table"
        ),
        pytest.param(lambda nodes: nodes[1].CopyFrom(helper.make_node("Identity", ["table"], ["turned"])), id="no transpose"),
    ],
)
def test_what_is_not_read_as_the_weight_of_a_product_is_left(change):
    model = tied()
    change(model.graph.node)
    before = model.SerializeToString()
    assert untie(model) == {}
    assert model.SerializeToString() == before


def test_a_table_after_one_that_is_left_is_seen():
    nodes = [
        helper.make_node("Gather", ["other", "ids"], ["more"]),
        helper.make_node("Transpose", ["other"], ["back"], perm=[0, 1]),
        *tied().graph.node,
        helper.make_node("MatMul", ["x", "back"], ["last"]),
    ]
    square = np.eye(SIZE, dtype=np.float32)
    assert untie(graph(nodes, {"other": square, "table": TABLE}, ("rows", "logits", "last"))) == {"table": "table_turned"}


# ------------------------------------------------------------------ in int8


def quantised(scales):
    """As quantisers leave both: the table with a scale for each row, the weight with `scales`."""
    columns = np.arange(-10, -10 + WORDS * SIZE, dtype=np.int8).reshape(SIZE, WORDS)
    stored = {
        "table_int8": np.zeros((WORDS, SIZE), np.int8),
        "table_scale": np.ones((WORDS, 1), np.float32),
        "table_turned_quantized": columns,
        "table_turned_scale": np.asarray(scales, np.float32),
    }
    zero = {"zero": np.zeros(WORDS if np.ndim(scales) else (), np.int8)}
    dequantised = helper.make_node(
        "DequantizeLinear", ["table_turned_quantized", "table_turned_scale", "zero"], ["weight"], axis=1
    )
    nodes = [
        helper.make_node("Gather", ["table_int8", "ids"], ["whole"]),
        helper.make_node("Cast", ["whole"], ["gathered"], to=TensorProto.FLOAT),
        helper.make_node("Gather", ["table_scale", "ids"], ["sizes"]),
        helper.make_node("Mul", ["gathered", "sizes"], ["rows"]),
        dequantised,
        helper.make_node("MatMul", ["x", "weight"], ["logits"]),
    ]
    return graph(nodes, {**stored, **zero}, ("rows", "logits"))


def test_one_matrix_serves_table_and_output_layer():
    scales = np.linspace(0.1, 0.7, WORDS).astype(np.float32)
    model = quantised(scales)
    columns, (_, logits) = names(model)["table_turned_quantized"], answers(model)
    tie(model, {"table": "table_turned"})
    assert "table_turned_quantized" not in names(model)
    np.testing.assert_array_equal(names(model)["table_int8"], columns.T)
    np.testing.assert_array_equal(names(model)["table_scale"], scales[:, None])
    rows, after = answers(model)
    np.testing.assert_array_equal(after, logits)
    np.testing.assert_array_equal(rows, (columns.T * scales[:, None])[[6, 2]])
    first = model.graph.node[0]
    assert (first.op_type, first.name) == ("Transpose", "table_turned_quantized_turned")


def test_one_scale_for_all_words_is_too_coarse_for_a_table():
    model = quantised(0.5)
    before = model.SerializeToString()
    tie(model, {"table": "table_turned"})
    assert model.SerializeToString() == before


@pytest.mark.parametrize("missing", ["table_int8", "table_scale", "table_turned_quantized", "table_turned_scale"])
def test_where_one_of_both_stays_in_floating_point_nothing_is_shared(missing):
    model = quantised(np.full(WORDS, 0.5))
    for each in list(model.graph.initializer):
        if each.name == missing:
            model.graph.initializer.remove(each)
    before = model.SerializeToString()
    tie(model, {"table": "table_turned"})
    assert model.SerializeToString() == before


def test_a_table_after_one_that_is_too_coarse_is_tied():
    model = quantised(np.full(WORDS, 0.5))
    coarse = {"o_int8": np.zeros((2, 2), np.int8), "o_scale": np.ones((2, 1), np.float32)}
    coarse |= {"o_turned_quantized": np.zeros((2, 2), np.int8), "o_turned_scale": np.float32(1)}
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(values), name) for name, values in coarse.items())
    tie(model, {"o": "o_turned", "table": "table_turned"})
    assert "o_turned_quantized" in names(model)
    assert "table_turned_quantized" not in names(model)


def test_tables_are_tied_one_by_one():
    model = quantised(np.full(WORDS, 0.5))
    tie(model, {"absent": "absent_turned", "table": "table_turned"})
    assert "table_turned_quantized" not in names(model)
