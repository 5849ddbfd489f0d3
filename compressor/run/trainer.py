"""One process of a training step: `compressor.run.trainer work JOB`, started by `torch.distributed.run`.

That program is started here too, by `compressor.run.trainer launch PID ARGUMENTS`: so it ends when the process PID does, however that ends,
and all it has started end with it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from compressor.contracts import Event
from compressor.deploy.worker import die_with, take_pipes
from compressor.errors import CompressorError, SourceError
from compressor.training.launch import NOTES, Job

MOST_CHARACTERS = 2000
"""Of an error: what several processes write into one pipe stays whole up to 4096 bytes."""


def launch(parent: int, arguments: list[str]) -> None:
    """Start and watch the processes of this machine."""
    from torch.distributed.run import main as run

    die_with(parent)
    run(arguments)


def work(path: str) -> None:
    """Do a job together with the other processes; machines that joined get it from the first process."""
    die_with(os.getppid())
    _, answers = take_pipes()
    import torch
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    state = PartialState(cpu=not torch.cuda.is_available())
    try:
        told = broadcast_object_list([Path(path).read_text(encoding="utf-8") if state.is_main_process else ""])
        tell = partial(_tell, answers) if state.is_local_main_process else _unheard
        _train(Job.model_validate_json(told[0]), state.process_index, str(state.device), tell)
    except CompressorError as error:
        _write(answers, {"error": type(error).__name__, "text": str(error)[:MOST_CHARACTERS]})
        raise
    finally:
        state.destroy_process_group()


def _train(job: Job, rank: int, device: str, tell: Callable[[Event], None]) -> None:
    """Apply the step; the first process writes what it made and its notes."""
    from compressor.plan.bound import load_plan
    from compressor.run.ground import Ground, load_model
    from compressor.store.store import Store

    ground = Ground(load_plan(job.plan, folder=job.folder), Store(job.store), tell, device=device)
    if ground.data.digest != job.data:
        source = ground.data.record.source
        raise SourceError(f"the rows of {source} are not those that the run has read: they changed meanwhile")
    folder = job.scratch / f"process-{rank}" if rank else job.scratch
    folder.mkdir(parents=True, exist_ok=True)
    step = next(each for each in ground.bound.passes if each.name == job.step)
    ctx = ground.context(folder, lambda name: load_model(job.teachers[name]), step=step)
    made = step.step.apply(load_model(job.parent), ctx)
    if rank == 0:
        ctx.save(made, job.out)
        notes = [note.model_dump(mode="json") for note in ctx.notes]
        (job.scratch / NOTES).write_text(json.dumps(notes), encoding="utf-8")


def _tell(answers: TextIO, event: Event) -> None:
    _write(answers, dataclasses.asdict(event))


def _unheard(_: Event) -> None:
    """Only the first process of a machine tells."""


def _write(answers: TextIO, told: dict[str, Any]) -> None:
    answers.write(json.dumps(told) + "\n")
    answers.flush()


if __name__ == "__main__":
    if sys.argv[1] == "launch":
        launch(int(sys.argv[2]), sys.argv[3:])
    else:
        work(sys.argv[2])
