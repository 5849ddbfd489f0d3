"""Weights on grids of few numbers: rounding, packing, GPTQ, and what the runtime computes with them."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from compressor.errors import UnsupportedModel
from passes.quantization.quantizers.awq import scale_up
from passes.quantization.quantizers.gptq import gptq
from passes.quantization.quantizers.grids import Grid, held, packed_up, rounded, unpacked
from passes.quantization.quantizers.onnx_blocks import products_of, rewrite
from passes.quantization.quantizers.onnx_weights import Moments, quantize
from passes.quantization.quantizers.weight_layers import Wanted

GRIDS = [Grid(bits, group, symmetric) for bits in (8, 4, 2) for group in (16, 32, 128) for symmetric in (True, False)]


def matrix(rows=24, width=100, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)


def groups(values, grid):
    """`[rows, groups, group]`, filled up with 0."""
    lacks = -values.shape[1] % grid.group
    return np.pad(values, ((0, 0), (0, lacks))).reshape(len(values), -1, grid.group)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_each_weight_is_within_half_a_step_of_its_group(grid):
    exact = matrix()
    made = rounded(exact, grid)
    apart = np.abs(groups(made.values(), grid) - groups(exact, grid)) / np.abs(made.scales[..., None])
    if grid.symmetric:  # the number for the largest weight of the other sign is not there
        largest = groups(exact, grid) / made.scales[..., None] > grid.middle - 1.5
        assert (apart[largest] <= 1.001).all()
        apart = apart[~largest]
    assert (apart <= 0.501).all()
    assert made.values().shape == exact.shape


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_zero_is_exact(grid):
    exact = matrix()
    exact[:, ::3] = 0
    exact[2] = 0
    assert (rounded(exact, grid).values()[:, ::3] == 0).all()
    assert (rounded(exact, grid).values()[2] == 0).all()
    moments = np.eye(exact.shape[1])
    assert (gptq(exact, moments, grid).values()[2] == 0).all()


@given(st.sampled_from([8, 4, 2]), st.integers(1, 70), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_numbers_come_out_as_they_were_packed(bits, count, seed):
    numbers = np.random.default_rng(seed).integers(0, 2**bits, (3, count), dtype=np.uint8)
    packed = packed_up(numbers, bits)
    assert packed.shape == (3, -(-count * bits // 8))
    np.testing.assert_array_equal(unpacked(packed, bits)[:, :count], numbers)


def test_ternary_weights_are_exact_in_two_bits():
    ternary, step = np.random.default_rng(0).integers(-1, 2, (8, 4, 32)), np.full((8, 4), 0.37, np.float32)
    grid = Grid(2, 32)
    made = held(ternary + grid.middle, step, np.zeros((8, 4)), grid, 128)
    np.testing.assert_array_equal(made.values(), (ternary * np.float32(0.37)).reshape(8, 128).astype(np.float32))
    x = np.random.default_rng(1).normal(size=(3, 128)).astype(np.float32)
    np.testing.assert_allclose(product(made, x), x @ made.values().T, atol=0.02 * np.abs(x @ made.values().T).max())


def product(made, x):
    """What `MatMulNBits` gives at the accuracy level of deployed graphs."""
    kinds = {"numbers": made.packed, "scales": made.scales, "zeros": made.zeros}
    stored = [numpy_helper.from_array(array, name) for name, array in kinds.items() if array is not None]
    how = {"K": made.width, "N": len(made.packed), "bits": made.grid.bits, "block_size": made.grid.group, "accuracy_level": 4}
    node = helper.make_node("MatMulNBits", ["x", *(each.name for each in stored)], ["y"], domain="com.microsoft", **how)
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size]) for name, size in (("x", made.width), ("y", None))
    ]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], stored)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("rows", [1, 9])
def test_the_runtime_computes_with_these_values(grid, rows):
    made, x = rounded(matrix(), grid), matrix(rows, 100, 1)
    expected = x @ made.values().T
    np.testing.assert_allclose(product(made, x), expected, atol=0.03 * np.abs(expected).max())


@pytest.mark.parametrize("grid", [Grid(4, 32), Grid(2, 32), Grid(4, 128, symmetric=False)], ids=str)
def test_gptq_changes_products_less_than_rounding(grid):
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(400, 96)) @ rng.normal(size=(96, 96)) + rng.normal(size=96)  # that go together, as activations do
    exact = matrix(48, 96)
    lost = {}
    for name, made in (("nearest", rounded(exact, grid)), ("gptq", gptq(exact, inputs.T @ inputs, grid))):
        lost[name] = np.square(inputs @ (made.values() - exact).T).mean()
        numbers = unpacked(made.packed, grid.bits)
        assert numbers.max() <= grid.most
    assert lost["gptq"] < 0.6 * lost["nearest"]


def test_gptq_rounds_to_nearest_where_inputs_are_independent():
    exact, grid = matrix(), Grid(4, 32)
    np.testing.assert_allclose(gptq(exact, np.eye(100), grid).values(), rounded(exact, grid).values(), atol=1e-6)


def test_gptq_takes_inputs_that_are_never_there():
    exact, grid = matrix(8, 64), Grid(4, 32)
    inputs = np.random.default_rng(0).normal(size=(100, 64))
    inputs[:, 5] = 0
    made = gptq(exact, inputs.T @ inputs, grid)
    assert np.isfinite(made.values()).all()
    assert (np.abs(made.values() - exact)[:, 5] <= 0.501 * np.abs(made.scales[:, 0])).sum() >= 7, (
        "rounded, for rows that read them"
    )


SCALED = 12
"""A channel whose activations are large."""


def gated(rng):
    """`down(silu(gate(norm(x))) * up(norm(x)))` in float."""
    weights = {"gate": (32, 48), "up": (32, 48), "down": (48, 32)}
    stored = [numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name) for name, shape in weights.items()]
    large = np.where(np.arange(32) == SCALED, 30, 1).astype(np.float32)
    stored.append(numpy_helper.from_array(large, "weight"))
    nodes = [
        helper.make_node(
            "SimplifiedLayerNormalization", ["x", "weight"], ["n"], name="norm", axis=-1, epsilon=1e-5, stash_type=1
        ),
        helper.make_node("MatMul", ["n", "gate"], ["g"], name="gate/MatMul"),
        helper.make_node("Sigmoid", ["g"], ["s"], name="s"),
        helper.make_node("Mul", ["g", "s"], ["a"], name="a"),
        helper.make_node("MatMul", ["n", "up"], ["u"], name="up/MatMul"),
        helper.make_node("Mul", ["a", "u"], ["h"], name="h"),
        helper.make_node("MatMul", ["h", "down"], ["y"], name="down/MatMul"),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 32]) for name in ("x", "y")]
    return helper.make_model(
        helper.make_graph(nodes, "g", ends[:1], ends[1:], stored), opset_imports=[helper.make_opsetid("", 20)], ir_version=10
    )


def run(model, x):
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


def test_awq_leaves_the_graph_as_it_computes_and_makes_rounding_cheaper():
    rng = np.random.default_rng(0)
    exact = gated(rng)
    x = rng.normal(size=(200, 32)).astype(np.float32)
    products = products_of(exact)
    grids, watched = {each.weight: Grid(4, 32) for each in products}, Moments(exact, products, [{"x": x}])
    scaled, told = onnx.ModelProto(), []
    scaled.CopyFrom(exact)
    assert scale_up(scaled, products, grids, watched.of, lambda *each: told.append(each)) == []
    assert told == [(1, 2), (2, 2)]
    np.testing.assert_allclose(run(scaled, x), run(exact, x), rtol=1e-3, atol=1e-3)
    before, after = ({each.name: numpy_helper.to_array(each) for each in each.graph.initializer} for each in (exact, scaled))
    ratio = after["gate"] / before["gate"]
    assert (ratio.argmax(0) == SCALED).all(), "the channel with large activations is scaled up most"
    lost = []
    for model in (exact, scaled):
        made = onnx.ModelProto()
        made.CopyFrom(model)
        rewrite(made, grids, {}, {})
        lost.append(np.square(run(made, x) - run(exact, x)).mean())
    assert lost[1] < 0.9 * lost[0]


def test_awq_says_which_layers_have_nothing_before_them_that_takes_the_factors():
    exact = gated(np.random.default_rng(0))
    exact.graph.output.append(helper.make_tensor_value_info("n", TensorProto.FLOAT, ["n", 32]))
    products = products_of(exact)
    moments = {"n": np.eye(32), "h": np.eye(48)}
    left = scale_up(exact, products, {each.weight: Grid(4, 32) for each in products}, moments.__getitem__, lambda *_: None)
    assert left == ["gate", "up"]


def test_groups_are_no_longer_than_rows_and_those_of_tables_divide_them():
    assert Grid(4, 128).within(32).group == 32
    assert Grid(4, 128).within(100).group == 128
    assert Grid(8, 64).dividing(96).group == 32
    assert Grid(8, 64).dividing(576).group == 64
    assert Grid(8, 64).dividing(100) is None


def test_every_token_counts_alike_whatever_its_magnitude():
    exact = gated(np.random.default_rng(0))
    products, x = products_of(exact), np.random.default_rng(1).normal(size=(50, 32)).astype(np.float32)
    one = Moments(exact, products, [{"x": x}]).of("h")
    assert np.trace(one) == pytest.approx(50 * 48, rel=1e-4)
    exact.graph.initializer[0].CopyFrom(numpy_helper.from_array(30 * numpy_helper.to_array(exact.graph.initializer[0]), "gate"))
    assert np.trace(Moments(exact, products, [{"x": x}]).of("h")) == pytest.approx(50 * 48, rel=1e-4)


def graph_of(nodes, constants, inputs, output):
    made = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "g", inputs, [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)], made)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 3, 4)], ids=len)
def test_look_ups_have_the_shape_that_their_ids_say(shape):
    values = matrix(300, 64)
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, list(shape))
    exact = graph_of([helper.make_node("Gather", ["t", "ids"], ["y"], name="words/Gather")], {"t": values}, [ids], "y")
    rewrite(exact, {}, {"t": Grid(8, 32)}, {})
    given = np.random.default_rng(0).integers(0, 300, shape)
    session = onnxruntime.InferenceSession(exact.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(None, {"ids": given})[0]
    assert found.shape == (*shape, 64)
    np.testing.assert_allclose(found, values[given], atol=0.05)


def test_weights_without_kernels_of_few_bits_stay_and_are_listed_with_the_reason(tmp_path):
    rng = np.random.default_rng(0)
    sizes = {"conv": (8, 4, 3), "free": (8, 32), "odd": (2, 32, 32), "turned": (6, 32), "few": (2, 32), "words": (300, 32)}
    constants = {name: rng.normal(size=shape).astype(np.float32) for name, shape in sizes.items()}
    nodes = [
        helper.make_node("Conv", ["image", "conv"], ["c"], name="start/Conv_0"),
        helper.make_node("Gemm", ["x", "free"], ["f"], name="free/Gemm_0", transB=1),
        helper.make_node("MatMul", ["x", "odd"], ["o"], name="odd/MatMul_0"),
        helper.make_node("Gemm", ["x", "turned", "bias"], ["g"], name="turned/Gemm_0", transB=1),
        helper.make_node("Gather", ["few", "ids"], ["t"], name="kinds/Gather_0"),
        helper.make_node("NonZero", ["x"], ["places"], name="places/NonZero_0"),
        helper.make_node("Gather", ["words", "unknown"], ["w"], name="words/Gather_0"),
        helper.make_node("Identity", ["places"], ["unknown"], name="places/Identity_0"),
        *(helper.make_node("ReduceSum", [name], [f"{name}_sum"], name=f"{name}_sum", keepdims=0) for name in "cfogtw"),
        helper.make_node("Sum", [f"{name}_sum" for name in "cfogtw"], ["y"], name="sum"),
    ]
    nodes[6], nodes[7] = nodes[7], nodes[6]
    kinds = {"image": (TensorProto.FLOAT, [1, 4, 9]), "x": (TensorProto.FLOAT, [5, 32])}
    kinds |= {"bias": (TensorProto.FLOAT, [5, 6]), "ids": (TensorProto.INT64, [2, 3])}
    inputs = [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in kinds.items()]
    onnx.save(graph_of(nodes, constants, inputs, "y"), tmp_path / "model.onnx")
    (tmp_path / "made").mkdir()
    chosen, left = quantize(tmp_path / "model.onnx", tmp_path / "made", Wanted(8, 32, True, "round-to-nearest", 8))
    assert [each.layer for each in chosen] == ["free"], "a Gemm without a bias is a product"
    assert {each.layer: each.weights for each in left} == {
        name: np.prod(sizes[of])
        for name, of in {"start": "conv", "odd": "odd", "turned": "turned", "kinds": "few", "words": "words"}.items()
    }
    why = {each.layer: each.why for each in left}
    assert why["start"] == "a convolution"
    assert why["kinds"] == "fewer than 256 rows"
    assert "unknown shape" in why["words"]
    assert "not constant" in why["turned"]
    with pytest.raises(UnsupportedModel, match="no layer has 'strt'"):
        quantize(tmp_path / "model.onnx", tmp_path, Wanted(8, 32, True, "round-to-nearest", 8, ("strt",)))


def test_columns_that_calibration_never_reads_are_rounded_to_nearest():
    exact, x = matrix(8, 64), np.random.default_rng(1).normal(size=(200, 64))
    x[:, 10:20] = 0
    made = gptq(exact, x.T @ x, Grid(4, 32)).values()
    np.testing.assert_array_equal(gptq(exact, np.zeros((64, 64)), Grid(4, 32)).values(), rounded(exact, Grid(4, 32)).values())
    step = np.abs(exact).max() / 7
    assert np.abs(made - exact)[:, 10:20].max() < 0.8 * step
    assert np.abs(made[:, 10:20]).max() > 1


def one_product(tmp_path, kinds=("MatMul",)):
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [5, 32])
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"], name="layer/MatMul_0")]
    nodes += [helper.make_node("QuantizeLinear", ["m", "s"], ["q"]), helper.make_node("DequantizeLinear", ["q", "s"], ["y"])]
    exact = graph_of(nodes, {"w": matrix(32, 8), "s": np.float32(0.1)}, [x], "y")
    if "QuantizeLinear" not in kinds:
        del exact.graph.node[1:]
        exact.graph.output[0].name = "m"
    onnx.save(exact, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


@pytest.mark.parametrize("algorithm", ["gptq", "awq"])
def test_algorithms_without_calibration_rows_are_refused_by_name(algorithm, tmp_path):
    with pytest.raises(UnsupportedModel, match=rf"^{algorithm} looks at calibration rows, and there are none"):
        quantize(one_product(tmp_path), tmp_path, Wanted(4, 32, True, algorithm, 8))


def test_a_quantised_graph_is_not_quantised_again(tmp_path):
    with pytest.raises(UnsupportedModel, match=r"quantised already \(DequantizeLinear, QuantizeLinear\)"):
        quantize(one_product(tmp_path, ("QuantizeLinear",)), tmp_path, Wanted(8, 32, True, "round-to-nearest", 8))
    (tmp_path / "once").mkdir()
    quantize(one_product(tmp_path), tmp_path / "once", Wanted(8, 32, True, "round-to-nearest", 8))
    with pytest.raises(UnsupportedModel, match=r"quantised already \(MatMulNBits\): weights are quantised once"):
        quantize(tmp_path / "once" / "model.onnx", tmp_path, Wanted(8, 32, True, "round-to-nearest", 8))
