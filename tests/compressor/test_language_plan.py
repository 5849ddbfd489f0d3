"""A language model from plan to report, as a user has it: trained, cut, quantised, timed, gated in per cent, and exported with proof."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from furnished import told

from compressor.plan.bound import load_plan
from compressor.report import read_report
from compressor.tasks.tiny import documents, language_model

PLAN = """
task:
  causal-lm: {max_length: 64}
data: {files: rows.jsonl, split: {validation: 8, test: 12}, calibration: 4}
model: {folder: model}
passes:
  - finetune: {epochs: 3, batch_size: 2, learning_rate: 0.01, precision: fp32, attention: eager}
  - prune-structure: {units: [heads, neurons], keep: 0.8, round_to: 8, importance: activation}
    gate: {max_drop: 5}
  - quantize-dynamic:
    only: [onnxruntime]
targets: [pytorch, onnxruntime, openvino]
probes:
  - latency: {kinds: [decode], length: [8], steps: 4, rounds: 5, seconds: 1, warm_up_seconds: 0.02, inputs: 1, controls: 1, control_limit: 0.99}
accept:
  - {target: onnxruntime, max_drop: 5, judged_by: bound, workload: decode, min_speedup: 1.0e-9} # met even by a machine that stood still
  - {target: onnxruntime, metric: next-token accuracy, max_drop: 5}
"""
TARGETS = ("pytorch", "onnxruntime", "openvino")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("language")
    language_model(made / "model", tie_word_embeddings=True)
    documents(made, ("text",))
    (made / "plan.yaml").write_text(PLAN)
    return made


@pytest.fixture(scope="module")
def run(folder) -> Path:
    done = told(folder, "run", "plan.yaml", "--store", "store", "--out", "run")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "run"


def test_a_plan_takes_a_language_model_to_its_verdicts(run):
    report = read_report(run)
    assert report.outcome == "accepted"
    (trained, cut) = (next(each for each in report.stages if each.name == name) for name in ("finetune", "prune-structure"))
    assert trained.scores.main.value < 100
    assert [(each.metric, each.unit, each.outcome) for each in cut.verdicts] == [("perplexity", "percent", "met")]
    finals = [each for each in report.candidates if each.stage == "final"]
    assert [each.target for each in finals] == list(TARGETS)
    for each in finals:
        assert [metric.name for metric in each.scores.metrics] == ["perplexity", "bits per byte", "next-token accuracy"]
        assert 1 < each.scores.main.interval.low < each.scores.main.value < each.scores.main.interval.high < 100
        assert (each.difference.unit, each.difference.n) == ("percent", 12)
        assert 0 <= each.difference.agreement < 1  # against the model before it was trained
        assert each.parity.agreement > 0.8
        assert each.parity.cosine > 0.9
    same = [each.scores.main.value for each in finals if each.target != "onnxruntime"]
    assert same[0] == pytest.approx(same[1], rel=1e-3)
    assert [verdict.metric for verdict in report.verdicts if verdict.quantity == "max_drop"] == [
        "perplexity",
        "next-token accuracy",
    ]


def test_tokens_after_a_prompt_are_timed(run):
    (latency,) = read_report(run).probes
    assert {(row.workload.kind, row.workload.length, row.workload.steps, row.unit) for row in latency.rows} == {
        ("decode", 8, 4, "tokens")
    }


def test_what_is_timed_is_said_by_the_task_where_the_plan_does_not(folder):
    (folder / "short.yaml").write_text(re.sub(r"latency: \{.*\}", "latency", PLAN))
    (probe,) = load_plan(folder / "short.yaml").probes
    assert [str(each) for each in probe.probe.workloads()] == [
        "prefill, batch 1, length 64",
        "decode, batch 1, length 64, 32 steps",
    ]


@pytest.mark.parametrize("target", TARGETS)
def test_an_export_goes_on_with_a_text_and_proves_it(target, run, folder):
    done = told(folder, "export", "run", f"out-{target}", "--target", target)
    assert done.returncode == 0, done.stdout + done.stderr
    out = folder / f"out-{target}"
    assert "did with 12 rows of test" in (out / "README.md").read_text()
    if target == "onnxruntime":  # the others were run by the proof
        command = [sys.executable, "-I", "example.py", "word1 red"]
        said = subprocess.run(command, cwd=out, capture_output=True, text=True, check=True).stdout
        assert said.startswith("word1 red")
        assert len(said) > len("word1 red\n")


def test_an_export_that_goes_on_otherwise_is_refused(run, folder):
    kept = run / "witnesses" / "final@pytorch" / "answers.json"
    before = kept.read_text()
    answers = json.loads(before)
    told_first = next(each for each in answers if each["told"])
    told_first["told"] = "never " + told_first["told"]
    try:
        kept.write_text(json.dumps(answers))
        from compressor.report import write_report

        write_report(read_report(run), run)
        done = told(folder, "export", "run", "out-wrong", "--target", "pytorch")
        assert done.returncode
        assert "does not do what the run did" in done.stderr
    finally:
        kept.write_text(before)


def test_a_built_model_answers_a_prompt(run):
    from compressor.contracts import Workload, registry
    from compressor.deploy.graphs import task_of

    built = run / "artifacts" / "final@onnxruntime"
    task, session = task_of(built), registry.load("target", "onnxruntime")().open(built)
    feed = task.feed("word1 red", built)
    (told_next,) = task.tell(task.call(session, feed), ())
    assert told_next.ranking[0] == (told_next.text, told_next.confidence)
    (longer,) = task.tell(task.call(session, feed, Workload(kind="generate", steps=3)), ())
    assert longer.text.split()[0] == told_next.text
    assert len(longer.text.split()) == 3
    assert np.isfinite(told_next.confidence)
