"""Distillation under quantisation: what is trained is what is deployed, on integer kernels that are really there, and it can be killed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace

import deaths
import numpy as np
import pytest
import torch
from furnished import lowered
from pydantic import ValidationError
from rounded_students import Task, assert_alike, context, deployed, outputs, step, trained, wide
from tensor_rows import LENGTH, SPLITS, Context

from compressor.contracts import Artifact, Graph, Message, Progress, registry
from compressor.contracts.notes import Bars, Remark, Series, Table
from compressor.deploy.session import eager, opened
from compressor.errors import UnsupportedModel
from compressor.model.edits import KeepHeads, KeepNeurons
from compressor.model.model import Model
from compressor.model.quantization.layers import InputQuantizer, quantized_layers
from compressor.store.store import StoredResult, digest_of
from compressor.testing.tiny import run_of
from compressor.training.checkpoint import INTERVAL
from passes.quantization_aware.choice import linear_layers, table_of, tied_to, trunk_of
from passes.quantization_aware.maps import coverage, maps_apart
from passes.quantization_aware.passing import Passing, passing
from passes.quantization_aware.placement import Placement, tied_together
from targets.onnxruntime import OnnxRuntime, nodes
from targets.openvino import OpenVino, layers

STACK = "bert.encoder.layer"

# ------------------------------------------------------------------ deployed is simulated

SCHEMES = {
    "w8a8": ({}, "MatMulIntegerToFloat", "i8"),
    "w7a8 by tensor": ({"weights": 7, "granularity": "tensor"}, "MatMulIntegerToFloat", "i8"),
    "w8a8 with zero points": ({"symmetric_activations": False}, "MatMulIntegerToFloat", "u8"),
    "w8a8 by row": ({"ranges": "dynamic"}, "MatMulInteger", None),
    "w8a8 by group": ({"granularity": "group"}, "MatMulNBits", "u8"),
    "w4a8": ({"weights": 4}, "MatMulNBits", "u4"),
    "w4a8 with zero points": ({"weights": 4, "symmetric_weights": False}, "MatMulNBits", "u4"),
    "w3a8": ({"weights": 3}, "MatMulNBits", "u4"),
    "w2a8": ({"weights": 2}, "MatMulNBits", "u2"),
    "ternary": ({"weights": "ternary"}, "MatMulNBits", "u2"),
    "ternary, learned, groups of 64": ({"weights": "ternary", "step_sizes": "learned", "group": 64}, "MatMulNBits", None),
}
PRODUCTS = 2 * 6 + 1
"""Projections of two blocks and the pooler."""
CALLS = 2 * 4 + 1
"""The same where queries, keys and values of packed weights are one call."""


@cache
def student(name: str, folder: Path) -> tuple[Model, Path]:
    return trained(folder, epochs=1, **SCHEMES[name][0])[0], folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A student for each scheme, and its folder."""
    folder = tmp_path_factory.mktemp("schemes")
    return lambda name: student(name, folder / name.replace(" ", "-"))


@pytest.mark.parametrize("name", SCHEMES)
def test_onnxruntime_computes_what_was_trained_with_integer_kernels(made, name, tmp_path):
    (model, folder), target = made(name), OnnxRuntime()
    found, built = deployed(model, target, folder)
    assert_alike(found, outputs(model))
    target._session(built / "model.onnx", optimised=tmp_path / "optimised.onnx")
    kinds = Counter(node.op_type for node in nodes(tmp_path / "optimised.onnx"))
    kernel = SCHEMES[name][1]
    assert kinds[kernel] + kinds["QGemm"] == (CALLS if kernel == "MatMulNBits" else PRODUCTS), kinds
    assert kinds["Gemm"] == 1, "the classifier"
    assert not kinds["MatMul"]
    bits = model.edits[-1].weights.stored_bits
    assert target.open(built).facts()["precision"] == ("int8 + fp32" if kernel != "MatMulNBits" else f"int{bits} + fp32")
    assert not [line for line in target.diagnose(built) if "quantised and dequantised" in line]


@pytest.mark.parametrize("name", [name for name, (_, _, kernel) in SCHEMES.items() if kernel])
def test_openvino_computes_what_was_trained_with_integer_kernels(made, name):
    (model, folder), target = made(name), OpenVino()
    found, built = deployed(model, target, folder)
    assert_alike(found, outputs(model))
    ran = Counter(layers(target._compiled(built, Graph())))
    assert ran["FullyConnected", SCHEMES[name][2]] >= PRODUCTS - 1
    assert sum(count for (kind, precision), count in ran.items() if kind == "FullyConnected" and precision != "f32") == PRODUCTS
    assert ran["FullyConnected", "f32"] == 1, "the classifier"


def test_dialect_decides_how_activations_are_written(made, tmp_path):
    """Signed with zero point 0 or unsigned with 128, the same numbers: what a target has fast kernels for."""
    import onnx
    from onnx import numpy_helper

    made("w8a8")[0].save(tmp_path / "torch")
    points = {}
    for signedness, symmetric in (("unsigned", False), ("signed", True)):
        dialect = SimpleNamespace(opset=20, leaves=(), activations=signedness, symmetric_activations=symmetric)
        (tmp_path / signedness).mkdir()
        form = lowered(Artifact("torch", tmp_path / "torch"), "onnx", tmp_path / signedness, task=Task(), dialect=dialect)
        graph = onnx.load(form.path / "model.onnx").graph
        constants = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
        read = [node for node in graph.node if node.op_type == "QuantizeLinear"]
        points[signedness] = {constants[node.input[2]].dtype.name + str(constants[node.input[2]]) for node in read}
        weights = [
            constants[node.input[0]] for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in constants
        ]
        assert {each.dtype.name for each in weights} == {"int8", "int32"}  # the pooler's bias
    assert points == {"unsigned": {"uint8128"}, "signed": {"int80"}}


def test_zero_points_are_refused_where_a_target_takes_none(made, tmp_path):
    made("w8a8 with zero points")[0].save(tmp_path / "torch")
    dialect = SimpleNamespace(opset=20, leaves=(), activations="signed", symmetric_activations=True)
    with pytest.raises(UnsupportedModel, match="say symmetric_activations: true"):
        lowered(Artifact("torch", tmp_path / "torch"), "onnx", tmp_path, task=Task(), dialect=dialect)


@pytest.mark.parametrize(
    ("given", "said"), [({"activations": 16}, "no kernel has activations 16 bits"), ({"activations": 4}, "4 bits")]
)
def test_grids_without_a_kernel_are_trained_and_not_lowered(tmp_path, given, said):
    model, _ = trained(tmp_path, epochs=1, **given)
    assert np.isfinite(outputs(model)).all()
    with pytest.raises(UnsupportedModel, match=said):
        deployed(model, OnnxRuntime(), tmp_path)


def test_uneven_students_are_quantised_and_deployed(tmp_path):
    """As prune-structure and distill-and-prune leave them: a block without heads, one without neurons, odd widths."""
    source = wide(num_hidden_layers=3)
    source.apply(KeepHeads(block=f"{STACK}.0", heads=(0, 2, 3)))
    source.apply(KeepNeurons(block=f"{STACK}.0", neurons=tuple(range(0, 96, 2))))
    source.apply(KeepHeads(block=f"{STACK}.1", heads=()))
    source.apply(KeepNeurons(block=f"{STACK}.2", neurons=()))
    for given in ({}, {"weights": "ternary"}):
        folder = tmp_path / str(len(given))
        model, _ = trained(folder, source, epochs=1, **given)
        for target in (OnnxRuntime(), OpenVino()):
            assert_alike(deployed(model, target, folder)[0], outputs(model))


@pytest.mark.parametrize("task", ["image-classification", "audio-classification"])
def test_models_of_pictures_and_sounds_are_deployed_as_they_were_trained(task, tmp_path):
    kind = registry.load("task", task)
    run = run_of(task, kind.model_validate(dict(kind.examples[0])))
    (tmp_path / "scratch").mkdir()
    model = step(epochs=1).apply(run.model(), run.context(tmp_path / "scratch"))
    assert quantized_layers(model.module)
    model.save(tmp_path / "model")
    stored, target = StoredResult("", digest_of(tmp_path / "model"), tmp_path / "model", {}, 0.0, found=False), OnnxRuntime()
    made = run.builder.lower(stored, "torch", target.dialect.format, target)
    candidate, _ = run.builder.build(made, stage="final", name="checked", target=target, out=tmp_path / "built")
    rows, files = run.data.split("test"), run.source.path
    found, expected = (
        run.task.predicted(predict, rows, files)["logits"]
        for predict in (opened(run.task, target, candidate.built), eager(run.task, model, "cpu"))
    )
    assert_alike(found, expected)
    assert target.open(candidate.built).facts()["precision"] == "int8 + fp32"


# ------------------------------------------------------------------ training


def divergence(model: Model, source: Model) -> float:
    mine, theirs = (torch.from_numpy(outputs(each)) for each in (model, source))
    return torch.nn.functional.kl_div(mine.log_softmax(-1), theirs.log_softmax(-1), reduction="batchmean", log_target=True).item()


@pytest.mark.parametrize("weights", [2, "ternary"])
def test_training_brings_few_bits_nearer_to_the_teacher(tmp_path, weights):
    source = wide()
    ctx = context(tmp_path, source)
    one = step(weights=weights, epochs=20, learning_rate=3e-3, checkpoint="last")
    untrained = source.copy()
    one._quantise(untrained, ctx)
    model = one.apply(source, ctx)
    assert divergence(model, source) < 0.5 * divergence(untrained, source)
    assert not quantized_layers(source.module), "the input is left as it was"
    curves = next(note for note in ctx.notes if isinstance(note, Series)).curves
    assert set(curves) == {"soft-targets", "hidden-states"}


def test_learned_steps_move_and_fixed_ones_do_not(tmp_path):
    source = wide()
    ctx = context(tmp_path, source)
    started = source.copy()
    step(weights=4)._quantise(started, ctx)
    model = step(weights=4, step_rate=0.05).apply(source, ctx)
    for path, layer in quantized_layers(model.module).items():
        before = quantized_layers(started.module)[path].weight_quantizer.log_step
        assert (before is None) == ("embeddings" in path)
        assert before is None or not torch.equal(before, layer.weight_quantizer.log_step)


def test_pact_moves_where_activations_are_cut_and_is_deployed(tmp_path):
    model, ctx = trained(tmp_path, activation_steps="pact", step_rate=0.05)
    curves = next(note for note in ctx.notes if isinstance(note, Series)).curves
    assert set(curves) == {"soft-targets", "hidden-states", "clip decay"}
    assert curves["clip decay"][-1][1] < curves["clip decay"][0][1], (
        "at 8 bits next to nothing is cut off, and the decay has its way"
    )
    free, _ = trained(tmp_path / "free", activation_steps="pact", step_rate=0.05, clip_decay=0.0)
    first = f"{STACK}.0.intermediate.dense"
    reach = [quantized_layers(each.module)[first].input_quantizer.reach().item() for each in (model, free)]
    assert reach[0] < reach[1]
    assert_alike(deployed(model, OnnxRuntime(), tmp_path)[0], outputs(model))


def test_pact_is_for_the_stages_whose_steps_are_static(tmp_path):
    _, ctx = trained(tmp_path, epochs=2, weights=4, progressive=[8], activation_steps="pact")
    curves = [note.curves for note in ctx.notes if isinstance(note, Series) and note.title.startswith("Losses")]
    assert ["clip decay" in each for each in curves] == [True, False]


def test_equal_seeds_give_equal_bytes(tmp_path):
    for name in ("a", "b"):
        trained(tmp_path / name, weights="ternary")[0].save(tmp_path / name / "model")
    assert (tmp_path / "a" / "model" / "model.safetensors").read_bytes() == (
        tmp_path / "b" / "model" / "model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize("given", [{}, {"weights": 4}])
def test_padding_changes_neither_losses_nor_gradients(tmp_path, given):
    objectives = {
        "soft-targets": 1.0,
        "hidden-states": 1.0,
        "attention-maps": {"layers": "uniform"},
        "query-key-value-relations": 1.0,
    }
    source = wide()
    source.module.double()
    ctx, one = context(tmp_path, source), step(objectives=objectives, dropout=False, cache_teacher=False, **given)
    student = source.copy()
    one._quantise(student, ctx)
    teachers = one.taught_by(student, {"source": source.copy()}, ctx)
    found = []
    for padding in (0, 5):
        rows = SPLITS["train"][:6]
        batch = {
            name: torch.nn.functional.pad(torch.tensor(rows[name]), (0, padding)) for name in ("input_ids", "attention_mask")
        }
        batch["labels"] = torch.tensor(rows["labels"])
        student.module.zero_grad()
        losses = in_double(one, student, teachers, batch)
        sum(losses.values()).backward()
        gradients = {name: each.grad.clone() for name, each in student.module.named_parameters() if each.grad is not None}
        found.append((losses, gradients))
    (first, one_grad), (second, other_grad) = found
    for name in first:
        assert second[name].item() == pytest.approx(first[name].item(), rel=1e-12)
    for name, gradient in one_grad.items():
        noise = 1e-16 if name.endswith("key.bias") else 0.0  # a shift of all keys changes no map: what is left is rounding
        assert (other_grad[name] - gradient).abs().max() <= 1e-10 * gradient.abs().max() + noise, name


def in_double(one, student, teachers, batch):
    """The losses of a step without the way over float32."""
    from passes.distillation.losses import student_outputs

    mine = student_outputs(teachers, Task(), student.module, batch)
    (teacher,) = teachers
    theirs = teacher.outputs(Task(), batch, mine)
    return {each.name: each.objective.loss(each.projected(mine), theirs.chosen(each.teacher), batch) for each in teacher.lessons}


def test_ranges_are_those_of_valid_tokens():
    source, task = wide(), Task()
    paths = linear_layers(source.module, head=True, exclude=())[0]
    rows = SPLITS["calibration"][:8]
    batch = {name: torch.tensor(rows[name]) for name in ("input_ids", "attention_mask")}
    loud = {**batch, "input_ids": batch["input_ids"].clone()}
    loud["input_ids"][batch["attention_mask"] == 0] = 49
    source.module.bert.embeddings.word_embeddings.weight.data[49] *= 100
    padded = {name: torch.nn.functional.pad(each, (0, 4), value=0) for name, each in batch.items()}
    quiet, noisy, more = (passing(source.module, paths, [each], task, "cpu") for each in (batch, loud, padded))
    for path, seen in quiet.ranges.items():
        for other in (noisy.ranges[path], more.ranges[path]):
            assert (other.least, other.most, other.mean) == pytest.approx((seen.least, seen.most, seen.mean), rel=1e-5)
    read = [f"{STACK}.0.attention.self.{name}" for name in ("query", "key", "value")]
    assert tuple(read) in quiet.alike
    assert ("classifier",) in quiet.alike


# ------------------------------------------------------------------ what is quantised, and what is told


def test_layers_stay_in_float_for_a_reason_that_is_told(tmp_path):
    model, ctx = trained(tmp_path, exclude=("layer.1",), epochs=1)
    found = quantized_layers(model.module)
    assert not [path for path in found if "layer.1" in path or path == "classifier"]
    assert "bert.embeddings.word_embeddings" in found
    (told,) = [note.text for note in ctx.notes if isinstance(note, Remark) and note.text.startswith("In float")]
    assert "6 layers excluded" in told
    assert "1 layers of the head" in told
    table = next(note for note in ctx.notes if isinstance(note, Table) and note.title == "Quantised layers")
    assert [row[0] for row in table.rows] == [1, 7]
    assert [edit.kind for edit in model.edits] == ["quantize", "quantize"]
    quality = next(note for note in ctx.notes if isinstance(note, Table) and note.title == "accuracy on validation")
    assert [row[0] for row in quality.rows] == ["input, in float", "quantised, before training", "quantised, trained"]
    maps = next(note for note in ctx.notes if isinstance(note, Table) and note.title.startswith("Attention of the input model"))
    assert [row[0] for row in maps.rows] == ["0", "1"]
    assert all(value > 0 for row in maps.rows for value in row[1:])
    assert all(value <= 1 for row in maps.rows for value in row[3:])


def test_sensitivity_is_what_goes_away_when_a_layer_is_in_float(tmp_path):
    model, ctx = trained(tmp_path, epochs=1, weights=2, sensitivity=True)
    bars = next(note for note in ctx.notes if isinstance(note, Bars))
    assert set(bars.values) == set(quantized_layers(model.module))
    assert max(bars.values.values()) > 0
    assert all(low <= bars.values[path] <= high for path, (low, high) in bars.intervals.items())
    plain, _ = trained(tmp_path / "plain", epochs=1, weights=2)
    assert np.array_equal(outputs(model), outputs(plain)), "it leaves the student as it was"


def test_head_and_table_follow_their_options(tmp_path):
    model, _ = trained(tmp_path, head=True, embeddings="none", epochs=1)
    found = quantized_layers(model.module)
    assert "classifier" in found
    assert not [path for path in found if "embeddings" in path]
    assert trunk_of(model.module) == "bert"
    assert table_of(model.module) == ("bert.embeddings.word_embeddings", {})


def test_the_head_of_a_model_that_holds_half_a_trunk_is_known():
    from transformers import WhisperConfig, WhisperForAudioClassification

    sizes = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4, "encoder_ffn_dim": 64}
    model = WhisperForAudioClassification(WhisperConfig(**sizes, num_mel_bins=8, classifier_proj_size=16, num_labels=3))
    chosen, left = linear_layers(model, head=False, exclude=())
    assert len(chosen) == 6
    assert all(path.startswith("encoder.layers.0.") for path in chosen)
    assert {path: why.split()[0] for path, why in left.items()} == {
        "projector": "of",
        "classifier": "of",
    }
    assert {"projector", "classifier"} < set(linear_layers(model, head=True, exclude=())[0])
    assert trunk_of(model.encoder) == ""


def test_tied_head_and_table_are_rounded_together_or_not_at_all():
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64)
    model = Model.wrap(BertForMaskedLM(config).eval())
    table, head = "bert.embeddings.word_embeddings", "cls.predictions.decoder"
    for given, together in (({"head": True}, True), ({"head": True, "weights": 4}, True), ({}, False)):
        one = step(**given)
        chosen, left = linear_layers(model.module, head=one.head, exclude=())
        seen = Passing(first={path: path for path in chosen})
        found, readers = tied_together(model, seen, table, left, one)
        assert (found == table, readers == (head,)) == (together, together), given
        assert (left.get(table) is None) == together
        assert head not in Placement(seen, found, readers, left).alike, "its bits are not chosen"
    seen = Passing(first={path: path for path in linear_layers(model.module, head=True, exclude=())[0] if path != head})
    left = {}
    assert tied_together(model, seen, table, left, step(head=True)) == (None, ()), "its head was not called"
    assert set(left) == {table, head}


def test_one_matrix_of_several_tables_stays_in_float_and_is_called_that():
    from transformers import T5Config, T5EncoderModel

    module = T5EncoderModel(T5Config(vocab_size=50, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4)).eval()
    table, _ = table_of(module)
    readers, left = tied_to(module, table), {}
    assert tied_together(Model.wrap(module), Passing(), table, left, step(head=True)) == (None, ())
    assert left == dict.fromkeys((table, *readers), "of one matrix for several tables of words")


def test_attention_maps_of_one_row_at_a_time_are_held(tmp_path):
    """Those of all blocks and heads: of sixteen rows of a thousand tokens no memory has room for them."""
    held = []

    class Looked(Task):
        def forward(self, module, batch, want):
            outputs = super().forward(module, batch, want)
            held.append(sum(each.numel() for each in outputs.attention_maps.values()))
            return outputs

    source = wide()
    ctx = replace(context(tmp_path, source), task=Looked())
    found = maps_apart(source, source.copy(), ctx)
    assert {each.divergence for each in found.values()} == {0.0}
    assert max(held) <= 2 * 4 * LENGTH**2, "two blocks of four heads"


def test_layers_that_no_forward_pass_calls_stay_in_float(tmp_path):
    """WavLM's attention reads the weights of its projections itself."""
    from families import MORE

    tiny = MORE["wavlm"]
    module = tiny.make()
    paths = linear_layers(module, head=True, exclude=())[0]
    found = passing(module, paths, [tiny.inputs()], Task(), "cpu")
    missed = set(paths) - set(found.first)
    assert missed
    assert all("attention" in path for path in missed)


def test_quantised_input_is_refused(tmp_path):
    model, ctx = trained(tmp_path, epochs=1)
    with pytest.raises(UnsupportedModel, match="no layer of this model can be quantised"):
        step().apply(model, ctx)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"group": 64}, "nothing would heed group, as no step is for a group"),
        ({"activations": "none", "ranges": "static"}, "nothing would heed ranges"),
        ({"ranges": "dynamic", "symmetric_activations": False}, "nothing would heed symmetric_activations"),
        ({"weights": 4, "calibration": 3}, "nothing would heed calibration"),
        ({"weights": 4, "activation_steps": "pact"}, "nothing would heed activation_steps"),
        ({"clip_decay": 0.1}, "nothing would heed clip_decay"),
        ({"float16_steps": True}, "nothing would heed float16_steps"),
        ({"weights": "ternary", "step_sizes": "max"}, "ternary weights have steps"),
        ({"symmetric_weights": False, "step_sizes": "learned"}, "has steps: max"),
        ({"compile": True}, "compile: true"),
        ({"weights": 5}, "weights"),
    ],
)
def test_parameters_that_do_not_go_together_are_refused(given, said):
    with pytest.raises(ValidationError, match=said):
        step(**given)


def test_coverage_is_the_share_of_the_teachers_first_keys():
    teacher = torch.tensor([0.4, 0.3, 0.2, 0.06, 0.03, 0.01]).expand(1, 1, 1, 6)
    student = torch.tensor([0.4, 0.3, 0.01, 0.06, 0.03, 0.2]).expand(1, 1, 1, 6)
    assert coverage(student, teacher).item() == pytest.approx(4 / 5)
    assert coverage(teacher, teacher).item() == 1
    maps = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1]])
    assert coverage(maps, maps, mask).item() == 1
    assert coverage(maps, maps.flip(-1), mask).item() < 1


# ------------------------------------------------------------------ killed

CASES = {
    "plain": ({"weights": 4}, "distill and quantize", 14, 27),
    "block by block": ({"weights": 4, "block_wise": 40}, "block bert.encoder.layer.1", 2, 5),
    "in stages": ({"weights": 4, "progressive": [8]}, "distill and quantize", 4, 13),
}
"""Settings, in which training the process dies, after which step, and of how many."""


def dying(folder: Path, case: str, hang: Callable[[], None]) -> None:
    tell, (settings, work, death, _) = Context.tell, CASES[case]

    def heard(ctx, event):
        tell(ctx, event)
        if isinstance(event, Progress) and (event.work, event.done) == (work, death + 1):
            hang()

    Context.tell = heard
    trained(folder, **settings)


@pytest.mark.parametrize("case", CASES)
def test_killed_training_ends_with_the_bytes_of_one_that_was_not(tmp_path, case):
    settings, work, death, total = CASES[case]
    stand_ins = Path(__file__).parents[2] / "stand_ins"
    environment = {**os.environ, INTERVAL: "0", "PYTHONPATH": str(stand_ins)}
    command = [sys.executable, __file__, str(tmp_path / "killed"), case]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    resumed, again = trained(tmp_path / "killed", **settings)
    unbroken, once = trained(tmp_path / "unbroken", **settings)
    resumed.save(tmp_path / "a")
    unbroken.save(tmp_path / "b")
    for name in ("model.safetensors", "blueprint.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert again.notes == once.notes
    said = [event.text for event in again.events if isinstance(event, Message) and "goes on" in event.text]
    assert said[-1] == f"{work}: goes on at step {death} of {total}"
    assert len(said) == {"plain": 1}.get(case, 2), "what was over before is not done again"


def test_static_quantisers_have_their_state_in_the_model(tmp_path):
    model, _ = trained(tmp_path, epochs=1)
    inputs = [part for part in model.module.modules() if isinstance(part, InputQuantizer)]
    names = [name for name in model.module.state_dict() if name.endswith("input_quantizer.log_step")]
    assert len(inputs) == 2 * 4 + 1
    assert len(names) == PRODUCTS


if __name__ == "__main__":
    torch.set_num_threads(1)
    deaths.killed(partial(dying, Path(sys.argv[1]), sys.argv[2]))
