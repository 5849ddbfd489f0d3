"""What `forked_runs.py` did: runs killed at every point, side by side and interrupted end as the run that nothing befell."""

import json
import os
import runpy
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from furnished import rows, write_files, write_model

from benchmarks.studies.kills import difference
from compressor.report import read_report, write_report
from compressor.store.maintenance import survey, verify
from compressor.store.store import Store

DRIVER = Path(__file__).with_name("forked_runs.py")
PHASES = runpy.run_path(str(DRIVER))["PHASES"]
PLAN = """
name: tiny
model: {folder: model}
task:
  text-classification: {max_length: 16}
data: {files: {path: rows, layout: folder-per-label}, split: {validation: 8, test: 8}, calibration: 4}
reference: finetune
stages: quality
passes:
  - finetune: {epochs: 1, precision: fp32}
  - prune-structure: {keep: 0.5, rows: 8, round_to: 8}
  - quantize-static: {calibration: 4}
targets:
  - onnxruntime
probes:
  - latency: {length: [16], rounds: 5, seconds: 0.1, warm_up_seconds: 0.01, controls: 1, control_limit: 0.99}
accept:
  - {target: onnxruntime, max_drop: 100, max_size: 1}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """All runs, made by one process."""
    folder = tmp_path_factory.mktemp("forked")
    write_model(folder)
    write_files(folder / "rows", rows(40))
    (folder / "plan.yaml").write_text(PLAN)
    command = [sys.executable, str(DRIVER), str(folder)]
    made = subprocess.run(
        command, capture_output=True, text=True, timeout=540, env={**os.environ, "PYTHONPATH": str(DRIVER.parents[3])}
    )
    said = "".join(f"\n--- {path}\n{path.read_text()[-2000:]}" for path in sorted(folder.rglob("said*.txt")))
    assert made.returncode == 0, made.stdout + made.stderr + said
    return folder


def assert_equal_to_the_whole_run(folder, ended):
    assert read_report(ended / "run").outcome == "accepted"
    assert difference(ended, folder / "whole") == ""


def assert_clean(store):
    """No damaged result, and nothing left of the runs that ended."""
    assert verify(Store(store)).damaged == {}
    assert {kept.step for kept in survey(Store(store))} >= {"source", "finetune", "prune-structure", "lower", "quantize-static"}
    assert [path for name in ("staging", "scratch", "locks", "runs") for path in (store / name).iterdir()] == []


def test_killed_at_every_point_the_last_run_ends_with_equal_files(folder, record_property):
    points = [json.loads(line) for line in (folder / "killed" / "points.jsonl").read_text().splitlines()]
    by_phase = Counter(each["phase"] for each in points)
    record_property("kills", dict(by_phase))
    assert set(by_phase) == set(PHASES), by_phase
    assert len(points) > 60
    stored = {each["line"].partition(":")[0] for each in points if each["path"].startswith("store/results")}
    assert stored == {"compressor/store/store.py"}, "nothing else touches what is stored"
    events = {each["event"] for each in points}
    assert {"open", "open, still empty", "os.rename", "os.mkdir", "subprocess.Popen", "subprocess.Popen.wait"} <= events
    for ended in (folder / "killed" / "unmeasured", folder / "killed" / "measured"):
        assert_equal_to_the_whole_run(folder, ended)
        assert_clean(ended / "store")
        assert sorted(path.name for path in ended.iterdir() if path.name.startswith(".")) == []


@pytest.mark.parametrize(("kind", "count"), [("two", 2), ("four", 4)])
def test_runs_at_once_share_the_work_and_compute_nothing_twice(folder, kind, count):
    stored = (folder / kind / "stored.txt").read_text().splitlines()
    whole = {kept.key for kept in survey(Store(folder / "whole" / "store"))}
    assert sorted(stored) == sorted(whole), "each result once, and no other"
    made = []
    for number in range(count):
        assert_equal_to_the_whole_run(folder, folder / kind / str(number))
        made += [stage.key for stage in read_report(folder / kind / str(number) / "run").stages if not stage.found]
    assert len(made) == len(set(made)) == len(read_report(folder / "whole" / "run").stages)
    said = "".join((folder / kind / str(number) / "said.txt").read_text() for number in range(count))
    assert ": waits for process " in said
    assert_clean(folder / kind / "store")


def test_interrupted_once_or_twice_a_run_says_how_to_go_on_and_does(folder):
    for number in range(4):
        said = (folder / "interrupted" / f"said-{number}.txt").read_text()
        assert (folder / "interrupted" / f"code-{number}.txt").read_text() == "130", said
        assert "interrupted: give the same command again to go on from what is stored" in said
        assert "Traceback" not in said
        assert "Aborted" not in said
    assert "finetune: found in the store" in (folder / "interrupted" / "said-last.txt").read_text()
    assert_equal_to_the_whole_run(folder, folder / "interrupted")
    assert_clean(folder / "interrupted" / "store")


def test_difference_names_what_differs(folder, tmp_path):
    for place in ("run", "export", "store"):
        shutil.copytree(folder / "whole" / place, tmp_path / place)
    assert difference(tmp_path, folder / "whole") == ""
    (tmp_path / "export" / "model.onnx").rename(tmp_path / "export" / "other.onnx")
    built = tmp_path / "run" / "artifacts" / "final@onnxruntime" / "model.onnx"
    built.write_bytes(built.read_bytes()[:-1])
    report = read_report(tmp_path / "run")
    stages = (*report.stages[:-1], report.stages[-1].model_copy(update={"digest": "0"}))
    write_report(report.model_copy(update={"stages": stages}), tmp_path / "run")
    found = difference(tmp_path, folder / "whole").split(", ")
    assert found == [
        "export/model.onnx",
        "export/other.onnx",
        "run/artifacts/final@onnxruntime/model.onnx",
        f"stage {stages[-1].name}",
    ]


def test_no_process_outlives_its_run(folder):
    import psutil

    told = [each.info for each in psutil.process_iter(["cmdline", "cwd"])]  # None for what another user runs
    assert [each for each in told if str(folder) in f"{each['cwd']} {each['cmdline']}"] == []
