"""A plan without data: what is judged, what is said not to be, and what is refused."""

from __future__ import annotations

import re

import pytest
from furnished import command

from compressor.errors import PlanError, SourceError
from compressor.plan.bound import load_plan
from compressor.report import read_report
from compressor.run.rows import rows_in
from compressor.tasks.generation.description import described
from compressor.tasks.generation.image_generation import ImageGeneration
from compressor.tasks.generation.judging import JUDGE, ROWS
from compressor.testing.tiny import run_of

PLAN = """name: blind
model: {folder: pretrained}
task: {image-generation: {steps: 4, guidance: 2.0}}
passes:
  - distill-steps: {teacher: source, method: boot, to: [1], steps: 3, batch_size: 8, precision: fp32, attention: sdpa, levels: 4}
targets:
  - onnxruntime: {}
probes:
  - latency: {rounds: 5, seconds: 1, warm_up_seconds: 0.05, control_limit: 0.9}
accept:
  - {target: onnxruntime, max_size: 2.0}
"""
FINDING = "quality is not judged, only parity and timing"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model that says how it draws, no picture, and a plan."""
    folder = tmp_path_factory.mktemp("blind")
    model = run_of("image-generation", ImageGeneration(steps=4, guidance=2.0)).model()
    for name in (JUDGE, ROWS):
        model.files.pop(name)
    model.save(folder / "pretrained")
    (folder / "plan.yaml").write_text(PLAN, encoding="utf-8")
    return folder


def unwrapped(capsys):
    found = capsys.readouterr()
    return " ".join((found.out + found.err).split())


def faults(folder, text):
    (folder / "faulty.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(PlanError) as error:
        load_plan(folder / "faulty.yaml")
    return [(fault.line, fault.where, fault.what) for fault in error.value.faults]


def test_plan_runs_and_says_what_is_not_judged(folder, tmp_path, capsys):
    command(folder, "check", "plan.yaml")
    said = unwrapped(capsys)
    assert FINDING in said
    assert re.search(r"distill-steps: to be run; no rows, 8 a step: 3 steps", said)
    assert "data: 64" not in said
    command(folder, "run", "plan.yaml", "--out", str(tmp_path / "run"))
    assert FINDING in unwrapped(capsys)
    report = read_report(tmp_path / "run")
    assert not report.data.real
    assert all(stage.scores is None for stage in report.stages)
    final = next(each for each in report.candidates if each.id == "final@onnxruntime")
    assert final.scores is None
    assert final.parity.n == 64
    assert final.parity.max_abs < 1e-3
    assert report.summary.endswith("Quality was not judged: the plan has no data.")
    assert [(verdict.quantity, verdict.outcome) for verdict in report.verdicts] == [("max_size", "met")]
    (latency,) = report.probes
    assert {row.candidate for row in latency.rows} >= {"source@onnxruntime", "final@onnxruntime"}
    drawn = described(tmp_path / "run" / "artifacts" / "final@onnxruntime")
    assert (drawn.evaluations, drawn.spans) == (1, True)
    texts = [getattr(note, "text", "") for note in report.stages[1].notes]
    assert any("the last weights are kept" in text for text in texts)
    for name in ("report.html", "report.md"):
        assert FINDING in (tmp_path / "run" / name).read_text(encoding="utf-8")
    command(folder, "export", str(tmp_path / "run"), str(tmp_path / "out"), "--target", "onnxruntime")
    assert "what the run did" in (tmp_path / "out" / "README.md").read_text()


def test_a_step_that_reads_rows_is_refused_at_its_line(folder):
    found = faults(folder, PLAN.replace("passes:\n", "passes:\n  - finetune: {steps: 2}\n"))
    assert found == [(5, "passes.finetune", "reads rows, and the plan has no data: say where they come from below `data:`")]


def test_limits_on_quality_are_refused_at_their_line(folder):
    found = faults(folder, PLAN.replace("max_size: 2.0", "max_drop: 2"))
    assert found == [(11, "accept[0]", "max_drop cannot be judged: the plan has no data, so quality is not scored")]
    gated = PLAN.replace("levels: 4}", "levels: 4}\n    gate: {max_drop: 3}")
    assert faults(folder, gated)[0][1:] == (
        "passes.distill-steps.gate",
        "max_drop cannot be judged: the plan has no data, so quality is not scored",
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("method: boot, to: [1], steps: 3,", "method: shortcut, to: [1], steps: 3,"),
        ("task: {image-generation: {steps: 4, guidance: 2.0}}", "task: {text-classification: {text: text, label: label}}"),
    ],
)
def test_data_is_missing_where_all_steps_read_rows_or_the_task_has_none_to_imagine(folder, old, new):
    found = faults(folder, PLAN.replace(old, new))
    assert (1, "data", "missing; say where the rows come from: `files:` or `hub:`") in found


def test_rows_are_imagined_by_what_a_model_says_of_itself(folder, tmp_path):
    ImageGeneration().tiny(tmp_path)
    (tmp_path / "plan.yaml").write_text(PLAN, encoding="utf-8")
    with pytest.raises(SourceError, match=r"there is no diffusion\.json beside the model"):
        rows_in(load_plan(tmp_path / "plan.yaml"))
    data = rows_in(load_plan(folder / "plan.yaml"))
    assert data.labels == ("0", "1", "2")
    assert data.split("test")["label"][:4] == [0, 1, 2, 0]
