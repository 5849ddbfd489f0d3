"""What a step of `distill-and-prune` costs beside the passes it is made of, and what keeping the teacher's answers saves.

    python -m benchmarks.step_costs MODEL ROWS

MODEL is a folder of an encoder of speech, ROWS an audiofolder with the columns digit and speaker, as `benchmarks.speech` writes it.
The parts are timed apart: the teacher's forward pass, and the student's forward and backward pass in the same precision and with the
same batch, but without gates, losses, multipliers, optimiser or data.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from compressor import registry
from compressor.context import eager
from compressor.contracts import Batch, Event, Progress, Task
from compressor.data import load_data
from compressor.machine import machine
from compressor.specs import DataSpec
from compressor.tasks.speech import Probe, Speech

if TYPE_CHECKING:
    import torch

    from compressor.data import Data
    from compressor.model import Model
    from compressor.records import Note

BATCH = 16
WARM_UP, STEPS = 5, 35
STAGES = {"first": "distill and prune", "second": "distill"}


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

    def evaluate(self, model: Model, split: str, *, limit: int | None = None) -> Any:  # noqa: ARG002
        """A score of nothing: only steps are timed."""
        rows = self.data.split(split).select(range(16))
        outputs = self.task.predicted(eager(self.task, model, self.device), rows, self.files(model))
        main = SimpleNamespace(name="none", value=0.0, n=len(rows))
        return SimpleNamespace(scores=SimpleNamespace(main=main), outputs=outputs)

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
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in model.files.items():
        (folder / name).write_bytes(content)
    return folder


def step_seconds(source: Model, task: Task, data: Data, *, precision: str, cache: bool) -> dict[str, float]:
    """Median time of a step in both stages."""
    kind: Any = registry.load("pass", "distill-and-prune")
    step = kind.model_validate(
        {
            "teacher": "source",
            "sparsity": 0.75,
            "epochs": 1,
            "recovery_epochs": 1,
            "batch_size": BATCH,
            "precision": precision,
            "cache_teacher": cache,
            "objectives": {"layer-to-layer": {"layers": (2, 4), "projection": "own"}},
        }
    )
    with tempfile.TemporaryDirectory(prefix="compressor-step-costs-") as folder:
        watch = Watch(Path(folder), task, data, source)
        step.apply(source, watch)
        return {stage: float(np.median(np.diff(watch.ends[work])[WARM_UP:])) for stage, work in STAGES.items()}


def parts_seconds(source: Model, task: Task, batch: Batch, *, bf16: bool) -> dict[str, float]:
    """Median time of a teacher's forward pass and of a student's forward and backward pass."""
    import torch

    teacher: Any = source.copy().module
    student: Any = source.copy().module
    teacher.requires_grad_(False)
    student.train().requires_grad_(True)

    def forward(module: Any) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            return task.forward(module, batch).logits

    def taught() -> None:
        with torch.no_grad():
            forward(teacher)

    def learned() -> None:
        torch.autograd.backward(forward(student).float().square().mean())
        student.zero_grad(set_to_none=True)

    return {"teacher forward": timed(taught), "student forward and backward": timed(learned)}


def timed(call: Callable[[], None]) -> float:
    """Median seconds of a call."""
    times = []
    for _ in range(WARM_UP + STEPS):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return float(np.median(times[WARM_UP:]))


def document(parts: Mapping[str, float], live: Mapping[str, float], kept: Mapping[str, float], *, what: str) -> str:
    """The page's tables."""
    apart = parts["teacher forward"] + parts["student forward and backward"]
    lines = [
        what,
        "",
        "| measured apart | ms |",
        "| --- | ---: |",
        *(f"| {name} | {1e3 * each:.1f} |" for name, each in parts.items()),
    ]
    lines += [
        "",
        "| stage | step, teacher run ms | of the sum of the parts | step, answers kept ms | faster by keeping |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for stage in STAGES:
        of_parts = f"{live[stage] / apart:.2f}" if stage == "first" else "-"
        lines.append(
            f"| {stage} | {1e3 * live[stage]:.1f} | {of_parts} | {1e3 * kept[stage]:.1f} | {live[stage] / kept[stage]:.2f}x |"
        )
    return "\n".join([*lines, ""])


def main(arguments: Sequence[str] | None = None) -> None:
    """Time steps and parts, and print the tables."""
    import torch

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
    given = parser.parse_args(arguments)
    torch.set_num_threads(machine().cores)
    task = Speech(seconds=1.0, probes={"digit": Probe(label="digit", groups="speaker")})
    files = {split: str(given.rows / split) for split in ("train", "test")}
    spec = DataSpec.model_validate(
        {"files": files, "format": "audiofolder", "split": {"validation": 100}, "limit": {"train": BATCH * (WARM_UP + STEPS + 1)}}
    )
    data = load_data(spec, columns=task.columns(), seed=0, folder=Path())
    source = task.load(given.model, data, seed=0)
    with tempfile.TemporaryDirectory(prefix="compressor-step-costs-") as folder:
        batches = task.batches(data.split("train"), beside(source, Path(folder)), batch_size=BATCH)
        batch = next(iter(batches))
    parts = parts_seconds(source, task, batch, bf16=given.precision == "bf16")
    live, kept = (step_seconds(source, task, data, precision=given.precision, cache=cache) for cache in (False, True))
    here = machine()
    what = (
        f"{here.processor}, {here.cores} cores, torch {torch.__version__}, {given.precision}, batches of {BATCH} sounds of 1 s."
    )
    sys.stdout.write(document(parts, live, kept, what=what))


if __name__ == "__main__":
    main()
