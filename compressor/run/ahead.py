"""Models that a run comes to later, lowered by a process beside it: an export keeps one core busy with Python, and there are others.

Both go through the store. Whoever comes to a model first makes it; the other one finds it, or waits for it.
Started as `python -P -m compressor.run.ahead`; its job is JSON on its standard input.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from compressor.contracts import Target, Task
from compressor.deploy.bench import spelled
from compressor.deploy.build import Builder
from compressor.deploy.machine import usable_cores
from compressor.deploy.worker import die_with, load_step
from compressor.foreign import one_line
from compressor.run.state import StageState
from compressor.store.store import Store, StoredResult

LEAST_WEIGHTS = 5_000_000
"""Of each model: smaller ones are exported before a process has imported what that takes."""
FEWEST = 3
"""Models that are still to be lowered, for the same reason."""


@contextmanager
def lowered_ahead(
    builder: Builder, target: Target, states: Sequence[StageState], say: Callable[[str], None] = lambda _: None
) -> Iterator[None]:
    """Have a process lower torch models to a target's format meanwhile, the last one first, where that pays.

    It ends with the context, and with this process however that ends (Linux). What fails there fails again, and is an error, when the run
    comes to it; where only that process failed, `say` hears of it, since the run then takes longer.
    """
    left = [state.made for state in states if not builder.is_lowered(state.made, state.format, target)]
    small = any((state.stage.weights or 0) < LEAST_WEIGHTS for state in states)
    if len(left) < FEWEST or small or usable_cores() < 2:
        yield
        return
    command = [sys.executable, "-P", "-m", "compressor.run.ahead"]
    with tempfile.TemporaryFile() as told:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=told, encoding="utf-8")
        try:
            with suppress(BrokenPipeError), process.stdin as job:  # type: ignore[union-attr] # a pipe was asked for
                json.dump(_job(builder, target, left[::-1]), job)
            yield
            if process.poll():
                told.seek(0)
                say(f"lowering models ahead of the run ended with exit code {process.returncode}: {_last_line(told.read())}")
        finally:
            process.kill()
            process.wait()


def _last_line(told: bytes) -> str:
    lines = told.decode(errors="replace").split("\n")
    return next((one_line(line.strip()) for line in reversed(lines) if line.strip()), "it said nothing")


def _job(builder: Builder, target: Target, models: Sequence[StoredResult]) -> dict[str, Any]:
    return {
        "parent": os.getpid(),
        "store": str(builder.store.root.absolute()),
        "plan": builder.store.plan,
        "target": (spelled(target), target.model_dump_json()),
        "task": (spelled(builder.task), builder.task.model_dump_json()),
        "task_name": builder.task_name,
        "labels": builder.labels,
        "common": dict(builder.common),
        "models": [(made.digest, str(made.path.absolute())) for made in models],
    }


def work(job: Mapping[str, Any]) -> None:
    """Lower each model of a job."""
    die_with(job["parent"])
    from compressor.deploy.telemetry import quiet

    quiet()
    target, task = load_step(Target, *job["target"]), load_step(Task, *job["task"])
    store = Store(Path(job["store"]), plan=job["plan"])
    builder = Builder(store, task, job["task_name"], tuple(job["labels"]), job["common"])
    for digest, path in job["models"]:
        builder.lower(StoredResult("", digest, Path(path), {}, 0.0, found=True), "torch", target.dialect.format, target)


if __name__ == "__main__":
    work(json.load(sys.stdin))
