"""Quantisers and their rewrites of graphs, on graphs of a few nodes whose values are seen by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from compressor.contracts.notes import Remark
from compressor.deploy.patterns import drop_unused
from passes.quantization.quantizers import bits as bits_module
from passes.quantization.quantizers import onnxruntime as ort
from passes.quantization.quantizers.bits import sums_bytes_fast, weight_bits
from passes.quantization.quantizers.layers import by_layer
from passes.quantization.quantizers.onnx_graph import exact_inputs_elsewhere, fold_gemms, put_back
from passes.quantization.quantizers.onnx_rows import even_rows
from passes.quantization.quantizers.onnx_tables import embedding_layers, quantize_embeddings

ROWS = 300
DRAW = np.random.default_rng(0)
WEIGHTS = {name: DRAW.normal(size=(4, 4)).astype(np.float32) * (1, 2, 4, 8) for name in ("one", "two")}
TABLE = DRAW.normal(size=(ROWS, 4)).astype(np.float32)


def constant(name, values, kind=np.float32):
    return numpy_helper.from_array(np.asarray(values, dtype=kind), name)


def model(nodes, initializers, *, inputs=(("x", TensorProto.FLOAT, ["n", 4]),), outputs=(("y", ["n", 4]),)):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(*each) for each in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run(graph, **feed):
    onnx.checker.check_model(graph)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feed)[0]


def named(graph, name):
    return next(node for node in graph.graph.node if node.name == name)


def constants(graph):
    return {each.name: numpy_helper.to_array(each) for each in graph.graph.initializer}


X = DRAW.normal(size=(6, 4)).astype(np.float32)


# ------------------------------------------------------------------ layers and bits


def test_nodes_are_grouped_by_their_module_but_for_those_left_out():
    names = ("a/b/MatMul", "a/c/MatMul", "a/b/MatMul_1", "alone")
    assert by_layer(names, ()) == {"a/b": ("a/b/MatMul", "a/b/MatMul_1"), "a/c": ("a/c/MatMul",), "alone": ("alone",)}
    assert list(by_layer(names, ("b", "x"))) == ["a/c", "alone"]
    assert list(by_layer(names, ("MatMul",))) == ["a/b", "a/c", "alone"], "only paths of modules count"
    assert by_layer(names, ("a",)) == {}


@pytest.mark.parametrize("flag", ["avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm"])
def test_processors_that_sum_bytes_fast_use_eight_bits(monkeypatch, flag):
    monkeypatch.setattr(bits_module, "read_cpuinfo", lambda: {"flags": f"avx2 {flag}"})
    notes = []
    assert sums_bytes_fast() is True
    assert weight_bits("auto", SimpleNamespace(note=notes.append)) == 8
    assert notes == []


def test_other_processors_use_seven_and_it_is_noted(monkeypatch):
    monkeypatch.setattr(bits_module, "read_cpuinfo", lambda: {"flags": "avx2 fma"})
    notes = []
    context = SimpleNamespace(note=notes.append)
    assert sums_bytes_fast() is False
    assert [weight_bits(asked, context) for asked in (7, 8)] == [7, 8]
    assert notes == []
    assert weight_bits("auto", context) == 7
    text = "This processor sums products of bytes in 16 bits (no VNNI): weights use 7 of their 8 bits."
    assert notes == [Remark(text=text)]


# ------------------------------------------------------------------ rewrites


def pair(name, of):
    return [
        helper.make_node("QuantizeLinear", [of, "scale", "zero"], [f"{name}_q"], name=f"{name}_Q"),
        helper.make_node("DequantizeLinear", [f"{name}_q", "scale", "zero"], [f"{name}_dq"], name=f"{name}_DQ"),
    ]


SCALES = [constant("scale", 0.5), constant("zero", 128, np.uint8)]


def test_only_named_products_read_what_was_rounded():
    nodes = [
        *pair("x", "x"),
        helper.make_node("DequantizeLinear", ["w_q", "scale", "zero"], ["w"], name="w_DQ"),
        helper.make_node("MatMul", ["x_dq", "w"], ["product"], name="m"),
        helper.make_node("Add", ["x_dq", "product"], ["sum"], name="a"),
        helper.make_node("Mul", ["sum", "x_dq"], ["y"], name="b"),
    ]
    weight = constant("w_q", np.full((4, 4), 130), np.uint8)
    graph = model(nodes, [*SCALES, weight])
    exact_inputs_elsewhere(graph, {"m"})
    assert list(named(graph, "m").input) == ["x_dq", "w"]
    assert list(named(graph, "a").input) == ["x", "product"]
    assert list(named(graph, "b").input) == ["sum", "x"]
    assert list(named(graph, "w_DQ").input) == ["w_q", "scale", "zero"]
    rounded = np.clip(np.round(X / 0.5), -128, 127) * 0.5
    np.testing.assert_allclose(run(graph, x=X), (X + rounded @ np.ones((4, 4))) * X, rtol=1e-5)


def test_nodes_that_no_output_needs_go_with_their_constants():
    nodes = [
        helper.make_node("Add", ["x", "used"], ["sum"], name="a"),
        helper.make_node("Mul", ["sum", "unused"], ["nowhere"], name="dead"),
        helper.make_node("Relu", ["nowhere"], ["further"], name="dead too"),
        helper.make_node("Relu", ["sum"], ["y"], name="r"),
    ]
    graph = model(nodes, [constant("used", np.ones(4)), constant("unused", np.ones(4))])
    for name in ("sum", "nowhere"):
        graph.graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]))
    drop_unused(graph)
    assert [node.name for node in graph.graph.node] == ["a", "r"]
    assert [each.name for each in graph.graph.initializer] == ["used"]
    assert [each.name for each in graph.graph.value_info] == ["sum"]
    np.testing.assert_array_equal(run(graph, x=X), np.maximum(X + 1, 0))


def test_what_a_branch_reads_is_needed():
    """It stands in no list of inputs of the `If`."""
    branch = helper.make_graph(
        [helper.make_node("Add", ["sum", "inside"], ["added"])],
        "b",
        [],
        [helper.make_tensor_value_info("added", TensorProto.FLOAT, None)],
    )
    nodes = [
        helper.make_node("Add", ["x", "used"], ["sum"], name="a"),
        helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch),
    ]
    graph = model(
        nodes, [constant("used", np.ones(4)), constant("inside", np.ones(4)), numpy_helper.from_array(np.array(True), "yes")]
    )
    drop_unused(graph)
    assert len(graph.graph.node) == 2
    np.testing.assert_allclose(run(graph, x=X), X + 2, rtol=1e-5)


def test_named_nodes_are_put_back_with_what_they_read():
    def two(first, second, extra=()):
        nodes = [
            helper.make_node("MatMul", ["x", first], ["inner"], name="one"),
            helper.make_node("MatMul", ["inner", second], ["y"], name="two"),
        ]
        return model(nodes, [constant(first, WEIGHTS["one"]), constant(second, WEIGHTS["two"]), *extra])

    exact = two("w1", "w2")
    rounded = two("w1_r", "w2_r")
    for each in rounded.graph.initializer:
        each.CopyFrom(constant(each.name, np.round(numpy_helper.to_array(each))))
    made = put_back(rounded, exact, ("two",))
    assert [list(node.input) for node in made.graph.node] == [["x", "w1_r"], ["inner", "w2"]]
    assert set(constants(made)) == {"w1_r", "w2"}
    assert set(constants(rounded)) == {"w1_r", "w2_r"}, "the graph itself stays"
    np.testing.assert_allclose(run(made, x=X), X @ np.round(WEIGHTS["one"]) @ WEIGHTS["two"], rtol=1e-4, atol=1e-4)
    again = put_back(made, exact, ("two",))
    assert sorted(each.name for each in again.graph.initializer) == ["w1_r", "w2"], "none twice"


@pytest.mark.parametrize(
    "settings", [{}, {"transB": 1}, {"alpha": 0.5}, {"beta": 2.0}, {"transB": 1, "alpha": 0.25, "beta": 3.0}]
)
def test_gemm_becomes_a_product_and_a_sum_with_its_scales_in_the_constants(settings):
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], name="layer/Gemm", **settings)
    graph = model([node], [constant("w", WEIGHTS["one"]), constant("b", [1, 2, 3, 4])])
    before = run(graph, x=X)
    fold_gemms(graph)
    assert [(each.op_type, each.name) for each in graph.graph.node] == [("MatMul", "layer/Gemm"), ("Add", "layer/Gemm_bias")]
    assert [list(each.input) for each in graph.graph.node] == [["x", "y_weight"], ["y_product", "y_bias"]]
    assert set(constants(graph)) == {"y_weight", "y_bias"}
    assert {each.dtype for each in constants(graph).values()} == {np.dtype(np.float32)}
    np.testing.assert_allclose(run(graph, x=X), before, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("inputs", [["x", "w"], ["x", "w", ""]])
def test_gemm_without_a_bias_becomes_a_product(inputs):
    graph = model([helper.make_node("Gemm", inputs, ["y"], name="layer/Gemm", alpha=0.5)], [constant("w", WEIGHTS["one"])])
    before = run(graph, x=X)
    fold_gemms(graph)
    assert [(each.op_type, each.name, list(each.input)) for each in graph.graph.node] == [
        ("MatMul", "layer/Gemm", ["x", "y_weight"])
    ]
    np.testing.assert_allclose(run(graph, x=X), before, rtol=1e-5, atol=1e-6)


def test_gemms_that_are_no_such_product_stay():
    def kept(node, initializers, **further):
        graph = model([node], initializers, **further)
        fold_gemms(graph)
        return [each.op_type for each in graph.graph.node]

    square = {"inputs": (("x", TensorProto.FLOAT, [4, 4]), ("v", TensorProto.FLOAT, [4, 4]))}
    weight, bias = constant("w", WEIGHTS["one"]), constant("b", [1, 2, 3, 4])
    assert kept(helper.make_node("Gemm", ["x", "w", "b"], ["y"], transA=1), [weight, bias], **square) == ["Gemm"]
    assert kept(helper.make_node("Gemm", ["x", "v", "b"], ["y"]), [bias], **square) == ["Gemm"]
    assert kept(helper.make_node("Gemm", ["x", "w", "v"], ["y"]), [weight], **square) == ["Gemm"]
    assert kept(helper.make_node("MatMul", ["x", "w"], ["y"]), [weight]) == ["MatMul"]


# ------------------------------------------------------------------ tables

IDS = ("ids", TensorProto.INT64, ["n"])


def gathering(table=TABLE, name="t", kind=np.float32, further=(), **settings):
    node = helper.make_node("Gather", [name, "ids"], ["y"], name="embeddings/Gather", **settings)
    return model([node, *further], [constant(name, table, kind)], inputs=(IDS,))


def test_large_tables_that_one_node_gathers_rows_of_are_found():
    assert embedding_layers(gathering()) == ("embeddings/Gather",)
    assert embedding_layers(gathering(axis=0)) == ("embeddings/Gather",)
    assert embedding_layers(gathering(np.zeros((256, 4)))) == ("embeddings/Gather",)
    assert embedding_layers(gathering(np.zeros((255, 4)))) == ()
    assert embedding_layers(gathering(np.zeros((4, 300)), axis=1)) == ()
    assert embedding_layers(gathering(np.zeros((300, 4)), axis=1)) == ()
    assert embedding_layers(gathering(np.zeros((300, 4, 2)))) == ()
    assert embedding_layers(gathering(kind=np.float16)) == ()
    assert embedding_layers(gathering(further=[helper.make_node("Relu", ["t"], ["z"], name="r")])) == ()
    assert embedding_layers(model([helper.make_node("Add", ["t", "x"], ["y"], name="a")], [constant("t", TABLE)])) == ()
    assert embedding_layers(model([helper.make_node("Gather", ["x", "i"], ["y"])], [constant("i", [0], np.int64)])) == ()


def test_table_is_rounded_row_by_row_and_only_gathered_rows_are_scaled_back():
    table = TABLE.copy()
    table[7] = 0
    table[8] = [127, -127, 1.4, 1.6]
    relu = helper.make_node("Relu", ["y"], ["z"], name="after")
    graph = gathering(table, further=[relu])
    quantize_embeddings(graph, ("embeddings/Gather",))
    held = constants(graph)
    assert set(held) == {"t_int8", "t_scale"}
    assert (held["t_int8"].dtype, held["t_scale"].dtype, held["t_scale"].shape) == (np.int8, np.float32, (ROWS, 1))
    np.testing.assert_allclose(held["t_scale"][:, 0], np.maximum(np.abs(table).max(1) / 127, 1e-12), rtol=1e-6)
    assert held["t_int8"][8].tolist() == [127, -127, 1, 2]
    assert held["t_int8"][7].tolist() == [0, 0, 0, 0]
    assert [(each.op_type, each.name) for each in graph.graph.node] == [
        ("Gather", "embeddings/Gather_rows"),
        ("Cast", "embeddings/Gather_cast"),
        ("Gather", "embeddings/Gather_scales"),
        ("Mul", "embeddings/Gather_scaled"),
        ("Relu", "after"),
    ]
    found = run(graph, ids=np.array([8, 7, 0, 299]))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, table[[8, 7, 0, 299]], atol=np.abs(table[[8, 0, 299]]).max() / 254 * 1.01)
    np.testing.assert_array_equal(found[1], 0)


def test_tables_that_are_not_named_stay():
    graph = gathering()
    quantize_embeddings(graph, ())
    assert graph.SerializeToString() == gathering().SerializeToString()


# ------------------------------------------------------------------ ONNX Runtime's quantisers


def network():
    """Ids to rows of a table, two layers with a residual between them, and a product of no constant."""
    nodes = [
        helper.make_node("Gather", ["t", "ids"], ["h"], name="table/Gather"),
        helper.make_node("MatMul", ["h", "w1"], ["a"], name="one/MatMul"),
        helper.make_node("Add", ["a", "h"], ["r"], name="one/Add"),
        helper.make_node("Gemm", ["r", "w2", "b2"], ["c"], name="two/Gemm"),
        helper.make_node("Transpose", ["c"], ["ct"], name="last/Transpose"),
        helper.make_node("MatMul", ["c", "ct"], ["d"], name="last/MatMul"),
        helper.make_node("MatMul", ["d", "c"], ["y"], name="last/MatMul_1"),
    ]
    held = [constant("t", TABLE), constant("w1", WEIGHTS["one"]), constant("w2", WEIGHTS["two"]), constant("b2", [1, 2, 3, 4])]
    return model(nodes, held, inputs=(IDS,))


@pytest.fixture
def path(tmp_path):
    folder = tmp_path / "float"
    folder.mkdir()
    onnx.save(network(), folder / "model.onnx")
    return folder / "model.onnx"


FEEDS = [{"ids": np.arange(start, start + 6), "strange": np.zeros(1)} for start in (0, 60, 120)]
HELD_OUT = np.arange(200, 212)


def near(found, exact):
    return np.abs(found - exact).max() < 0.2 * np.abs(exact).max()


def kinds(graph):
    return [node.op_type for node in graph.graph.node]


def test_products_with_a_constant_are_layers():
    assert ort.weighted_layers(network()) == {"one": ("one/MatMul",), "two": ("two/Gemm",)}
    assert ort.weighted_layers(network(), ("tw",)) == {"one": ("one/MatMul",)}


def test_static_graph_rounds_what_enters_layers_and_nothing_else(path):
    made = ort.quantize_static(path, FEEDS)
    graph, held = made.graph(), constants(made.graph())
    assert made.layers == ("table", "one", "two")
    assert made.nodes == {"table": ("table/Gather",), "one": ("one/MatMul",), "two": ("two/Gemm",)}
    assert (held["w1_quantized"].dtype, held["w2_quantized"].dtype, held["t_int8"].dtype) == (np.int8,) * 3
    assert held["w1_scale"].shape == (4,), "a scale for each column"
    assert held["b2"].dtype == np.float32, "biases stay"
    rounded = [node.input[0] for node in graph.graph.node if node.op_type == "QuantizeLinear"]
    assert rounded == ["h", "r"], "and no outputs"
    assert "h" in named(graph, "one/Add").input, "the residual is exact"
    assert held["h_zero_point"].dtype == np.uint8
    found, exact = run(graph, ids=HELD_OUT), run(made.exact, ids=HELD_OUT)
    assert near(found, exact)
    assert not np.array_equal(found, exact)
    assert made.exact.SerializeToString() == onnx.load(path).SerializeToString()
    names = [node.name for node in graph.graph.node]
    assert names.index("h_QuantizeLinear") < names.index("one/MatMul")


def test_static_options_change_what_they_say(path):
    def held(**options):
        return constants(ort.quantize_static(path, FEEDS, **options).graph())

    whole, seven = held(), held(bits=7)
    assert np.abs(whole["w1_quantized"].astype(int)).max() == 127
    assert np.abs(seven["w1_quantized"].astype(int)).max() in (63, 64)
    assert held(per_channel=False)["w1_scale"].shape == ()
    plain = held(embeddings=False)
    assert "t_int8" not in plain
    assert plain["t"].dtype == np.float32
    assert held(signed=True)["h_zero_point"].dtype == np.int8
    symmetric = held(signed=True, symmetric=True)
    assert symmetric["h_zero_point"] == 0
    assert held(signed=True)["h_zero_point"] != 0


def test_static_leaves_out_what_is_excluded(path):
    made = ort.quantize_static(path, FEEDS, exclude=("two", "tab"))
    assert made.layers == ("one",)
    assert {"w2", "t", "w1_quantized"} <= set(constants(made.graph()))
    nothing = ort.quantize_static(path, [], exclude=("one", "two"), embeddings=False)
    assert nothing.layers == ()
    assert nothing.graph().SerializeToString() == made.exact.SerializeToString()
    tables = ort.quantize_static(path, [], exclude=("one", "two"))
    assert tables.layers == ("table",)


def test_layers_are_put_back_into_float_one_by_one(path, tmp_path):
    made = ort.quantize_static(path, FEEDS)
    assert made.graph(()) is made.int8
    for left in made.layers:
        held = constants(made.graph((left,)))
        back = {"table": "t", "one": "w1", "two": "w2"}[left]
        assert [name for name in ("t", "w1", "w2") if name in held] == [back]
    whole = made.graph(made.layers)
    np.testing.assert_array_equal(run(whole, ids=HELD_OUT), run(made.exact, ids=HELD_OUT))
    for name, left in (("all", ()), ("some", ("one",))):
        (tmp_path / name).mkdir()
        made.write(tmp_path / name, *([left] if left else []))
        written = onnx.load(tmp_path / name / "model.onnx")
        np.testing.assert_array_equal(run(written, ids=HELD_OUT), run(made.graph(left), ids=HELD_OUT))


def test_calibration_takes_the_ends_over_all_rows_and_writes_nothing_beside_the_graph(path):
    found = ort.calibrate(path, FEEDS)
    read = np.concatenate([TABLE[feed["ids"]] for feed in FEEDS])
    assert [end.item() for end in found["h"].range_value] == pytest.approx([read.min(), read.max()])
    assert [each.name for each in path.parent.iterdir()] == ["model.onnx"]


def test_dynamic_graph_rounds_weights_and_at_run_time_what_they_meet(path):
    made = ort.quantize_dynamic(path)
    graph, held = made.graph(), constants(made.graph())
    assert made.layers == ("table", "one", "two")
    assert kinds(graph).count("MatMulInteger") == kinds(graph).count("DynamicQuantizeLinear") == 2
    assert "Gemm" not in kinds(graph)
    assert {held[name].dtype for name in held if name.endswith("_quantized")} == {np.dtype(np.int8)}
    assert held["w1_scale"].size == 4
    assert near(run(graph, ids=HELD_OUT), run(made.exact, ids=HELD_OUT))
    assert made.exact.SerializeToString() == onnx.load(path).SerializeToString()


def test_dynamic_options_change_what_they_say(path):
    def held(**options):
        return constants(ort.quantize_dynamic(path, **options).graph())

    assert np.abs(held()["w1_quantized"].astype(int)).max() == 127
    assert np.abs(held(bits=7)["w1_quantized"].astype(int)).max() in (63, 64)
    assert held(per_channel=False)["w1_scale"].size == 1
    assert "t_int8" not in held(embeddings=False)
    assert "w1_quantized" not in held(exclude=("one",))
    nothing = ort.quantize_dynamic(path, exclude=("one", "two", "table"))
    assert nothing.layers == ()
    np.testing.assert_allclose(run(nothing.graph(), ids=HELD_OUT), run(nothing.exact, ids=HELD_OUT), rtol=1e-4)


@pytest.mark.parametrize(
    "quantize", [lambda path: ort.quantize_static(path, [{"x": X}]), ort.quantize_dynamic], ids=["static", "dynamic"]
)
def test_products_that_read_what_no_inference_knows_the_type_of_are_quantised(quantize, tmp_path):
    nodes = [
        helper.make_node("Gelu", ["x"], ["h"], name="a/Gelu", domain="com.microsoft"),
        helper.make_node("MatMul", ["h", "w"], ["y"], name="a/MatMul"),
    ]
    graph = model(nodes, [constant("w", WEIGHTS["one"])])
    graph.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    onnx.save(graph, tmp_path / "model.onnx")
    made = quantize(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(made.graph().SerializeToString(), providers=["CPUExecutionProvider"])
    exact = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    assert constants(made.graph())["w_quantized"].dtype == np.int8
    assert near(session.run(None, {"x": X})[0], exact.run(None, {"x": X})[0])


# ------------------------------------------------------------------ rows of one magnitude


def products(opset=20):
    """Two products of one input, one of which is left as it is, and a `Gemm`."""
    nodes = [
        helper.make_node("MatMul", ["x", "one"], ["a"], name="first/MatMul"),
        helper.make_node("MatMul", ["x", "two"], ["b"], name="second/MatMul"),
        helper.make_node("Add", ["a", "b"], ["sum"]),
        helper.make_node("MatMul", ["sum", "two"], ["c"], name="third/MatMul"),
        helper.make_node("Gemm", ["c", "one", "bias"], ["y"], name="last/Gemm"),
    ]
    made = model(nodes, [*(constant(name, WEIGHTS[name]) for name in WEIGHTS), constant("bias", [1, 2, 3, 4])])
    made.opset_import[0].version = opset
    return made


MASSIVE = np.concatenate([X[:1] * 3000, X[1:5], np.zeros((1, 4), np.float32)])
"""As a language model's first token is beside others; and a row of zeros."""


@pytest.mark.parametrize("opset", [17, 20])
def test_rows_of_one_magnitude_make_equal_products(opset):
    graph, plain = products(opset), products(opset)
    even_rows(graph, {"first/MatMul", "second/MatMul"})
    np.testing.assert_allclose(run(graph, x=MASSIVE), run(plain, x=MASSIVE), rtol=1e-4, atol=1e-3)
    kinds = [node.op_type for node in graph.graph.node]
    assert (kinds.count("Div"), kinds.count("Mul")) == (1, 2)
    assert list(named(graph, "third/MatMul").input) == ["sum", "two"]


def test_a_massive_row_takes_nothing_from_others_where_each_has_its_range(tmp_path):
    onnx.save(products(), tmp_path / "model.onnx")
    exact = run(products(), x=MASSIVE)
    errors = {}
    for by_row in (False, True):
        made = ort.quantize_dynamic(tmp_path / "model.onnx", by_row=by_row)
        assert made.layers == ("first", "second", "third", "last")
        np.testing.assert_allclose(run(made.graph(made.layers), x=MASSIVE), exact, rtol=1e-4, atol=1e-3)
        found = run(made.graph(), x=MASSIVE)
        errors[by_row] = np.abs(found - exact)[1:5].max() / np.abs(exact)[1:5].max()
    assert errors[True] < 0.03 < 0.3 < errors[False]
