"""Weights of 8, 4 and 2 bits in three runtimes: on their grid, tied where they were tied, run by kernels that are there, else refused."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from furnished import told
from onnx import numpy_helper
from pydantic import ValidationError

from compressor.contracts import Artifact, Scheme, registry
from compressor.contracts.notes import Table
from compressor.deploy import gguf as gguf_files
from compressor.deploy import stateful as stateful_graphs
from compressor.deploy.graphs import describe
from compressor.deploy.session import predictor
from compressor.errors import PlanError, UnsupportedModel
from compressor.plan.bound import load_plan
from compressor.report import read_report
from compressor.store.store import StoredResult, digest_of
from compressor.tasks.language.causal_lm import CausalLM
from compressor.tasks.language.decoding import decoded, filled
from compressor.tasks.tiny import documents, language_model
from compressor.testing.tiny import run_of, tiny_run
from passes.quantization.quantize_weights import QuantizeWeights
from passes.quantization.quantizers.nncf import read_model
from passes.quantization.quantizers.nncf_weights import compress
from passes.quantization.quantizers.schemes import groups_of
from passes.quantization.quantizers.weight_layers import Wanted
from targets.llama_cpp import LlamaCpp
from targets.onnxruntime import OnnxRuntime, nodes
from targets.openvino import OpenVino

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:nncf"),
    pytest.mark.filterwarnings("ignore::UserWarning:nncf"),
]

WORDS, WIDTH, INNER = 269, 64, 96
TARGETS = {"onnxruntime": OnnxRuntime, "openvino": OpenVino, "llama-cpp": LlamaCpp}


class Task(CausalLM):
    """Of a model whose rows hold several groups, and whose table is its head."""

    def tiny(self, folder):
        rows = super().tiny(folder)
        language_model(folder / "pretrained", tie_word_embeddings=True, hidden_size=WIDTH, intermediate_size=INNER)
        return rows


@cache
def language_run():
    return run_of("causal-lm", Task(max_length=64))


class Wide(CausalLM):
    """Of a model with heads of 32."""

    def tiny(self, folder):
        rows = super().tiny(folder)
        language_model(folder / "pretrained", hidden_size=64, head_dim=32, num_attention_heads=2, num_key_value_heads=2)
        return rows


@cache
def wide_run():
    return run_of("causal-lm", Wide(max_length=64))


class Made:
    """What the pass made of a tiny model, built and opened."""

    def __init__(self, folder: Path, target: str, run=None, **options) -> None:
        run = run or language_run()
        self.run, self.target = run, TARGETS[target]()
        self.exact = run.lowered(self.target)
        (folder / "work").mkdir(parents=True)
        self.events = []
        self.ctx = run.context(folder / "work", target=self.target, tell=self.events.append)
        form = self.target.dialect.format
        self.made = QuantizeWeights(**options).apply(Artifact(form, self.exact.path), self.ctx)
        stored = StoredResult("", digest_of(self.made.path), self.made.path, {}, 0.0, found=False)
        candidate, _ = run.builder.build(stored, stage="final", name="x", target=self.target, out=folder / "built")
        self.built = candidate.built
        self.session = self.target.open(self.built)

    def float_session(self, folder: Path):
        """On the model before it was quantised."""
        target = LlamaCpp(weights="f32") if isinstance(self.target, LlamaCpp) else self.target
        candidate, _ = self.run.builder.build(self.exact, stage="final", name="exact", target=target, out=folder / "exact")
        return target.open(candidate.built)

    @property
    def graph(self):
        return onnx.load(self.made.path / "model.onnx")

    @property
    def bits(self):
        """Rows of the table of bits by layer."""
        (table,) = (note for note in self.ctx.notes if isinstance(note, Table))
        return {(row[0], row[2]): row[1:] for row in table.rows}

    def scores(self):
        found = self.run.task.evaluate(
            predictor(self.run.task, self.session), self.run.data.split("test"), self.built, split="test"
        )
        return found.scores.main.value


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    return Made(tmp_path_factory.mktemp("four"), "onnxruntime", bits=4, group_size=32)


def constants(graph):
    return {each.name: numpy_helper.to_array(each) for each in graph.graph.initializer}


def settings(node):
    return {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}


def products(graph):
    return [node for node in graph.graph.node if node.op_type == "MatMulNBits"]


# ------------------------------------------------------------------ ONNX Runtime


def test_every_product_computes_in_integers_with_the_bits_that_were_asked_for(four):
    found = products(four.graph)
    assert len(found) == 2 * 4 + 1, "queries, keys and values are one product, as are gate and up; and the head"
    assert {settings(node)["accuracy_level"] for node in found} == {4}
    assert [settings(node)["bits"] for node in found] == [4] * 8 + [8]
    assert not [node for node in four.graph.graph.node if node.op_type == "MatMul" and "proj" in node.name]
    assert four.session.facts()["precision"] == "int4 + int8 + fp32"
    assert not [line for line in four.target.diagnose(four.built) if "MatMulNBits" in line or "proj" in line]


def test_a_table_that_is_head_too_is_stored_once_and_read_by_both(four):
    graph = four.graph
    (look_up,) = (node for node in graph.graph.node if node.op_type == "GatherBlockQuantized")
    head = products(graph)[-1]
    assert look_up.input[0] == head.input[1]
    sizes = {name: array.nbytes for name, array in constants(graph).items()}
    assert sizes[head.input[1]] == WORDS * WIDTH
    assert sum(sizes.values()) < 0.25 * sum(
        array.nbytes for array in constants(onnx.load(four.exact.path / "model.onnx")).values()
    )
    assert four.bits["lm_head", "8"][-1] == "the table's numbers"
    assert four.bits["lm_head", "8"][4] == 0


def test_attention_over_a_cache_stays_one_operator_and_goes_on_as_the_whole_text_does(four):
    assert sum(node.op_type == "GroupQueryAttention" for node in nodes(four.built / "model.onnx")) == 2
    ids = np.random.default_rng(0).integers(2, WORDS, (2, 12))
    feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    whole = four.session.run({**feed, "logits_at": np.arange(12)})[0]["logits"]
    _, state = four.session.run({"input_ids": ids[:, :9], "attention_mask": np.ones((2, 9), np.int64)})
    rest, _ = four.session.run(
        {"input_ids": ids[:, 9:], "attention_mask": np.ones_like(ids), "logits_at": np.arange(3)}, state=state
    )
    np.testing.assert_allclose(rest["logits"], whole[:, 9:], atol=0.02 * np.abs(whole).max())
    assert decoded(four.session, filled(four.session, feed), 5).shape == (2, 5)


def test_what_is_deployed_computes_with_the_weights_that_its_numbers_say(four, tmp_path):
    """The float graph with the numbers scaled back in its weights differs by the rounding of activations alone."""
    from passes.quantization.quantizers.grids import Blocks, Grid
    from passes.quantization.quantizers.onnx_graph import fold_gemms
    from passes.quantization.quantizers.onnx_tied import untie

    exact, constants_ = onnx.load(four.exact.path / "model.onnx"), constants(four.graph)
    fold_gemms(exact)
    table, head = next(iter(untie(exact).items()))
    weights = {each.name: each for each in exact.graph.initializer}
    by_name = {node.name: node for node in exact.graph.node}
    for node in products(four.graph):
        how, numbers = settings(node), constants_[node.input[1]]
        values = Blocks(Grid(how["bits"], how["block_size"]), how["K"], numbers, constants_[node.input[2]], None).values()
        outputs = [each for each in four.graph.graph.node if node.output[0] in each.input and each.op_type == "Split"]
        names = outputs[0].output if outputs else node.output
        parts = np.split(values, np.cumsum(constants_[outputs[0].input[1]])[:-1]) if outputs else [values]
        for output, part in zip(names, parts, strict=True):
            product = next(each for each in by_name.values() if output in each.output)
            weights[product.input[1]].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(part.T), product.input[1]))
    weights[table].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(numpy_helper.to_array(weights[head]).T), table))
    (tmp_path / "rounded").mkdir()
    onnx.save(exact, tmp_path / "rounded" / "model.onnx")
    for each in four.exact.path.glob("*.json"):
        (tmp_path / "rounded" / each.name).write_bytes(each.read_bytes())
    stored = StoredResult("", digest_of(tmp_path / "rounded"), tmp_path / "rounded", {}, 0.0, found=False)
    candidate, _ = four.run.builder.build(stored, stage="final", name="r", target=four.target, out=tmp_path / "built")
    ids = np.random.default_rng(1).integers(2, WORDS, (2, 12))
    feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "logits_at": np.arange(12)}
    told, found = (session.run(feed)[0]["logits"] for session in (four.target.open(candidate.built), four.session))
    assert np.abs(told - found).max() < 0.05 * np.abs(told).max(), "activations have 8 bits"
    assert (told.argmax(-1) == found.argmax(-1)).mean() > 0.9
    float_ = four.float_session(tmp_path).run(feed)[0]["logits"]
    assert np.abs(told - found).mean() < 0.5 * np.abs(float_ - found).mean(), "the weights' rounding is the larger part"


@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        ({"bits": 8}, {8}),
        ({"bits": 4, "symmetric": False}, {4, 8}),
        ({"bits": 2, "group_size": 32}, {2, 8}),
        ({"bits": 4, "embeddings": 4}, {4}),
        ({"bits": 4, "algorithm": "gptq", "calibration": 4}, {4, 8}),
        ({"bits": 4, "algorithm": "awq", "calibration": 4}, {4, 8}),
    ],
    ids=["8", "zero points", "2", "all in 4", "gptq", "awq"],
)
def test_bits_are_those_of_the_plan(options, kinds, tmp_path):
    made = Made(tmp_path, "onnxruntime", **options)
    assert {settings(node)["bits"] for node in products(made.graph)} == kinds
    zeros = [node for node in products(made.graph)[:-1] if len(node.input) == 4]
    assert len(zeros) == (8 if options.get("symmetric") is False else 0)
    assert np.isfinite(made.scores())
    works = {None: [], "gptq": ["gptq"] * 14, "awq": ["awq"] * 8}  # by product, and by what they read
    assert [event.work for event in made.events] == works[options.get("algorithm")]
    said = [note.text for note in made.ctx.notes if "AWQ" in getattr(note, "text", "")]
    unscaled = "AWQ scaled no channels of 2 of 14 layers, which are rounded as they are: nothing before them takes the factors "
    assert said == ([f"{unscaled}(model.layers.*.self_attn.o_proj)."] if options.get("algorithm") == "awq" else [])


def test_eight_bits_change_next_to_nothing(tmp_path):
    made = Made(tmp_path, "onnxruntime", bits=8)
    exact = made.float_session(tmp_path)
    ids = np.random.default_rng(2).integers(2, WORDS, (2, 16))
    feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "logits_at": np.arange(16)}
    before, after = (session.run(feed)[0]["logits"] for session in (exact, made.session))
    assert np.sqrt(np.square(after - before).mean()) < 0.1 * before.std(), "as much as activations of 8 bits do"


def test_what_stays_in_float_is_said_and_a_tied_table_in_float_is_stored_once(tmp_path):
    made = Made(tmp_path, "onnxruntime", bits=4, embeddings="float", exclude=("down_proj",))
    assert made.bits["model.layers.*.mlp.down_proj", "32 (float)"][-1] == "excluded"
    assert made.bits["model.layers.*.mlp.up_proj", "4"][0] == 2
    large = [array for array in constants(made.graph).values() if array.dtype == np.float32 and array.size == WORDS * WIDTH]
    assert len(large) == 1


def test_an_excluded_layer_that_is_not_there_is_refused_with_a_near_name(tmp_path):
    for target in TARGETS:
        with pytest.raises(UnsupportedModel, match=r"no layer has 'down_pro_j' in its path \(did you mean 'down_proj'\?\)"):
            Made(tmp_path / target, target, bits=8, exclude=("down_pro_j",))


def test_encoders_are_quantised_too(tmp_path):
    run = tiny_run()
    made = Made(tmp_path, "onnxruntime", run, bits=8)
    assert len(products(made.graph)) > 6
    feed = run.task.feeds(run.data.split("test"), made.built, count=1)[0]
    before = made.float_session(tmp_path).run(feed)[0]["logits"]
    np.testing.assert_allclose(made.session.run(feed)[0]["logits"], before, atol=0.05 * np.abs(before).max())


# ------------------------------------------------------------------ OpenVINO


@pytest.mark.parametrize(
    ("options", "kinds", "precision"),
    [
        ({"bits": 8}, {"i8": 15}, "int8 + fp32"),
        ({"bits": 4, "group_size": 32}, {"i4": 14, "i8": 1}, "int4 + int8 + fp32"),
        ({"bits": 4, "group_size": 32, "symmetric": False, "embeddings": 4}, {"u4": 15}, "int4 + fp32"),
        ({"bits": 4, "group_size": 32, "algorithm": "awq", "calibration": 4}, {"i4": 14, "i8": 1}, "int4 + int8 + fp32"),
        ({"bits": 4, "group_size": 32, "algorithm": "gptq", "calibration": 4}, {"i4": 14, "i8": 1}, "int4 + int8 + fp32"),
        (
            {"bits": 4, "group_size": 32, "algorithm": "scale-estimation", "calibration": 4},
            {"i4": 14, "i8": 1},
            "int4 + int8 + fp32",
        ),
    ],
    ids=["8", "4", "all in 4", "awq", "gptq", "scale-estimation"],
)
def test_nncf_stores_few_bits_and_openvino_computes_with_them(options, kinds, precision, tmp_path):
    made = Made(tmp_path, "openvino", **options)
    model = read_model(made.made.path / "model.xml")
    large = [
        op for op in model.get_ordered_ops() if op.get_type_name() == "Constant" and np.prod(op.get_output_shape(0)) >= WIDTH * 16
    ]
    found = [op.get_element_type().get_type_name() for op in large]
    matrices = {kind: found.count(kind) for kind in ("i8", "u8", "i4", "u4") if kind in found}
    assert {kind: count for kind, count in matrices.items() if kind in kinds} == kinds, (
        "the table is head too and stands there once"
    )
    assert made.session.facts()["precision"] == precision
    assert sum(row[0] for row in made.bits.values()) == 16
    assert np.isfinite(made.scores())
    assert made.target.diagnose(made.built) == ()
    ids = np.random.default_rng(0).integers(2, WORDS, (1, 12))
    feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    assert decoded(made.session, filled(made.session, feed), 5).shape == (1, 5)
    assert "attention" in made.session.facts(), "attention over the cache is one operator"


def test_convolutions_are_in_the_table_too(tmp_path):
    import openvino.opset13 as ops
    from openvino import Model, save_model

    rng = np.random.default_rng(0)
    image, kernel = ops.parameter([1, 8, 40], np.float32, name="image"), rng.normal(size=(32, 8, 3)).astype(np.float32)
    made = ops.convolution(image, ops.constant(kernel), [1], [0], [0], [1], name="start/Conv_0")
    row = ops.transpose(made, ops.constant([0, 2, 1]), name="turn/Transpose_0")
    product = ops.matmul(row, ops.constant(rng.normal(size=(32, 64)).astype(np.float32)), False, False, name="layer/MatMul_0")
    last = ops.matmul(product, ops.constant(rng.normal(size=(64, 32)).astype(np.float32)), False, False, name="last/MatMul_0")
    save_model(Model([last], [image]), tmp_path / "exact.xml", compress_to_fp16=False)
    wanted = Wanted(8, None, True, "round-to-nearest", 8, ("start",))
    chosen, left = compress(tmp_path / "exact.xml", tmp_path / "made.xml", wanted)
    assert [(each.layer, each.weights, each.why) for each in left] == [("start", 32 * 8 * 3, "excluded")]
    chosen, left = compress(tmp_path / "exact.xml", tmp_path / "made.xml", replace(wanted, exclude=()))
    assert [(each.layer, each.bits, each.group) for each in chosen] == [("start", 8, None), ("layer", 8, None), ("last", 8, None)]
    assert not left


# ------------------------------------------------------------------ GGUF


@pytest.mark.parametrize(
    ("options", "types", "precision"),
    [
        ({"bits": 8}, ("F32", "Q8_0"), "int8"),
        ({"bits": 4}, ("F32", "Q4_0", "Q8_0"), "int4 + int8"),
        ({"bits": 4, "symmetric": False, "embeddings": 4}, ("F32", "Q4_1"), "int4"),
    ],
)
def test_gguf_files_of_few_bits_are_opened_by_llama_cpp(options, types, precision, tmp_path):
    made = Made(tmp_path, "llama-cpp", **options)
    assert gguf_files.types_in(made.built / "model.gguf") == types
    assert made.session.facts()["precision"] == precision
    ids = np.random.default_rng(0).integers(2, WORDS, (1, 12))
    feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "logits_at": np.arange(12)}
    before, after = (session.run(feed)[0]["logits"] for session in (made.float_session(tmp_path), made.session))
    share = 0.05 if options["bits"] == 8 else 0.6
    assert np.sqrt(np.square(after - before).mean()) < share * before.std()


def test_quantised_files_of_other_runtimes_are_not_quantised_again(tmp_path):
    for target in ("openvino", "llama-cpp"):
        made = Made(tmp_path / target, target, bits=8)
        (tmp_path / target / "again").mkdir()
        ctx = made.run.context(tmp_path / target / "again", target=made.target)
        with pytest.raises(UnsupportedModel, match=r"quantised already \((weights of 8 bits|Q8_0)\): weights are quantised once"):
            QuantizeWeights(bits=8).apply(made.made, ctx)


@pytest.mark.parametrize("algorithm", ["gptq", "awq", "scale-estimation"])
def test_algorithms_of_nncf_without_calibration_rows_are_refused_by_name(algorithm, tmp_path):
    exact = language_run().lowered(OpenVino())
    with pytest.raises(UnsupportedModel, match=rf"^{algorithm} looks at calibration rows, and there are none"):
        compress(exact.path / "model.xml", tmp_path / "model.xml", Wanted(4, 32, True, algorithm, 8))


def test_a_cache_that_cannot_be_of_eight_bits_is_refused_before_anything_is_computed(tmp_path):
    from passes.quantization.quantizers.onnx_cache import graph_beside
    from passes.quantization.quantizers.onnx_weights import quantize

    exact = wide_run().lowered(OnnxRuntime())
    wires, graph = graph_beside(exact.path), onnx.load(exact.path / "model.onnx")
    joined = next(node for node in graph.graph.node if wires.state[-1][0] in node.output)
    joined.input[0], joined.input[1] = joined.input[1], joined.input[0]
    onnx.save(graph, tmp_path / "model.onnx")
    (feed,) = (
        wide_run().context(tmp_path, target=OnnxRuntime()).feeds(Artifact("onnxruntime", exact.path), "calibration", limit=1)
    )
    events, wanted = [], Wanted(4, 32, True, "gptq", 8)
    with pytest.raises(UnsupportedModel, match=r"is not simply put before what a call adds to it: leave `cache` out"):
        quantize(tmp_path / "model.onnx", tmp_path, wanted, feeds=[feed], tell=events.append, cache=wires)
    assert not events


def test_a_type_beside_quantised_weights_is_refused(tmp_path):
    made = Made(tmp_path, "llama-cpp", bits=8)
    with pytest.raises(UnsupportedModel, match=r"Q8_0 already: leave `weights: f16` out"):
        LlamaCpp(weights="f16").build(made.made, tmp_path)


def test_layers_of_a_gguf_file_are_named_by_their_modules(tmp_path):
    made = Made(tmp_path, "llama-cpp", bits=8, exclude=("o_proj", "lm_head", "embed_tokens"))
    assert made.bits["blk.*.attn_output", "32 (float)"][-1] == "excluded"
    assert ("blk.*.attn_q", "8") in made.bits
    assert ("token_embd", "32 (float)") in made.bits


# ------------------------------------------------------------------ from plan to export


RUN = """
task: {{causal-lm: {{max_length: 64}}}}
data: {{files: rows.jsonl, split: {{validation: 6, test: 8}}, calibration: 8}}
model: {{folder: model}}
passes: [{{quantize-weights: {{{0}}}}}]
targets: [{1}]
accept: [{{target: {2}, max_drop: 100}}]
"""


@pytest.mark.parametrize(
    ("parameters", "target", "facts"),
    [
        pytest.param("bits: 4, group_size: 32, algorithm: gptq, cache: 8", "onnxruntime", "int4 + int8 + fp32", id="onnxruntime"),
        pytest.param("bits: 4", "openvino: {cache: int8}", "int4 + int8 + fp32", id="openvino", marks=pytest.mark.long),
        pytest.param("bits: 4", "llama-cpp: {cache: q8_0}", "int4 + int8", id="llama-cpp", marks=pytest.mark.long),
    ],
)
def test_an_export_proves_that_it_says_what_was_scored(parameters, target, facts, tmp_path):
    language_model(
        tmp_path / "model", tie_word_embeddings=True, hidden_size=64, head_dim=32, num_attention_heads=2, num_key_value_heads=2
    )
    documents(tmp_path, ("text",))
    named = target.partition(":")[0]
    (tmp_path / "plan.yaml").write_text(RUN.format(parameters, f"{{{target}}}" if ":" in target else target, named))
    done = told(tmp_path, "run", "plan.yaml", "--store", "store", "--out", "run", "--export", "export")
    assert done.returncode == 0, done.stdout + done.stderr
    report = read_report(tmp_path / "run")
    final = next(each for each in report.candidates if each.stage == "final")
    assert (final.facts["precision"], final.facts["cache"]) == (facts, "int8")
    assert final.parity.finite
    titles = [note.title for stage in report.stages for note in stage.notes if note.kind == "table"]
    assert titles == ["Bits of weights by layer"]
    assert "Bits of weights by layer" in (tmp_path / "run" / "report.html").read_text()
    assert json.loads((tmp_path / "export" / "spec.json").read_text())
    if named == "onnxruntime":
        assert _written_by_genai(tmp_path / "export", 8) == 8


def _written_by_genai(folder, tokens):
    """How many tokens ONNX Runtime GenAI writes after four."""
    import onnxruntime_genai

    model = onnxruntime_genai.Model(str(folder))
    how = onnxruntime_genai.GeneratorParams(model)
    how.set_search_options(max_length=4 + tokens, min_length=4 + tokens, do_sample=False)
    generator = onnxruntime_genai.Generator(model, how)
    generator.append_tokens(np.array([5, 6, 7, 8], np.int32))
    while not generator.is_done():
        generator.generate_next_token()
    return len(generator.get_sequence(0)) - 4


# ------------------------------------------------------------------ what is refused


PLAN = """
task: {{causal-lm: {{max_length: 64}}}}
data: {{files: rows.jsonl}}
model: {{folder: model}}
passes:
  - quantize-weights: {{{0}}}
targets: [{1}]
"""


def faults(folder, parameters, targets):
    (folder / "plan.yaml").write_text(PLAN.format(parameters, f"{{{targets}}}" if ":" in targets else targets))
    with pytest.raises(PlanError) as caught:
        load_plan(folder / "plan.yaml")
    return caught.value.faults


def test_pairs_of_q_and_dq_have_no_kernels_where_graphs_are_not_rewritten():
    pairs, packed = Scheme("int8", "uint8"), Scheme("int4", "int8", "group", 32, dynamic=True)
    for level, fuses in {"all": True, "extended": True, "basic": False, "none": False}.items():
        dialect = OnnxRuntime(graph_optimization=level).own_dialect()
        assert (dialect.lacks(pairs) == "") is fuses
        assert dialect.lacks(packed) == ""
        assert groups_of(dialect, 4) == groups_of(OnnxRuntime.dialect, 4)
    assert OnnxRuntime(provider="cuda").own_dialect().lacks(packed)


def test_products_of_gguf_files_find_ranges_of_activations_at_run_time_and_have_groups_of_32():
    for bits in (8, 4):
        assert LlamaCpp.dialect.lacks(Scheme(f"int{bits}", "int8", "group", 32, dynamic=True)) == ""
        assert LlamaCpp.dialect.lacks(Scheme(f"int{bits}", "int8", "group", 32))
        assert groups_of(LlamaCpp.dialect, bits) == (32,)
    assert groups_of(LlamaCpp.dialect, 2) == ()


@pytest.mark.parametrize(
    ("parameters", "targets", "message"),
    [
        ("bits: 3", "onnxruntime", r"no runtime here has kernels for weights of 3 bits; OpenVINO stores them .* say 4"),
        ("bits: 6", "openvino", r"weights of 6 bits; OpenVINO .* slower than float32: say 4"),
        ("bits: 2", "llama-cpp", r"target 'llama-cpp': it has no kernel for weights of 2 bits: say 8 or 4"),
        ("bits: 2", "onnxruntime: {provider: cuda}", r"target 'onnxruntime': it has no kernel for weights of 2 bits: say 8 or 4"),
        ("bits: 4", "onnxruntime: {provider: tensorrt}", r"target 'onnxruntime': as .* no quantised weights"),
        (
            "bits: 8",
            "llama-cpp: {weights: f16}",
            r"target 'llama-cpp': as .* no quantised weights: .* or the target's parameters",
        ),
        ("bits: 8", "pytorch", r"has no place on the way to 'pytorch'"),
        ("bits: 8, group_size: 32", "openvino", r"target 'openvino': a scale of 8 bits is there for a whole row: leave it out"),
        ("bits: 4, group_size: 64", "llama-cpp", r"target 'llama-cpp': it has no kernel for groups of 64 .* say 32"),
        (
            "bits: 4, algorithm: scale-estimation",
            "onnxruntime",
            r"target 'onnxruntime': scale-estimation does not run there; say .* gptq or awq",
        ),
        ("bits: 8, cache: 8", "openvino", r"target 'openvino': it has 8 bits for keys and values of its own: .* at the target"),
        ("bits: 8, symmetric: false", "llama-cpp", r"target 'llama-cpp': Q8_0 has one zero"),
        ("bits: 4, embeddings: 2", "onnxruntime", r"embeddings of 2 bits beside layers of 4"),
        ("bits: 8, algorithm: gptq", "onnxruntime", r"rounding loses next to nothing there"),
        ("bits: 8, calibration: 5", "onnxruntime", r"nothing would heed calibration, as round-to-nearest looks at no rows"),
        ("bits: 4, group: 32", "onnxruntime", r"no such parameter .*group_size"),
        ("algorithm: gtpq", "onnxruntime", r"gptq"),
    ],
)
def test_what_has_no_kernel_is_refused_where_the_plan_says_it(parameters, targets, message, tmp_path):
    import re

    found = faults(tmp_path, parameters, targets)
    assert [each for each in found if re.search(message, each.what)], [each.what for each in found]
    assert {each.line for each in found if "quantize-weights" in each.where} == {6}


def test_the_options_are_explained():
    for name, field in QuantizeWeights.model_fields.items():
        assert field.description, name
    with pytest.raises(ValidationError):
        QuantizeWeights(bits=16)


def test_language_models_get_it_from_init():
    from types import SimpleNamespace

    wish = SimpleNamespace(task=CausalLM(), max_drop=2.0)
    found = QuantizeWeights.recipe(wish)
    assert (found.parameters, found.role) == ({"bits": 8}, "quantize")
    assert registry.load("pass", "quantize-static").recipe(wish).rank > found.rank
    for drop, bits in {16.0: 8, 20.0: 4}.items():  # a small model lost 16 % by 4 bits
        assert QuantizeWeights.recipe(SimpleNamespace(task=CausalLM(), max_drop=drop)).parameters == {"bits": bits}
    assert QuantizeWeights.recipe(SimpleNamespace(task=tiny_run().task, max_drop=2.0)) is None


# ------------------------------------------------------------------ caches of 8 bits


def continued(session, ids, cut=9):
    """Logits of the tokens behind `cut`, from a cache of those before."""
    ones = np.ones_like(ids)
    _, state = session.run({"input_ids": ids[:, :cut], "attention_mask": ones[:, :cut]})
    places = np.arange(ids.shape[1] - cut)
    return session.run({"input_ids": ids[:, cut:], "attention_mask": ones, "logits_at": places}, state=state)[0]["logits"]


@pytest.mark.parametrize(
    ("plain", "eight"),
    [(OpenVino(), OpenVino(cache="int8")), (LlamaCpp(weights="f32"), LlamaCpp(weights="f32", cache="q8_0"))],
    ids=["openvino", "llama-cpp"],
)
def test_keys_and_values_of_eight_bits_say_nearly_the_same(plain, eight, tmp_path):
    run = wide_run()
    found = {}
    for name, target in (("plain", plain), ("eight", eight)):
        candidate, _ = run.builder.build(run.lowered(target), stage="x", name=name, target=target, out=tmp_path / name)
        session = target.open(candidate.built)
        found[name] = continued(session, np.random.default_rng(0).integers(2, WORDS, (2, 16)))
        assert session.facts()["cache"] == {"plain": "fp32", "eight": "int8"}[name]
    apart = np.square(found["eight"] - found["plain"]).mean() ** 0.5
    assert 0 < apart < 0.06 * found["plain"].std()
    setting = OpenVino.runtime({"precision": "fp32", "cache": "int8"}).settings
    assert setting == {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "u8"}, "what an exported example says"


def test_a_cache_that_no_operator_for_attention_holds_is_told_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(stateful_graphs, "_attend", lambda _: None)  # as attention of other forms stays
    run, target = wide_run(), OpenVino(cache="int8")
    candidate, _ = run.builder.build(run.lowered(target), stage="x", name="y", target=target, out=tmp_path / "built")
    facts = target.open(candidate.built).facts()
    assert "attention" not in facts
    assert facts["cache"] == "fp32"


def test_numbers_of_a_cache_are_refused_where_a_model_keeps_nothing(tmp_path):
    run, target = tiny_run(), OpenVino(cache="int8")
    exact = run.lowered(target)
    with pytest.raises(UnsupportedModel, match=r"the model keeps nothing between calls: leave `cache: int8` out"):
        run.builder.build(exact, stage="x", name="y", target=target, out=tmp_path / "built")
    plain, _ = run.builder.build(exact, stage="x", name="y", target=OpenVino(), out=tmp_path / "plain")
    assert "cache" not in OpenVino().open(plain.built).facts()
    with pytest.raises(UnsupportedModel, match=r"the model keeps nothing between calls"):
        target.open(plain.built)


def calibrated(made, tokens=16):
    """Tokens of a row that ranges were taken from."""
    (feed,) = made.ctx.feeds(Artifact("onnxruntime", made.exact.path), "calibration", limit=1)
    return feed["input_ids"][:, :tokens]


def test_a_cache_of_int8_is_read_and_written_by_the_operator_for_attention(tmp_path):
    plain = Made(tmp_path / "plain", "onnxruntime", wide_run(), bits=8)
    eight = Made(tmp_path / "eight", "onnxruntime", wide_run(), bits=8, cache=8, calibration=4)
    found = [node for node in nodes(eight.built / "model.onnx") if node.op_type == "GroupQueryAttention"]
    assert len(found) == 2
    assert {settings(node)["kv_cache_bit_width"] for node in found} == {8}
    assert not [node for node in nodes(eight.built / "model.onnx") if node.op_type == "Softmax"]
    assert (plain.session.facts()["cache"], eight.session.facts()["cache"]) == ("fp32", "int8")
    (graph,) = eight.run.task.graphs(eight.built)
    kept = {name for pair in graph.state for name in pair}
    assert {port.dtype for port in (*graph.inputs, *graph.outputs) if port.name in kept} == {"int8"}
    ids = calibrated(eight)
    logits = [continued(made.session, ids) for made in (plain, eight)]
    apart = np.square(logits[1] - logits[0]).mean() ** 0.5
    assert 0 < apart < 0.1 * logits[0].std()
    (said,) = (note.text for note in eight.ctx.notes if "Keys and values" in getattr(note, "text", ""))
    assert said == "Keys and values of a token take 256 bytes, where they took 1,024 in float32."


def test_a_cache_of_int8_is_the_same_in_plain_operators(tmp_path):
    """What a pass writes runs without the operator too, as other runtimes would run it."""
    made = Made(tmp_path / "eight", "onnxruntime", wide_run(), bits=8, cache=8, calibration=4)
    describe(made.made.path, made.run.task, "causal-lm", ())
    session = made.target.open(made.made.path)
    assert "attention" not in session.facts()
    ids = calibrated(made)
    told, found = continued(session, ids), continued(made.session, ids)
    assert np.square(told - found).mean() ** 0.5 < 0.05 * told.std(), "the operator rounds what it multiplies by once more"


def test_a_model_that_keeps_nothing_has_no_cache_to_quantise(tmp_path):
    made = Made(tmp_path, "onnxruntime", tiny_run(), bits=8, cache=8, calibration=4)
    assert [note.text for note in made.ctx.notes if "keeps nothing" in getattr(note, "text", "")]


def test_heads_that_no_group_of_a_cache_divides_are_refused(tmp_path):
    target, run = LlamaCpp(weights="f32", cache="q8_0"), language_run()
    candidate, _ = run.builder.build(run.lowered(target), stage="x", name="y", target=target, out=tmp_path / "built")
    with pytest.raises(UnsupportedModel, match=r"groups of 32, which heads of 8 are not made of: leave `cache` out"):
        target.open(candidate.built)
