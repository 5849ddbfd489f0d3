from __future__ import annotations

import json
import shutil

import pytest
from furnished import rows, told, write_model, write_rows

from benchmarks.latency import Latency
from compressor.contracts import Workload
from compressor.errors import StoreError
from compressor.plan.bound import load_plan
from compressor.run.comparison import Run, changes, compare_runs, measure
from compressor.store.store import Store, sha256_of

PLAN = """
name: tiny
model: {folder: model}
task:
  text-classification: {max_length: 16}
data: {files: rows.jsonl, split: {validation: 12, test: 20}}
stages: quality
passes:
  - finetune: {epochs: 1, precision: fp32}
  - quantize-dynamic: {embeddings: true}
targets:
  - onnxruntime: {}
probes:
  - latency: {length: [16], rounds: 5, seconds: 0.2, warm_up_seconds: 0.02, controls: 1, control_limit: 0.9}
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs of a plan that differ in one parameter of its last step."""
    from compressor.run.pipeline import run_plan

    folder = tmp_path_factory.mktemp("compare")
    write_model(folder)
    write_rows(folder / "rows.jsonl", rows())
    (folder / "plan.yaml").write_text(PLAN)
    for name, settings in {"first": (), "second": ("passes.quantize-dynamic.embeddings=false",)}.items():
        bound = load_plan(folder / "plan.yaml", settings=settings)
        run_plan(bound, store=Store(folder / "store"), folder=folder / name, command="", tell=lambda event: None)
    return folder / "first", folder / "second"


@pytest.fixture
def other(runs, tmp_path):
    """A copy of the second run, to change something in."""
    shutil.copytree(runs[1], tmp_path / "other")
    return tmp_path / "other"


def rewritten(folder, change):
    report = json.loads((folder / "report.json").read_text())
    change(report)
    path = folder / "report.json"
    before = sha256_of(path)
    path.write_text(json.dumps(report))
    sums = folder / "SHA256SUMS"
    sums.write_text(sums.read_text().replace(before, sha256_of(path)))
    return folder


def test_compare_tells_the_parameter_that_changed_and_what_it_changed(runs):
    found = compare_runs(*runs)
    told = {(change.what, change.where): (change.first, change.second) for change in found.changes}
    assert told.pop(("plan", "passes.quantize-dynamic.embeddings")) == ("true", "false")
    assert {what for what, _ in told} == {"stages", "files"}
    assert {where for what, where in told if what == "stages"} == {"quantize-dynamic@onnxruntime"}
    assert {where for what, where in told if what == "files"} == {"final@onnxruntime/model.onnx"}


def test_compare_finds_nothing_between_a_run_and_itself(runs):
    found = compare_runs(runs[0], runs[0])
    assert found.changes == ()
    assert all(each.difference.change == 0 and each.difference.changed == 0 for each in found.qualities)


def test_compare_pairs_the_qualities_of_the_same_test_rows(runs):
    import numpy as np

    found = {each.candidate: each for each in compare_runs(*runs).qualities}
    final = found["final@onnxruntime"]
    outputs = [np.load(run / "evaluations" / "final@onnxruntime" / "rows.npz") for run in runs]
    assert final.difference.n == 20
    assert final.difference.change == pytest.approx(100 * (outputs[1]["gains/accuracy"] - outputs[0]["gains/accuracy"]).mean())
    assert final.difference.interval.low <= final.difference.change <= final.difference.interval.high
    assert found["source@onnxruntime"].difference.changed == 0


def test_compare_gives_the_times_of_both_and_what_they_are_worth(runs, other):
    found = compare_runs(*runs)
    final = next(each for each in found.times if each.candidate == "final@onnxruntime")
    assert final.workload == Workload(length=16)
    assert final.first == Run.read(runs[0]).latencies["final@onnxruntime", Workload(length=16)]
    assert "two moments" in found.warnings[0]

    def elsewhere(report):
        report["machine"] |= {"fingerprint": "another", "processor": "Another 9000"}

    moved = compare_runs(runs[0], rewritten(other, elsewhere))
    assert "two machines" in moved.warnings[0]
    assert "Another 9000" in moved.warnings[0]


def test_compare_pairs_nothing_when_the_test_rows_differ(runs, other):
    def redrawn(report):
        for split in report["data"]["splits"]:
            split["digest"] = "0" * 64 if split["name"] == "test" else split["digest"]

    found = compare_runs(runs[0], rewritten(other, redrawn))
    assert all(each.difference is None for each in found.qualities)
    assert {each.unpaired for each in found.qualities} == {"the runs have other test rows or labels"}
    assert any(change.what == "data" and change.where == "test" for change in found.changes)


def test_compare_says_so_when_a_run_kept_no_outputs(runs, other):
    shutil.rmtree(other / "evaluations")
    assert {each.unpaired for each in compare_runs(runs[0], other).qualities} == {"a run kept no outputs by row"}


def test_compare_refuses_outputs_that_the_report_was_not_written_about(runs, other):
    shutil.copytree(
        runs[0] / "evaluations" / "source@onnxruntime", other / "evaluations" / "final@onnxruntime", dirs_exist_ok=True
    )
    with pytest.raises(StoreError, match=r"rows\.npz is not the file that was written"):
        compare_runs(runs[0], other)


def test_changes_name_steps_that_came_or_went_and_versions(runs):
    report = Run.read(runs[0]).report
    shorter = report.model_copy(
        update={
            "plan": report.plan.replace("- quantize-dynamic:\n    embeddings: true\n", ""),
            "stages": report.stages[:-1],
            "versions": {**report.versions, "torch": "1.0"},
        }
    )
    told = {(change.what, change.where): (change.first, change.second) for change in changes(report, shorter)}
    assert told["plan", "passes"] == ("finetune, quantize-dynamic", "finetune")
    assert told["plan", "passes.quantize-dynamic.embeddings"] == ("true", None)
    assert told["versions", "torch"] == (report.versions["torch"], "1.0")


def test_measure_times_the_final_files_of_both_side_by_side(runs):
    short = Latency(rounds=5, seconds=0.2, warm_up_seconds=0.02, controls=1, control_limit=0.99)
    (found,) = measure(*runs, tell=lambda event: None, probe=short)
    assert found.target == "onnxruntime"
    assert (found.ratio.of, found.ratio.to) == ("second:final@onnxruntime", "first:final@onnxruntime")
    assert found.ratio.interval.low <= found.ratio.value <= found.ratio.interval.high
    assert found.control.attempts == 1


def test_measure_refuses_a_file_that_is_not_the_one_in_the_report(runs, other):
    with (other / "artifacts" / "final@onnxruntime" / "model.onnx").open("ab") as file:
        file.write(b"x")
    with pytest.raises(StoreError, match="is not the file that was measured"):
        measure(runs[0], other, tell=lambda event: None)


@pytest.fixture
def command(monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "160")
    return lambda *arguments: told(tmp_path, "compare", *map(str, arguments))


def test_command_prints_tables(runs, command):
    found = command(*runs)
    assert found.returncode == 0, found.stderr
    for text in ("passes.quantize-dynamic.embeddings", "final@onnxruntime", "two moments", "as measured"):
        assert text in found.stdout


def test_command_says_what_is_wrong_with_a_folder_that_is_no_run(runs, tmp_path, command):
    found = command(runs[0], tmp_path)
    assert found.returncode == 1
    assert found.stderr.strip() == f"{tmp_path} holds no report.json: is it the folder of a run?"
