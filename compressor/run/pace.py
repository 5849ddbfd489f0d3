"""How fast training steps are on this machine: learned whenever one runs or is rehearsed, and before that guessed, for `check` to say a
rough time by.

A step's time is taken to grow with `Pass.work` and with what a row in the middle makes a model compute on. Nothing else is heeded, so
that it is a time to plan an evening by, and no measurement.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressor.contracts import InputSizes, Size, registry
from compressor.contracts.records import Stage
from compressor.contracts.step import code_parts
from compressor.deploy.machine import device, machine
from compressor.errors import CompressorError
from compressor.foreign import one_line
from compressor.model.sources import located, shapes_in
from compressor.plan.bound import Bound, BoundStep
from compressor.run.ground import Ground
from compressor.store.known import noted, recalled
from compressor.store.store import Store
from compressor.training.launch import ALONE, Processes

CHANGES_PACE = ("precision", "attention", "compile", "batch_size", "accumulate", "dropout")
"""Settings of a training by which the same work takes another time."""
SIDE = 1024
"""Of the matrices whose product a machine's speed is measured by: it takes a hundredth of a second."""
UPDATE_SECONDS = 0.02
"""What an update takes beside the model's own products, about."""


@dataclass(frozen=True)
class Pace:
    """Of the training steps of a plan, on this machine."""

    bound: Bound
    store: Store
    rows: Mapping[str, int]
    """By split."""
    sizes: InputSizes | None
    processes: Processes = ALONE

    def expected_seconds(self, step: BoundStep) -> float | None:
        """About how long a step takes; None where nothing like it has run here."""
        known = recalled(self.store, self._parts(step))
        return known["seconds"] * self._work(step) if isinstance(known, dict) else None

    def guessed_seconds(self, step: BoundStep, updates: int | None) -> float | None:
        """By the model's size, how fast this machine multiplies matrices, and a fixed part of each update; None where that says nothing,
        as of pictures and sounds, whose sizes are no tokens.

        Of the quickstart, fine-tuning is guessed at 44 to 47 s and takes 44 to 59; distilling a student that was pruned before, at 5 min,
        and takes 71 to 90 s (2 cores with AMX): what pruning leaves is not known here.
        """
        if self.sizes is None or self.sizes.unit != "tokens" or device() != "cpu":
            return None
        return 2 * self._work(step) / self._products_per_second() + UPDATE_SECONDS * (updates or 0)

    def _products_per_second(self) -> float:
        """Of matrices in float32, additions counted; measured once on a machine."""
        parts = {"fact": "products per second", "machine": machine().fingerprint}
        known = recalled(self.store, parts)
        if not isinstance(known, float):
            known = measured_products()
            noted(self.store, parts, known)
        return known

    def learn(self, step: BoundStep, seconds: float) -> None:
        """Keep how long a step took."""
        if seconds > 0:
            noted(self.store, self._parts(step), {"seconds": seconds / self._work(step)})

    def _work(self, step: BoundStep) -> float:
        """In a unit of the step's own, of the source model: what pruning leaves is not known before."""
        blocks, weights = _inside(self.bound)
        teachers = weights * len(step.step.needs().teachers)
        epoch = self.sizes.epoch if self.sizes else None
        scored = self.bound.task.passes_to_score()
        size = Size(self.rows, blocks, weights, result=weights, teachers=teachers, epoch=epoch, scored=scored)
        return max(1.0, step.step.work(size)) * (self.sizes.computed if self.sizes else 1.0)

    def _parts(self, step: BoundStep) -> dict[str, Any]:
        given = step.step.model_dump(mode="json")
        return {
            "fact": "pace",
            "pass": step.plugin,
            **code_parts(step.step),
            "settings": {name: given[name] for name in CHANGES_PACE if name in given},
            "task": self.bound.task_name,
            "scored": self.bound.task.passes_to_score(),
            "machine": machine().fingerprint,
            "device": device(),
            "processes": self.processes.size,
            **({"sharded": True} if self.processes.sharded else {}),
        }


def measured_products() -> float:
    """How many multiplications and additions of matrices in float32 this machine does in a second, on all its cores."""
    import numpy as np

    matrix = np.ones((SIDE, SIDE), np.float32)
    seconds = []
    for _ in range(4):
        started = time.perf_counter()
        matrix @ matrix
        seconds.append(time.perf_counter() - started)
    return 2 * SIDE**3 / min(seconds)


def learn(ground: Ground, stages: Iterable[Stage], source: Path) -> None:
    """Keep how long the trainings of a run took that were not found in the store; `source` is the folder of its source model.

    A finished run does not fail because nothing can be learned of it: it is said.
    """
    try:
        _learn(ground, stages, source)
    except (CompressorError, OSError) as error:  # a model that is gone, or what somebody else's plug-in raises
        ground.say(f"how long trainings took is not kept for the next check: {one_line(str(error))}")


def _learn(ground: Ground, stages: Iterable[Stage], source: Path) -> None:
    bound, data = ground.bound, ground.data
    took = {stage.name: stage.seconds for stage in stages if stage.target is None and not stage.found}
    trained = [step for step in bound.passes if step.trunk and step.step.trains and step.name in took]
    if not trained:
        return
    rows = {split.name: split.rows for split in data.record.splits}
    with registry.told_of_others("task", bound.task_name):
        pace = Pace(bound, ground.store, rows, bound.task.sizes(data, source), ground.processes)
    for step in trained:
        with registry.told_of_others("pass", step.plugin):
            pace.learn(step, took[step.name])


def _inside(bound: Bound) -> tuple[int, float]:
    """Blocks of the source model and the parameters in them, by the names in its weights; all of it where none is numbered."""
    shapes = shapes_in(located(bound.model, bound.folder))
    numbered = {name: math.prod(shape) for name, shape in shapes.items() if any(part.isdecimal() for part in name.split("."))}
    blocks = {tuple(part for part in name.split(".") if part.isdecimal())[:1] for name in numbered}
    return len(blocks) or 1, float(sum(numbered.values()) or sum(map(math.prod, shapes.values())) or 1)
