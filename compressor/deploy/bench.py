"""Measuring processes, seen from the side that asks: start them, hand over inputs, notice when they die or hang."""

from __future__ import annotations

import json
import logging
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from compressor.contracts import Candidate, Event, Feed, Peaks, Profile, Step, Target, Workload
from compressor.deploy.peaks import peaks_of
from compressor.deploy.telemetry import SWITCHES
from compressor.errors import WorkerFailed
from compressor.store.store import Store

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 600.0
CLOSE_SECONDS = 5.0
LOAD_WINDOW_SECONDS = 0.5
STDERR_TAIL_LINES = 15

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
QUIET = {
    **SWITCHES,
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
"""No telemetry and no network in a measuring process; a target adds the switches of its own runtime."""


class ProcessBench:
    """The bench of a run: one fresh process a candidate, all of them ended by `close`.

    `folder` takes the inputs on their way to the workers and what the workers say on standard error; `tell` hears the
    progress of the probes; `timeout_seconds` bounds the time of a single answer; `store` keeps what was measured of the machine.
    """

    def __init__(
        self,
        folder: Path,
        *,
        tell: Callable[[Event], None],
        timeout_seconds: float = TIMEOUT_SECONDS,
        store: Store | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._store = store
        self._folder = folder
        self._tell = tell
        self._timeout_seconds = timeout_seconds
        self._workers: list[ProcessWorker] = []
        self._begun: list[ProcessWorker] = []
        self._peaks: dict[int, Peaks] = {}

    @contextmanager
    def begun(self, candidates: Sequence[Candidate]) -> Iterator[None]:
        """Start a process for each of these candidates, side by side on all processors; `worker` loads them, each by itself.

        Those that were not asked for are ended at the end.

        Raises:
            WorkerFailed: one died or gave no answer.
        """
        begun = [self._started(candidate) for candidate in candidates]
        for worker in begun:
            worker.await_start()
        self._begun += begun
        try:
            yield
        finally:
            for worker in [each for each in begun if each in self._begun]:
                self._begun.remove(worker)
                worker.close()

    def worker(self, candidate: Candidate) -> ProcessWorker:
        """Load the candidate in a process that has begun for it, else in one that starts now.

        Raises:
            WorkerFailed: it died or gave no answer while loading.
        """
        worker = next((each for each in self._begun if each.candidate is candidate), None)
        if worker is None:
            worker = self._started(candidate)
        else:
            self._begun.remove(worker)
        worker.open()
        return worker

    def _started(self, candidate: Candidate) -> ProcessWorker:
        worker = ProcessWorker(candidate, self._folder, timeout_seconds=self._timeout_seconds)
        self._workers = [*(each for each in self._workers if each.alive), worker]
        return worker

    def load(self) -> float:
        """Share of the processors that other processes kept busy in the last half second, 0 to 1."""
        own = [os.getpid(), *(worker.pid for worker in self._workers if worker.alive)]
        return load_of_others(own, window_seconds=LOAD_WINDOW_SECONDS)

    def peaks(self, threads: int) -> Peaks:
        """The most that this machine does with so many threads, measured in a process of its own unless the store has it."""
        if threads not in self._peaks:
            self._peaks[threads] = peaks_of(threads, self._store, self.load)
        return self._peaks[threads]

    def tell(self, event: Event) -> None:
        self._tell(event)

    def close(self) -> None:
        """End all workers that still live."""
        for worker in self._workers:
            worker.close()
        self._workers = []

    def __enter__(self) -> ProcessBench:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class ProcessWorker:
    """A fresh process that holds one candidate and answers one request at a time."""

    def __init__(self, candidate: Candidate, folder: Path, *, timeout_seconds: float) -> None:
        self.candidate = candidate
        self._timeout_seconds = timeout_seconds
        self._folder = Path(tempfile.mkdtemp(prefix="worker-", dir=folder))
        self._answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._process = self._start(candidate.runtime)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def await_start(self) -> None:
        """Wait until the process answers; nothing is loaded yet.

        Raises:
            WorkerFailed: it died or hangs.
        """
        self._ask("times")

    def open(self) -> None:
        """Load the candidate.

        Raises:
            WorkerFailed: the process died, or gave no answer while loading.
        """
        runtime, task = self.candidate.runtime, self.candidate.task
        self._ask(
            "open",
            target=spelled(runtime),
            parameters=runtime.model_dump_json(),
            task=(spelled(task), task.model_dump_json()) if task else None,
            built=str(self.candidate.built.resolve()),
            threads=runtime.threads,
            parent=os.getpid(),
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def facts(self) -> Mapping[str, str]:
        """The session's facts, `cpus` (where the process is pinned), `load_seconds`, and once known `first_call_seconds`.

        Asking takes the runtime time, and may take it memory.

        Raises:
            WorkerFailed: the process died or hangs.
        """
        return dict(self._ask("facts")["facts"])

    @property
    def times(self) -> Mapping[str, str]:
        """Of the facts those that the process knows by itself: `load_seconds`, `first_call_seconds`, `cpus`.

        Raises:
            WorkerFailed: the process died or hangs.
        """
        return dict(self._ask("times")["times"])

    def put(self, feeds: Sequence[Feed], workload: Workload = Workload()) -> None:
        """Hand over the inputs that later calls cycle through, from the first on, and what a call does with one of them.

        Raises:
            ValueError: there are none.
            WorkerFailed: the process died or hangs.
        """
        if not feeds:
            raise ValueError(f"{self.candidate.id}: no inputs to measure with")
        path = self._folder / "feeds.npz"
        write_feeds(path, feeds)
        self._ask("put", path=str(path), workload=workload.model_dump(mode="json"))
        path.unlink()

    def run(self, calls: int) -> Sequence[float]:
        """Wall time in seconds of each of `calls` calls, inputs in turn, by the worker's own clock.

        Raises:
            WorkerFailed: the process died or hangs.
        """
        nanoseconds = self._ask("run", calls=calls)["nanoseconds"]
        return tuple(value / 1e9 for value in nanoseconds)

    def peak_bytes(self) -> int:
        """Peak resident memory of the process so far, interpreter and runtime included."""
        return int(self._ask("peak")["bytes"])

    def profile(self, calls: int) -> Profile | None:
        """What a call with the first input takes by operator, in a session of its own; None where the runtime has no profiler.

        Raises:
            WorkerFailed: the process died or hangs.
        """
        found = self._ask("watch", calls=calls)["watched"]
        return None if found is None else Profile.model_validate(found)

    def close(self) -> None:
        """End the process; kill it when it does not go by itself."""
        if self._process.stdin and not self._process.stdin.closed:
            try:
                self._process.stdin.close()
            except BrokenPipeError:
                logger.debug("%s: the worker had ended before it was closed", self.candidate.id)
        try:
            self._process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._listener.join()
        if self._process.stdout:
            self._process.stdout.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self, runtime: Target) -> subprocess.Popen[str]:
        with self._stderr.open("wb") as stderr:
            return subprocess.Popen(
                [sys.executable, "-P", "-m", "compressor.deploy.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=worker_environment(runtime),
                encoding="utf-8",
            )

    @property
    def _stderr(self) -> Path:
        return self._folder / "stderr.txt"

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put(None)

    def _ask(self, what: str, **values: Any) -> dict[str, Any]:
        try:
            line = self._answers.get(timeout=self._timeout_seconds) if self._send({"ask": what, **values}) else None
        except queue.Empty:
            raise self._failed(f"gave no answer to '{what}' within {self._timeout_seconds:g} s and was ended") from None
        if line is None:
            raise self._failed(f"ended{self._how_it_ended()} while asked to {what}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _send(self, request: Mapping[str, Any]) -> bool:
        """Whether the process took the request."""
        pipe = self._process.stdin
        if pipe is None or pipe.closed:
            return False
        try:
            pipe.write(json.dumps(request) + "\n")
            pipe.flush()
        except BrokenPipeError:
            return False
        return True

    def _how_it_ended(self) -> str:
        try:
            code = self._process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            return ""
        if code < 0:
            return f" by signal {-code}{' (out of memory?)' if code == -9 else ''}"
        return f" with exit code {code}"

    def _failed(self, how: str) -> WorkerFailed:
        """The error to raise; the process is gone afterwards."""
        self._process.kill()
        self._process.wait()
        lines = self._stderr.read_text(encoding="utf-8", errors="replace").splitlines() if self._stderr.exists() else []
        said = "\n".join(f"    {line}" for line in lines[-STDERR_TAIL_LINES:]) or "    (nothing)"
        self.close()
        return WorkerFailed(f"{self.candidate.id}: the measuring process {how}; the last it said:\n{said}")


def spelled(step: Step) -> str:
    """The class of a target or task as the worker finds it: `module:Class`."""
    return f"{type(step).__module__}:{type(step).__qualname__}"


def worker_environment(runtime: Target) -> dict[str, str]:
    """This process's environment with the target's thread count, telemetry and network off; the target has the last word."""
    threads = dict.fromkeys(THREAD_VARIABLES, str(runtime.threads))
    return {**os.environ, **threads, **QUIET, **runtime.environment()}


def write_feeds(path: Path, feeds: Sequence[Feed]) -> None:
    """Write feeds as an archive whose members are named `INDEX/INPUT`."""
    import numpy as np

    arrays: dict[str, Any] = {f"{index}/{name}": array for index, feed in enumerate(feeds) for name, array in feed.items()}
    np.savez(path, **arrays)


def load_of_others(own: Sequence[int], *, window_seconds: float) -> float:
    """Share of all processors, 0 to 1, that processes other than `own` kept busy during the next `window_seconds`.

    Time stolen by a hypervisor counts as others'.
    """
    before, start = _busy_seconds_of_others(own), time.perf_counter()
    time.sleep(window_seconds)
    busy, elapsed = _busy_seconds_of_others(own) - before, time.perf_counter() - start
    return min(1.0, max(0.0, busy / (elapsed * (os.cpu_count() or 1))))


def _busy_seconds_of_others(own: Sequence[int]) -> float:
    import psutil

    times = psutil.cpu_times()
    guest = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)  # Linux counts it in user time as well
    busy = sum(times) - times.idle - getattr(times, "iowait", 0.0) - guest
    return float(busy - sum(_own_seconds(psutil.Process(pid)) for pid in own if psutil.pid_exists(pid)))


def _own_seconds(process: Any) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
