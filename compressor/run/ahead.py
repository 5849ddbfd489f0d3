"""Models that a run comes to later, lowered by a process beside it: an export keeps one core busy with Python, and there are others.

Both go through the store. Whoever comes to a model first makes it; the other one finds it, or waits for it.
Started as `python -P -m compressor.run.ahead`; its job is JSON on its standard input.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from compressor.contracts import Target, Task
from compressor.deploy.bench import spelled
from compressor.deploy.build import Builder
from compressor.deploy.machine import usable_cores
from compressor.deploy.worker import die_with, load_step
from compressor.run.state import StageState
from compressor.store.store import Store, StoredResult

LEAST_WEIGHTS = 5_000_000
"""Of each model: smaller ones are exported before a process has imported what that takes."""
FEWEST = 3
"""Models that are still to be lowered, for the same reason."""


@contextmanager
def lowered_ahead(builder: Builder, target: Target, states: Sequence[StageState]) -> Iterator[None]:
    """Have a process lower torch models to a target's format meanwhile, the last one first, where that pays.

    It ends with the context, and with this process however that ends (Linux). What fails there is told when the run comes to it.
    """
    left = [state.made for state in states if not builder.is_lowered(state.made, state.format, target)]
    small = any((state.stage.weights or 0) < LEAST_WEIGHTS for state in states)
    if len(left) < FEWEST or small or usable_cores() < 2:
        yield
        return
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    command = [sys.executable, "-P", "-m", "compressor.run.ahead"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, encoding="utf-8", **quiet)  # type: ignore[call-overload]
    try:
        with suppress(BrokenPipeError), process.stdin as job:
            json.dump(_job(builder, target, left[::-1]), job)
        yield
    finally:
        process.kill()
        process.wait()


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
