from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from furnished import lowered
from pydantic import ValidationError
from transformers import BertConfig, BertForSequenceClassification

from compressor.contracts import Artifact, Evaluation, Port
from compressor.contracts.notes import Bars, Table
from compressor.contracts.records import Metric, Scores
from compressor.deploy.openvino import core
from compressor.errors import UnsupportedModel
from compressor.model.model import Model
from compressor.tasks.audio_features import AudioFeatures
from compressor.tasks.text_classification import TextClassification
from compressor.tasks.text_regression import TextRegression
from passes.fold import Fold
from passes.quantization.quantize_dynamic import QuantizeDynamic
from passes.quantization.quantize_static import QuantizeStatic, difference_by
from passes.quantization.quantize_weights import QuantizeWeights
from passes.quantization.quantizers import nncf, onnx_tables, onnxruntime
from passes.quantization.quantizers.bits import weight_bits
from targets.onnxruntime import OnnxRuntime
from targets.openvino import OpenVino

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:nncf"),
    pytest.mark.filterwarnings("ignore::UserWarning:nncf"),
]

VOCABULARY, LAYERS = 1000, 1


class Task(TextClassification):
    """Ids are made up, so that no tokenizer is needed."""

    def inputs(self, model):
        return tuple(Port(name, "int64", ("batch", "length")) for name in ("input_ids", "attention_mask"))

    def example(self, files, graph, *, batch, length):
        return feed(batch, length)


def feed(batch, length, seed=0):
    draw = np.random.default_rng(seed)
    ids = draw.integers(5, VOCABULARY, (batch, length), dtype=np.int64)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


FEEDS = [feed(1, 12, seed) for seed in range(48)]
HELD_OUT = [feed(1, 12, seed) for seed in range(100, 132)]


@pytest.fixture(scope="module")
def onnx_model(tmp_path_factory):
    root = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": LAYERS, "num_attention_heads": 2, "intermediate_size": 64, "num_labels": 3}
    module = BertForSequenceClassification(BertConfig(vocab_size=VOCABULARY, max_position_embeddings=300, **shape)).eval()
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    Model.wrap(module, {"tokenizer.json": b"{}"}).save(root / "torch")
    made = lowered(Artifact("torch", root / "torch"), "onnxruntime", root, task=Task(), dialect=OnnxRuntime.dialect)
    (made.path / "tokenizer.json").write_bytes(b"{}")
    return made


@pytest.fixture(scope="module")
def openvino_model(onnx_model, tmp_path_factory):
    out = tmp_path_factory.mktemp("ir")
    made = lowered(Artifact("onnx", onnx_model.path.parent / "onnx"), "openvino", out, task=Task(), dialect=OpenVino.dialect)
    (made.path / "tokenizer.json").write_bytes(b"{}")
    return made


class Context:
    """What the quantisers ask of a run."""

    def __init__(self, folder, target):
        self.folder, self.dialect, self.seed = folder, target.dialect, 0
        self.task = TextClassification()
        self.notes, self.events, self.asked = [], [], []

    def feeds(self, model, split, *, limit=None):
        self.asked.append((split, limit))
        return FEEDS[:limit]

    def outputs(self, model, split, *, limit):
        return logits(OpenVino() if model.format == "openvino" else OnnxRuntime(), model.path, HELD_OUT[:limit])

    def evaluate(self, model, split):
        outputs = self.outputs(model, split, limit=len(HELD_OUT))
        correct = (outputs.argmax(-1) == np.arange(len(outputs)) % 3) * 1.0
        metric = Metric(name="accuracy", value=float(correct.mean()), n=len(correct))
        return Evaluation(Scores(split=split, metric="accuracy", metrics=(metric,)), {"logits": outputs}, {"accuracy": correct})

    def tell(self, event):
        self.events.append(event)

    def note(self, note):
        self.notes.append(note)


def logits(target, folder, feeds=HELD_OUT):
    session = target.open(folder)
    return np.concatenate([session.run(each)[0]["logits"] for each in feeds])


def near(found, exact, *, share):
    """Root mean square error at most a share of the outputs' own spread."""
    return np.sqrt(((found - exact) ** 2).mean()) <= share * exact.std()


def graph_of(folder):
    return onnx.load(folder / "model.onnx")


def operators(folder):
    return {node.op_type for node in graph_of(folder).graph.node}


def tables(folder):
    """Type of each initializer as large as the embedding table."""
    return [each.data_type for each in graph_of(folder).graph.initializer if list(each.dims) == [VOCABULARY, 32]]


# ------------------------------------------------------------------ ONNX Runtime


@pytest.fixture(scope="module")
def static(onnx_model, tmp_path_factory):
    ctx = Context(tmp_path_factory.mktemp("static"), OnnxRuntime())
    return QuantizeStatic(calibration=32, sensitivity=True).apply(onnx_model, ctx), ctx


@pytest.fixture(scope="module")
def dynamic(onnx_model, tmp_path_factory):
    ctx = Context(tmp_path_factory.mktemp("dynamic"), OnnxRuntime())
    return QuantizeDynamic().apply(onnx_model, ctx)


@pytest.mark.parametrize(
    ("ranges", "counts", "by_row"),
    [("auto", "rows", False), ("auto", "tokens", True), ("tensor", "tokens", False), ("row", "rows", True)],
)
def test_tokens_have_ranges_of_their_own_where_they_count(ranges, counts, by_row, onnx_model, tmp_path, monkeypatch):
    ctx = Context(tmp_path, OnnxRuntime())
    monkeypatch.setattr(type(ctx.task), "counts", counts)
    made = QuantizeDynamic(ranges=ranges).apply(onnx_model, ctx)
    assert ("ReduceMax" in operators(made.path)) is by_row
    assert near(logits(OnnxRuntime(), made.path), logits(OnnxRuntime(), onnx_model.path), share=0.1)


def test_static_outputs_are_near_float(onnx_model, static):
    found, exact = logits(OnnxRuntime(), static[0].path), logits(OnnxRuntime(), onnx_model.path)
    assert not np.array_equal(found, exact)
    assert near(found, exact, share=0.25)


def test_dynamic_outputs_are_near_float(onnx_model, dynamic):
    found, exact = logits(OnnxRuntime(), dynamic.path), logits(OnnxRuntime(), onnx_model.path)
    assert not np.array_equal(found, exact)
    assert near(found, exact, share=0.25)


@pytest.mark.parametrize("kind", ["static", "dynamic"])
def test_quantised_embeddings_are_int8_and_the_file_is_smaller(kind, onnx_model, request):
    made = request.getfixturevalue(kind)
    made = made[0] if kind == "static" else made
    before, after = ((each.path / "model.onnx").stat().st_size for each in (onnx_model, made))
    assert tables(onnx_model.path) == [onnx.TensorProto.FLOAT]
    assert tables(made.path) == [onnx.TensorProto.INT8]
    assert after < 0.55 * before
    assert (made.format, (made.path / "tokenizer.json").read_bytes()) == ("onnxruntime", b"{}")


def test_quantised_graphs_compute_in_int8(static, dynamic):
    assert {"QuantizeLinear", "DequantizeLinear"} <= operators(static[0].path)
    assert "MatMulInteger" in operators(dynamic.path)
    assert OnnxRuntime().open(static[0].path).facts()["precision"] == "int8 + fp32"
    assert OnnxRuntime().open(dynamic.path).facts()["precision"] == "int8 + fp32"


@pytest.mark.parametrize("kind", ["static", "dynamic"])
def test_quantised_graphs_take_other_batches_and_lengths(kind, request):
    made = request.getfixturevalue(kind)
    made = made[0] if kind == "static" else made
    session = OnnxRuntime().open(made.path)
    for batch, length in ((3, 7), (1, 200)):
        found = session.run(feed(batch, length))[0]["logits"]
        assert found.shape == (batch, 3)
        assert np.isfinite(found).all()


def bars(ctx):
    (note,) = (note for note in ctx.notes if isinstance(note, Bars))
    return note


def test_static_calibrates_on_calibration_rows_and_notes_sensitivities(onnx_model, static):
    _, ctx = static
    assert ctx.asked == [("calibration", 32)]
    note = bars(ctx)
    products = set(onnxruntime.weighted_layers(graph_of(onnx_model.path)))
    assert products < set(note.values)
    assert all("embeddings" in name for name in set(note.values) - products)
    assert note.marked == ()
    assert set(note.intervals) == set(note.values)
    assert all(low <= note.values[layer] <= high and low < high for layer, (low, high) in note.intervals.items())
    assert [event.done for event in ctx.events] == list(range(1, len(note.values) + 1))


@pytest.mark.parametrize("options", [{}, {"max_drop": 100}], ids=["not asked", "nothing to restore"])
def test_sensitivities_are_measured_where_they_are_asked_or_needed(options, onnx_model, tmp_path):
    ctx = Context(tmp_path, OnnxRuntime())
    QuantizeStatic(calibration=8, **options).apply(onnx_model, ctx)
    assert (ctx.notes, ctx.events) == ([], [])


def test_what_a_layer_costs_is_a_mean_over_rows():
    exact, other = np.log([[[0.5, 0.5]], [[0.9, 0.1]]]), np.log([[[0.5, 0.5]], [[0.5, 0.5]]])
    by_row = difference_by(TextClassification())[0](exact[:, 0], other[:, 0])
    assert by_row == pytest.approx([0.0, 0.9 * np.log(1.8) + 0.1 * np.log(0.2)])
    assert difference_by(TextClassification())[0](exact, other) == pytest.approx(by_row), "of any number of positions"
    squares = difference_by(TextRegression())[0](np.array([[1.0, 2.0], [0.0, 0.0]]), np.array([[1.0, 4.0], [0.0, 0.0]]))
    assert squares == pytest.approx([2.0, 0.0])


@pytest.mark.parametrize("step", [QuantizeStatic(embeddings=False), QuantizeDynamic(embeddings=False)])
def test_embeddings_stay_in_float_when_asked(step, onnx_model, tmp_path):
    made = step.apply(onnx_model, Context(tmp_path, OnnxRuntime()))
    assert tables(made.path) == [onnx.TensorProto.FLOAT]


def test_quantize_embeddings_rounds_each_row_by_its_own_scale(onnx_model):
    graph = graph_of(onnx_model.path)
    before = {each.name: onnx.numpy_helper.to_array(each) for each in graph.graph.initializer}
    layers = onnx_tables.embedding_layers(graph)
    onnx_tables.quantize_embeddings(graph, layers)
    after = {each.name: onnx.numpy_helper.to_array(each) for each in graph.graph.initializer}
    names = [name.removesuffix("_int8") for name in after if name.endswith("_int8")]
    assert len(layers) == len(names) >= 1
    onnx.checker.check_model(graph)
    for name in names:
        exact, scale = before[name], after[f"{name}_scale"]
        assert (np.abs(after[f"{name}_int8"] * scale - exact) <= scale / 2 * 1.001).all()


@pytest.mark.parametrize("step", [QuantizeStatic, QuantizeDynamic])
def test_excluded_layers_stay_in_float(step, onnx_model, tmp_path):
    layers = onnxruntime.weighted_layers(graph_of(onnx_model.path), ())
    assert any("layer.0" in name for name in layers)
    kept = onnxruntime.weighted_layers(graph_of(onnx_model.path), ("layer.0", "pooler"))
    assert kept == {name: nodes for name, nodes in layers.items() if "layer.0" not in name and "pooler" not in name}
    sizes = []
    for number, exclude in enumerate(((), ("layer.0",))):
        made = step(exclude=exclude).apply(onnx_model, Context(tmp_path / str(number), OnnxRuntime()))
        sizes.append((made.path / "model.onnx").stat().st_size)
    assert sizes[1] > sizes[0]


def test_static_is_float_when_all_layers_are_left(onnx_model, tmp_path):
    quantized = onnxruntime.quantize_static(onnx_model.path / "model.onnx", FEEDS[:4])
    quantized.write(tmp_path, quantized.layers)
    assert np.array_equal(logits(OnnxRuntime(), tmp_path), logits(OnnxRuntime(), onnx_model.path))


def test_a_layer_left_in_float_is_float_and_the_others_are_not(onnx_model, tmp_path):
    quantized = onnxruntime.quantize_static(onnx_model.path / "model.onnx", FEEDS[:4])
    left = quantized.layers[2]
    quantized.write(tmp_path, (left,))
    weights = {each.name: each.data_type for each in graph_of(tmp_path).graph.initializer if len(each.dims) == 2}
    assert list(weights.values()).count(onnx.TensorProto.INT8) == len(quantized.layers) - 1


def test_static_restores_layers_until_max_drop_holds(onnx_model, tmp_path, monkeypatch):
    ctx = Context(tmp_path, OnnxRuntime())
    exact, drops = ctx.evaluate, iter([0.3, 0.2, 0.0])

    def evaluate(model, split):
        found = exact(model, split)
        if model is onnx_model:
            return found
        metric = Metric(name="accuracy", value=found_exact - next(drops), n=32)
        return Evaluation(Scores(split=split, metric="accuracy", metrics=(metric,)), found.outputs, found.gains)

    found_exact = exact(onnx_model, "validation").scores.main.value
    monkeypatch.setattr(ctx, "evaluate", evaluate)
    QuantizeStatic(max_drop=1, calibration=8).apply(onnx_model, ctx)
    note = bars(ctx)
    assert note.marked == tuple(sorted(note.values, key=lambda name: -note.values[name])[:2])
    assert note.mark == "restored to float"


def test_static_restores_layers_by_per_cent_of_a_metric_that_falls(onnx_model, tmp_path, monkeypatch):
    ctx = Context(tmp_path, OnnxRuntime())
    values = iter([20.0, 26.0, 23.0, 20.5])  # of the float graph, then 30, 15 and 2.5 % more

    def evaluate(model, split):
        metric = Metric(name="perplexity", value=next(values), n=32, better="lower", drop="percent")
        return Evaluation(Scores(split=split, metric="perplexity", metrics=(metric,)), {})

    monkeypatch.setattr(ctx, "evaluate", evaluate)
    QuantizeStatic(max_drop=5, calibration=8).apply(onnx_model, ctx)
    assert len(bars(ctx).marked) == 2


def test_static_gives_equal_bytes_when_it_is_applied_again(onnx_model, tmp_path):
    step = QuantizeStatic(calibration=8)
    one, two = (step.apply(onnx_model, Context(tmp_path / name, OnnxRuntime())).path for name in "ab")
    assert (one / "model.onnx").read_bytes() == (two / "model.onnx").read_bytes()


def test_static_writes_signed_activations_without_zero_points_when_the_dialect_asks(onnx_model, tmp_path):
    ctx = Context(tmp_path, OnnxRuntime())
    ctx.dialect = SimpleNamespace(activations="signed", symmetric_activations=True)
    made = QuantizeStatic(calibration=8).apply(onnx_model, ctx)
    points = [each for each in graph_of(made.path).graph.initializer if each.name.endswith("_zero_point")]
    assert points
    assert all(each.data_type == onnx.TensorProto.INT8 for each in points)
    assert all((onnx.numpy_helper.to_array(each) == 0).all() for each in points)


def test_bits_without_kernels_are_refused():
    for step in (QuantizeStatic, QuantizeDynamic):
        with pytest.raises(ValidationError, match="weights"):
            step(weights=4)


@pytest.mark.parametrize(("flags", "bits", "noted"), [("avx2 fma", 7, 1), ("avx2 avx512_vnni", 8, 0)])
def test_weights_use_seven_bits_where_sums_of_eight_overflow(flags, bits, noted, tmp_path, monkeypatch):
    monkeypatch.setattr("passes.quantization.quantizers.bits.read_cpuinfo", lambda: {"flags": flags})
    ctx = Context(tmp_path, OnnxRuntime())
    assert weight_bits("auto", ctx) == bits
    assert len(ctx.notes) == noted
    assert weight_bits(8, ctx) == 8


def largest_weight(folder):
    arrays = [onnx.numpy_helper.to_array(each) for each in graph_of(folder).graph.initializer]
    return max(np.abs(each.astype(int)).max() for each in arrays if each.dtype == np.int8 and each.ndim == 2)


@pytest.mark.parametrize("step", [QuantizeStatic, QuantizeDynamic])
def test_seven_bits_halve_the_range_of_weights(step, onnx_model, tmp_path):
    found = {}
    for bits in (7, 8):
        made = step(weights=bits, embeddings=False).apply(onnx_model, Context(tmp_path / str(bits), OnnxRuntime()))
        found[bits] = largest_weight(made.path)
    assert found[7] <= 64 < found[8] <= 128


# ------------------------------------------------------------------ folding


def test_fold_gives_equal_outputs_and_notes_operators(onnx_model, tmp_path):
    ctx = Context(tmp_path, OnnxRuntime())
    made = Fold().apply(onnx_model, ctx)
    np.testing.assert_allclose(logits(OnnxRuntime(), made.path), logits(OnnxRuntime(), onnx_model.path), atol=1e-5, rtol=0)
    (note,) = ctx.notes
    assert isinstance(note, Table)
    name, before, after = note.rows[0]
    assert (name, before) == ("all", len(graph_of(onnx_model.path).graph.node))
    assert after == len(graph_of(made.path).graph.node) <= before
    assert (made.path / "tokenizer.json").is_file()


# ------------------------------------------------------------------ NNCF


def test_nncf_static_outputs_are_near_float_and_the_file_is_smaller(openvino_model, tmp_path):
    ctx = Context(tmp_path, OpenVino())
    made = QuantizeStatic(calibration=32, activations=8, sensitivity=True).apply(openvino_model, ctx)
    found, exact = logits(OpenVino(), made.path), logits(OpenVino(), openvino_model.path)
    assert not np.array_equal(found, exact)
    assert near(found, exact, share=0.35)
    assert (made.path / "model.bin").stat().st_size < 0.55 * (openvino_model.path / "model.bin").stat().st_size
    assert OpenVino().open(made.path).facts()["precision"] == "int8 + fp32"
    assert (made.format, (made.path / "tokenizer.json").is_file()) == ("openvino", True)
    assert ctx.asked == [("calibration", 32)]
    note = bars(ctx)
    assert [event.done for event in ctx.events] == list(range(1, len(note.values) + 1))
    assert any("word_embeddings" in layer for layer in note.values)


@pytest.mark.parametrize(("flags", "asked"), [("avx2 fma", []), ("avx2 avx512_vnni", [("calibration", 8)])])
def test_activations_stay_in_float_in_openvino_where_int8_products_are_slow(flags, asked, openvino_model, tmp_path, monkeypatch):
    monkeypatch.setattr("passes.quantization.quantizers.bits.read_cpuinfo", lambda: {"flags": flags})
    ctx = Context(tmp_path, OpenVino())
    made = QuantizeStatic(calibration=8).apply(openvino_model, ctx)
    assert ctx.asked == asked
    kinds = {op.get_type_name() for op in core().read_model(made.path / "model.xml").get_ops()}
    assert ("FakeQuantize" in kinds) == bool(asked)
    assert (made.path / "model.bin").stat().st_size < 0.55 * (openvino_model.path / "model.bin").stat().st_size


def test_nncf_is_float_when_all_layers_are_left(openvino_model, tmp_path):
    quantized = nncf.quantize_static(openvino_model.path / "model.xml", FEEDS[:16], bits=7)
    assert len(quantized.layers) > 6 * LAYERS
    quantized.write(tmp_path, quantized.layers)
    exact = logits(OpenVino(), openvino_model.path)
    np.testing.assert_allclose(logits(OpenVino(), tmp_path), exact, atol=0.05 * exact.std(), rtol=0)
    quantized.write(tmp_path)
    assert not near(logits(OpenVino(), tmp_path), exact, share=0.01)


def test_nncf_leaves_excluded_layers_in_float(openvino_model):
    quantized = nncf.quantize_static(openvino_model.path / "model.xml", FEEDS[:4], exclude=("layer.0",))
    assert quantized.layers
    assert not [layer for layer in quantized.layers if "layer.0" in layer]


@pytest.mark.parametrize("step", [QuantizeDynamic, QuantizeStatic])
@pytest.mark.parametrize("target", [OnnxRuntime, OpenVino])
def test_a_layer_to_exclude_that_is_not_there_is_refused_with_a_near_name(step, target, onnx_model, openvino_model, tmp_path):
    model = openvino_model if target is OpenVino else onnx_model
    with pytest.raises(UnsupportedModel, match=r"exclude: no layer has 'clasifier' in its path \(did you mean 'classifier'\?\)"):
        step(exclude=["clasifier"]).apply(model, Context(tmp_path, target()))


@pytest.mark.parametrize("step", [QuantizeDynamic, QuantizeStatic, QuantizeWeights])
def test_an_empty_part_of_a_path_is_refused(step):
    with pytest.raises(ValidationError, match=r"exclude\.0\n.*at least 1 character"):
        step(exclude=[""])


@pytest.mark.parametrize("step", [QuantizeDynamic(exclude=["layer.0"]), QuantizeStatic(exclude=["layer.0"])])
def test_weights_alone_are_compressed_but_for_excluded_layers(step, openvino_model, tmp_path, monkeypatch):
    monkeypatch.setattr("passes.quantization.quantizers.bits.read_cpuinfo", lambda: {"flags": "avx2"})
    made = step.apply(openvino_model, Context(tmp_path, OpenVino()))
    ops = core().read_model(made.path / "model.xml").get_ordered_ops()
    int8 = {each.get_friendly_name() for each in ops if each.get_element_type().size == 1}
    assert any("pooler" in name for name in int8)
    assert not [name for name in int8 if "layer.0" in name]


def test_options_that_nncf_does_not_heed_are_told(openvino_model, tmp_path):
    ctx = Context(tmp_path, OpenVino())
    QuantizeDynamic(per_channel=False, ranges="row").apply(openvino_model, ctx)
    assert "per_channel and ranges of the plan have no part in that." in ctx.notes[0].text


def test_nncf_dynamic_outputs_are_near_float_and_the_file_is_smaller(openvino_model, tmp_path):
    made = QuantizeDynamic().apply(openvino_model, Context(tmp_path, OpenVino()))
    assert near(logits(OpenVino(), made.path), logits(OpenVino(), openvino_model.path), share=0.1)
    assert (made.path / "model.bin").stat().st_size < 0.55 * (openvino_model.path / "model.bin").stat().st_size


def test_nncf_leaves_its_source_as_it_is(openvino_model, tmp_path):
    before = (openvino_model.path / "model.bin").read_bytes()
    nncf.compress_weights(openvino_model.path / "model.xml", tmp_path / "model.xml")
    assert (openvino_model.path / "model.bin").read_bytes() == before


def test_what_a_layer_costs_is_counted_by_what_the_outputs_are():
    exact, other = np.asarray([[2, -1], [0, 1]], dtype=np.float32), np.asarray([[4, 1], [2, 3]], dtype=np.float32)
    apart, unit = difference_by(TextClassification())
    assert (apart(exact, other).tolist(), unit) == (pytest.approx([0, 0], abs=1e-9), "KL"), "classes are as likely as they were"
    for task in (TextClassification(multi_label=True), TextRegression(), AudioFeatures()):
        apart, unit = difference_by(task)
        assert (apart(exact, other).tolist(), unit) == ([4.0, 4.0], "mean square difference")
