"""One process of a training step: `compressor.run.trainer PID WHERE SECONDS JOB`.

It ends when the process PID does, however that ends. It meets the others at WHERE, and waits so many SECONDS for them. JOB is a file, and
empty for the processes of a machine that joined.
"""

from __future__ import annotations

import dataclasses
import json
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from compressor.contracts import Event
from compressor.contracts.failing import placed
from compressor.contracts.notes import Remark
from compressor.deploy.machine import versions
from compressor.deploy.worker import die_with, take_pipes
from compressor.errors import CompressorError, MissingDependency, SourceError
from compressor.model.sharding import held_bytes
from compressor.training.group import Group
from compressor.training.launch import NOTES, Job
from compressor.training.meeting import meet

if TYPE_CHECKING:
    from compressor.model.model import Model

UNWRITTEN = "unwritten"
"""Folder of what a process other than the first writes beside weights that it only gave its share of."""
WHOLE_BYTES = 4096
"""What several processes write into one pipe stays whole up to here (PIPE_BUF of Linux)."""


def work(parent: int, where: str, wait_seconds: float, path: str) -> None:
    """Do a job together with the other processes; machines that joined get it from the first process."""
    die_with(parent)
    _, answers = take_pipes()
    import torch
    from accelerate import PartialState

    try:
        meet(where, wait_seconds=wait_seconds)
        state = PartialState(cpu=not torch.cuda.is_available())
        job, *_ = Group().gathered(Path(path).read_text(encoding="utf-8") if state.is_main_process else "")
        _check_alike(Group().gathered(_installed()))
        tell = partial(_tell, answers) if state.is_local_main_process else _unheard
        _train(Job.model_validate_json(job), state.process_index, str(state.device), tell)
    except CompressorError as error:
        _write(answers, {"error": type(error).__name__, "text": str(error)})
        raise
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _installed() -> dict[str, str]:
    """Versions of what a step is computed by."""
    return {"Python": platform.python_version(), **versions()}


def _check_alike(found: Sequence[Mapping[str, str]]) -> None:
    """Raise MissingDependency where another process has other versions than the first, by which the result's key is made."""
    for number, other in enumerate(found):
        for name in sorted({*found[0], *other}):
            if found[0].get(name) != other.get(name):
                has, first = (f"{name} {each[name]}" if name in each else f"no {name}" for each in (other, found[0]))
                raise MissingDependency(
                    f"process {number} of the group has {has}, the machine that runs the plan has {first}: install the same on both"
                )


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
    load = partial(load_model, device=device if job.sharded else "cpu", sharded=job.sharded)
    ctx = ground.context(folder, lambda name: load(job.teachers[name]), step=step)
    with placed(ground.data.place):
        made = step.step.apply(load(job.parent), ctx)
    if job.sharded:
        ctx.note(_spread_over(made))
    if rank == 0 or job.sharded:  # all are asked for their shares
        ctx.save(made, folder / UNWRITTEN if rank else job.out)
    if rank == 0:
        notes = [note.model_dump(mode="json") for note in ctx.notes]
        (job.scratch / NOTES).write_text(json.dumps(notes), encoding="utf-8")


def _spread_over(made: Model) -> Remark:
    """What each process holds of a model after its training."""
    group = Group()
    held = [held_bytes(component.module) for component in made.components.values()]
    mine, whole = (sum(each) for each in zip(*held, strict=True))
    most = max(group.gathered(mine))
    return Remark(
        text=f"Parameters were spread over {group.size} processes: {most / 2**20:,.1f} MiB of {whole / 2**20:,.1f} MiB in each ({most / whole:.1%})."
    )


def _tell(answers: TextIO, event: Event) -> None:
    _write(answers, dataclasses.asdict(event))


def _unheard(_: Event) -> None:
    """Only the first process of a machine tells."""


def _write(answers: TextIO, told: dict[str, Any]) -> None:
    answers.write(line_of(told))
    answers.flush()


def line_of(told: Mapping[str, Any]) -> str:
    """One line of ASCII that stays whole: of a text as much as fits, of which a character may take twelve bytes."""
    line = json.dumps(told) + "\n"
    if len(line) <= WHOLE_BYTES or "text" not in told:
        return line
    room = WHOLE_BYTES - len(json.dumps({**told, "text": ""}) + "\n")
    ends = accumulate(len(json.dumps(each)) - 2 for each in told["text"])
    return json.dumps({**told, "text": told["text"][: sum(1 for end in ends if end <= room)]}) + "\n"


if __name__ == "__main__":
    work(int(sys.argv[1]), sys.argv[2], float(sys.argv[3]), sys.argv[4])
