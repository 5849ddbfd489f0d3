"""A teacher that mends some of a student's pictures: which ones, what they take on average, and a plan that exports all three networks."""

from __future__ import annotations

import json

import numpy as np
import pytest
from furnished import command
from pydantic import ValidationError

from compressor.contracts.notes import Remark
from compressor.deploy.session import EagerSession
from compressor.errors import UnsupportedModel
from compressor.model import Model
from compressor.report import read_report
from compressor.tasks.generation.description import FILE, described
from compressor.tasks.generation.graphs import graphs, pictures
from compressor.tasks.generation.image_generation import ImageGeneration
from compressor.tasks.generation.samplers import Sampling
from compressor.testing.tiny import run_of
from passes.diffusion.adaptive import Adaptive
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
    found, sent = pictures(session, feed, feed["table"])
    assert 0.1 < sent.mean() < 0.5
    assert session.asked == {"model": 2 * count, "oracle": count, "teacher": teacher_evaluations * sent.sum()}
    mean = (session.asked["model"] + session.asked["teacher"]) / count
    assert mean == pytest.approx(2 + sent.mean() * teacher_evaluations)
    (text,) = [note.text for note in ctx.notes if isinstance(note, Remark)]
    assert f"{how.evaluations:g} on average" in text
    alone, which = pictures(
        session, {name: each[7:8] if len(each) == count else each for name, each in feed.items()}, feed["table"]
    )
    assert which[0] == sent[7]
    np.testing.assert_allclose(alone[0], found[7], rtol=1e-4, atol=1e-5)


def test_rows_that_are_drawn_anew_are_the_teachers_and_others_the_students(run, tmp_path):
    step = Adaptive.model_validate({"teacher": "source", "mend": "regenerate", "rows": 60})
    model = step.apply(student(run), run.context(tmp_path))
    how = described(model)
    feed = how.feed(range(24), [row % 3 for row in range(24)], how.table())
    found, sent = pictures(opened(run, model), feed, feed["table"])
    assert 0 < sent.sum() < 24
    for alone, mine in ((student(run), ~sent), (run.model(), sent)):
        theirs = described(alone)
        feed = theirs.feed(range(24), [row % 3 for row in range(24)], theirs.table())
        drawn = pictures(opened(run, alone), feed, feed["table"])[0]
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


def test_what_has_no_classes_or_a_policy_is_refused(run, tmp_path):
    with pytest.raises(ValidationError, match="level is of refine"):
        Adaptive(teacher="x", mend="regenerate", level=0.5)
    model = run.model()
    model.files[FILE] = described(model).model_copy(update={"classes": 0}).written()
    with pytest.raises(UnsupportedModel, match="knows no classes"):
        Adaptive(teacher="source").apply(model, run.context(tmp_path))
    found = Adaptive.model_validate({"teacher": "source", "rows": 24}).apply(student(run), run.context(tmp_path))
    for step in (Adaptive(teacher="source"), DistillLayers(), DistillLayers(teacher="source")):
        with pytest.raises(UnsupportedModel, match=r"teacher mends"):
            step.apply(found, run.context(tmp_path))
