"""The stand-in's language model learns: its parts weigh by tokens, and a plan takes it from training to verdicts in per cent."""

from __future__ import annotations

import json
import re
from contextlib import chdir
from pathlib import Path

import numpy as np
import pytest
import torch
from furnished import write_rows
from safetensors.torch import load_file
from typer.testing import CliRunner

from compressor.cli import app
from compressor.contracts import Workload, registry
from compressor.errors import CompressorError, PlanError
from compressor.plan.bound import load_plan
from compressor.report import read_report, wording
from compressor.run.pipeline import run_plan
from compressor.store.store import Store
from compressor.training.launch import ALONE, Processes

HERE = Path(__file__).parents[1] / "stand_ins" / "language"
WORDS = ("over the lazy dog", "a fox", "and", "the quick brown fox", "jumps")
PLAN = """
task:
  character-lm: {max_length: 24}
data: {files: rows.jsonl, split: {validation: 8, test: 12}, calibration: 4}
model: {folder: model}
stages: quality
passes:
  - finetune: {epochs: 3, batch_size: 5, learning_rate: 0.01, precision: fp32}
targets:
  - pytorch
"""
STEPS = 24
APART = {"rtol": 1e-3, "atol": 2e-4}
"""Sums in another order differ in the last bits, and an optimiser that divides by roots of squares makes them more."""


@pytest.fixture(scope="module")
def plugin():
    """The stand-in's task, installed here and in processes that train and measure."""
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(str(HERE))
    patch.setenv("PYTHONPATH", str(HERE))
    from character_lm import CharacterLM

    yield CharacterLM
    patch.undo()


@pytest.fixture(scope="module")
def folder(plugin, tmp_path_factory):
    """A tiny random Llama and 60 rows of unequal lengths."""
    from character_lm import tiny_llama

    made = tmp_path_factory.mktemp("language")
    tiny_llama().save_pretrained(made / "model")
    write_rows(made / "rows.jsonl", ({"text": f"{number:02} {WORDS[number % len(WORDS)]}"} for number in range(60)))
    (made / "plan.yaml").write_text(PLAN)
    return made


def trained(folder, name, *settings, processes=ALONE):
    """Loss by step and the weights that a training ends with."""
    bound, store = load_plan(folder / "plan.yaml", settings=list(settings)), folder / f"store-{name}"
    report = run_plan(bound, store=Store(store), folder=folder / "runs" / name, command="", tell=[].append, processes=processes)
    (stage,) = [stage for stage in report.stages if stage.name == "finetune"]
    (made,) = [
        path.parent for path in store.rglob("entry.json") if json.loads(path.read_text())["parts"].get("step") == "finetune"
    ]
    (weights,) = made.rglob("model.safetensors")
    return np.array(stage.notes[0].curves["task"])[:, 1], load_file(weights)


@pytest.fixture(scope="module")
def whole(folder):
    return trained(folder, "whole")


def same(found, expected):
    return np.allclose(found[0], expected[0], **APART) and all(
        torch.allclose(tensor, expected[1][name], **APART) for name, tensor in found[1].items()
    )


def test_training_in_parts_of_unequal_tokens_is_training_in_one(folder, whole):
    assert len(whole[0]) == STEPS
    assert whole[0][-3:].mean() < whole[0][:3].mean() - 1
    assert same(trained(folder, "parts", "passes.finetune.accumulate=2"), whole)


def test_parts_weighed_by_rows_would_train_otherwise(folder, whole, plugin, monkeypatch):
    monkeypatch.setattr(plugin, "weight", lambda self, batch: len(batch["input_ids"]))
    monkeypatch.setattr(plugin, "loss", mean_loss)
    assert not same(trained(folder, "rows", "passes.finetune.accumulate=2"), whole)


def mean_loss(task, outputs, batch):
    told, ahead = outputs.logits[:, :-1].flatten(0, 1), batch["input_ids"][:, 1:].flatten()
    return torch.nn.functional.cross_entropy(told, ahead, ignore_index=0)


def test_two_processes_train_as_one_does(folder, whole):
    assert same(trained(folder, "together", processes=Processes(each=2)), whole)


# ------------------------------------------------------------------ a whole plan, by the command line

GATED = """
task:
  character-lm: {max_length: 24}
data: {files: rows.jsonl, split: {validation: 8, test: 12}, calibration: 4}
model: {folder: model}
stages: quality
reference: finetune
passes:
  - finetune: {epochs: 2, batch_size: 5, learning_rate: 0.01, precision: fp32, checkpoint: best}
  - finetune: {epochs: 1, batch_size: 8, learning_rate: 0.0001, precision: fp32}
    name: again
    gate: {max_drop: 500, judged_by: bound}
targets:
  - onnxruntime
  - openvino
probes:
  - latency:
      {kinds: [prefill, decode], length: [9], steps: 4, rounds: 5, seconds: 3, warm_up_seconds: 0.05, inputs: 2, control_limit: 0.95}
accept:
  - {target: onnxruntime, max_drop: 30, workload: decode, min_speedup: 1.0e-9}
  - {target: openvino, max_drop: 30, judged_by: bound}
"""


def command(folder, *words):
    """What the command line says, and its exit code."""
    with chdir(folder):
        found = CliRunner().invoke(app, list(words))
    known = isinstance(found.exception, CompressorError)  # which the program turns into its exit code
    return found.output, found.exception.exit_code if known else found.exit_code


@pytest.fixture(scope="module")
def run(folder):
    """A run's folder, and the exit code of the command line."""
    (folder / "gated.yaml").write_text(GATED)
    output, code = command(folder, "run", "gated.yaml", "--store", "store-gated", "--out", "runs/gated")
    assert (folder / "runs" / "gated" / "report.json").is_file(), output
    return folder / "runs" / "gated", code


def test_a_plan_holds_perplexity_against_its_reference_in_per_cent(run):
    report, code = read_report(run[0]), run[1]
    assert (report.version, report.exit_code, code, report.outcome) == (2, 0, 0, "accepted")
    (gated,) = [stage for stage in report.stages if stage.name == "again"]
    assert [(each.metric, each.unit, each.limit, each.outcome) for each in gated.verdicts] == [
        ("perplexity", "percent", 500, "met")
    ]
    for candidate in (each for each in report.candidates if each.stage == "final"):
        held, found = candidate.scores.main, candidate.difference
        assert (held.name, held.better, held.drop, candidate.scores.per_class) == ("perplexity", "lower", "percent", ())
        assert held.interval.low < held.value < held.interval.high
        assert (found.unit, found.changed, found.n) == ("percent", None, 12)
        assert found.interval.low <= found.change <= found.interval.high
        assert candidate.parity.finite
        assert candidate.parity.max_abs < 1e-2
    assert [verdict.unit for verdict in report.verdicts if verdict.quantity == "max_drop"] == ["percent", "percent"]


def test_a_plan_times_prefill_and_decode(run):
    (latency,) = read_report(run[0]).probes
    assert {(row.workload.kind, row.unit) for row in latency.rows} == {("prefill", "tokens"), ("decode", "tokens")}
    assert {row.candidate for row in latency.rows} == {
        f"{stage}@{target}" for stage in ("source", "final") for target in ("onnxruntime", "openvino")
    }


def test_the_best_epoch_is_that_of_the_least_perplexity(run):
    trained = next(stage for stage in read_report(run[0]).stages if stage.name == "finetune")
    (curve,) = [note.curves["perplexity"] for note in trained.notes if note.title == "Validation"]
    values = [value for _, value in curve]
    assert all(value > 1 for value in values)
    assert trained.scores.main.value == pytest.approx(min(values), rel=1e-4)


def test_reports_say_per_cent_of_perplexity(run, folder):
    page, text = ((run[0] / name).read_text() for name in ("report.html", "report.md"))
    shown, code = command(folder, "show", "runs/gated")
    assert code == 0
    assert re.search(r"max_drop 30\.0\s%", shown)
    for told in (page, text, shown):
        assert "perplexity" in told.lower()
        assert re.findall(r"[0-9.][\s\N{NO-BREAK SPACE}]points", told) == []
    stage = next(stage for stage in read_report(run[0]).stages if stage.name == "again")
    assert f"{wording.metric(stage.scores.main)} on validation" in page


def test_a_limit_that_is_missed_ends_with_its_exit_code(folder, run):
    worse = GATED.replace("learning_rate: 0.0001", "learning_rate: 0.5").replace("max_drop: 500", "max_drop: 5")
    (folder / "worse.yaml").write_text(worse)
    output, code = command(folder, "run", "worse.yaml", "--store", "store-gated", "--out", "runs/worse")
    report = read_report(folder / "runs" / "worse")
    assert (code, report.exit_code, report.outcome) == (3, 3, "stopped"), output
    assert re.search(r"passes\.again\.gate: max_drop 5\.0\s% is not met \([0-9.e+]+\s%\)", report.error)


def test_two_runs_are_compared_in_per_cent(folder, run):
    output, code = command(folder, "compare", "runs/gated", "runs/gated", "--json")
    assert code == 0, output
    (found, *_) = [each for each in json.loads(output)["qualities"] if each["candidate"] == "final@openvino"]
    assert (found["difference"]["change"], found["difference"]["unit"]) == (0, "percent")


def test_more_than_all_points_cannot_be_allowed(folder):
    (folder / "gated.yaml").write_text(GATED)
    load_plan(folder / "gated.yaml", settings=["passes.again.gate.max_drop=5000"])
    words = GATED.replace("character-lm: {max_length: 24}", "text-classification: {}")
    (folder / "words.yaml").write_text(words)
    with pytest.raises(PlanError) as found:
        load_plan(folder / "words.yaml")
    assert "max_drop 500 allows to lose more than all of 'accuracy', which has 100 points; give at most 100" in str(found.value)


# ------------------------------------------------------------------ other passes

PASSED = """
task:
  character-lm: {max_length: 24}
data: {files: rows.jsonl, split: {validation: 8, test: 12}, calibration: 4}
model: {folder: model}
stages: quality
passes:
  - distill: {teacher: source, epochs: 1, learning_rate: 0.001, precision: fp32}
  - quantize-static: {calibration: 4}
targets:
  - onnxruntime
  - openvino
"""


def test_a_graph_with_state_is_calibrated_and_quantised_where_logits_are_of_every_token(folder):
    (folder / "passed.yaml").write_text(PASSED)
    store = Store(folder / "store-passed")
    report = run_plan(load_plan(folder / "passed.yaml"), store=store, folder=folder / "runs/passed", command="", tell=[].append)
    size = {candidate.id: candidate.bytes for candidate in report.candidates}
    for target in ("onnxruntime", "openvino"):
        assert size[f"final@{target}"] < size[f"source@{target}"]
    for candidate in (each for each in report.candidates if each.stage == "final"):
        assert abs(candidate.difference.change) < 10
        assert candidate.parity.finite


# ------------------------------------------------------------------ a difference in per cent


def evaluation(task, costs, tokens):
    return task.score({"cost": np.array(costs), "tokens": np.array(tokens)}, {}, split="test")


def test_a_difference_is_the_ratio_of_perplexities_over_tokens(plugin):
    draw, task = np.random.default_rng(3), plugin()
    tokens = draw.integers(1, 24, 200).astype(float)
    before = evaluation(task, tokens * draw.normal(2, 0.2, 200), tokens)
    after = evaluation(task, before.outputs["cost"] + tokens * draw.normal(0.1, 0.05, 200), tokens)
    found = task.compare(after, before, metric="perplexity", name="source", seed=0)
    ratio = after.scores.main.value / before.scores.main.value
    assert found.change == pytest.approx(100 * (1 - ratio), abs=1e-5)
    assert found.interval.low < found.change < found.interval.high < 0
    assert found.interval.high - found.interval.low < 5  # paired: the spread of rows themselves is ten times as wide
    same = task.compare(before, before, metric="perplexity", name="source", seed=0)
    assert (same.change, same.interval.low, same.interval.high, same.unit) == (0, 0, 0, "percent")


# ------------------------------------------------------------------ for people


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_a_built_file_answers_a_prompt(run, plugin, target):
    task, built = plugin(max_length=24), run[0] / "artifacts" / f"final@{target}"
    session = registry.load("target", target)().open(built)
    feed = task.feed("07 over the la", built)
    assert feed["input_ids"].tolist() == [list(b"07 over the la")]
    (told,) = task.tell(task.call(session, feed), ())
    assert told.ranking[0] == (told.text, told.confidence)
    assert 1 / 128 < told.confidence <= 1
    assert len(told.text) == 1
    (longer,) = task.tell(task.call(session, feed, Workload(kind="generate", steps=3)), ())
    assert (len(longer.text), longer.text[0]) == (3, told.text)
