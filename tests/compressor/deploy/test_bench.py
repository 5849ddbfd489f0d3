"""Measuring processes: what they answer, and what happens when they do not."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest

from compressor.contracts import Candidate, Message
from compressor.deploy.bench import ProcessBench, load_of_others, worker_environment
from compressor.deploy.worker import read_feeds
from compressor.errors import WorkerFailed

STAND_INS = Path(__file__).parents[2] / "stand_ins"


@pytest.fixture
def sleeping(monkeypatch):
    """The module of stand-in targets, importable here and in the workers."""
    monkeypatch.syspath_prepend(str(STAND_INS))
    monkeypatch.setenv("PYTHONPATH", str(STAND_INS))
    import sleeping

    return sleeping


@pytest.fixture
def bench(tmp_path):
    with ProcessBench(tmp_path / "bench", tell=lambda event: None, timeout_seconds=30) as bench:
        yield bench


def candidate(runtime, tmp_path) -> Candidate:
    return Candidate("source@sleeping", stage="source", target="sleeping", runtime=runtime, built=tmp_path)


def feed(ms: float) -> dict:
    return {"ms": np.array([ms])}


def test_worker_times_calls_on_inputs_in_turn(sleeping, bench, tmp_path):
    worker = bench.worker(candidate(sleeping.Sleeping(ms=0), tmp_path))
    worker.put([feed(2), feed(20), feed(40)])
    seconds = [*worker.run(4), *worker.run(2)]
    assert all(took >= ms / 1e3 for took, ms in zip(seconds, [2, 20, 40, 2, 20, 40], strict=True))
    assert max(seconds[0::3]) < min(seconds[1::3]) <= max(seconds[1::3]) < min(seconds[2::3])


def test_processes_begin_side_by_side_and_each_loads_when_it_is_asked_for(sleeping, bench, tmp_path):
    one, other = (candidate(sleeping.Sleeping(ms=0), tmp_path) for _ in range(2))
    before = set(psutil.Process().children())
    with bench.begun([one, other, one, other]):
        begun = {process.pid for process in set(psutil.Process().children()) - before}
        workers = [bench.worker(each) for each in (one, other, one)]
        assert len({worker.pid for worker in workers} & begun) == 3
        assert [worker.candidate for worker in workers] == [one, other, one]
        assert set(workers[0].times) == {"load_seconds", "cpus"}
        late = bench.worker(one)
        assert late.pid not in begun, "one that has not begun starts now"
    left = {process.pid for process in set(psutil.Process().children()) - before}
    assert left == {worker.pid for worker in (*workers, late)}, "nobody asked"


def test_worker_starts_with_first_input_when_new_ones_are_put(sleeping, bench, tmp_path):
    worker = bench.worker(candidate(sleeping.Sleeping(ms=0), tmp_path))
    worker.put([feed(1), feed(30)])
    worker.run(1)
    worker.put([feed(1), feed(60)])
    assert worker.run(1)[0] < 0.05


def test_worker_tells_load_and_first_call_in_facts(sleeping, bench, tmp_path):
    worker = bench.worker(candidate(sleeping.Sleeping(ms=5), tmp_path))
    assert float(worker.facts["load_seconds"]) >= 0
    assert "first_call_seconds" not in worker.facts
    worker.put([feed(0)])
    first = worker.run(2)[0]
    assert float(worker.facts["first_call_seconds"]) == pytest.approx(first)
    assert worker.facts["precision"] == "fp32"


def test_worker_hands_inputs_over_unchanged(sleeping, bench, tmp_path):
    worker = bench.worker(candidate(sleeping.Sleeping(), tmp_path))
    worker.put([{"ids": np.zeros((2, 3), dtype=np.int64), "half/size": np.zeros(4, dtype=np.float16)}])
    worker.run(1)
    assert worker.facts["dtypes"] == "ids:int64:2x3,half/size:float16:4"


def test_worker_is_kept_to_threads_and_told_to_be_quiet(sleeping, bench, tmp_path):
    facts = bench.worker(candidate(sleeping.Sleeping(threads=1), tmp_path)).facts
    assert facts["OMP_NUM_THREADS"] == "1"
    assert facts["HF_HUB_OFFLINE"] == facts["DO_NOT_TRACK"] == "1"
    assert facts["SLEEPING_TELEMETRY"] == "off"
    assert facts["cpus"] == str(min(os.sched_getaffinity(0)))


def test_environment_gives_the_target_the_last_word(sleeping):
    class Stubborn(sleeping.Sleeping):
        def environment(self):
            return {"OMP_NUM_THREADS": "7"}

    environment = worker_environment(Stubborn(threads=3))
    assert environment["OMP_NUM_THREADS"] == "7"
    assert environment["MKL_NUM_THREADS"] == "3"


def test_worker_answers_when_a_library_prints(sleeping, bench, tmp_path):
    worker = bench.worker(candidate(sleeping.Sleeping(fault="print"), tmp_path))
    worker.put([feed(0)])
    assert len(worker.run(3)) == 3
    assert worker.peak_bytes() > 0


def test_peak_bytes_counts_what_calls_allocate(sleeping, bench, tmp_path):
    worker = bench.worker(candidate(sleeping.Sleeping(mebibytes=32), tmp_path))
    worker.put([feed(0)])
    worker.run(1)
    before = worker.peak_bytes()
    worker.run(2)
    assert worker.peak_bytes() - before == pytest.approx(64 << 20, rel=0.2)


def test_worker_failed_carries_what_it_said_when_loading_raises(sleeping, bench, tmp_path):
    with pytest.raises(WorkerFailed, match=r"(?s)source@sleeping.*exit code 1 while asked to open.*RuntimeError: no model in"):
        bench.worker(candidate(sleeping.Sleeping(fault="raises"), tmp_path))


def test_worker_failed_names_the_signal_when_it_is_killed(sleeping, bench, tmp_path):
    worker = bench.worker(candidate(sleeping.Sleeping(fault="killed"), tmp_path))
    worker.put([feed(0)])
    with pytest.raises(WorkerFailed, match=r"signal 9 \(out of memory\?\) while asked to run"):
        worker.run(1)
    with pytest.raises(WorkerFailed, match="source@sleeping"):
        worker.run(1)


def test_worker_failed_and_process_ended_when_it_hangs(sleeping, tmp_path):
    with ProcessBench(tmp_path, tell=lambda event: None, timeout_seconds=5) as bench:
        worker = bench.worker(candidate(sleeping.Sleeping(ms=0), tmp_path))
        worker.put([feed(60_000)])
        with pytest.raises(WorkerFailed, match="no answer to 'run' within 5 s"):
            worker.run(1)
        assert not psutil.pid_exists(worker.pid)


def test_worker_failed_when_the_class_is_no_target(sleeping, bench, tmp_path):
    class Impostor(sleeping.Sleeping):
        pass

    Impostor.__module__, Impostor.__qualname__ = "sleeping", "NotATarget"
    with pytest.raises(WorkerFailed, match=r"TypeError: sleeping:NotATarget.*derived from compressor.contracts.Target"):
        bench.worker(candidate(Impostor(), tmp_path))


def test_put_refuses_no_inputs(sleeping, bench, tmp_path):
    with pytest.raises(ValueError, match="no inputs"):
        bench.worker(candidate(sleeping.Sleeping(), tmp_path)).put([])


def test_close_ends_processes_and_leaves_no_files(sleeping, tmp_path):
    folder = tmp_path / "bench"
    with ProcessBench(folder, tell=lambda event: None) as bench:
        workers = [bench.worker(candidate(sleeping.Sleeping(), tmp_path)) for _ in range(2)]
        assert all(psutil.pid_exists(worker.pid) for worker in workers)
    assert not any(psutil.pid_exists(worker.pid) for worker in workers)
    assert list(folder.iterdir()) == []


def test_close_kills_a_worker_in_the_middle_of_a_call(sleeping, bench, tmp_path, monkeypatch):
    monkeypatch.setattr("compressor.deploy.bench.CLOSE_SECONDS", 0.2)
    worker = bench.worker(candidate(sleeping.Sleeping(ms=0), tmp_path))
    worker.put([feed(60_000)])
    with ThreadPoolExecutor(1) as thread:
        asking = thread.submit(worker.run, 1)
        time.sleep(0.5)
        worker.close()
        with pytest.raises(WorkerFailed, match="source@sleeping"):
            asking.result(timeout=10)
    assert not psutil.pid_exists(worker.pid)


ORPHANING = """
import sys, threading, time
from pathlib import Path
import numpy as np
from compressor.deploy.bench import ProcessBench
from compressor.contracts import Candidate
from sleeping import Sleeping

bench = ProcessBench(Path(sys.argv[1]), tell=print)
worker = bench.worker(Candidate("a@b", stage="a", target="b", runtime=Sleeping(ms=60_000), built=Path(sys.argv[1])))
worker.put([{"x": np.zeros(1)}])
threading.Thread(target=worker.run, args=(1,), daemon=True).start()
time.sleep(0.3)
print(worker.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks the Linux kernel")
def test_worker_dies_with_its_parent_when_that_is_killed_in_the_middle_of_a_call(sleeping, tmp_path):
    parent = subprocess.Popen([sys.executable, "-c", ORPHANING, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    with parent:
        worker = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    gone, _ = psutil.wait_procs([worker], timeout=5)
    assert gone or worker.status() == psutil.STATUS_ZOMBIE


def test_load_leaves_out_own_processes():
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy, ThreadPoolExecutor(2) as threads:
        time.sleep(0.3)
        counted = threads.submit(load_of_others, [os.getpid()], window_seconds=1.0)
        left_out = threads.submit(load_of_others, [os.getpid(), busy.pid], window_seconds=1.0)
        share = counted.result() - left_out.result()
        busy.kill()
    assert share * os.cpu_count() > 0.2


def test_bench_tells_and_measures_load(sleeping, tmp_path):
    heard = []
    with ProcessBench(tmp_path, tell=heard.append) as bench:
        bench.worker(candidate(sleeping.Sleeping(), tmp_path))
        bench.tell(Message("hello"))
        assert 0.0 <= bench.load() <= 1.0
    assert heard == [Message("hello")]


def test_read_feeds_refuses_pickles(tmp_path):
    np.savez(tmp_path / "feeds.npz", **{"0/x": np.array([{"a": 1}], dtype=object)})
    with pytest.raises(ValueError, match="allow_pickle"):
        read_feeds(tmp_path / "feeds.npz")
