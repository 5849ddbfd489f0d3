"""A teacher that mends some of a student's pictures: which ones, what they take on average, and a plan that exports all three networks."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from furnished import command
from pydantic import ValidationError

from compressor.contracts.notes import Remark
from compressor.deploy.session import EagerSession
from compressor.errors import PlanError, UnsupportedModel
from compressor.model import Model
from compressor.plan.bound import load_plan
from compressor.report import read_report
from compressor.tasks.generated.adaptive import Threshold
from compressor.tasks.generation.description import FILE, described
from compressor.tasks.generation.graphs import graphs, rows_drawn
from compressor.tasks.generation.image_generation import ImageGeneration
from compressor.tasks.generation.process import Process
from compressor.tasks.generation.samplers import Sampling
from compressor.tasks.generation.training import APART
from compressor.tasks.inputs.sampling import DECIDING, REFINING, adapted, likes, stream
from compressor.testing.tiny import run_of
from passes.diffusion.adaptive import BEYOND, Adaptive
from passes.diffusion.distill_layers import DistillLayers

PLAN = """
name: adaptive
stages: quality
model: {folder: pretrained}
task:
  image-generation: {steps: 6}
data: {files: images, format: imagefolder, split: {validation: 12, test: 12}, calibration: 8}
passes:
  - distill-steps: {teacher: source, to: [2], steps: 3, batch_size: 8, precision: fp32, attention: sdpa}
  - distill-layers: {teacher: distill-steps, depths: [1, 0.5], steps: 3, batch_size: 8, precision: fp32, attention: sdpa}
  - adaptive: {teacher: source, share: 0.4, rows: 60}
targets:
  - onnxruntime: {}
"""


class Counted:
    """A session that counts rows that networks are asked for."""

    def __init__(self, session):
        self.session, self.asked = session, {}

    def run(self, feed, *, graph="model", state=None):
        name = graph.partition("-")[0]
        self.asked[name] = self.asked.get(name, 0) + len(next(iter(feed.values())))
        return self.session.run(feed, graph=graph, state=state)


@pytest.fixture(scope="module")
def run():
    return run_of("image-generation", ImageGeneration(steps=6))


def student(run):
    """The source in two steps; its teacher takes six."""
    model = run.model()
    model.files[FILE] = described(model).model_copy(update={"sampling": Sampling(sampler="ddim", steps=2)}).written()
    return model


def opened(run, model):
    return Counted(EagerSession(run.task, model, graphs(described(model)), "cpu"))


@pytest.mark.parametrize(("mend", "teacher_evaluations"), [("refine", 4), ("regenerate", 6)])
def test_a_row_takes_what_the_formula_says(run, tmp_path, mend, teacher_evaluations):
    """Own evaluations and, for each row that is sent, the teacher's: counted at the networks, and told in the report."""
    ctx = run.context(tmp_path)
    step = Adaptive.model_validate({"teacher": "source", "mend": mend, "share": 0.3, "rows": 200})
    model = step.apply(student(run), ctx)
    how, count = described(model), 100
    assert how.policy.evaluations == teacher_evaluations
    assert how.evaluations == 2 + 0.3 * teacher_evaluations
    session = opened(run, model)
    feed = how.feed(range(count), [row % 3 for row in range(count)], how.table())
    found, sent = rows_drawn(session, feed, feed["table"])
    assert 0.1 < sent.mean() < 0.5
    assert session.asked == {"model": 2 * count, "oracle": count, "teacher": teacher_evaluations * sent.sum()}
    mean = (session.asked["model"] + session.asked["teacher"]) / count
    assert mean == pytest.approx(2 + sent.mean() * teacher_evaluations)
    (text,) = [note.text for note in ctx.notes if isinstance(note, Remark)]
    assert f"{how.evaluations:g} on average" in text
    alone, which = rows_drawn(
        session, {name: each[7:8] if len(each) == count else each for name, each in feed.items()}, feed["table"]
    )
    assert which[0] == sent[7]
    np.testing.assert_allclose(alone[0], found[7], rtol=1e-4, atol=1e-5)


def test_rows_that_are_drawn_anew_are_the_teachers_and_others_the_students(run, tmp_path):
    step = Adaptive.model_validate({"teacher": "source", "mend": "regenerate", "rows": 60})
    model = step.apply(student(run), run.context(tmp_path))
    how = described(model)
    feed = how.feed(range(24), [row % 3 for row in range(24)], how.table())
    found, sent = rows_drawn(opened(run, model), feed, feed["table"])
    assert 0 < sent.sum() < 24
    for alone, mine in ((student(run), ~sent), (run.model(), sent)):
        theirs = described(alone)
        feed = theirs.feed(range(24), [row % 3 for row in range(24)], theirs.table())
        drawn = rows_drawn(opened(run, alone), feed, feed["table"])[0]
        np.testing.assert_allclose(found[mine], drawn[mine], rtol=1e-4, atol=1e-5)


def test_three_networks_are_saved_and_read_again(run, tmp_path):
    model = Adaptive.model_validate({"teacher": "source", "rows": 24}).apply(student(run), run.context(tmp_path))
    model.save(tmp_path / "three")
    again = Model.load(tmp_path / "three")
    assert list(again.components) == ["model", "teacher", "oracle"]
    assert described(again) == described(model)
    assert described(tmp_path / "three").policy.teacher == described(run.model())


def test_a_plan_draws_by_policy_and_exports_all_networks(tmp_path):
    """After fewer steps and fewer blocks; the example sends the rows that the run sent."""
    ImageGeneration().tiny(tmp_path)
    (tmp_path / "plan.yaml").write_text(PLAN, encoding="utf-8")
    command(tmp_path, "run", "plan.yaml", "--out", "run")
    report = read_report(tmp_path / "run")
    texts = [note.text for stage in report.stages for note in stage.notes if hasattr(note, "text")]
    assert any("3.6 on average" in text for text in texts), texts
    out = tmp_path / "out"
    command(tmp_path, "export", "run", str(out), "--target", "onnxruntime")
    assert "what the run did" in (out / "README.md").read_text()
    spec = json.loads((out / "spec.json").read_text())
    assert {each["name"] for each in spec["graphs"]} == {"model", "model-1", "teacher", "oracle"}
    assert spec["draws"]["evaluations"] == pytest.approx(3.6)


def test_rows_that_are_liked_exactly_alike_are_sent_in_the_share_that_was_chosen():
    """The limit is kept in float32, and what is liked is compared as it was when that was chosen."""
    count, table = 600, Sampling(sampler="ddim", steps=1).table(Process()).astype(np.float32)
    logits = np.tile([0.1, 0.2, 0.4], (count, 1))
    label = np.zeros(count, np.int64)
    chosen = Threshold.calibrated(likes(logits, label).astype(np.float32), 0.3)
    assert chosen.limit != likes(logits, label)[0]
    policy = np.array([chosen.limit, chosen.tied, 0.5, 0.5], np.float32)
    feed = {"noise": np.zeros((count, 1, 1, 1), np.float32), "seed": np.arange(count), "label": label, "empty": label}
    _, sent = adapted(
        lambda given: 0 * given["sample"],
        lambda given: 0 * given["sample"],
        lambda rows: logits,
        {**feed, "table": table, "teacher_table": table, "policy": policy},
    )
    assert 0.2 < sent.mean() < 0.4


def test_draws_of_mended_rows_are_those_of_nothing_else():
    """Neither the noise that rows are drawn from, nor that of a training, nor of rows that the limit was chosen by."""

    def first(*numbers):
        return np.random.default_rng(numbers[0] if len(numbers) == 1 else list(numbers)).random()

    mended = {stream(seed, of).random() for seed in range(8) for of in (REFINING, DECIDING)}
    noise = {first(seed, *at) for seed in range(8) for at in ((), *((each,) for each in range(1, 512)))}
    training = {first(seed, at, APART) for seed in range(8) for at in range(512)}
    calibration = {first(BEYOND + row) for row in range(8)}
    groups = (mended, noise, training, calibration)
    assert sum(map(len, groups)) == len(set().union(*groups))


def test_a_student_that_draws_what_is_not_finite_has_no_limit(run, tmp_path):
    model = student(run)
    torch.nn.init.constant_(model.module.head.bias, float("nan"))
    with pytest.raises(UnsupportedModel, match="no limit can be chosen by pictures that the model draws"):
        Adaptive.model_validate({"teacher": "source", "rows": 24}).apply(model, run.context(tmp_path))


def test_a_step_after_it_is_a_fault_of_the_plan(tmp_path):
    """Training, fewer blocks or quantisation would leave a limit that is of another student."""
    ImageGeneration().tiny(tmp_path)
    for after in ("finetune: {}", "quantize-dynamic: {}"):
        (tmp_path / "plan.yaml").write_text(PLAN.replace("targets:", f"  - {after}\ntargets:"), encoding="utf-8")
        with pytest.raises(PlanError, match=r"changes the model that 'adaptive' made.*put 'adaptive' last"):
            load_plan(tmp_path / "plan.yaml")


def test_what_has_no_classes_or_a_policy_is_refused(run, tmp_path):
    with pytest.raises(ValidationError, match="level is of refine"):
        Adaptive(teacher="x", mend="regenerate", level=0.5)
    model = run.model()
    model.files[FILE] = described(model).model_copy(update={"classes": 0}).written()
    with pytest.raises(UnsupportedModel, match="knows 3 classes, the student 0"):
        Adaptive(teacher="source").apply(model, run.context(tmp_path))
    found = Adaptive.model_validate({"teacher": "source", "rows": 24}).apply(student(run), run.context(tmp_path))
    for step in (Adaptive(teacher="source"), DistillLayers(), DistillLayers(teacher="source")):
        with pytest.raises(UnsupportedModel, match=r"teacher mends"):
            step.apply(found, run.context(tmp_path))
