"""Several labels and numbers of pairs, from a plan to exports that prove themselves."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from furnished import write_rows

from compressor.errors import SourceError
from compressor.export import export
from compressor.plan.bound import load_plan
from compressor.run import scorer
from compressor.run.pipeline import run_plan
from compressor.run.preview import preview
from compressor.run.verify import parity
from compressor.store.store import Store
from compressor.tasks.tiny import LABELS, text_model

PLAN = """
model: {{folder: pretrained}}
task: {task}
data: {{files: rows.jsonl, split: {{validation: 30, test: 30}}, calibration: 8}}
reference: finetune
stages: quality
passes:
  - finetune: {{epochs: 4, learning_rate: 0.003, precision: fp32}}
targets: [pytorch, onnxruntime]
accept:
  - {{target: onnxruntime, max_drop: 5, metric: {metric}}}
"""
PAIR = ("word1 red word3", "word2 red")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("further")
    text_model(folder / "pretrained")
    rows = []
    for n in range(150):
        colours = [label for at, label in enumerate(LABELS) if (n * 7 + 3) % (at + 2) == 0]
        premise = " ".join([f"word{n % 40}", *colours, f"word{n * 3 % 37}"])
        rows.append({"premise": premise, "hypothesis": f"word{n % 11} red", "colours": colours, "score": len(colours) + 0.5})
    write_rows(folder / "rows.jsonl", rows)
    return folder


def ran(place, name, task, metric):
    plan = place / f"{name}.yaml"
    plan.write_text(PLAN.format(task=task, metric=metric))
    bound, store = load_plan(plan), Store(place / f"store-{name}")
    lines = list(preview(bound, store))
    report = run_plan(bound, store=store, folder=place / name, command="test", tell=lambda _: None)
    outs = [export(place / name, target, place / f"{name}-{target}") for target in ("pytorch", "onnxruntime")]
    return lines, report, outs


def said(folder, *words):
    done = subprocess.run([sys.executable, "example.py", *words], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_several_labels_run_from_plan_to_export(place, monkeypatch):
    held = []
    monkeypatch.setattr(scorer, "parity", lambda task, *given, **named: held.append(task) or parity(task, *given, **named))
    task = "{text-classification: {text: premise, label: colours, multi_label: true, max_length: 16}}"
    lines, report, (torch_out, onnx_out) = ran(place, "several", task, "macro-F1")
    assert "source: has no head: a newly initialised one for blue, green, red is put in, and has to be trained" in lines
    assert (report.outcome, report.verdicts[0].metric) == ("accepted", "macro-F1")
    final = next(each for each in report.candidates if each.id == "final@onnxruntime")
    assert [metric.name for metric in final.scores.metrics] == ["micro-F1", "macro-F1"]
    assert [each.label for each in final.scores.per_class] == list(LABELS)
    assert set(report.data.splits[0].classes) == set(LABELS)
    assert len(held) == 4, "final and reference on two targets"
    assert all(task.threshold is not None for task in held), "predictions are held against each other as they are told"
    spec = json.loads((onnx_out / "spec.json").read_text())
    assert 0 < spec["threshold"] < 1
    assert spec["threshold"] != 0.5, "it is chosen on validation rows"
    assert json.loads((torch_out / "config.json").read_text())["problem_type"] == "multi_label_classification"
    assert set(said(onnx_out, "word1 red word2").split(", ")) <= {*LABELS, ""}
    (onnx_out / "labels.json").write_text(json.dumps(["bl\u00e9"] * 3))
    bytes_ = subprocess.run([sys.executable, "-I", str(onnx_out / "example.py"), b"caf\xe9"], capture_output=True, text=True)
    assert (bytes_.returncode, bytes_.stderr) == (1, "this text is not UTF-8\n")
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    assert set(said(onnx_out, "-blue", "word1 red word2").replace(", ", "\n").splitlines()) <= {"bl\\xe9", ""}
    assert re.search(r"finetune: to be run; 4 epochs of 90 rows, 16 a step: 24 steps; about \d+ s, a guess", " ".join(lines))
    other = preview(load_plan(place / "several.yaml", settings=["seed=1"]), Store(place / "store-several"))
    assert re.search(r"finetune: to be run; 4 epochs of 90 rows, 16 a step: 24 steps; about \d+ s by earlier", " ".join(other))


def test_number_of_a_pair_runs_from_plan_to_export(place):
    task = "{text-regression: {text: [premise, hypothesis], label: score, max_length: 20}}"
    lines, report, (torch_out, onnx_out) = ran(place, "number", task, "Pearson")
    assert "source: has no head: a newly initialised one for a number is put in, and has to be trained" in lines
    assert (report.outcome, report.verdicts[0].metric) == ("accepted", "Pearson")
    final = next(each for each in report.candidates if each.id == "final@onnxruntime")
    assert [(metric.name, metric.better) for metric in final.scores.metrics] == [
        ("Spearman", "higher"), ("Pearson", "higher"), ("MSE", "lower"),
    ]  # fmt: skip
    assert 'python example.py "first text" "second text"\n' in (onnx_out / "README.md").read_text()
    assert float(said(onnx_out, *PAIR)) == pytest.approx(float(said(torch_out, *PAIR)), abs=1e-3)
    assert json.loads((torch_out / "config.json").read_text())["problem_type"] == "regression"


DISTILLED = """
model: {{folder: pretrained}}
task: {task}
data: {{files: rows.jsonl, split: {{validation: 30, test: 30}}, calibration: 8}}
reference: finetune
stages: quality
passes:
  - finetune: {{epochs: 4, learning_rate: 0.003, precision: fp32}}
  - distill: {{teacher: finetune, epochs: 12, learning_rate: 0.003, precision: fp32}}
    from: source
targets: [pytorch]
"""


@pytest.mark.parametrize(
    ("name", "task", "told"),
    [
        ("several", "{text-classification: {text: premise, label: colours, multi_label: true, max_length: 16}}", "agree on"),
        (
            "number",
            "{text-regression: {text: [premise, hypothesis], label: score, max_length: 20}}",
            "tell numbers with a correlation",
        ),
    ],
)
def test_a_student_learns_labels_and_numbers_from_its_teacher_alone(place, name, task, told):
    plan = place / f"distilled-{name}.yaml"
    plan.write_text(DISTILLED.format(task=task))
    store, folder = Store(place / f"store-{name}"), place / f"distilled-{name}"
    report = run_plan(load_plan(plan), store=store, folder=folder, command="test", tell=lambda _: None)
    (stage,) = [each for each in report.stages if each.name == "distill"]
    (remark,) = [each.text for each in stage.notes if getattr(each, "text", "").startswith("Student and teacher")]
    assert told in remark
    after, before = (float(each.strip("%")) for each in re.findall(r"[\d.]+%|\d\.\d{3}", remark))
    assert after > before


def test_numbers_are_no_classes(place):
    plan = place / "classes.yaml"
    plan.write_text(PLAN.format(task="{text-classification: {text: premise, label: score}}", metric="accuracy"))
    with pytest.raises(SourceError, match=r"column 'score' holds \d different numbers, as 0.5: these are amounts and no classes"):
        list(preview(load_plan(plan), Store(place / "store")))
