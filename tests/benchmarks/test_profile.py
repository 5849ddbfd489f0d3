"""The probe that says what time goes into, in processes of its own."""

import gc
import weakref
from pathlib import Path

import numpy as np
import pytest

from benchmarks.profile import Profile
from compressor.contracts import Artifact, Candidate, Progress, Workload
from compressor.contracts.records import ProfileRecord
from compressor.deploy.bench import ProcessBench, write_feeds
from compressor.deploy.build import beside
from compressor.deploy.graphs import describe
from compressor.deploy.worker import Worker
from compressor.store.store import Store
from compressor.testing.stand_in import BagOfTokens
from compressor.testing.tiny import ready_target, run_on
from targets.onnxruntime import OnnxRuntime

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


@pytest.mark.parametrize(("of", "files"), [("final", 3), ("all", 5)])
def test_it_takes_its_seconds_for_each_file_that_it_looks_at(of, files):
    probe = Profile(of=of, seconds=4.05, batch=(1, 2), length=(8,))
    assert probe.expected_over(probe.shortened(), 9.0, ["source", "final", "final", "source", "final"]) == 9 + files * 2 * 4


def test_no_two_sessions_are_loaded_at_a_time(candidates):
    """What is timed is let go before it is watched, and opened anew where it is timed again."""
    made, feeds = candidates
    opened = []

    class Counting(OnnxRuntime):
        def _opened(self, built, *, watched=None):
            gc.collect()
            assert not [each for each in opened if each() is not None], "another session is loaded still"
            session = super()._opened(built, watched=watched)
            opened.append(weakref.ref(session))
            return session

    worker, final = Worker(), made[1]
    worker._runtime, worker._built, worker._task = Counting(), final.built, final.task
    write_feeds(final.built.parent / "feeds.npz", feeds)
    worker.put(path=str(final.built.parent / "feeds.npz"), workload=WORKLOAD.model_dump(mode="json"))
    worker.run(calls=2)
    assert worker.watch(calls=2)["watched"]["calls"] == 2
    assert len(worker.run(calls=3)["nanoseconds"]) == 3
    assert len(opened) == 3


def test_runtime_without_a_profiler_is_told(tmp_path):
    target = BagOfTokens()
    target.build(None, tmp_path)
    candidate = Candidate("final@none", "final", "none", target, tmp_path)
    feeds = {Workload(): [{"input_ids": np.zeros((1, 4), np.int64)}]}
    with ProcessBench(tmp_path / "bench", tell=lambda event: None) as bench:
        record = Profile(seconds=0.01).measure([candidate], feeds, bench, seed=0)
    assert record.rows == ()
    assert "no profiler" in record.not_profiled["final@none"]
