"""The measuring process: opens one built model in a fresh interpreter and times calls inside itself.

Started as `python -P -m compressor.deploy.worker`; requests and answers are JSON lines on its first standard input and output,
arrays travel beside them as `.npz` files. It ends when its input ends, so it never outlives the process that asked.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from compressor.contracts import Feed, Session, Step, Target, Task, Workload

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PR_SET_PDEATHSIG = 1


class Worker:
    """One opened model and the inputs it is timed on; each public method answers the request of its name."""

    def __init__(self) -> None:
        self._session: Session | None = None
        self._runtime: Target | None = None
        self._built = Path()
        self._feeds: list[Feed] = []
        self._prepared: list[object] = []
        self._workload = Workload()
        self._task: Task | None = None
        self._next = 0
        self._facts: dict[str, str] = {}

    def open(
        self, *, target: str, parameters: str, task: tuple[str, str] | None, built: str, threads: int, parent: int
    ) -> dict[str, Any]:
        """Pin the process, then load the model; the time includes importing the runtime."""
        die_with(parent)
        cpus = pin(threads)
        runtime: Target = load_step(Target, target, parameters)
        self._runtime, self._built = runtime, Path(built)
        self._task = load_step(Task, *task) if task else None
        start = time.perf_counter()
        self._session = runtime.open(self._built)
        seconds = time.perf_counter() - start
        gc.collect()
        gc.freeze()  # else each collection between timings walks through all that the runtime imported
        self._facts = {"load_seconds": f"{seconds:.6f}"} | ({"cpus": cpus} if cpus else {})
        return {}

    def put(self, *, path: str, workload: dict[str, Any]) -> dict[str, Any]:
        """Take inputs, and prepare for a call with each of them."""
        self._feeds, self._workload, self._next = read_feeds(Path(path)), Workload.model_validate(workload), 0
        self._prepared = [self._prepare(self._opened(), feed) for feed in self._feeds]
        return {}

    def run(self, *, calls: int) -> dict[str, Any]:
        self._opened()
        turn = [(self._next + i) % len(self._feeds) for i in range(calls)]
        self._next = (self._next + calls) % len(self._feeds)
        nanoseconds = time_calls(self._call_of(self._opened()), [(self._feeds[place], self._prepared[place]) for place in turn])
        self._facts.setdefault("first_call_seconds", f"{nanoseconds[0] / 1e9:.9f}")
        return {"nanoseconds": nanoseconds}

    def peak(self) -> dict[str, Any]:
        return {"bytes": peak_bytes()}

    def watch(self, *, calls: int) -> dict[str, Any]:
        """What the first input takes by operator, in a session that its runtime watches, instead of the one that was timed."""
        self._opened()
        assert self._runtime is not None
        self._session, self._prepared = None, []  # two would take twice the memory
        gc.unfreeze()
        gc.collect()

        def prepare(session: Session) -> Callable[[], None]:
            call, feed = self._call_of(session), self._feeds[0]
            prepared = self._prepare(session, feed)

            def once() -> None:
                call(feed, prepared)

            return once

        found = self._runtime.profile(self._built, prepare, calls=calls)
        return {"watched": found.model_dump(mode="json") if found else None}

    def facts(self) -> dict[str, Any]:
        """What runs, asked of the runtime only when somebody wants to know: the answer may take memory that is measured here."""
        return {"facts": dict(self._opened().facts()) | self._facts}

    def times(self) -> dict[str, Any]:
        """What is known without asking the runtime; nothing before a model is opened."""
        return {"times": self._facts}

    def _opened(self) -> Session:
        """What was opened; anew where it was let go, with what was prepared for it."""
        if self._runtime is None:
            raise RuntimeError("asked to work before a model was opened")
        if self._session is None:
            self._session = self._runtime.open(self._built)
            self._prepared = [self._prepare(self._session, feed) for feed in self._feeds]
        return self._session

    def _prepare(self, session: Session, feed: Feed) -> object:
        return self._task.prepare(session, feed, self._workload) if self._task else None

    def _call_of(self, session: Session) -> Callable[[Feed, object], object]:
        """One call as it is timed: by the task where there is one, else a run of the session."""
        task, workload = self._task, self._workload
        if task is None:
            return lambda feed, _: session.run(feed)
        return lambda feed, prepared: task.call(session, feed, workload, prepared)


def time_calls(call: Callable[[Feed, object], object], given: Sequence[tuple[Feed, object]]) -> list[int]:
    """Nanoseconds of one call for each feed with what was prepared for it; the garbage collector rests meanwhile."""
    clock = time.perf_counter_ns
    nanoseconds = []
    gc.collect()
    gc.disable()
    try:
        for feed, prepared in given:
            start = clock()
            call(feed, prepared)
            nanoseconds.append(clock() - start)
    finally:
        gc.enable()
    return nanoseconds


def load_step(kind: type[Step], name: str, parameters: str) -> Any:
    """The target or task `module:Class` with its parameters from JSON.

    Raises:
        TypeError: it is of another kind.
    """
    module, _, attribute = name.partition(":")
    found = getattr(importlib.import_module(module), attribute)
    if not (isinstance(found, type) and issubclass(found, kind)):
        raise TypeError(f"{name} is {found!r}, expected a class derived from compressor.contracts.{kind.__name__}")
    return found.model_validate_json(parameters)


def read_feeds(path: Path) -> list[Feed]:
    """Feeds from an archive whose members are named `INDEX/INPUT`."""
    import numpy as np

    feeds: dict[int, Feed] = {}
    with np.load(path, allow_pickle=False) as archive:
        for member in archive.files:
            index, _, name = member.partition("/")
            feeds.setdefault(int(index), {})[name] = archive[member]
    return [feeds[index] for index in sorted(feeds)]


def pin(threads: int) -> str:
    """Keep to the first `threads` allowed processors and name them; empty where the system cannot."""
    if not hasattr(os, "sched_setaffinity"):
        return ""
    cpus = sorted(os.sched_getaffinity(0))[:threads]
    os.sched_setaffinity(0, cpus)
    return ",".join(str(cpu) for cpu in cpus)


def die_with(parent: int) -> None:
    """Have the kernel end this process when the thread that started it ends, even in the middle of a call (Linux)."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the kernel was told
        raise SystemExit(f"the process that asked, {parent}, has ended")


def peak_bytes() -> int:
    """Peak resident memory of this process. Linux: VmHWM, since ru_maxrss also counts what the parent held before exec."""
    status = Path("/proc/self/status")
    if status.exists():
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        return int(fields["VmHWM"].split()[0]) * 1024
    import psutil

    memory = psutil.Process().memory_info()
    return int(getattr(memory, "peak_wset", memory.rss))


def take_pipes() -> tuple[TextIO, TextIO]:
    """The pipes to the parent, moved out of reach: what libraries print goes to standard error from here on."""
    requests, answers = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    return open(requests, encoding="utf-8"), open(answers, "w", encoding="utf-8")  # noqa: PTH123 - descriptors, not paths


def main() -> None:
    """Answer requests until there are no more. An error ends the process: its traceback is the parent's to show."""
    requests, answers = take_pipes()
    worker = Worker()
    operations: dict[str, Callable[..., dict[str, Any]]] = {
        "open": worker.open,
        "put": worker.put,
        "run": worker.run,
        "peak": worker.peak,
        "watch": worker.watch,
        "facts": worker.facts,
        "times": worker.times,
    }
    for line in requests:
        request = json.loads(line)
        answer = operations[request.pop("ask")](**request)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
    sys.stderr.flush()
    os._exit(0)  # runtimes take a tenth of a second to tidy up, and there is nothing to tidy
