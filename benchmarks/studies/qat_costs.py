"""What a step of `distill-and-quantize` costs beside one of plain fine-tuning of the same model: part of `benchmarks.studies.qat_text`.

Each measurement is a process of its own, and kinds take turns, so that what else the machine does meets all of them. Times are processor
seconds of one thread.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from benchmarks.studies.lm_costs import begun, fresh_peak, reached
from benchmarks.studies.lm_step import status
from benchmarks.studies.step_costs import Watch
from compressor.contracts import Event, Progress, registry
from compressor.plan.specs import DataSpec
from compressor.store.disk import put
from compressor.tasks.data import load_data
from compressor.tasks.text_classification import TextClassification

if TYPE_CHECKING:
    from compressor.contracts import Model

PART = "costs"
TURNS = 3
WARM_UP, STEPS = 4, 12
GOAL, WISH = 2.0, 1.5
"""Times the time and the memory of fine-tuning that a step takes at most, and better not."""
PRECISIONS = ("fp32", "bf16")
PLAIN = "fine-tuning"
UNIFIED: Mapping[str, Any] = {
    "soft-targets": 1.0,
    "hidden-states": 1.0,
    "attention-maps": {"weight": 1.0, "layers": "uniform"},
    "attention-output": 1.0,
}
ALL: Mapping[str, Any] = {**UNIFIED, "attention-scores": 1.0, "query-key-value-relations": 1.0}
KINDS: Mapping[str, Mapping[str, Any] | None] = {
    PLAIN: None,
    "W8A8, labels": {"weights": 8, "objectives": {"soft-targets": 0.0}, "task_loss": 1.0},
    "W8A8, KL": {"weights": 8},
    "W8A8, unified": {"weights": 8, "objectives": UNIFIED},
    "W8A8, all losses": {"weights": 8, "objectives": ALL},
    "W2A8, unified": {"weights": "ternary", "objectives": UNIFIED},
}
"""What `distill-and-quantize` is given; None for `finetune`."""
ASKED = "W8A8, all losses"
"""That the goal is set for."""
COUNT = TURNS * len(PRECISIONS) * len(KINDS)
Costs: TypeAlias = "Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]"
"""By precision and kind, what each turn measured."""


@dataclass(frozen=True)
class Timed(Watch):
    """A context that keeps the processor time at which each step ended, and the most memory after the first of them."""

    seconds: list[float] = field(default_factory=list)
    peak: list[int] = field(default_factory=list)

    @property
    def metric(self) -> str:
        """The task's first."""
        return self.task.measures()[0].name

    def evaluate(self, _model: Model, _split: str) -> Any:
        """A score of nothing: only steps are timed."""
        return SimpleNamespace(quality=0.0)

    def outputs(self, _model: Model | str, _split: str, *, limit: int) -> Any:  # noqa: ARG002
        """Of no row: only steps are timed."""
        return np.ones((8, 2), np.float32)

    def remember(self, _what: Mapping[str, Any], make: Callable[[], Any]) -> Any:
        """Nothing is known before."""
        return make()

    def tell(self, event: Event) -> None:
        """Progress is told after each step."""
        if not isinstance(event, Progress) or len(self.seconds) == WARM_UP + STEPS:
            return
        self.seconds.append(time.process_time())
        if len(self.seconds) == WARM_UP:
            fresh_peak()
        if len(self.seconds) == WARM_UP + STEPS:
            self.peak.append(status("VmHWM"))


# ------------------------------------------------------------------ one process


def measured(kind: str, model: Path, rows: Path, precision: str) -> dict[str, Any]:
    """Processor seconds of steps, and the most memory beyond what libraries take."""
    libraries = begun()
    task = TextClassification(max_length=64)
    files = {split: str(rows / f"{split}.jsonl") for split in ("train", "validation", "test")}
    data = load_data(
        DataSpec.model_validate({"files": files, "limit": {"validation": 64}}), columns=task.columns(), seed=0, folder=Path()
    )
    settings = {"steps": WARM_UP + STEPS, "precision": precision, "attention": "eager", "checkpoint": "last", "validations": 1}
    given = KINDS[kind]
    name, more = (
        ("finetune", {}) if given is None else ("distill-and-quantize", {"teacher": "source", "cache_teacher": False, **given})
    )
    step: Any = registry.load("pass", name).model_validate({**settings, **more})
    with tempfile.TemporaryDirectory(prefix="compressor-qat-costs-") as folder:
        source = task.load(model, data, seed=0)
        watch = Timed(Path(folder), task, data, source)
        step.apply(source.copy() if given is None else source, watch)
    return {"seconds": [float(each) for each in np.diff(watch.seconds)[WARM_UP - 1 :]], "peak": watch.peak[0] - libraries}


# ------------------------------------------------------------------ cells and section


def cells(model: Path, rows: Path, folder: Path, *, run: bool) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """By precision and kind, what each turn measured; what lies there already is not measured again."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for turn in range(TURNS):
        for precision in PRECISIONS:
            for kind in KINDS:
                path = folder / PART / f"{kind.replace(', ', '-').replace(' ', '-')}-{precision}-{turn}.json"
                if not path.is_file() and run:
                    sys.stderr.write(f"{path.stem}: measured now\n")
                    command = [sys.executable, "-m", "benchmarks.studies.qat_costs", kind, str(model), str(rows), precision]
                    path.parent.mkdir(parents=True, exist_ok=True)
                    put(path, subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
                if path.is_file():
                    found.setdefault(precision, {}).setdefault(kind, []).append(json.loads(path.read_text(encoding="utf-8")))
    return found


def section(found: Costs) -> Iterator[str]:
    """A line for each kind and precision, by fine-tuning in the same precision."""
    yield f"Processor seconds of one thread; medians of {STEPS} steps after {WARM_UP} in each turn, of turns the median [least, most]. Kinds"
    yield "take turns, a process each. Memory: the most of a process beyond what libraries take. `times`: by fine-tuning of the same turn and"
    yield "precision."
    yield "Attention is computed eagerly in all; the teacher runs in every step but where there are labels alone."
    yield ""
    yield "| | precision | turns | step, s | times | memory, MB | times |"
    yield "| --- | --- |" + " ---: |" * 5
    for precision, kinds in found.items():
        for kind, turns in kinds.items():
            plain = kinds.get(PLAIN, ())
            seconds, memory = [float(np.median(each["seconds"])) for each in turns], [each["peak"] / 1e6 for each in turns]
            pairs = list(zip(turns, plain, strict=False))
            slower, larger = ratios(pairs)
            yield f"| {kind} | {precision} | {len(turns)} | {spread(seconds)} | {spread(slower)} | {np.median(memory):.0f} | {spread(larger)} |"
    yield ""
    yield from goals(found)


def ratios(pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> tuple[list[float], list[float]]:
    """Of time and memory, turn by turn."""
    slower = [float(np.median(mine["seconds"]) / np.median(plain["seconds"])) for mine, plain in pairs]
    return slower, [mine["peak"] / plain["peak"] for mine, plain in pairs]


def goals(found: Costs) -> Iterator[str]:
    """What was to be reached, by the medians of turns."""
    for precision, kinds in found.items():
        if pairs := list(zip(kinds.get(ASKED, ()), kinds.get(PLAIN, ()), strict=False)):
            for name, values in zip(("time", "memory"), ratios(pairs), strict=True):
                value = float(np.median(values))
                told = f"{reached(value <= GOAL)} (at most {WISH:g} was wished: {reached(value <= WISH)})"
                yield f"- {ASKED}, {precision}: {name} at most {GOAL:g} times that of fine-tuning: {value:.2f}, {told}."


def spread(values: Sequence[float]) -> str:
    """Median, with the least and the most where there are several."""
    around = f" [{min(values):.2f}, {max(values):.2f}]" if len(values) > 1 else ""
    return f"{np.median(values):.2f}{around}" if values else ""


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("kind")
    parser.add_argument("model", type=Path)
    parser.add_argument("rows", type=Path)
    parser.add_argument("precision")
    sys.stdout.write(json.dumps(measured(**vars(parser.parse_args()))))
