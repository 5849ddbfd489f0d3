"""Convolutions as products of their windows, layer scales in weights, masks that mask nothing: the same numbers for any batch and length."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import transformers
from onnx import TensorProto, helper, numpy_helper

from compressor.contracts import Artifact, Graph
from compressor.deploy.fusion import fuse
from compressor.deploy.onnx import REWRITES, Onnx
from compressor.deploy.openvino import core
from compressor.deploy.scales import drop_empty_masks, fold_scales
from compressor.deploy.windows import windows_as_products
from compressor.model.edits import LiftLength
from compressor.model.model import Model
from compressor.tasks.audio_features import AudioFeatures
from compressor.tasks.image_classification import ImageClassification
from targets.onnxruntime import OnnxRuntime

EXTRACTOR = {
    "feature_extractor_type": "WhisperFeatureExtractor",
    "feature_size": 16,
    "sampling_rate": 16000,
    "hop_length": 160,
    "n_fft": 400,
}
PICTURES = {
    "image_processor_type": "ViTImageProcessor",
    "size": {"height": 16, "width": 16},
    "do_resize": True,
    "do_normalize": False,
}
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "num_labels": 3}


def speech():
    config = transformers.WhisperConfig(
        num_mel_bins=16, d_model=32, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=64, decoder_layers=1,
        decoder_attention_heads=2, decoder_ffn_dim=64, max_source_positions=60, vocab_size=100, pad_token_id=0,
    )  # fmt: skip
    return transformers.WhisperModel(config).encoder, AudioFeatures(seconds=0.5), "preprocessor_config.json", EXTRACTOR


def pictures(kind=transformers.Dinov2ForImageClassification):
    config = kind.config_class(**SIZES, image_size=16, patch_size=4)
    return kind(config), ImageClassification(size=16), "preprocessor_config.json", PICTURES


MODELS = {
    "whisper": speech,
    "dinov2": pictures,
    "vit": lambda: pictures(transformers.ViTForImageClassification),
}
TAKES = {"whisper": [(1, 16, 50), (2, 16, 7), (3, 16, 1), (1, 16, 2)], "dinov2": [(1, 3, 16, 16), (3, 3, 16, 16)]}
TAKES["vit"] = TAKES["dinov2"]


@pytest.fixture(scope="module", params=MODELS)
def lowered(request, tmp_path_factory):
    """A model as it is traced, and with all rewrites."""
    torch.manual_seed(0)
    module, task, name, settings = MODELS[request.param]()
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    folder = tmp_path_factory.mktemp("windows")
    model = Model.wrap(module.eval(), {name: json.dumps(settings).encode()})
    if request.param == "whisper":
        model.apply(LiftLength())
    model.save(folder / "torch")
    made = {}
    for what, leaves in (("whole", tuple(REWRITES)), ("rewritten", ())):
        (folder / what).mkdir()
        dialect = replace(OnnxRuntime.dialect, leaves=leaves)
        Onnx().lower(Artifact("torch", folder / "torch"), folder / what, task=task, dialect=dialect)
        made[what] = onnx.load(folder / what / "model.onnx")
    return SimpleNamespace(kind=request.param, folder=folder, **made)


def kinds(graph):
    return Counter(node.op_type for node in graph.graph.node)


def outputs(graph, x):
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def numbers(shape):
    return np.random.default_rng(len(shape) + shape[-1]).normal(size=shape).astype(np.float32)


def test_no_convolution_is_left_and_no_layout_is_added(lowered):
    before, after = kinds(lowered.whole), kinds(lowered.rewritten)
    onnx.checker.check_model(lowered.rewritten, full_check=True)
    assert before["Conv"] == (2 if lowered.kind == "whisper" else 1)
    assert after["Conv"] == 0
    assert after["MatMul"] == before["MatMul"] + before["Conv"]
    assert after["Transpose"] == before["Transpose"], "channels go back and forth"


def test_outputs_are_the_same_when_batch_and_length_vary(lowered):
    for shape in TAKES[lowered.kind]:
        x = numbers(shape)
        np.testing.assert_allclose(outputs(lowered.rewritten, x), outputs(lowered.whole, x), rtol=0, atol=1e-5)


def test_fusions_still_find_every_attention(lowered):
    fused = [fuse(graph, Graph()) for graph in (lowered.whole, lowered.rewritten)]
    assert kinds(fused[0])["MultiHeadAttention"] == kinds(fused[1])["MultiHeadAttention"] > 0
    for shape in TAKES[lowered.kind]:
        x = numbers(shape)
        np.testing.assert_allclose(outputs(fused[1], x), outputs(lowered.whole, x), rtol=0, atol=1e-5)


def test_openvino_takes_the_graph(lowered):
    path = lowered.folder / "rewritten" / "model.onnx"
    compiled = core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for shape in TAKES[lowered.kind]:
        x = numbers(shape)
        np.testing.assert_allclose(compiled(x)[0], outputs(lowered.whole, x), rtol=0, atol=1e-4)


def test_layer_scales_and_masks_of_pictures_are_gone(lowered):
    before, after = kinds(lowered.whole), kinds(lowered.rewritten)
    if lowered.kind != "dinov2":
        assert before["Mul"] == after["Mul"]
        return
    assert before["Where"] == 1, "no mask to drop: the test has no case"
    assert after["Where"] == 0
    assert before["Mul"] - after["Mul"] == 2 * SIZES["num_hidden_layers"]


def test_no_rows_give_none(lowered):
    x = numbers(TAKES[lowered.kind][0])[:0]
    assert outputs(lowered.rewritten, x).shape[0] == outputs(lowered.whole, x).shape[0] == 0


# ------------------------------------------------------------------ what stays as it is


def graph_of(nodes, constants, takes, *, gives="y", sizes=()):
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, takes)],
        [helper.make_tensor_value_info(gives, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(values), name) for name, values in constants.items()],
        value_info=[helper.make_tensor_value_info(name, TensorProto.FLOAT, each) for name, each in sizes],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def changed(rewrite, graph, *shapes):
    """Whether a rewrite changes a graph; what it gives stays the same."""
    before = graph.SerializeToString()
    rewrite(graph)
    after = graph.SerializeToString()
    sessions = [onnxruntime.InferenceSession(each, providers=["CPUExecutionProvider"]) for each in (before, after)]
    for shape in shapes:
        np.testing.assert_allclose(*(each.run(None, {"x": numbers(shape)})[0] for each in sessions), rtol=1e-5, atol=1e-5)
    return before != after


def convolved(weight, *, bias=True, **settings):
    channels = weight[1] * settings.get("group", 1)
    draw, takes = np.random.default_rng(0), ["batch", channels, *(("length",) if len(weight) == 3 else (8, 8))]
    constants = {"w": draw.normal(size=weight).astype(np.float32), "b": draw.normal(size=weight[0]).astype(np.float32)}
    node = helper.make_node("Conv", ["x", "w", "b"] if bias else ["x", "w"], ["y"], name="conv/Conv_0", **settings)
    graph = graph_of(
        [node], constants, takes, sizes=[("y", ["batch", weight[0], *(["out"] if len(weight) == 3 else [None, None])])]
    )
    shapes = [(1, channels, 9), (2, channels, 14)] if len(weight) == 3 else [(1, channels, 8, 8), (2, channels, 8, 8)]
    return changed(windows_as_products, graph, *shapes)


@pytest.mark.parametrize("step", [1, 2, 3])
@pytest.mark.parametrize("pads", [(0, 0), (1, 1), (2, 0)])
@pytest.mark.parametrize("width", [1, 3, 4])
def test_sequences_by_any_step_padding_and_width(width, pads, step):
    wide = width * 12 >= 32
    assert convolved((5, 12, width), strides=[step], pads=list(pads), bias=step > 1) == wide


def test_patches_of_pictures():
    assert convolved((5, 12, 4, 4), strides=[4, 4])
    assert convolved((5, 12, 2, 4), strides=[2, 4])
    assert convolved((5, 12, 3, 4), strides=[3, 4]), "two rows are left, which a convolution does not read"


@pytest.mark.parametrize(
    ("weight", "settings"),
    [
        ((6, 6, 8), {"group": 2}),
        ((5, 12, 4), {"dilations": [2]}),
        ((5, 12, 4), {"auto_pad": "SAME_UPPER"}),
        ((5, 12, 4, 4), {"strides": [2, 2]}),
        ((5, 12, 4, 4), {"strides": [4, 4], "pads": [1, 1, 1, 1]}),
        ((5, 12, 9, 9), {"strides": [9, 9], "pads": [1, 1, 1, 1]}),
        ((5, 48, 1, 1), {}),
    ],
    ids=[
        "groups",
        "gaps",
        "padding by name",
        "patches that overlap",
        "patches with a margin",
        "patches larger than a picture",
        "single pixels",
    ],
)
def test_other_convolutions_are_left(weight, settings):
    assert not convolved(weight, **settings)


def test_half_precision_is_left_to_the_convolution():
    draw = np.random.default_rng(0)
    nodes = [helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16), helper.make_node("Conv", ["h", "w"], ["c"])]
    nodes += [helper.make_node("Cast", ["c"], ["y"], to=TensorProto.FLOAT)]
    graph = graph_of(nodes, {"w": draw.normal(size=(5, 12, 3)).astype(np.float16)}, ["batch", 12, "length"])
    graph.graph.value_info.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT16, each)
        for name, each in (("h", ["batch", 12, "length"]), ("c", ["batch", 5, "out"]))
    )
    assert not changed(windows_as_products, graph, (1, 12, 9))


def test_channels_that_an_output_gives_stay_second():
    """The convolution is read by a bend, and given beside it."""
    draw = np.random.default_rng(0)
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], name="c/Conv"), helper.make_node("Relu", ["y"], ["z"])]
    nodes += [
        helper.make_node("Transpose", ["z"], ["t"], perm=[0, 2, 1]),
        helper.make_node("ReduceSum", ["t"], ["s"], keepdims=0),
    ]
    nodes += [helper.make_node("Add", ["y", "s"], ["o"])]
    graph = graph_of(nodes, {"w": draw.normal(size=(5, 12, 3)).astype(np.float32)}, ["batch", 12, "length"], gives="o",
                     sizes=[(name, ["batch", 5, "out"]) for name in "yz"])  # fmt: skip
    assert changed(windows_as_products, graph, (1, 12, 9), (2, 12, 4))
    assert kinds(graph)["Relu"] == 1


SCALED = [
    helper.make_node("MatMul", ["x", "w"], ["p"], name="l/MatMul"),
    helper.make_node("Add", ["p", "b"], ["a"]),
    helper.make_node("Mul", ["a", "s"], ["y"]),
]
DRAW = np.random.default_rng(1)
WEIGHTS = {name: DRAW.normal(size=size).astype(np.float32) for name, size in (("w", (4, 6)), ("b", 6), ("s", 6), ("v", 4))}


def scaled(nodes, **more):
    return changed(
        fold_scales, graph_of(nodes, WEIGHTS | more.pop("constants", {}), ["batch", "length", 4], **more), (1, 3, 4), (2, 1, 4)
    )


def test_scales_become_part_of_weights():
    assert scaled(SCALED)
    assert scaled([SCALED[0], helper.make_node("Mul", ["p", "s"], ["y"])])


def test_scales_that_others_could_see_are_left():
    alone = helper.make_node("Mul", ["a", "s"], ["m"])
    assert not scaled([*SCALED[:2], alone, helper.make_node("Add", ["m", "a"], ["y"])])
    assert not scaled([*SCALED[:2], alone, helper.make_node("Add", ["m", "p"], ["y"])])


def test_scales_of_all_outputs_and_of_no_product_are_left():
    assert not scaled(SCALED, constants={"s": np.float32(0.5)})
    assert not scaled([helper.make_node("Mul", ["x", "v"], ["y"])])


@pytest.mark.parametrize("of", ["s", "b"])
def test_constants_that_add_axes_are_left(of):
    assert scaled(SCALED, constants={of: WEIGHTS[of].reshape(1, 1, 1, 6)}) is False
    assert scaled(SCALED, constants={of: WEIGHTS[of].reshape(1, 1, 6)}, sizes=[(name, ["batch", "length", 6]) for name in "pa"])


def test_constants_have_names_that_no_value_has():
    nodes = [*SCALED[:2], helper.make_node("Mul", ["a", "s"], ["m"]), helper.make_node("Mul", ["m", "m_weight"], ["y"])]
    assert scaled(nodes, constants={"m_weight": np.float32(3)})


def test_half_precision_is_left():
    nodes = [helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16), helper.make_node("MatMul", ["h", "w"], ["p"])]
    nodes += [helper.make_node("Mul", ["p", "s"], ["m"]), helper.make_node("Cast", ["m"], ["y"], to=TensorProto.FLOAT)]
    half = {"w": WEIGHTS["w"].astype(np.float16), "s": (1e-6 * WEIGHTS["s"]).astype(np.float16)}
    assert not scaled(nodes, constants=half)


def test_biases_of_zeros_stay():
    graph = graph_of(SCALED[:2], WEIGHTS | {"b": np.zeros(6, np.float32)}, ["batch", "length", 4], gives="a",
                     sizes=[(name, ["batch", "length", 6]) for name in "pa"])  # fmt: skip
    graph.graph.node.append(helper.make_node("Relu", ["a"], ["r"]))
    graph.graph.output[0].name = "r"
    assert not changed(drop_empty_masks, graph, (1, 2, 4))


def masked(condition, otherwise=-1e9, chosen=0.0, sizes=("batch", "length", 4)):
    constants = {
        "c": np.array(condition),
        "zero": np.float32(chosen),
        "low": np.float32(otherwise),
        "all": np.array([1, 1, 4], np.int64),
    }
    nodes = [
        helper.make_node("Expand", ["c", "all"], ["e"]),
        helper.make_node("Where", ["e", "zero", "low"], ["m"]),
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Add", ["r", "m"], ["a"]),
        helper.make_node("Softmax", ["a"], ["y"]),
    ]
    graph = graph_of(nodes, constants, ["batch", "length", 4], sizes=[("r", ["batch", "length", 4]), ("a", sizes)])
    return changed(drop_empty_masks, graph, (1, 2, 4), (3, 1, 4))


def test_masks_that_leave_nothing_out_go_and_others_stay():
    assert masked([[[True]]])
    assert not masked([[[True, False, True, True]]])
    assert not masked([[[True]]], chosen=1.0)


def test_masks_of_other_sizes_stay():
    assert not masked([[[True]]], sizes=("batch", None, 4))


draw = np.random.default_rng(3)
ROUNDED = {
    "a sequence": ((12, 16, 3), {}),
    "padded": ((12, 16, 3), {"pads": [1, 1], "strides": [2]}),
    "padded on one side": ((12, 8, 4), {"pads": [3, 0]}),
    "one place": ((5, 32, 1), {}),
    "patches": ((6, 3, 4, 4), {"strides": [4, 4]}),
    "patches that leave a rest": ((6, 3, 5, 5), {"strides": [5, 5]}),
}


def rounded(form, *, zero, one_step):
    """A convolution between pairs of Q and DQ, then a bend and another one over sequences."""
    shape, settings = ROUNDED[form]
    kind, axes = (np.uint8 if zero else np.int8), ["length"] if len(shape) == 3 else [8, 12]
    constants = {
        "s": np.array(0.02, np.float32),
        "z": np.array(zero, kind),
        "w": draw.integers(-127, 128, shape).astype(np.int8),
        "ws": np.array(0.01, np.float32) if one_step else draw.uniform(0.001, 0.01, shape[0]).astype(np.float32),
        "b": draw.normal(size=shape[0]).astype(np.float32),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "ws"], ["f"], **({} if one_step else {"axis": 0})),
        helper.make_node("Conv", ["d", "f", "b"], ["c"], **settings),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", shape[1], *axes])]
    found = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    told = [helper.make_tensor_value_info("c", TensorProto.FLOAT, ["batch", shape[0], *([None] * len(axes))])]
    kept = [numpy_helper.from_array(values, name) for name, values in constants.items()]
    made = helper.make_graph(nodes, "g", given, found, kept, value_info=told)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize("one_step", [False, True])
@pytest.mark.parametrize("zero", [0, 120, 128])
@pytest.mark.parametrize("form", ROUNDED)
def test_windows_of_bytes_are_bytes(form, zero, one_step):
    graph = rounded(form, zero=zero, one_step=one_step)
    shape = ROUNDED[form][0]
    before = graph.SerializeToString()
    windows_as_products(graph)
    kinds = Counter(node.op_type for node in graph.graph.node)
    assert (kinds["Conv"], kinds["MatMul"], kinds["QuantizeLinear"], kinds["DequantizeLinear"]) == (0, 1, 1, 2)
    product = next(node for node in graph.graph.node if node.op_type == "MatMul")
    made = {node.output[0]: node for node in graph.graph.node}
    assert {made[name].op_type for name in product.input} == {"DequantizeLinear"}, "which kernels of products take"
    one, other = (
        onnxruntime.InferenceSession(each, providers=["CPUExecutionProvider"]) for each in (before, graph.SerializeToString())
    )
    for batch, axes in ((1, (8, 12)), (2, (8, 12))):
        fed = {"x": draw.normal(size=(batch, shape[1], *axes[-(len(shape) - 2) :])).astype(np.float32)}
        np.testing.assert_allclose(other.run(None, fed)[0], one.run(None, fed)[0], rtol=0, atol=2e-5)


@pytest.mark.parametrize("zero", [0, 128])
@pytest.mark.parametrize("form", ROUNDED)
def test_openvino_rounds_as_pairs_say(form, zero):
    """Where a transposition alone parts Q and DQ it finds steps of its own, row by row, when the model runs."""
    graph = rounded(form, zero=zero, one_step=False)
    shape = ROUNDED[form][0]
    plain = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    windows_as_products(graph)
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = core().compile_model(core().read_model(graph.SerializeToString()), "CPU", exact)
    fed = {"x": draw.normal(size=(2, shape[1], *(8, 12)[-(len(shape) - 2) :])).astype(np.float32)}
    np.testing.assert_allclose(compiled(fed)[0], plain.run(None, fed)[0], rtol=0, atol=2e-5)


def test_windows_of_half_precision_stay():
    graph = rounded("padded", zero=128, one_step=True)
    for each in graph.graph.initializer:
        if each.name in ("s", "ws"):
            each.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(each).astype(np.float16), each.name))
    before = graph.SerializeToString()
    windows_as_products(graph)
    assert graph.SerializeToString() == before


def test_windows_of_what_is_rounded_by_half_stay():
    graph = rounded("padded", zero=128, one_step=False)
    (conv,) = (node for node in graph.graph.node if node.op_type == "Conv")
    conv.input[0] = "x"
    before = graph.SerializeToString()
    windows_as_products(graph)
    assert graph.SerializeToString() == before
