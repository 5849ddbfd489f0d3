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
from compressor.run.ground import Ground
from compressor.run.preview import previewed
from compressor.run.rehearsal import REHEARSAL, reduced
from compressor.store.store import Store
from compressor.tasks.language import causal_lm
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
  - stability: {buckets: 2, prompts: 4, prompt: 4, steps: 6}
  - generated-texts: {prompts: 4, steps: 6, draft: {ahead: 2}}
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
    latency = read_report(run).probes[0]
    assert {(row.workload.kind, row.workload.length, row.workload.steps, row.unit) for row in latency.rows} == {
        ("decode", 8, 4, "tokens")
    }


def test_what_candidates_write_is_looked_at_and_shown(run):
    report = read_report(run)
    stability, texts = (each for each in report.probes if each.kind == "notes")
    everyone = {each.id for each in report.candidates}
    curve, by_place, summed = stability.notes
    assert set(curve.curves) == everyone == {row[0] for row in summed.rows}
    cells = {name: [row[1:] for row in by_place.rows if row[0] == name] for name in everyone}
    assert cells["source@pytorch"] != cells["final@pytorch"]
    assert stability.not_finite == texts.not_finite == dict.fromkeys(everyone, 0)
    written, shown, raced = (note for note in texts.notes if note.kind == "table")
    same = dict(zip(written.columns, next(row for row in written.rows if row[0] == "source@openvino"), strict=True))
    assert same["same tokens as source@pytorch"].startswith("100.0%")
    assert len(shown.rows) == 3 * len(everyone)
    assert {row[:2] for row in raced.rows} == {(f"source@{name}", f"final@{name}") for name in TARGETS}
    assert all(1 <= row[2] <= 3 for row in raced.rows)
    page = (run / "report.html").read_text()
    assert "Perplexity by place in a text" in page
    assert "Speculative decoding, 2 tokens ahead" in page


def test_what_is_timed_is_said_by_the_task_where_the_plan_does_not(folder):
    (folder / "short.yaml").write_text(re.sub(r"latency: \{.*\}", "latency", PLAN))
    probe, *_ = load_plan(folder / "short.yaml").probes
    assert [str(each) for each in probe.probe.workloads()] == [
        "prefill, batch 1, length 64",
        "decode, batch 1, length 64, 32 steps",
    ]


@pytest.mark.parametrize(("packing", "length"), [(True, 64), (False, 12)])
def test_check_counts_the_steps_of_the_rows_that_documents_make(packing, length, folder, tmp_path, monkeypatch):
    task = f"task.causal-lm={{max_length: {length}, packing: {str(packing).lower()}}}"
    bound = load_plan(folder / "plan.yaml", settings=(task,))
    ground = Ground(bound, Store(tmp_path / "store"), lambda _: None)
    files, train = ground.load(bound.model).path, ground.data.split("train")
    batches = bound.task.batches(train, files, batch_size=2, shuffle_seed=0)
    steps, tokens = len(batches), int(sum(bound.task.weight(each) for each in batches))
    assert steps != -(-len(train) // 2)

    def said(bound):
        found = previewed(bound, ground.store)
        return found.steps[0], next(str(each) for each in found.lines if each.about == "finetune")

    step, line = said(bound)
    assert step.steps == 3 * steps
    assert f"3 epochs of {len(train)} rows in {step.packed} of the model's, 2 a step: {3 * steps} steps" in line
    budget = f"passes.finetune={{batch_size: 2, tokens: {tokens // 2}}}"
    step, line = said(load_plan(folder / "plan.yaml", settings=(budget, task)))
    assert f"{tokens // 2:,} tokens of {len(train)} rows" in line
    assert step.steps == pytest.approx(steps / 2, abs=1)
    small = load_plan(
        folder / "plan.yaml",
        settings=(budget, task, *reduced(load_plan(folder / "plan.yaml", settings=(budget, task)), REHEARSAL, {})),
    )
    assert (small.passes[0].step.tokens, small.passes[0].step.steps) == (None, 4), "a rehearsal counts steps"
    monkeypatch.setattr(causal_lm, "MEASURED", 10)
    about = previewed(bound, Store(tmp_path / "other")).steps[0]
    assert about.estimated
    assert about.steps == pytest.approx(3 * steps, rel=0.3)


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
