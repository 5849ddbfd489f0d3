"""Remakes `docs/results/step-costs.md`: what a step of `distill-and-prune` costs beside its parts, and what keeping answers saves.

    python -m benchmarks.studies.step_costs MODEL ROWS

MODEL is a folder of an encoder of speech, ROWS an audiofolder with the columns digit and speaker, as `benchmarks.studies.speech` writes it.
The parts are timed apart: the teacher's forward pass, and the student's forward and backward pass in the same precision and with the
same batch, but without gates, losses, multipliers, optimiser or data.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from compressor.contracts import Batch, Event, Progress, Task, registry
from compressor.deploy.machine import machine
from compressor.deploy.session import eager
from compressor.plan.specs import DataSpec
from compressor.tasks.audio_features import AudioFeatures, Probe
from compressor.tasks.data import load_data

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from compressor.contracts import Model
    from compressor.contracts.data import Data
    from compressor.contracts.notes import Note

OUT = Path("docs/results/step-costs.md")
BATCHES = (16, 32)
REPEATS = 3
WARM_UP, STEPS = 5, 30
OF_PARTS, FASTER = 1.15, {"first": 1.15, "second": 1.8}
"""The goals: a step of the first stage by its parts, at most; how much faster by keeping answers, at least."""
STAGES = {"first": "distill and prune", "second": "distill"}


@dataclass(frozen=True)
class Costs:
    """Seconds of one repeat."""

    teacher: float
    """Its forward pass."""
    student: float
    """Forward and backward pass of a student that is still whole."""
    pruned: float
    """The same of one that is pruned."""
    live: Mapping[str, float]
    """A step of each stage."""
    kept: Mapping[str, float]
    """The same with the teacher's answers kept."""


@dataclass(frozen=True)
class Watch:
    """A context for a pass that keeps the time at which each step ended."""

    folder: Path
    task: Task
    data: Data
    source: Model
    seed: int = 0
    device: str = "cpu"
    dialect: None = None
    ends: dict[str, list[float]] = field(default_factory=dict)

    def model(self, _name: str) -> Model:
        """The source, whatever it is called."""
        return self.source.copy()

    def evaluate(self, _model: Model, _split: str) -> Any:
        """A score of nothing: only steps are timed."""
        return SimpleNamespace(scores=SimpleNamespace(main=SimpleNamespace(value=0.0)))

    def outputs(self, model: Model | str, split: str, *, limit: int) -> NDArray[np.float32]:  # noqa: ARG002
        """Of a few rows: only steps are timed."""
        rows, model = self.data.split(split).select(range(16)), self.model(model) if isinstance(model, str) else model
        return self.task.predicted(eager(self.task, model, self.device), rows, self.files(model))["features"]

    def files(self, model: Model) -> Path:
        """What lies beside a model."""
        return beside(model, self.folder / "beside")

    def tell(self, event: Event) -> None:
        """Keep the time of each step of a training."""
        if isinstance(event, Progress):
            self.ends.setdefault(event.work, []).append(time.perf_counter())

    def note(self, note: Note) -> None:
        """Notes are not kept."""


def beside(model: Model, folder: Path) -> Path:
    """Write what lies beside a model's weights into a folder."""
    model.save_files(folder)
    return folder


def steps(source: Model, task: Task, data: Data, given: Mapping[str, Any]) -> tuple[dict[str, float], Model]:
    """Median time of a step in both stages of a `distill-and-prune` of one epoch each, and the pruned student."""
    kind: Any = registry.load("pass", "distill-and-prune")
    step = kind.model_validate({"teacher": "source", "epochs": 1, "recovery_epochs": 1, **given})
    with tempfile.TemporaryDirectory(prefix="compressor-step-costs-") as folder:
        watch = Watch(Path(folder), task, data, source)
        made: Model = step.apply(source.copy(), watch)
        return {stage: float(np.median(np.diff(watch.ends[work])[WARM_UP:])) for stage, work in STAGES.items()}, made


def read(task: Task, rows: Path, batch_size: int) -> Data:
    """Training rows for as many batches as are looked at."""
    files = {split: str(rows / split) for split in ("train", "test")}
    limit = {"train": batch_size * (WARM_UP + STEPS + 1)}
    spec = DataSpec.model_validate({"files": files, "format": "audiofolder", "split": {"validation": 100}, "limit": limit})
    return load_data(spec, columns=task.columns(), seed=0, folder=Path())


def forward(task: Task, module: Any, batch: Batch, *, bf16: bool) -> torch.Tensor:
    """Features of a batch in the precision that training runs in."""
    import torch

    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        return task.forward(module, batch).main


def teacher_seconds(model: Model, task: Task, batch: Batch, *, bf16: bool) -> float:
    """Median time of a forward pass."""
    import torch

    module: Any = model.copy().module
    module.requires_grad_(False).eval()
    with torch.no_grad():
        return timed(lambda: forward(task, module, batch, bf16=bf16))


def student_seconds(model: Model, task: Task, batch: Batch, *, bf16: bool) -> float:
    """Median time of a forward and backward pass."""
    import torch

    module: Any = model.copy().module
    module.train().requires_grad_(True)

    def learned() -> None:
        torch.autograd.backward(forward(task, module, batch, bf16=bf16).float().square().mean())
        module.zero_grad(set_to_none=True)

    return timed(learned)


def timed(call: Callable[[], Any]) -> float:
    """Median seconds of a call."""
    times = []
    for _ in range(WARM_UP + STEPS):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return float(np.median(times[WARM_UP:]))


def measured(source: Model, task: Task, rows: Path, batch_size: int, precision: str) -> Iterator[Costs]:
    """Each repeat, parts and steps by turns."""
    data = read(task, rows, batch_size)
    with tempfile.TemporaryDirectory(prefix="compressor-step-costs-") as folder:
        batch = next(iter(task.batches(data.split("train"), beside(source, Path(folder)), batch_size=batch_size)))
    given = {
        "sparsity": 0.75,
        "batch_size": batch_size,
        "precision": precision,
        "objectives": {"layer-to-layer": {"layers": (2, 4), "projection": "own"}},
    }
    bf16 = precision == "bf16"
    for _ in range(REPEATS):
        teacher, student = (each(source, task, batch, bf16=bf16) for each in (teacher_seconds, student_seconds))
        (live, pruned), (kept, _) = (steps(source, task, data, {**given, "cache_teacher": cache}) for cache in (False, True))
        yield Costs(teacher, student, student_seconds(pruned, task, batch, bf16=bf16), live, kept)


def middle(values: Sequence[float], digits: int) -> str:
    """Median of the repeats, with the least and the most."""
    return f"{np.median(values):.{digits}f} [{min(values):.{digits}f}, {max(values):.{digits}f}]"


def tables(found: Mapping[int, Sequence[Costs]]) -> Iterator[str]:
    """A table a stage, a line a batch size."""
    yield from ("## First stage: with gates", "")
    yield "| batch | teacher forward, ms | student forward and backward, ms | step, ms | of the sum | answers kept, ms | faster by keeping |"
    yield f"| ---: |{' ---: |' * 6}"
    for size, repeats in found.items():
        parts = f"{middle([1e3 * each.teacher for each in repeats], 1)} | {middle([1e3 * each.student for each in repeats], 1)}"
        ratio = middle([each.live["first"] / (each.teacher + each.student) for each in repeats], 2)
        yield f"| {size} | {parts} | {stage_cells(repeats, 'first', ratio)} |"
    yield from ("", "## Second stage: pruned", "")
    yield "| batch | student forward and backward, ms | step, ms | at most faster | answers kept, ms | faster by keeping |"
    yield f"| ---: |{' ---: |' * 5}"
    for size, repeats in found.items():
        most = middle([(each.teacher + each.pruned) / each.pruned for each in repeats], 2)
        yield f"| {size} | {middle([1e3 * each.pruned for each in repeats], 1)} | {stage_cells(repeats, 'second', most)} |"
    yield ""


def stage_cells(repeats: Sequence[Costs], stage: str, between: str) -> str:
    """A step with the teacher run, something, the step with its answers kept, and their ratio."""
    live, kept = ([1e3 * getattr(each, name)[stage] for each in repeats] for name in ("live", "kept"))
    return f"{middle(live, 1)} | {between} | {middle(kept, 1)} | {middle([a / b for a, b in zip(live, kept, strict=True)], 2)}"


def goals(found: Mapping[int, Sequence[Costs]]) -> Iterator[str]:
    """What was to be reached, and whether the medians do."""
    yield from ("| goal | batch | median | |", "| --- | ---: | ---: | --- |")
    for size, repeats in found.items():
        ratio = float(np.median([each.live["first"] / (each.teacher + each.student) for each in repeats]))
        yield f"| a step of the first stage: at most {OF_PARTS:g} times the sum | {size} | {ratio:.2f} | {said(ratio <= OF_PARTS)} |"
    for stage, least in FASTER.items():
        for size, repeats in found.items():
            ratio = float(np.median([each.live[stage] / each.kept[stage] for each in repeats]))
            yield f"| keeping answers, {stage} stage: at least {least:g} times as fast | {size} | {ratio:.2f} | {said(ratio >= least)} |"
    yield ""


def said(reached: bool) -> str:
    """In a word."""
    return "reached" if reached else "missed"


def document(found: Mapping[int, Sequence[Costs]], *, precision: str) -> str:
    """The page."""
    import torch

    here = machine()
    return "\n".join(
        [
            "# What a step of `distill-and-prune` costs: what was measured",
            "",
            "`python -m benchmarks.studies.step_costs MODEL ROWS` remakes this page.",
            "",
            f"- Machine: {here.named}; torch {torch.__version__}, {precision}, {here.cores} threads.",
            "- The encoder of Whisper-tiny.en as teacher, sounds of 1 s, two layers imitated through projections of their own, 75 % of the",
            "  layers' parameters to go.",
            f"- Medians of {STEPS} steps; of {REPEATS} repeats the median, the least and the most.",
            "- `of the sum`: a step by the sum of the teacher's forward pass and the student's forward and backward pass, which hold no",
            "  gates, losses, clipping, optimiser or data. `at most faster`: what keeping answers would gain if those cost nothing, the",
            "  sum of the teacher's and the pruned student's passes by the latter.",
            "",
            *goals(found),
            *tables(found),
        ]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Time steps and parts, and write the page."""
    import torch

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
    given = parser.parse_args(arguments)
    torch.set_num_threads(machine().cores)
    task = AudioFeatures(seconds=1.0, linear_probes={"digit": Probe(label="digit", groups="speaker")})
    source = task.load(given.model, read(task, given.rows, BATCHES[0]), seed=0)
    found = {size: list(measured(source, task, given.rows, size, given.precision)) for size in BATCHES}
    OUT.write_text(document(found, precision=given.precision), encoding="utf-8")


if __name__ == "__main__":
    main()
