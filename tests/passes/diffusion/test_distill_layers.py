"""Fewer blocks where there is more noise, from a plan: before and after fewer steps, exported with one file of weights, killed and gone on."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch
from deaths import killed
from furnished import command, lowered
from pydantic import ValidationError

from compressor.contracts import Artifact, Progress
from compressor.deploy.build import beside
from compressor.deploy.graphs import describe
from compressor.errors import PlanError, UnsupportedModel
from compressor.model import Model
from compressor.model.dit import DiT
from compressor.model.edits import KeepNeurons
from compressor.plan.bound import load_plan
from compressor.report import read_report
from compressor.store.store import digest_of
from compressor.tasks.generation.description import FILE, described
from compressor.tasks.generation.image_generation import ImageGeneration
from compressor.tasks.generation.process import Process
from compressor.tasks.generation.samplers import Sampling
from compressor.tasks.inputs.sampling import COLUMNS
from compressor.testing.tiny import run_of
from passes.diffusion.distill_layers import DistillLayers, sampled
from passes.diffusion.distill_steps import DistillSteps
from passes.quantization.quantize_static import QuantizeStatic
from passes.side_files import carry_side_files
from targets.onnx_files import bytes_by_part_of
from targets.onnxruntime import OnnxRuntime
from targets.openvino import OpenVino

NAME = "image-generation"
QUICK = {"steps": 3, "batch_size": 8, "precision": "fp32", "validations": 1, "learning_rate": 1e-3, "attention": "sdpa"}
HALVES = {**QUICK, "depths": [1, 0.5]}
STEP = "steps: 3, batch_size: 8, precision: fp32, attention: sdpa"
LAYERS = f"  - distill-layers: {{depths: [1, 0.5], {STEP}}}\n"
STEPS = f"  - distill-steps: {{teacher: source, method: shortcut, to: [4], {STEP}}}\n"
ORDERS = {
    "layers, then steps": LAYERS + STEPS,
    "steps, then layers": STEPS + LAYERS.replace("depths", "teacher: distill-steps, depths"),
}
PLAN = """
name: layers
stages: quality
model: {folder: pretrained}
task:
  image-generation: {steps: 4}
data: {files: images, format: imagefolder, split: {validation: 12, test: 12}, calibration: 8}
passes:
PASSEStargets:
  - onnxruntime: {}
"""


@pytest.fixture(scope="module")
def run():
    return run_of(NAME, ImageGeneration(steps=4))


def planned(folder, passes):
    ImageGeneration().tiny(folder)
    (folder / "plan.yaml").write_text(PLAN.replace("PASSES", passes), encoding="utf-8")
    return folder


@pytest.mark.parametrize("order", ORDERS)
def test_both_orders_are_legal_and_export_a_graph_for_each_number_of_blocks(tmp_path, order):
    """Both graphs have the weights of one file; the example asks them as the run did, and draws the same pictures."""
    command(planned(tmp_path, ORDERS[order]), "run", "plan.yaml", "--out", "run")
    report = read_report(tmp_path / "run")
    final, source = (described(tmp_path / "run" / "artifacts" / f"{each}@onnxruntime") for each in ("final", "source"))
    assert (final.depths, final.spans, final.evaluations, source.depths) == ((2, 1), True, 4, ())
    assert final.table()[:, COLUMNS.index("blocks")].tolist() == [1, 1, 1, 0]  # a time between two bins is of the noisier one
    texts = [note.text for stage in report.stages for note in stage.notes if hasattr(note, "text")]
    assert any("in its 4 evaluations a mean of 1.25" in text for text in texts)
    out = tmp_path / "out"
    command(tmp_path, "export", "run", str(out), "--target", "onnxruntime")
    assert "what the run did" in (out / "README.md").read_text()
    spec = json.loads((out / "spec.json").read_text())
    assert {each["name"]: each["file"] for each in spec["graphs"]} == {"model": "model.onnx", "model-1": "model-1.onnx"}
    built = tmp_path / "run" / "artifacts" / "final@onnxruntime"
    most, fewer = (sum(bytes_by_part_of(built / f"{name}.onnx", set()).values()) for name in ("model", "model-1"))
    counted = sum(OnnxRuntime().layer_bytes(built).values())
    assert most <= counted < most + 0.1 * fewer  # what both graphs have counts and lies there once
    assert (out / "weights.onnx.data").stat().st_size < counted * 1.1


@pytest.mark.parametrize("step", ["quantize-static: {calibration: 8}", "quantize-dynamic"])
def test_each_graph_is_quantised_and_weights_stay_in_one_file(tmp_path, step):
    """By ranges of its own levels; a layer that both have lies there once, in int8, and exports draw what the run drew."""
    plan = planned(tmp_path, f"{LAYERS}  - {step}\n") / "plan.yaml"
    plan.write_text(plan.read_text() + "  - openvino: {}\n", encoding="utf-8")
    torch.manual_seed(0)
    Model.wrap(DiT(16, 3, 3, patch=8, width=64, heads=2, blocks=2)).save(tmp_path / "pretrained")
    command(tmp_path, "run", "plan.yaml", "--out", "run")
    report = read_report(tmp_path / "run")
    kinds = {"onnxruntime": OnnxRuntime(), "openvino": OpenVino()}
    for name, target in kinds.items():
        final, source = (
            next(each for each in report.candidates if each.id == f"{stage}@{name}") for stage in ("final", "source")
        )
        built = tmp_path / "run" / "artifacts" / final.id
        assert "int8" in final.facts["precision"] or "dynamic" in step
        assert final.parity.cosine > 0.9
        assert [path.name for path in built.glob("*.bin")] == (["openvino_model.bin"] if name == "openvino" else [])
        mine, theirs = (_of_blocks(target.layer_bytes(built.with_name(each.id))) for each in (final, source))
        assert mine < 0.4 * theirs  # of both graphs together
        command(tmp_path, "export", "run", str(tmp_path / name), "--target", name)
        assert "what the run did" in (tmp_path / name / "README.md").read_text()


def _of_blocks(sizes):
    return sum(size for part, size in sizes.items() if part.startswith("blocks."))


@pytest.mark.parametrize("target", [OnnxRuntime(), OpenVino()], ids=lambda target: type(target).__name__)
def test_each_graph_runs_as_many_blocks_as_its_name_says(run, tmp_path, target):
    student = DistillLayers.model_validate(HALVES)._student(run.model(), seed=0)
    torch.nn.init.normal_(student.module.budget[2].weight)
    student.save(tmp_path / "torch")
    source, form = Artifact("torch", tmp_path / "torch"), target.dialect.format
    made = lowered(source, form, tmp_path / "formats", task=run.task, dialect=target.dialect)
    built, graphs = tmp_path / "built", run.task.graphs(tmp_path / "torch")
    built.mkdir()
    target.build(made, built, graphs=graphs)
    beside(tmp_path / "torch", built)
    describe(built, run.task, NAME, run.data.labels)
    session = target.open(built)
    given = run.task.example(tmp_path / "torch", graphs[0], batch=3, length=1)
    for graph, blocks in zip(graphs, (2, 1), strict=True):
        with torch.no_grad():
            wanted = student.module(**{name: torch.from_numpy(each) for name, each in given.items()}, blocks=blocks)
        np.testing.assert_allclose(session.run(given, graph=graph.name)[0]["predicted"], wanted, rtol=1e-3, atol=1e-4)


def test_graphs_for_tensorrt_hold_nothing_that_it_refuses(run, tmp_path):
    """Of several graphs, quantised: signed bytes, zero points of 0, standard operators. It is not run: there is none here."""
    target = OnnxRuntime(provider="tensorrt")
    student = DistillLayers.model_validate(HALVES)._student(run.model(), seed=0)
    student.save(tmp_path / "torch")
    made = lowered(
        Artifact("torch", tmp_path / "torch"), "onnxruntime", tmp_path / "formats", task=run.task, dialect=target.own_dialect()
    )
    int8 = QuantizeStatic(calibration=8, levels=False).apply(made, run.context(tmp_path / "scratch", target=target))
    assert not QuantizeStatic().refuses(target.own_dialect())
    (built := tmp_path / "built").mkdir()
    target.build(int8, built, graphs=run.task.graphs(tmp_path / "torch"))
    for name in ("model", "model-1"):
        graph = onnx.load(built / f"{name}.onnx").graph
        assert {node.domain for node in graph.node} == {""}
        points = [each for each in graph.initializer if each.name.endswith("_zero_point")]
        assert points
        assert all(each.data_type == onnx.TensorProto.INT8 for each in points)
        assert not any(onnx.numpy_helper.to_array(each).any() for each in points)


def test_a_student_begins_as_its_source_with_all_blocks(run):
    model = run.model()
    student = DistillLayers.model_validate(HALVES)._student(model, seed=0)
    assert [edit.kind for edit in student.edits] == ["schedule-depth"]
    given = {"sample": torch.randn(2, 3, 16, 16), "time": torch.tensor([900.0, 10.0]), "label": torch.tensor([0, 2])}
    with torch.no_grad():
        whole, whatever = student.module(**given, blocks=2), student.module(**given)
        torch.testing.assert_close(whole, model.module(**given))
    torch.testing.assert_close(whole[1], whatever[1])
    assert not torch.allclose(whole[0], whatever[0])


def test_losses_are_of_rows_and_of_its_own_full_depth(run):
    """Where every row runs all blocks, the student tells what its full depth does."""
    step = DistillLayers.model_validate(HALVES)
    student = step._student(run.model(), seed=0)
    (batch, *_) = run.task.batches(run.data.split("train"), run.source.path, batch_size=16)
    found = step.losses(student, None, batch, run.task)
    assert set(found) == {"rows", "self-teacher"}
    assert found["self-teacher"] > 0
    whole = DistillLayers.model_validate({**HALVES, "full": 1 - 1e-9}).losses(student, None, batch, run.task)
    assert whole["self-teacher"] < 1e-10
    assert set(DistillLayers.model_validate({**HALVES, "method": "ase"}).losses(student, None, batch, run.task)) == {"rows"}


def test_a_teacher_is_asked_at_the_times_and_spans_at_which_the_student_is_sampled(run):
    how = described(run.model()).model_copy(update={"spans": True, "sampling": Sampling(sampler="ddim", steps=4)})
    rows = torch.ones(64, 3, 16, 16)
    found = sampled(how, rows, torch.zeros(64, dtype=torch.long), torch.zeros_like(rows))
    assert set(found["time"].tolist()) == {1000.0, 750.0, 500.0, 250.0}
    assert set(found["span"].tolist()) == {250.0}
    torch.testing.assert_close(found["sample"][:, 0, 0, 0], 1 - found["time"] / 1000)
    step = DistillLayers.model_validate({**HALVES, "teacher": "source"})
    student = step._student(run.model(), seed=0)
    (batch, *_) = run.task.batches(run.data.split("train"), run.source.path, batch_size=16)
    assert set(step.losses(student, run.model(), batch, run.task)) == {"teacher", "self-teacher"}


@pytest.mark.parametrize(
    "given",
    [HALVES, {**HALVES, "method": "ase"}, {**QUICK, "method": "constant", "depths": [0.5]}],
    ids=["presto", "ase", "constant"],
)
def test_what_a_teacher_tells_is_learned(given, run, tmp_path):
    """Its error has a gradient, for the student alone, and falls."""
    step = DistillLayers.model_validate({**given, "teacher": "source", "steps": 40, "learning_rate": 3e-3})
    student, teacher = step._student(run.model(), seed=0), run.model()
    (batch, *_) = run.task.batches(run.data.split("train"), run.source.path, batch_size=16)
    step.losses(student, teacher, batch, run.task)["teacher"].backward()
    assert any(each.grad is not None and each.grad.abs().max() > 0 for each in student.module.parameters())
    assert all(each.grad is None for each in teacher.module.parameters())
    context = run.context(tmp_path)
    step.apply(run.model(), context)
    (curve,) = (note.curves["teacher"] for note in context.notes if "teacher" in getattr(note, "curves", {}))
    losses = [loss for _, loss in curve]
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:3])


def test_constant_depth_takes_blocks_out(run, tmp_path):
    step = DistillLayers.model_validate({**QUICK, "method": "constant", "depths": [0.5]})
    student = step.apply(run.model(), run.context(tmp_path))
    assert (len(student.module.blocks), described(student).depths) == (1, ())
    assert student.weights < run.model().weights


def test_last_blocks_are_those_that_stay(run):
    model = run.model()
    for keep_last, stays in ((0, 0), (1, 1)):
        step = DistillLayers.model_validate({**QUICK, "method": "constant", "depths": [0.5], "keep_last": keep_last})
        found = step._student(model, seed=0).module.blocks[0].up.weight
        assert torch.equal(found, model.module.blocks[stays].up.weight)


@pytest.mark.parametrize("pruned", ["before", "after"])
def test_a_pruned_network_runs_fewer_blocks_too(run, tmp_path, pruned):
    model, edit = run.model(), KeepNeurons(block="blocks.0", neurons=tuple(range(16)))
    if pruned == "before":
        model.apply(edit)
    student = DistillLayers.model_validate(HALVES).apply(model, run.context(tmp_path))
    if pruned == "after":
        student.apply(edit)
    student.save(tmp_path / "student")
    loaded = Model.load(tmp_path / "student")
    assert (loaded.module.depths, loaded.module.keep_last, described(loaded).depths) == ((2, 1), 1, (2, 1))
    given = {"sample": torch.randn(2, 3, 16, 16), "time": torch.tensor([900.0, 10.0]), "label": torch.tensor([0, 2])}
    assert torch.equal(loaded.module(**given), student.module(**given))


def test_a_killed_training_ends_with_the_same_bytes(run, tmp_path, monkeypatch):
    from compressor.training.checkpoint import INTERVAL

    monkeypatch.setenv(INTERVAL, "0")
    step = DistillLayers.model_validate({**HALVES, "steps": 6})

    def applied(folder, tell=lambda _: None):
        folder.mkdir(exist_ok=True)
        return step.apply(run.model(), run.context(folder, tell=tell))

    def dying(hang):
        def heard(event):
            if isinstance(event, Progress) and event.work == "distill-layers" and event.done == 4:
                hang()

        applied(tmp_path / "killed", heard)

    killed(dying)
    told_of = []
    applied(tmp_path / "killed", told_of.append).save(tmp_path / "one")
    applied(tmp_path / "whole").save(tmp_path / "other")
    steps = [event.done for event in told_of if isinstance(event, Progress) and event.work == "distill-layers"]
    assert steps[0] >= 4
    assert digest_of(tmp_path / "one") == digest_of(tmp_path / "other")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"method": "ase", "keep_last": 2}, "keep_last is of presto and constant, not of ase"),
        ({"method": "constant", "depths": [0.5], "full": 0.5}, "full is of presto, not of constant"),
        ({"method": "constant"}, "constant has one, the same at all levels"),
        ({"depths": [1.5]}, "less than or equal to 1"),
    ],
)
def test_faults_of_a_plan(given, said):
    with pytest.raises(ValidationError, match=said):
        DistillLayers.model_validate(given)


def test_what_has_no_times_or_too_few_blocks_is_refused(run, tmp_path):
    model = run.model()
    how = described(model)
    model.files[FILE] = how.model_copy(update={"process": Process(kind="edm", prediction="edm")}).written()
    model.save(tmp_path / "edm")
    with pytest.raises(UnsupportedModel, match="the model is of edm"):
        DistillLayers().check(tmp_path / "edm", {})
    for given, said in (
        ({"keep_last": 2}, "keep_last: 2: of 2 blocks as few as 1 run"),
        ({"depths": [1, 0.9]}, "all run at all times"),
    ):
        step = DistillLayers.model_validate({**HALVES, **given})
        for refused in (lambda step=step: step._student(run.model(), seed=0), lambda step=step: step.check(run.source.path, {})):
            with pytest.raises(UnsupportedModel, match=said):
                refused()
    student = DistillLayers.model_validate(HALVES)._student(run.model(), seed=0)
    student.save(tmp_path / "student")
    with pytest.raises(UnsupportedModel, match="one distill-layers is enough"):
        DistillLayers().check(tmp_path / "student", {})
    spans = how.model_copy(update={"spans": True})
    (tmp_path / "spans").mkdir()
    (tmp_path / "spans" / FILE).write_bytes(spans.written())
    with pytest.raises(UnsupportedModel, match="rows do not say what a network is to tell of long steps"):
        DistillLayers().check(tmp_path / "spans", {})
    with pytest.raises(UnsupportedModel, match="is told other numbers than the student"):
        DistillLayers(teacher="other").check(run.source.path, {"other": tmp_path / "spans"})


def test_what_rows_do_not_say_is_learned_from_whoever_taught_it(run, tmp_path):
    """Long steps, whether a network is told of them or not, and guidance that is folded."""
    student = DistillSteps.model_validate({**QUICK, "teacher": "source", "to": [2]}).apply(run.model(), run.context(tmp_path))
    folded = run.model()
    folded.files[FILE] = described(folded).model_copy(update={"scales": True}).written()
    for model, teacher, said in (
        (student, None, "tell of long steps: name the step that taught it that"),
        (student, "source", "which teacher source was not taught"),
        (folded, None, "tell of guidance: name the step that taught it that"),
    ):
        with pytest.raises(UnsupportedModel, match=said):
            DistillLayers.model_validate({**HALVES, "teacher": teacher}).apply(model, run.context(tmp_path))


def test_quantisers_of_one_graph_refuse_several(tmp_path):
    """In a plan before anything is trained; a source that is such a model when its graphs are there."""
    quantised = "  - quantize-weights: {bits: 8}\n"
    plan = planned(tmp_path, LAYERS + quantised) / "plan.yaml"
    with pytest.raises(PlanError, match=r"quantize-weights: quantises one graph, and what 'distill-layers' made becomes several"):
        load_plan(plan)
    plan.write_text(PLAN.replace("PASSES", LAYERS.replace("[1, 0.5]", "[0.5]") + quantised), encoding="utf-8")
    load_plan(plan)
    for name in ("model", "model-1"):
        (tmp_path / f"{name}.onnx").touch()
    with pytest.raises(UnsupportedModel, match=r"the model has several graphs \(model, model-1\)"):
        carry_side_files(tmp_path, tmp_path / "out")
