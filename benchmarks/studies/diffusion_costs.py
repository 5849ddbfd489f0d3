"""What a step of each method of `distill-steps` costs beside the passes that it must make: part of `benchmarks.studies.diffusion_steps`.

Each measurement is a process of its own, and methods take turns, so that what else the machine does meets all of them. Times are processor seconds
of one thread.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from benchmarks.studies.diffusion_cells import Absent, Book
from benchmarks.studies.diffusion_plans import ASKED, BATCH, METHODS, ROUNDS, SIZE, TASK, Size, data, passes
from benchmarks.studies.lm_costs import begun, reached
from benchmarks.studies.qat_costs import STEPS, WARM_UP, Timed, spread
from compressor.contracts import registry
from compressor.model import Model
from compressor.plan.specs import DataSpec
from compressor.store.disk import put
from compressor.tasks.data import load_data
from compressor.tasks.generation.image_generation import ImageGeneration

if TYPE_CHECKING:
    import torch

PART = "costs"
TURNS = 3
ROWS = (WARM_UP + STEPS + 1) * BATCH
"""Of the test file, which is the smaller one: what they are costs nothing."""
GOAL = 1.10
"""Times its passes that a step takes at most."""
LEARNED = {"dmd": (5 * 2 + 1) / 6}
"""Passes forward and back in a step, in the mean; of other methods one. What else a step asks of the network goes forward only."""
Costs: TypeAlias = "Mapping[str, Sequence[Mapping[str, Any]]]"
"""By method, what each turn measured."""


# ------------------------------------------------------------------ one process


def measured(method: str, pictures: Path, teacher: Path) -> dict[str, Any]:
    """Processor seconds of steps and of what they must do at least, and the most memory beyond what libraries take."""
    libraries = begun()
    task = ImageGeneration.model_validate(TASK)
    given = {
        "files": {"train": data(pictures)["files"]["test"]},
        "split": {"validation": 64, "test": 32},
        "limit": {"train": ROWS},
    }
    rows = load_data(DataSpec.model_validate(given), columns=task.columns(), seed=0, folder=Path())
    ((name, settings),) = passes(method, Size())[0].items()
    step: Any = registry.load("pass", name).model_validate({**settings, "to": settings["to"][:1], "steps": WARM_UP + STEPS})
    with tempfile.TemporaryDirectory(prefix="compressor-diffusion-costs-") as folder:
        source = Model.read(teacher)
        learned, told = _passes(source.copy().module)
        watch = Timed(Path(folder), task, rows, source)
        step.apply(source.copy(), watch)
    seconds = [float(each) for each in np.diff(watch.seconds)[WARM_UP - 1 :]]
    return {"seconds": seconds, "learned": learned, "told": told, "peak": watch.peak[0] - libraries}


def _passes(network: torch.nn.Module) -> tuple[float, float]:
    """Seconds of a pass forward and back, and of one that goes forward only, of a batch; medians."""
    import torch

    draw = torch.Generator().manual_seed(0)
    rows, times = torch.randn(BATCH, 1, SIZE, SIZE, generator=draw), torch.rand(BATCH, generator=draw)
    labels = torch.arange(BATCH) % 10

    def back() -> None:
        network.zero_grad()
        network(rows, times, labels).square().mean().backward()

    def forward() -> None:
        with torch.no_grad():
            network(rows, times, labels)

    return _seconds(back), _seconds(forward)


def _seconds(call: Callable[[], None]) -> float:
    ends = []
    for _ in range(1 + WARM_UP + STEPS):
        call()
        ends.append(time.process_time())
    return float(np.median(np.diff(ends)[WARM_UP:]))


# ------------------------------------------------------------------ cells and section


def cells(book: Book) -> dict[str, list[dict[str, Any]]]:
    """By method, what each turn measured; what lies there already is not measured again.

    Raises:
        Absent: nothing is there, and nothing is to be run.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for turn in range(TURNS):
        for method in METHODS:
            path = book.folder / PART / f"{method}-{turn}.json"
            if not path.is_file() and book.run:
                book.report("teacher-0")
                sys.stderr.write(f"costs of {path.stem}: measured now\n")
                asked = [method, str(book.pictures), str(book.model("teacher-0"))]
                command = [sys.executable, "-m", "benchmarks.studies.diffusion_costs", *asked]
                path.parent.mkdir(parents=True, exist_ok=True)
                put(path, subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
            if path.is_file():
                found.setdefault(method, []).append(json.loads(path.read_text(encoding="utf-8")))
    if not found:
        raise Absent(PART)
    return found


def floor(method: str, turn: Mapping[str, Any]) -> float:
    """Seconds of the passes that a step of a method must make, a pass back counted as two forward."""
    learned, asked = LEARNED.get(method, 1), ROUNDS[0] if method == "progressive" else ASKED[method]
    return float(learned * turn["learned"] + (asked - 3 * learned) * turn["told"])


def section(found: Costs) -> Iterator[str]:
    """A line for each method, by what it must do."""
    yield f"A step, {BATCH} rows, fp32, in processor seconds of one thread: means of {STEPS} steps after {WARM_UP} in each turn, of turns the median"
    yield "[least, most]. At least: its passes of the network, timed alone in the same process, without optimiser, averages of weights and data."
    yield "Of `progressive` the first training. Memory: the most of a process beyond what libraries take, the rows that were read among it. Other"
    yield "cores may have been at work."
    yield ""
    yield "| method | turns | step, s | at least, s | times | memory, MB |"
    yield "| --- |" + " ---: |" * 5
    slowest = 0.0
    for method, turns in found.items():
        seconds, least = [float(np.mean(each["seconds"])) for each in turns], [floor(method, each) for each in turns]
        times = [mine / bound for mine, bound in zip(seconds, least, strict=True)]
        slowest = max(slowest, float(np.median(times)))
        memory = np.median([each["peak"] for each in turns]) / 1e6
        yield f"| {method} | {len(turns)} | {spread(seconds)} | {spread(least)} | {spread(times)} | {memory:.0f} |"
    yield ""
    if len(found) < len(METHODS):
        yield f"Expected: at most {GOAL:.2f} times; the slowest of these takes {slowest:.2f}, others were not measured."
    else:
        yield f"Expected: at most {GOAL:.2f} times; the slowest takes {slowest:.2f}: {reached(slowest <= GOAL)}."


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("method")
    parser.add_argument("pictures", type=Path)
    parser.add_argument("teacher", type=Path)
    sys.stdout.write(json.dumps(measured(**vars(parser.parse_args()))))
