"""Starts the processes of a training step and listens to them; the process that runs the plan stays outside of their group.

`compressor.run.trainer` is what each of them runs; when one fails, the others are ended. The first process of a machine tells the progress
as JSON lines on standard output; what libraries print goes to `workers.log` beside the job.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from pydantic import BaseModel, ConfigDict

from compressor.contracts import Event, Message, Progress
from compressor.deploy.bench import STDERR_TAIL_LINES
from compressor.errors import CompressorError, MissingDependency, WorkerFailed, told_elsewhere
from compressor.training.meeting import PORT, network, scratch_file

WAIT_SECONDS = 600
"""How long a run waits for the machines of its group."""
END_SECONDS = 20.0
PAUSE_SECONDS = 1.0
WATCH_SECONDS = 0.1
MOST_BYTES = 65536
"""Read at once of what processes answer."""
LOG, NOTES = "workers.log", "notes.json"

Tell = Callable[[Event], None]
Started = subprocess.Popen[bytes]


@dataclass(frozen=True)
class Processes:
    """How many processes a training step is computed by."""

    each: int = 1
    """On each machine; on one with GPUs every process has one of its own."""
    nodes: int = 1
    """Machines; they see the store and the plan's folder under the same paths."""
    rendezvous: str = ""
    """HOST:PORT of the machine that runs the plan, where there are several."""
    sharded: bool = False
    """Each process holds its share of the parameters, gradients and moments, of the teachers' parameters too."""

    @property
    def size(self) -> int:
        """All of them."""
        return self.each * self.nodes


ALONE = Processes()
"""Training steps are computed by the process that runs the plan."""


class Job(BaseModel):
    """A training step for processes that know nothing of the run."""

    model_config = ConfigDict(frozen=True)

    plan: Path
    """The whole plan as a YAML file."""
    folder: Path
    """Where relative paths in the plan start."""
    step: str
    data: str
    """Digest of the rows that the run has read."""
    parent: Path
    """Folder of the model that the step starts from."""
    teachers: dict[str, Path]
    store: Path
    scratch: Path
    out: Path
    """Empty folder for the result; the first process writes it."""
    sharded: bool = False
    """Parameters are spread over the processes."""


def train_apart(job: Job, processes: Processes, tell: Tell) -> list[dict[str, Any]]:
    """Have a group of processes do a job; returns the notes of the step.

    Raises:
        MissingDependency: there are fewer GPUs than processes.
        WorkerFailed: a process ended before the job was done.
        CompressorError: what the step itself raised.
    """
    path, notes = job.scratch / "job.json", job.scratch / NOTES
    path.write_text(job.model_dump_json(), encoding="utf-8")
    notes.unlink(missing_ok=True)
    code = _listen(processes, 0, str(path), log=job.scratch / LOG, tell=tell)
    if code or not notes.is_file():
        raise WorkerFailed(f"{job.step}: a training process ended early (exit code {code}):\n{_tail(job.scratch / LOG)}")
    found: list[dict[str, Any]] = json.loads(notes.read_bytes())
    return found


def join(processes: Processes, node: int, *, folder: Path, wait_seconds: float, tell: Tell) -> None:
    """Lend this machine to a run on another one, step after step, until none has come for `wait_seconds`.

    Args:
        node: number of this machine in the group, from 1; 0 runs the plan.
        folder: where this machine keeps what its processes print.
    """
    last = time.monotonic()

    def heard(event: Event) -> None:
        nonlocal last
        last = time.monotonic()
        tell(event)

    while (left := last + wait_seconds - time.monotonic()) > 0:
        try:
            code = _listen(processes, node, "", log=folder / LOG, tell=heard, wait_seconds=max(1.0, left))
        except CompressorError as error:
            tell(Message(f"the step was broken off: {error}"))
            continue
        if code:  # nobody there yet, or the other side was ended
            time.sleep(PAUSE_SECONDS)


def _listen(processes: Processes, node: int, job: str, *, log: Path, tell: Tell, wait_seconds: float = WAIT_SECONDS) -> int:
    """Have this machine's processes do their part and pass on what they tell; returns the exit code of the first that failed, or 0."""
    check_gpus(processes)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as said, tempfile.TemporaryDirectory(prefix="compressor-group-") as own:
        where = f"{PORT}{processes.rendezvous}" if processes.nodes > 1 else scratch_file(Path(own))
        with _started(_command(where, wait_seconds, job), _places(processes, node), said) as (group, answers):
            for line in _lines(answers, group):
                _pass_on(json.loads(line), tell)
            return next((each.returncode for each in group if each.returncode), 0)


def _command(where: str, wait_seconds: float, job: str) -> list[str]:
    return [sys.executable, "-P", "-m", "compressor.run.trainer", str(os.getpid()), where, str(wait_seconds), job]


def _places(processes: Processes, node: int) -> list[dict[str, str]]:
    """The environment of each process on this machine: what is said of threads and networks, and its place in the group."""
    threads = {"PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": str(max(1, len(_cpus()) // processes.each))}
    around = {**threads, **network(processes.rendezvous), **os.environ, **({} if processes.nodes > 1 else network(""))}
    host, _, port = processes.rendezvous.rpartition(":")  # accelerate wants to see them, and nothing else uses them
    group = {"WORLD_SIZE": str(processes.size), "LOCAL_WORLD_SIZE": str(processes.each), "MASTER_ADDR": host, "MASTER_PORT": port}
    ranks = [{"RANK": str(node * processes.each + local), "LOCAL_RANK": str(local)} for local in range(processes.each)]
    return [{**around, **group, **rank} for rank in ranks]


@contextlib.contextmanager
def _started(command: list[str], places: Sequence[dict[str, str]], log: TextIO) -> Iterator[tuple[Sequence[Started], int]]:
    """One process for each place, and the pipe that all of them answer on; none of them outlives this."""
    answers, writing = os.pipe()
    group: list[Started] = []
    try:
        try:
            given: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": writing, "stderr": log}
            group.extend(subprocess.Popen(command, env=place, **given) for place in places)
        finally:
            os.close(writing)
        yield group, answers
    finally:
        _end(group)
        os.close(answers)


def _lines(answers: int, group: Sequence[Started]) -> Iterator[bytes]:
    """What processes answer, until all have ended, or one has failed: the others would only wait for it."""
    rest = b""
    while True:
        if select.select([answers], [], [], WATCH_SECONDS)[0]:
            told = os.read(answers, MOST_BYTES)
            *lines, rest = (rest + told).split(b"\n")
            yield from lines
            if not told:
                break
        elif any(each.poll() for each in group):
            return
    for each in group:
        each.wait()


def _end(group: Sequence[Started]) -> None:
    """Processes that do not end when they are asked to are ended."""
    for each in group:
        each.terminate()
    deadline = time.monotonic() + END_SECONDS
    for each in group:
        try:
            each.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            each.kill()
            each.wait()


def _pass_on(told: dict[str, Any], tell: Tell) -> None:
    """An event from JSON, or the error that a step has ended with."""
    if "error" in told:
        raise told_elsewhere(told["error"], told["text"])
    tell(Message(told["text"]) if "text" in told else Progress(**told))


def check_gpus(processes: Processes) -> None:
    """Every process needs a GPU of its own, on a machine that has any."""
    import torch

    if 0 < torch.cuda.device_count() < processes.each:
        raise MissingDependency(f"{processes.each} processes need as many GPUs, and this machine has {torch.cuda.device_count()}")


def _cpus() -> set[int] | range:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-STDERR_TAIL_LINES:])
