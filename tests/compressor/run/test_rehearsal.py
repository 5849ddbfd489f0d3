from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from furnished import rows, told, write_model, write_rows

from compressor.contracts.records import Forecast
from compressor.errors import UnsupportedModel
from compressor.plan.bound import load_plan
from compressor.run.forecast import REST, ModelSize
from compressor.run.rehearsal import REHEARSAL, SECOND, Part, Source, reduced, run_small, survey

QUICKSTART = Path(__file__).parents[3] / "plans" / "quickstart.yaml"

PLAN = """
name: tiny
model: {folder: model}
task:
  text-classification: {max_length: 16}
data: {files: rows.jsonl, split: {validation: 12, test: 16}, calibration: 8, limit: {validation: 10}}
stages: quality
passes:
  - finetune: {epochs: 3, batch_size: 4, precision: fp32}
  - prune-structure: {keep: 0.5, rows: 16, round_to: 8}
    gate: {max_size: 0.001, on_fail: stop}
  - distill: {teacher: finetune, epochs: 2, batch_size: 8, precision: fp32}
    gate: {max_size: 0.001, on_fail: roll back}
  - quantize-dynamic:
targets:
  - onnxruntime: {}
probes:
  - latency: {length: [16], seconds: 40, controls: 1}
accept:
  - {target: onnxruntime, max_size: 0.001}
"""
DEEP = """
name: deep
model: {folder: model}
task:
  text-classification: {max_length: 16}
data: {files: rows.jsonl, split: {validation: 12, test: 16}}
stages: quality
passes:
  - finetune: {epochs: 3, precision: fp32}
  - distill: {teacher: finetune, init: first, layers: 3, epochs: 2, precision: fp32}
targets:
  - torch: {}
probes:
  - memory
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rehearsal")
    write_model(folder, num_hidden_layers=5)
    write_rows(folder / "rows.jsonl", rows())
    (folder / "plan.yaml").write_text(PLAN)
    (folder / "deep.yaml").write_text(DEEP)
    return folder


def rehearse(folder, *arguments):
    return told(folder, "rehearse", *arguments)


def test_what_a_run_would_refuse_of_whole_models_is_refused_before_they_are_cut(folder, tmp_path):
    (folder / "blind.yaml").write_text(DEEP.replace("teacher: finetune", "teacher: source"))
    with pytest.raises(
        UnsupportedModel, match="distill learns from the answers of source, whose classification head is newly initialised"
    ):
        survey(folder / "blind.yaml", (), tmp_path, tell=lambda _: None)


def test_files_beside_models_are_compared_as_a_run_has_them(folder, tmp_path):
    """A run completes a tokenizer's files when it loads a model."""
    other = shutil.copytree(folder / "model", folder / "other")
    words = json.loads((other / "tokenizer.json").read_text())
    vocabulary = words["model"]["vocab"]
    last = max(vocabulary, key=vocabulary.get)
    vocabulary["another"] = vocabulary.pop(last)
    (other / "tokenizer.json").write_text(json.dumps(words))
    shutil.copytree(folder / "model", folder / "bare")
    (folder / "bare" / "tokenizer.json").unlink()
    plan = DEEP.replace("model: {folder: model}", "model: {folder: bare}\nmodels: {other: {folder: OTHER}}")
    plan = plan.replace("teacher: finetune", "teacher: other, objectives: {hidden-states: 1.0}")
    (folder / "teacher.yaml").write_text(plan.replace("OTHER", "bare"))
    survey(folder / "teacher.yaml", (), tmp_path / "same", tell=lambda _: None)
    (folder / "teacher.yaml").write_text(plan.replace("OTHER", "other"))
    with pytest.raises(UnsupportedModel, match=r"read different inputs \(tokenizer.json differ"):
        survey(folder / "teacher.yaml", (), tmp_path / "differ", tell=lambda _: None)
    files = {path.name for path in (tmp_path / "same" / "source-files").iterdir()}
    assert "tokenizer.json" in files, "it was made, as the run makes it"


# ------------------------------------------------------------------ the small plan


def small(plan, part, **folders):
    models = {name: Source(folder, ModelSize(2, 1.0, 1, 1)) for name, folder in {"source": None, **folders}.items()}
    return load_plan(plan, settings=tuple(reduced(load_plan(plan), part, models)))


def test_small_plan_trains_one_epoch_on_few_rows_and_stops_at_no_gate(folder):
    bound = small(folder / "plan.yaml", REHEARSAL, source=folder / "model")
    steps = {step.name: step for step in bound.passes}
    assert [steps[name].step.epochs for name in ("finetune", "distill")] == [1, 1]
    assert bound.data.limit.train == REHEARSAL.batches * 8  # of the largest batch
    assert bound.data.limit.validation == 10  # the plan's own limit is lower
    assert bound.data.limit.test == REHEARSAL.rows
    assert [step.gate.on_fail for step in bound.passes if step.gate] == ["warn", "warn"]
    assert [accept.on_fail for accept in bound.accept] == ["warn"]
    assert bound.model.folder == str((folder / "model").resolve())


def test_small_plan_keeps_every_probe_shortened():
    bound = small(QUICKSTART, REHEARSAL)
    assert [probe.name for probe in bound.probes] == ["latency", "memory", "profile"]
    assert bound.probes[0].probe.seconds <= 2
    assert bound.probes[0].probe.workloads() == load_plan(QUICKSTART).probes[0].probe.workloads()
    assert bound.model == load_plan(QUICKSTART).model


def test_small_plan_has_rows_for_the_largest_batch_that_is_timed(tmp_path):
    (tmp_path / "plan.yaml").write_text(QUICKSTART.read_text().replace("batch: [1]", "batch: [1, 40]"))
    limit = small(tmp_path / "plan.yaml", REHEARSAL).data.limit
    assert (limit.train, limit.validation, limit.test) == (40, REHEARSAL.rows, 40)


def test_second_point_has_all_steps_and_measures_nothing(tmp_path):
    timed = QUICKSTART.read_text().replace("max_drop: 80, on_fail: warn", "min_speedup: 9")
    (tmp_path / "plan.yaml").write_text(timed)
    bound = small(tmp_path / "plan.yaml", SECOND)
    assert [step.name for step in bound.passes] == [step.name for step in load_plan(QUICKSTART).passes]
    assert (bound.probes, bound.accept) == ((), ())
    assert not any(step.gate.timed for step in bound.passes if step.gate)


# ------------------------------------------------------------------ its runs


def test_survey_finds_the_real_scale_and_cuts_the_model(folder, tmp_path):
    found = survey(folder / "plan.yaml", (), tmp_path, tell=lambda event: None)
    assert found.whole.rows == {"train": 32, "validation": 10, "test": 16, "calibration": 8}
    assert found.whole.models["source"].blocks == 5
    assert {depth: models["source"].size.blocks for depth, models in found.cut.items()} == {2: 2, 4: 4}
    assert found.cut[2]["source"].folder != found.cut[4]["source"].folder
    assert found.models(None)["source"] == Source(None, found.whole.models["source"])


def test_complete_part_runs_every_step_and_exports_whatever_the_gates_say(folder, tmp_path):
    found = survey(folder / "plan.yaml", (), tmp_path / "models", tell=lambda event: None)
    settings = tuple(reduced(load_plan(folder / "plan.yaml"), Part(2, 1, 8, complete=True), found.models(2)))
    report, memory_bytes = run_small(folder / "plan.yaml", settings, tmp_path / "run", True, tell=lambda event: None)
    assert [stage.name for stage in report.stages] == ["source", "finetune", "prune-structure", "distill", "quantize-dynamic"]
    assert all(verdict.outcome == "not met" for stage in report.stages for verdict in stage.verdicts)
    assert len({part.split()[1] for part in report.stages[0].layer_bytes if part.startswith("layer ")}) == 2
    assert report.exit_code == 0
    assert (tmp_path / "run" / "export" / "onnxruntime" / "example.py").is_file()
    assert memory_bytes > 50e6


@pytest.fixture(scope="module")
def rehearsed(folder):
    before = sorted(path.relative_to(folder) for path in folder.rglob("*"))
    done = rehearse(folder, "deep.yaml", "--json", "--set", "passes.finetune.learning_rate=1.0e-3")
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(path.relative_to(folder) for path in folder.rglob("*")) == before, "a rehearsal keeps nothing"
    return Forecast.model_validate_json(done.stdout)


def test_check_knows_a_rough_time_of_what_was_rehearsed(folder, rehearsed):
    found = told(folder, "check", "deep.yaml", "--json", "--set", "passes.finetune.learning_rate=1.0e-3")
    steps = {step["name"]: step for step in json.loads(found.stdout)["steps"]}
    rows = {row.step: row.seconds for row in rehearsed.rows}
    assert {name: round(step["seconds"], 1) for name, step in steps.items() if step["rows"]} == {
        name: rows[name] for name in ("finetune", "distill")
    }


def test_plan_that_two_blocks_cannot_take_is_rehearsed_on_all(rehearsed):
    assert all(what.startswith("all blocks") for what in rehearsed.trials)


def test_forecast_has_a_row_for_every_part_of_the_plan_and_sums_them(folder, rehearsed):
    steps = ["rows", "source", "finetune", "distill", "files for torch", "measure memory", REST]
    assert [row.step for row in rehearsed.rows] == steps
    assert rehearsed.seconds == pytest.approx(sum(row.seconds for row in rehearsed.rows), abs=0.1)
    assert all(row.seconds >= 0 for row in rehearsed.rows)
    assert rehearsed.memory_bytes > 100e6
    assert rehearsed.disk_bytes > 3 * (folder / "model" / "model.safetensors").stat().st_size  # stored stages, and what was built


def test_fault_of_the_real_plan_is_told_with_its_exit_code(folder):
    (folder / "bad.yaml").write_text(PLAN.replace("{max_length: 16}", "{max_length: 16, label: colour}"))
    found = rehearse(folder, "bad.yaml")
    assert found.returncode == 2
    assert "has no column 'colour' (columns: text, label)" in found.stderr
