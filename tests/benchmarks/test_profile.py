"""The probe that says what time goes into, in processes of its own."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.profile import Profile
from compressor.contracts import Artifact, Candidate, Progress, Workload
from compressor.contracts.records import ProfileRecord
from compressor.deploy.bench import ProcessBench
from compressor.deploy.build import beside
from compressor.deploy.graphs import describe
from compressor.store.store import Store
from compressor.testing.stand_in import BagOfTokens
from compressor.testing.tiny import ready_target, run_on

WORKLOAD = Workload(batch=2, length=8)


@pytest.fixture(scope="module")
def candidates(tmp_path_factory):
    """A source and a final model, the same tiny text classifier, on the processor."""
    run, folder = run_on("onnxruntime"), tmp_path_factory.mktemp("profiled")
    target, made = ready_target("onnxruntime"), []
    for stage in ("source", "final"):
        out = folder / stage
        out.mkdir()
        target.build(Artifact("onnxruntime", run.lowered(target).path), out, graphs=run.task.graphs(run.source.path))
        beside(run.source.path, out)
        describe(out, run.task, run.task_name, run.data.labels)
        made.append(Candidate(f"{stage}@here", stage, "here", target, out, run.task))
    feeds = run.task.feeds(run.data.split("test"), run.source.path, WORKLOAD, count=2)
    return made, feeds


def test_final_models_are_profiled_with_their_bound(candidates, tmp_path):
    made, feeds = candidates
    heard = []
    with ProcessBench(tmp_path / "bench", tell=heard.append, store=Store(tmp_path / "store")) as bench:
        record = Profile(batch=(2,), length=(8,), seconds=0.1).measure(made, {WORKLOAD: feeds}, bench, seed=0)
    (row,) = record.rows
    assert (row.candidate, row.workload) == ("final@here", WORKLOAD)
    assert row.call_ms > 0
    assert row.bound.operations_ms > 0
    assert 0 < row.share < 1
    assert row.peaks.threads == 1
    assert any(each.family == "product" and each.operations for each in row.operators)
    assert list(record.not_profiled) == ["source@here"]
    assert heard == [Progress("profile", 1, 1, unit="processes")]
    assert ProfileRecord.model_validate_json(record.model_dump_json()) == record


def test_profiler_that_fails_is_told_and_ends_nothing(tmp_path, monkeypatch):
    stand_ins = Path(__file__).parents[1] / "stand_ins"
    monkeypatch.syspath_prepend(str(stand_ins))
    monkeypatch.setenv("PYTHONPATH", str(stand_ins))
    from sleeping import Sleeping

    faults = {"final@hurt": "unwatched", "final@whole": ""}
    made = [Candidate(name, "final", name, Sleeping(ms=0, fault=fault), tmp_path) for name, fault in faults.items()]
    with ProcessBench(tmp_path / "bench", tell=lambda event: None) as bench:
        record = Profile(seconds=0.01).measure(made, {Workload(): [{"ms": np.array([0.0])}]}, bench, seed=0)
    assert "RuntimeError: nothing watches" in record.not_profiled["final@hurt"]
    assert "no profiler" in record.not_profiled["final@whole"]


def test_runtime_without_a_profiler_is_told(tmp_path):
    target = BagOfTokens()
    target.build(None, tmp_path)
    candidate = Candidate("final@none", "final", "none", target, tmp_path)
    feeds = {Workload(): [{"input_ids": np.zeros((1, 4), np.int64)}]}
    with ProcessBench(tmp_path / "bench", tell=lambda event: None) as bench:
        record = Profile(seconds=0.01).measure([candidate], feeds, bench, seed=0)
    assert record.rows == ()
    assert "no profiler" in record.not_profiled["final@none"]
