"""Fewer steps from a plan: rounds, products, what is refused, and a training that is killed and goes on."""

from __future__ import annotations

import pytest
import torch
from deaths import killed
from furnished import command
from pydantic import ValidationError

from compressor.contracts import Progress
from compressor.errors import UnsupportedModel
from compressor.model import Model
from compressor.model.dit import DiT
from compressor.report import read_report
from compressor.store.store import digest_of
from compressor.tasks.generation.description import FILE, described
from compressor.tasks.generation.image_generation import ImageGeneration
from compressor.tasks.generation.process import Process
from compressor.testing.tiny import run_of
from compressor.training.checkpoint import INTERVAL
from passes.diffusion.bootstrap import METHODS
from passes.diffusion.distill_guidance import DistillGuidance
from passes.diffusion.distill_steps import DistillSteps

NAME = "image-generation"
QUICK = {"steps": 3, "batch_size": 8, "precision": "fp32", "validations": 1, "learning_rate": 1e-3, "attention": "sdpa"}
PLAN = """
name: steps
stages: quality
model: {folder: pretrained}
task:
  image-generation: {steps: 4, guidance: 2.0}
data: {files: images, format: imagefolder, split: {validation: 12, test: 12}, calibration: 8}
passes:
  - distill-steps: {teacher: source, method: METHOD, to: [2, 1], steps: 3, batch_size: 8, precision: fp32, attention: sdpa}
targets:
  - onnxruntime: {}
probes:
  - latency: {rounds: 5, seconds: 1, warm_up_seconds: 0.05, control_limit: 0.9}
"""


@pytest.fixture(scope="module")
def run():
    return run_of(NAME, ImageGeneration(steps=4, guidance=2.0))


@pytest.mark.parametrize("method", ["progressive", "shortcut", "dmd"])
def test_plan_makes_a_student_for_each_number_of_steps(run, tmp_path, method):
    ImageGeneration().tiny(tmp_path)
    asked = "dmd, matching: {fake_updates: 1}" if method == "dmd" else method
    (tmp_path / "plan.yaml").write_text(PLAN.replace("METHOD", asked), encoding="utf-8")
    command(tmp_path, "run", "plan.yaml", "--out", "run")
    report = read_report(tmp_path / "run")
    assert [stage.name for stage in report.stages] == ["source", "distill-steps", "distill-steps.steps-2"]
    final = described(tmp_path / "run" / "artifacts" / "final@onnxruntime")
    assert (final.sampling.steps, final.sampling.guidance, final.sampling.sampler, final.spans) == (
        1,
        1,
        "consistency" if method == "dmd" else "ddim",
        method == "shortcut",
    )
    source = described(tmp_path / "run" / "artifacts" / "source@onnxruntime")
    assert (source.evaluations, final.evaluations) == (8, 1)
    notes = [getattr(note, "text", "") for note in report.stages[1].notes]
    assert "The student draws in 1 evaluations a picture, the teacher in 8." in notes or method == "progressive"
    (record,) = report.probes
    medians = {row.candidate: row.median_ms for row in record.rows}
    assert medians["final@onnxruntime"] < medians["source@onnxruntime"]
    out = tmp_path / "out"
    command(tmp_path, "export", "run", str(out), "--target", "onnxruntime")
    assert "what the run did" in (out / "README.md").read_text()


def test_each_round_of_progressive_is_taught_by_the_one_before(run, tmp_path):
    """The second round starts from the product of the first; both know which steps they are for."""
    step = DistillSteps.model_validate({**QUICK, "teacher": "source", "to": [2, 1]})
    assert step.needs().products == ("steps-2",)
    ctx = run.context(tmp_path)
    object.__setattr__(ctx, "produces", step.needs().products)
    student = step.apply(run.model(), ctx)
    first = ctx.products["steps-2"]
    assert (described(first).sampling.steps, described(student).sampling.steps) == (2, 1)
    different = [
        not torch.equal(one, two) for one, two in zip(first.module.parameters(), student.module.parameters(), strict=True)
    ]
    assert any(different)
    titles = [note.title for note in ctx.notes if hasattr(note, "title")]
    assert [title for title in titles if title.startswith("Loss")] == ["Losses to 2 steps (fp32)", "Losses to 1 steps (fp32)"]


def test_rounds_of_progressive_see_rows_in_orders_of_their_own_and_draw_other_times(run, tmp_path, monkeypatch):
    seen = []
    lesson = METHODS["progressive"]

    def kept(pair, rows, noise, label):
        seen.append((pair.steps, rows.flatten(1)[:, 0].tolist(), torch.get_rng_state()))
        return lesson(pair, rows, noise, label)

    monkeypatch.setitem(METHODS, "progressive", kept)
    step = DistillSteps.model_validate({**QUICK, "teacher": "source", "to": [4, 2, 1]})
    ctx = run.context(tmp_path)
    object.__setattr__(ctx, "produces", step.needs().products)
    step.apply(run.model(), ctx)
    rounds = {steps: [row for each, rows, _ in seen if each == steps for row in rows] for steps in (4, 2, 1)}
    assert len({tuple(rows) for rows in rounds.values()}) == 3
    assert len({tuple(state.tolist()) for _, _, state in seen}) == len(seen) == 9


def test_guidance_is_kept_where_that_is_wanted(run, tmp_path):
    student = DistillSteps.model_validate({**QUICK, "teacher": "source", "to": [2], "guidance": "kept"}).apply(
        run.model(), run.context(tmp_path)
    )
    assert described(student).sampling.guidance == 2.0
    assert described(student).evaluations == 4


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"to": [2, 4]}, "most first"),
        ({"to": [8, 2]}, "halves the steps"),
        ({"to": [6], "method": "shortcut"}, "steps of 1, 2, 4, 8"),
        ({"to": [16], "method": "shortcut", "levels": 7}, "shorter than 1 / 8 are not learned"),
        ({"levels": 8}, "levels is of consistency, shortcut and boot, not of progressive"),
        ({"share": 0.5, "method": "consistency"}, "share is of shortcut and meanflow, not of consistency"),
        ({"guidance": "kept", "scale": 2.0}, "leave it out"),
        ({"matching": {"gan": 0}}, "matching is of dmd, not of progressive"),
        ({"method": "dmd", "compile": True}, "cannot be compiled"),
        ({"method": "boot", "steps": 3}, r"boot draws in one step: say to: \[1\]"),
        ({"method": "boot", "to": [1]}, "no epochs to count: say steps"),
        ({"method": "boot", "to": [1], "steps": 3, "guidance": "kept"}, "it is folded"),
    ],
)
def test_faults_of_a_plan(given, said):
    with pytest.raises(ValidationError, match=said):
        DistillSteps.model_validate({"teacher": "source", **given})


@pytest.mark.parametrize("given", DistillSteps.examples)
def test_what_a_store_writes_down_is_read_again(given):
    step = DistillSteps.model_validate(given)
    assert DistillSteps.model_validate_json(step.model_dump_json()) == step


def test_processes_without_time_in_the_unit_interval_are_refused(run, tmp_path):
    model = run.model()
    how = described(model)
    model.files[FILE] = how.model_copy(update={"process": Process(kind="edm", prediction="edm")}).written()
    (tmp_path / "models").mkdir()
    model.save(tmp_path / "models" / "edm")
    step = DistillSteps(teacher="source")
    with pytest.raises(UnsupportedModel, match="edm and tells edm"):
        step.check(tmp_path / "models" / "edm", {"source": tmp_path / "models" / "edm"})
    with pytest.raises(UnsupportedModel, match="draws by another process"):
        step.check(run.source.path, {"source": tmp_path / "models" / "edm"})
    cosine = Process(kind="cosine", prediction="v")
    model.files[FILE] = how.model_copy(update={"process": cosine}).written()
    model.save(tmp_path / "models" / "cosine")
    step.check(tmp_path / "models" / "cosine", {"source": tmp_path / "models" / "cosine"})
    with pytest.raises(UnsupportedModel, match="meanflow needs"):
        DistillSteps(teacher="source", method="meanflow").check(
            tmp_path / "models" / "cosine", {"source": tmp_path / "models" / "cosine"}
        )


def test_a_teacher_without_a_label_that_says_nothing_is_not_guided(run, tmp_path):
    """Any other label would be taken for it."""
    model = run.model()
    model.files[FILE] = described(model).model_copy(update={"empty": None}).written()
    model.save(tmp_path / "labels")
    given = (tmp_path / "labels", {"source": tmp_path / "labels"})
    with pytest.raises(UnsupportedModel, match="scale: 2: teacher source has no label that says nothing"):
        DistillSteps(teacher="source", scale=2).check(*given)
    DistillSteps(teacher="source", scale=1).check(*given)


def test_student_and_teacher_have_to_know_the_same_labels(run, tmp_path):
    """A teacher of other classes would be asked for pictures of the wrong ones, or for none that it knows."""
    how = described(run.model())

    def beside(name, **changed):
        (tmp_path / name).mkdir()
        (tmp_path / name / FILE).write_bytes(how.model_copy(update=changed).written())
        return tmp_path / name

    none, unguided, scaled, spans = (
        beside("none", classes=0),
        beside("unguided", empty=None),
        beside("scaled", scales=True),
        beside("spans", spans=True),
    )
    kept = DistillSteps(teacher="other", guidance="kept")
    for step, student, teacher, said in (
        (DistillSteps(teacher="other"), run.source.path, none, "teacher other knows 0 classes, the student 3"),
        (DistillGuidance(teacher="other"), none, run.source.path, "teacher other knows 3 classes, the student 0"),
        (kept, run.source.path, unguided, "nothing is 3, that of teacher other None"),
        (kept, scaled, run.source.path, "takes one evaluation: leave `kept` out"),
        (DistillGuidance(teacher="other"), spans, run.source.path, "fold it before"),
    ):
        with pytest.raises(UnsupportedModel, match=said):
            step.check(student, {"other": teacher})
    DistillSteps(teacher="other").check(unguided, {"other": run.source.path})


def test_a_model_that_does_not_draw_is_refused(run, tmp_path):
    model = Model.wrap(DiT(16, 3, 3, patch=8, width=8, heads=1, blocks=1))
    with pytest.raises(UnsupportedModel, match="DiT is no network that draws from noise"):
        DistillSteps(teacher="source").apply(model, run.context(tmp_path))


def applied(run, step, folder, tell=lambda _: None):
    folder.mkdir(exist_ok=True)
    ctx = run.context(folder, tell=tell)
    object.__setattr__(ctx, "produces", step.needs().products)
    return step.apply(run.model(), ctx), ctx


def resumed(run, step, folder, *, work, at):
    """Killed after a step of a training, and gone on: all that was told afterwards, and both models saved."""

    def dying(hang):
        def heard(event):
            if isinstance(event, Progress) and event.work == work and event.done == at:
                hang()

        applied(run, step, folder / "killed", heard)

    killed(dying)
    told = []
    again, ctx = applied(run, step, folder / "killed", told.append)
    again.save(folder / "one")
    whole, other = applied(run, step, folder / "whole")
    whole.save(folder / "other")
    assert ctx.notes == other.notes
    return told


def test_a_killed_training_ends_with_the_same_bytes(run, tmp_path, monkeypatch):
    """In the second of two rounds: neither is computed again from its start."""
    monkeypatch.setenv(INTERVAL, "0")
    step = DistillSteps.model_validate({**QUICK, "teacher": "source", "to": [2, 1], "steps": 6})
    told = resumed(run, step, tmp_path, work="distill-to-1", at=4)
    steps = [event.done for event in told if isinstance(event, Progress) and event.work == "distill-to-1"]
    assert steps[0] >= 4
    assert not [event for event in told if isinstance(event, Progress) and event.work == "distill-to-2"]
    assert digest_of(tmp_path / "one") == digest_of(tmp_path / "other")


@pytest.mark.parametrize(
    "given", [{"method": "dmd", "to": [2], "matching": {"fake_updates": 2}}, {"method": "boot", "to": [1], "levels": 4}]
)
def test_a_killed_training_of_other_batches_ends_with_the_same_bytes(run, tmp_path, monkeypatch, given):
    """Within a rhythm of two steps of the fake network to one of the student; in an epoch that has no end. The average goes on too."""
    monkeypatch.setenv(INTERVAL, "0")
    step = DistillSteps.model_validate({**QUICK, "teacher": "source", "steps": 8, "ema": 0.5, **given})
    work = f"distill-to-{step.to[-1]}"
    told = resumed(run, step, tmp_path, work=work, at=5)
    assert len([event for event in told if isinstance(event, Progress) and event.work == work]) <= 4
    assert digest_of(tmp_path / "one") == digest_of(tmp_path / "other")


def test_matching_takes_turns_and_keeps_an_average(run, tmp_path):
    """Five steps of the fake network and its judge, then one of the student, by which alone it changes."""
    given = {"method": "dmd", "to": [4, 1], "steps": 12, "ema": None, "learning_rate": 1e-2}
    step = DistillSteps.model_validate({**QUICK, "teacher": "source", **given})
    student, ctx = applied(run, step, tmp_path / "plain")
    (losses, *_) = [note for note in ctx.notes if getattr(note, "title", "").startswith("Losses")]
    at = {name: [int(step) for step, _ in curve] for name, curve in losses.curves.items()}
    others = [each for each in range(1, 13) if each % 6]
    assert at == {"fake": others, "judge": others, "matching": [6, 12], "gan": [6, 12]}
    assert described(student).sampling.model_dump() == {"sampler": "consistency", "steps": 1, "guidance": 1.0}
    assert described(ctx.products["steps-4"]).sampling.steps == 4
    averaged, _ = applied(run, step.model_copy(update={"ema": 0.9}), tmp_path / "averaged")
    few, early = applied(run, step.model_copy(update={"steps": 5}), tmp_path / "few")
    said, at_once = ([note.text for note in each.notes if hasattr(note, "text")] for each in (ctx, early))
    assert "Of 12 steps the student made 2, the fake network 10." in said
    assert "Of 5 steps the student made 0, the fake network 5. The student learned nothing: its first is step 6." in at_once
    source = run.model().module.state_dict()
    assert all(torch.equal(each, source[name]) for name, each in few.module.state_dict().items())
    moved, less = (
        max((each - source[name]).abs().max() for name, each in model.module.state_dict().items())
        for model in (student, averaged)
    )
    assert 0 < less < moved


def test_networks_that_cannot_be_told_are_refused_before_anything_runs(run, tmp_path):
    """By what the store has of them, without their weights."""
    from diffusers import UNet2DModel

    sizes = {"sample_size": 16, "in_channels": 3, "out_channels": 3, "block_out_channels": (32,), "layers_per_block": 1}
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    how = described(run.model()).model_copy(update={"classes": 0, "empty": None})
    Model.wrap(UNet2DModel(**sizes, **blocks), {FILE: how.written()}).save(tmp_path / "unet")
    given = (tmp_path / "unet", {"source": tmp_path / "unet"})
    for method in ("shortcut", "meanflow"):
        with pytest.raises(UnsupportedModel, match="UNet2DModel cannot be told a span"):
            DistillSteps(teacher="source", method=method).check(*given)
    for method in ("progressive", "consistency", "dmd"):
        DistillSteps(teacher="source", method=method).check(*given)
    with pytest.raises(UnsupportedModel, match="has no label that says nothing"):
        DistillGuidance(teacher="source").check(*given)
