"""Remakes `docs/results/diffusion-second-field.md`: a teacher that draws spectra of spoken digits, and its student of 4 steps.

    python -m benchmarks.studies.diffusion_field --rows FOLDER [--work FOLDER] [--epochs N] [--steps N] [--page]

FOLDER has a folder of sounds for each class: the Free Spoken Digit Dataset, say. The plan is a run as any other, so that a study that was cut
goes on; `--page` runs nothing and writes what is there.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.studies import ablation
from benchmarks.studies.diffusion_cells import rows_of
from benchmarks.studies.diffusion_scores import ranged, signed
from benchmarks.studies.pages import machine_lines
from compressor.contracts import Task, registry
from compressor.contracts.notes import Series
from compressor.contracts.records import Report
from compressor.model import Model
from compressor.model.dit import DiT
from compressor.plan.specs import DataSpec
from compressor.report import read_report
from compressor.store.disk import settle
from compressor.tasks.data import load_data
from compressor.tasks.generated.classes import class_accuracy
from compressor.tasks.generated.features import Features
from compressor.tasks.generated.frechet import frechet, frechet_difference
from compressor.tasks.generated.kernel_distance import Polynomial, kernel_distance
from compressor.tasks.generated.memorisation import memorisation
from compressor.tasks.generation.audio_generation import AudioGeneration
from compressor.tasks.generation.description import described
from compressor.tasks.generation.judging import judge_in
from compressor.tasks.generation.samplers import Sampler, Sampling
from compressor.tasks.inputs.sampling import shown

if TYPE_CHECKING:
    from compressor.contracts.data import Data

WORK, OUT = Path("runs/diffusion-field"), Path("docs/results/diffusion-second-field.md")
CLASSES, EDGE, WIDTH, BLOCKS = 10, 32, 64, 4
GUIDANCE, STEPS, FEW = 1.5, 16, 4
SOUND = {"rate": 8000, "window": 512, "hop": 160, "low": -80, "high": -20}
TASK = {"sampler": "dpm++2m", "steps": STEPS, "guidance": GUIDANCE, "times": "logit-normal", "sound": SOUND}
TRAINED = {"batch_size": 64, "weight_decay": 0, "checkpoint": "last", "precision": "fp32"}
TARGET = "onnxruntime"
TEST = 520
"""Rows that are drawn and held against: four for each feature of the judge, so that a Frechet distance has an interval."""


@dataclass(frozen=True)
class Size:
    """How much is trained."""

    epochs: int = 160
    """Of the teacher."""
    steps: int = 400
    """Of the optimiser, of the student."""


@dataclass(frozen=True)
class Cell:
    """Rows of one model by one sampler."""

    name: str
    stage: str
    sampler: Sampler
    steps: int
    guidance: float = 1.0

    @property
    def sampling(self) -> Sampling:
        """How it is drawn from."""
        return Sampling(sampler=self.sampler, steps=self.steps, guidance=self.guidance)


TEACHER = Cell("teacher", "finetune", "dpm++2m", STEPS, GUIDANCE)
CELLS = (
    TEACHER,
    Cell("teacher", "finetune", "dpm++2m", FEW, GUIDANCE),
    Cell("teacher", "finetune", "ddim", FEW, GUIDANCE),
    Cell("student", "final", "ddim", FEW),
)


def plan(rows: Path, network: Path, size: Size) -> dict[str, Any]:
    """What is run: a teacher from nothing, and a student of it."""
    teacher = {"epochs": size.epochs, "learning_rate": 2e-3, "ema": 0.99, "validations": 3, **TRAINED}
    student = {"teacher": "finetune", "method": "shortcut", "levels": 32, "to": [FEW], "steps": size.steps}
    return {
        "name": "diffusion-digits",
        "stages": "quality",
        "seed": 0,
        "model": {"folder": str(network.resolve())},
        "task": {"audio-generation": TASK},
        "data": data(rows),
        "reference": "finetune",
        "passes": [{"finetune": teacher}, {"distill-steps": {**student, "learning_rate": 1e-3, "validations": 1, **TRAINED}}],
        "targets": [{TARGET: {}}],
        "probes": [],
    }


def data(rows: Path) -> dict[str, Any]:
    """The sounds, split at random."""
    split = {"split": {"validation": 200, "test": TEST}, "limit": {"validation": 100}}
    return {"files": str(rows.resolve()), "format": "audiofolder", **split}


@dataclass(frozen=True)
class Drawn:
    """Rows of a cell, and what the judge sees in them."""

    rows: Any
    """`[n, 1, mels, frames]`."""
    features: Features
    told: Any
    """The class of each."""


@dataclass
class Study:
    """The run and rows drawn by its models, kept in a folder."""

    rows: Path
    folder: Path
    size: Size = Size()

    def run(self) -> Report:
        """The run, made or found."""
        import torch

        network = self.folder / "dit"
        if not network.is_dir():
            torch.manual_seed(0)
            Model.wrap(DiT(EDGE, 1, CLASSES, width=WIDTH, blocks=BLOCKS)).save(network)
        return ablation.run(plan(self.rows, network, self.size), self.folder)

    @cached_property
    def report(self) -> Report:
        """Of the run that is there."""
        return read_report(self.folder / "run")

    def built(self, stage: str) -> Path:
        """Folder of a model that the run built."""
        return self.folder / "run" / "artifacts" / f"{stage}@{TARGET}"

    @cached_property
    def task(self) -> Task:
        """As the plan has it."""
        found: Task = registry.load("task", "audio-generation").model_validate(TASK)
        return found

    @cached_property
    def data(self) -> Data:
        """Rows as the run split them."""
        return load_data(DataSpec.model_validate(data(self.rows)), columns=self.task.columns(), seed=0, folder=Path())

    def drawn(self, cell: Cell) -> Drawn:
        """What a cell draws for the labels of the test rows, row i from the noise of seed i."""
        path = self.folder / "drawn" / f"{cell.name}-{cell.sampler}-{cell.steps}.npy"
        if not path.is_file():
            how = described(self.built(cell.stage)).model_copy(update={"sampling": cell.sampling})
            session = registry.load("target", TARGET)().open(self.built(cell.stage))
            made = rows_of(how, session, how.known(self.data.split("test")["label"]))
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_suffix(".part")
            with unfinished.open("wb") as file:
                np.save(file, made)
            settle(unfinished, path)
            sys.stderr.write(f"{path.stem}: drawn\n")
        return self._seen(np.load(path))

    def real(self, split: str) -> Drawn:
        """All rows of a split."""
        rows, how = self.data.split(split), described(self.built("final"))
        return self._seen(self.task.read(rows, range(len(rows)), how))  # type: ignore[attr-defined]

    def _seen(self, rows: Any) -> Drawn:
        features, logits = judge_in(self.built("final")).seen(np.nan_to_num(rows))
        return Drawn(rows, features, logits.argmax(-1))


# ------------------------------------------------------------------ the page


def document(study: Study, out: Path) -> str:
    """What there is."""
    report, test = study.report, study.real("test")
    cells = {cell: study.drawn(cell) for cell in CELLS}
    save_grid(study, test, cells, out.with_suffix(".png"))
    trained = {stage.name: stage for stage in report.stages}
    lines = [
        "# A second field: spoken digits, drawn as spectra",
        "",
        f"`python -m benchmarks.studies.diffusion_field --rows FOLDER{_said(study.size)}` remakes this page.",
        "",
        "**One seed of one small network on one data set. Nothing is claimed beyond these trainings**: the page is there to show that the task",
        "`audio-generation`, with the network, samplers, passes and exports of `image-generation`, does on sounds what it does on pictures.",
        "",
        *machine_lines(report),
        f"- Data: Free Spoken Digit Dataset (CC-BY-SA-4.0), {study.data.record.splits[0].rows:,} sounds to train on, speakers in all splits.",
        f"  Each is a log-mel spectrum of {EDGE} mels by {EDGE} frames: {SOUND['hop'] * EDGE / SOUND['rate']:.2f} s, longer ones are cut.",
        f"- Network: `dit`, 0.32 M parameters (width {WIDTH}, {BLOCKS} blocks, patches of 4).",
        f"- Teacher: {study.size.epochs} epochs, {trained['finetune'].seconds / 60:.0f} minutes by the clock; student: `shortcut`,",
        f"  {study.size.steps} steps of 64 rows, {trained['distill-steps'].seconds / 60:.0f} minutes; other work shared the core.",
        f"- Scores: {TEST} spectra of the labels of the test rows, spectrum i from the noise of seed i, in ONNX Runtime, against {TEST} test rows,",
        f"  by features of the data's own classifier ({test.features.space.digest[:12]}, right on {_right(study, test):.1%} of the test rows).",
        "  Intervals of 95 % over draws of rows; differences are paired by noise.",
        "",
        f"![Rows of spectra, from the same noise]({out.with_suffix('.png').name})",
        "",
        "Low frequencies are at the bottom. The first test row of each digit, and what is drawn for it from the same noise.",
        "",
        *table(study, test, cells),
        "",
        "Near training rows: the share that lies as near to one as 5 % of test rows do; a model that copies has more.",
        "",
        "## How good the teacher is",
        "",
        *curve(report),
        "",
        "## What this does not show",
        "",
        "Sounds: no figure here is of what Griffin-Lim makes of a spectrum, and nobody listened. Speakers that training did not have. Several seeds,",
        "other methods, other numbers of steps, times.",
    ]
    return "\n".join(lines) + "\n"


def _said(size: Size) -> str:
    """Options that differ from the usual ones."""
    return "".join(
        f" --{name} {getattr(size, name)}" for name in ("epochs", "steps") if getattr(size, name) != getattr(Size(), name)
    )


def _right(study: Study, found: Drawn) -> float:
    return float((found.told == np.asarray(study.data.split("test")["label"])).mean())


def table(study: Study, test: Drawn, cells: Mapping[Cell, Drawn]) -> Iterator[str]:
    """A line for each cell; the first line is the bound: what was trained on, held against test rows."""
    labels, teacher = np.asarray(study.data.split("test")["label"]), cells[TEACHER].features.rows
    train = study.real("train")
    yield "| rows | steps | evaluations | Frechet distance | kernel distance | farther than the teacher | class accuracy | near training rows |"
    yield f"| --- |{' ---: |' * 7}"
    every = train.features.rows
    known = every[np.arange(TEST) * len(every) // TEST]  # spread evenly: files lie in the order of their labels
    yield (f"| real, of training | | | {ranged(frechet(known, test.features.rows))} | {_kernel(known, test)} | | | |")
    for cell, found in cells.items():
        rows = found.features.rows
        apart = "" if cell == TEACHER else signed(frechet_difference(rows, teacher, test.features.rows))
        right = class_accuracy(found.told, labels, classes=CLASSES)
        yield (
            f"| {cell.name}, {cell.sampler} | {cell.steps} | {cell.sampling.evaluations()} | {ranged(frechet(rows, test.features.rows))} | "
            f"{_kernel(rows, test)} | {apart} | {right.value:.1%} [{right.interval.low:.1%}, {right.interval.high:.1%}] | "
            f"{_near(rows, train, test)} |"
        )


def _near(rows: Any, train: Drawn, test: Drawn) -> str:
    """Share of rows that lie as near to a training row as 5 % of test rows do."""
    try:
        return f"{memorisation(rows, train.features.rows, test.features.rows).share:.1%}"
    except ValueError:  # too few test rows
        return ""


def _kernel(rows: Any, test: Drawn) -> str:
    return ranged(kernel_distance(rows, test.features.rows, Polynomial()))


def curve(report: Report) -> Iterator[str]:
    """Validation while the teacher learned."""
    (stage,) = (each for each in report.stages if each.name == "finetune")
    for note in stage.notes:
        if isinstance(note, Series) and note.title.startswith("Validation"):
            yield "Kernel distance of 100 spectra to as many validation rows while it learned, which is noisy but has no bias:"
            yield ""
            yield "| step | distance |"
            yield "| ---: | ---: |"
            yield from (f"| {at:g} | {value:.4g} |" for points in note.curves.values() for at, value in points)
            return
    yield "The run kept no curve."


def save_grid(study: Study, test: Drawn, cells: Mapping[Cell, Drawn], path: Path) -> None:
    """One spectrum of each class in a row, real ones first."""
    from PIL import Image

    labels = list(study.data.split("test")["label"])
    chosen = [labels.index(label) for label in range(CLASSES)]
    lines = [
        np.concatenate(list(shown(each.rows[chosen], AudioGeneration.gives)[:, 0]), axis=1) for each in (test, *cells.values())
    ]
    grid = Image.fromarray(np.concatenate(lines))
    path.parent.mkdir(parents=True, exist_ok=True)
    grid.resize((grid.width * 2, grid.height * 2), Image.Resampling.NEAREST).save(path, optimize=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is not there, and write the page."""
    usual = Size()
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--rows", type=Path, required=True, help="folder with a folder of sounds for each class")
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--epochs", type=int, default=usual.epochs, help="of the teacher")
    parser.add_argument("--steps", type=int, default=usual.steps, help="of the optimiser, of the student")
    parser.add_argument("--page", action="store_true", help="run nothing, write what is there")
    given = parser.parse_args(arguments)
    study = Study(given.rows, given.work, Size(given.epochs, given.steps))
    if not given.page:
        study.run()
    given.out.write_text(document(study, given.out), encoding="utf-8")
    sys.stderr.write(f"{given.out} is written\n")


if __name__ == "__main__":
    main()
