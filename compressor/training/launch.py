"""Starts the processes of a training step and listens to them; the process that runs the plan stays outside of their group.

`torch.distributed.run` starts and watches them, `compressor.run.trainer` is what each of them runs. The first process of a machine tells
the progress as JSON lines on standard output; what libraries print goes to `workers.log` beside the job.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from compressor import errors
from compressor.contracts import Event, Message, Progress
from compressor.deploy.bench import STDERR_TAIL_LINES
from compressor.errors import CompressorError, MissingDependency, WorkerFailed

WAIT_SECONDS = 600
"""How long a run waits for the machines of its group."""
END_SECONDS = 20.0
PAUSE_SECONDS = 1.0
LOG, NOTES = "workers.log", "notes.json"

Tell = Callable[[Event], None]


@dataclass(frozen=True)
class Processes:
    """How many processes a training step is computed by."""

    each: int = 1
    """On each machine; on one with GPUs every process has one of its own."""
    nodes: int = 1
    """Machines; they see the store and the plan's folder under the same paths."""
    rendezvous: str = ""
    """HOST:PORT of the machine that runs the plan, where there are several."""

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
    code = _listen(_command(processes, 0, str(path)), processes, job.scratch / LOG, tell, heard=lambda: None)
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

    def heard() -> None:
        nonlocal last
        last = time.monotonic()

    while (left := last + wait_seconds - time.monotonic()) > 0:
        try:
            command = _command(processes, node, "", wait_seconds=max(1, round(left)))
            code = _listen(command, processes, folder / LOG, tell, heard=heard)
        except CompressorError as error:
            tell(Message(f"the step was broken off: {error}"))
            continue
        if code:  # nobody there yet, or the other side was ended
            time.sleep(PAUSE_SECONDS)


def _command(processes: Processes, node: int, job: str, *, wait_seconds: int = WAIT_SECONDS) -> list[str]:
    group = ["--nproc-per-node", str(processes.each)]
    if processes.nodes == 1:
        group += ["--standalone", "--local-addr", "localhost"]
    else:
        host, _, port = processes.rendezvous.rpartition(":")
        group += ["--nnodes", str(processes.nodes), "--node-rank", str(node), "--master-addr", host, "--master-port", port]
        group += ["--rdzv-conf", f"timeout={wait_seconds}"]
    return [
        sys.executable,
        "-P",
        "-m",
        "compressor.run.trainer",
        "launch",
        str(os.getpid()),
        *group,
        "-m",
        "compressor.run.trainer",
        "work",
        job,
    ]


def _listen(command: list[str], processes: Processes, log: Path, tell: Tell, *, heard: Callable[[], None]) -> int:
    """Run a command to its end and pass on what it tells; returns its exit code."""
    check_gpus(processes)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as said, _started(command, processes, said) as process:
        assert process.stdout is not None
        for line in process.stdout:
            heard()
            _pass_on(json.loads(line), tell)
        return process.wait()


@contextlib.contextmanager
def _started(command: list[str], processes: Processes, log: Any) -> Iterator[subprocess.Popen[str]]:
    environment = {"PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": str(max(1, len(_cpus()) // processes.each)), **os.environ}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        yield process
    finally:
        process.terminate()  # it ends its own processes then
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _pass_on(told: dict[str, Any], tell: Tell) -> None:
    """An event from JSON, or the error that a step has ended with."""
    if "error" in told:
        kind = getattr(errors, told["error"], CompressorError)
        raise kind(told["text"]) if kind is not errors.PlanError else CompressorError(told["text"])
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
