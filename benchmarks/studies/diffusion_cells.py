"""Cells of `benchmarks.studies.diffusion_steps`: a teacher, students of it, and what rows of each are like, kept in a folder."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.studies import ablation
from compressor.contracts.records import Report
from compressor.deploy.session import EagerSession
from compressor.model import Model
from compressor.model.dit import DiT
from compressor.plan.specs import DataSpec
from compressor.report import read_report
from compressor.store.disk import settle
from compressor.tasks.data import load_data
from compressor.tasks.generated.features import Features
from compressor.tasks.generation.description import FILE, Description, described
from compressor.tasks.generation.image_generation import ImageGeneration
from compressor.tasks.generation.judging import judge_in
from compressor.tasks.generation.pictures import pictures_of
from compressor.tasks.generation.samplers import Sampler, Sampling
from compressor.tasks.image_classification import undecoded

if TYPE_CHECKING:
    from datasets import Dataset
    from numpy.typing import NDArray

SIZE, CLASSES = 28, 10
BATCH, GUIDANCE = 64, 1.5
TASK = {"sampler": "dpm++2m", "steps": 50, "guidance": GUIDANCE, "times": "logit-normal"}
TRAINED = {
    "batch_size": BATCH,
    "weight_decay": 0,
    "checkpoint": "last",
    "validations": 1,
    "precision": "fp32",
}
COUNTS = (8, 4, 2, 1)
"""Steps that students draw in."""
METHODS: Mapping[str, Mapping[str, Any]] = {
    "progressive": {},
    "shortcut": {"levels": 32},
    "consistency": {"levels": 32},
    "meanflow": {},
}
ASKED: Mapping[str, float] = {"progressive": 7 + 3 * 5, "shortcut": 5, "consistency": 6, "meanflow": 5.5}
"""Evaluations of a network for a row that is learned from: of a guided teacher two, of a backward pass two; of progressive in four trainings,
the last three by a teacher that is not guided any more."""
TIMED = "shortcut"
"""The method whose student is timed: all of one shape cost the same."""


@dataclass(frozen=True)
class Size:
    """How much is trained and drawn."""

    epochs: int = 5
    """Of the teacher."""
    evaluations: int = 240_000
    """Of a network, in each student's training: see `ASKED`."""
    rate: float = 5e-4
    """Learning rate of students."""
    drawn: int = 1000
    """Pictures of each cell."""

    def steps(self, method: str) -> int:
        """Of the optimiser, in each training of a method."""
        return max(1, round(self.evaluations / ASKED[method] / BATCH))


@dataclass(frozen=True)
class Cell:
    """Pictures of one model by one sampler."""

    run: str
    """Name of the run that made the model."""
    model: str
    """Its stage."""
    sampling: Sampling
    seed: int = 0
    """Of the training."""

    @property
    def kind(self) -> str:
        """`teacher`, or the method of a student."""
        return self.run.rpartition("-")[0]

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.run}-{self.sampling.sampler}-{self.sampling.steps}"

    @property
    def evaluations(self) -> int:
        """Of the network, for a picture."""
        return self.sampling.evaluations()


def teachers(seed: int = 0) -> Iterator[Cell]:
    """A teacher by each sampler; Heun's takes two evaluations a step, so it has half the steps. The first is what all are held against."""
    ways: tuple[tuple[Sampler, tuple[int, ...]], ...] = (
        ("dpm++2m", (50, 25, 16, 8, 4)),
        ("ddim", (50, 25, 16, 8, 4)),
        ("heun", (25, 13, 8, 4, 2)),
    )
    for sampler, counts in ways:
        for count in counts:
            yield Cell(f"teacher-{seed}", "final", Sampling(sampler=sampler, steps=count, guidance=GUIDANCE), seed)


def students(method: str, seed: int) -> Iterator[Cell]:
    """A method's students, most steps first."""
    sampler: Sampler = "consistency" if method == "consistency" else "ddim"
    for count in COUNTS:
        stage = "final" if count == COUNTS[-1] else f"distill-steps.steps-{count}"
        yield Cell(f"{method}-{seed}", stage, Sampling(sampler=sampler, steps=count), seed)


# ------------------------------------------------------------------ plans


def data(pictures: Path) -> dict[str, Any]:
    """Fashion-MNIST as the recipe for a teacher has it; the plans themselves draw few pictures, since cells draw more."""
    files = {split: str((pictures / f"{split}.parquet").resolve()) for split in ("train", "test")}
    return {"files": files, "split": {"validation": 500}, "limit": {"validation": 100, "test": 32}}


def common(name: str, pictures: Path, seed: int) -> dict[str, Any]:
    """What all plans of the study share."""
    return {"name": name, "seed": seed, "task": {"image-generation": TASK}, "data": data(pictures), "probes": []}


def teacher_plan(pictures: Path, network: Path, seed: int, size: Size) -> dict[str, Any]:
    """The recipe of `plans/diffusion-teacher.yaml`."""
    trained = {"epochs": size.epochs, "learning_rate": 1e-3, "ema": 0.995, **TRAINED}
    return {
        **common("diffusion-teacher", pictures, seed),
        "model": {"folder": str(network.resolve())},
        "reference": "finetune",
        "stages": "quality",
        "passes": [{"finetune": trained}],
        "targets": ["pytorch"],
    }


def student_plan(pictures: Path, teacher: Path, method: str, seed: int, size: Size, *targets: Any) -> dict[str, Any]:
    """A student for each number of steps, from a teacher's folder; for PyTorch, unless other targets are named."""
    given = {"teacher": "source", "method": method, "to": list(COUNTS), "steps": size.steps(method)}
    return {
        **common(f"diffusion-{method}", pictures, seed),
        "model": {"folder": str(teacher.resolve())},
        "passes": [{"distill-steps": {**given, "learning_rate": size.rate, **METHODS[method], **TRAINED}}],
        "targets": list(targets or ("pytorch",)),
    }


# ------------------------------------------------------------------ what cells came to


class Absent(Exception):
    """A cell that is not there."""


@dataclass(frozen=True)
class Found:
    """Pictures of a cell, as the judge sees them."""

    features: Features
    told: NDArray[np.int64]
    """The class of each."""
    first: NDArray[np.float32]
    """The first pictures."""


@dataclass
class Book:
    """All cells of a study: those that are kept in its folder, and those that are made now; says how many remain."""

    folder: Path
    pictures: Path
    size: Size = Size()
    run: bool = True
    """Whether what is not there is made."""
    planned: int = 0
    _seconds: list[float] = field(default_factory=list)

    def report(self, name: str) -> Report:
        """Of a run, a teacher's or a student's.

        Raises:
            Absent: it is not there, and nothing is to be run.
        """
        out = self.folder / name / "run"
        if not self.run:
            if not (out / "report.json").is_file():
                raise Absent(name)
            return read_report(out)
        if not (out / "report.json").is_file():
            sys.stderr.write(f"{name}: trained now\n")
        method, _, seed = name.rpartition("-")
        return ablation.run(self._plan(method, int(seed)), self.folder / name)

    def _plan(self, method: str, seed: int) -> dict[str, Any]:
        if method == "teacher":
            return teacher_plan(self.pictures, self._network(seed), seed, self.size)
        self.report("teacher-0")
        targets = ("onnxruntime", "openvino") if method == "timed" else ()
        return student_plan(
            self.pictures, self.model("teacher-0"), TIMED if method == "timed" else method, seed, self.size, *targets
        )

    def _network(self, seed: int) -> Path:
        """A network that knows nothing yet, with weights by a seed."""
        import torch

        folder = self.folder / f"dit-{seed}"
        if not folder.is_dir():
            torch.manual_seed(seed)
            Model.wrap(DiT(SIZE, 1, CLASSES)).save(folder)
        return folder

    def model(self, run: str, stage: str = "final", target: str = "pytorch") -> Path:
        """Folder of a model that a run made."""
        return self.folder / run / "run" / "artifacts" / f"{stage}@{target}"

    @cached_property
    def rows(self) -> Dataset:
        """All test rows."""
        given = data(self.pictures)
        spec = DataSpec.model_validate({**given, "limit": {"validation": 100}})
        return load_data(spec, columns=ImageGeneration().columns(), seed=0, folder=Path()).split("test")

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """What is asked for: those of the first test rows."""
        return np.asarray(self.rows["label"][: self.size.drawn], dtype=np.int64)

    def real(self) -> Found:
        """Test pictures: the first ones, whose labels are asked for, then the second half, which all are held against."""
        return self._kept("real", self._real)

    def _real(self) -> Mapping[str, NDArray[Any]]:
        self.report("teacher-0")
        files, rows = self.model("teacher-0"), self.rows
        chosen = [*range(self.size.drawn), *range(len(rows) // 2, len(rows))]
        shown = pictures_of(undecoded(rows, "image"), chosen, "image", described(files).shape)
        return self._seen(shown)

    def found(self, cell: Cell) -> Found:
        """What a cell came to.

        Raises:
            Absent: it is not there, and nothing is to be run.
        """
        return self._kept(cell.name, lambda: self._drawn(cell))

    def _drawn(self, cell: Cell) -> Mapping[str, NDArray[Any]]:
        self.report(cell.run)
        folder = self.model(cell.run, cell.model)
        how = described(folder).model_copy(update={"sampling": cell.sampling})
        return self._seen(drawn(folder, how, self.rows.select(range(self.size.drawn))))

    def _seen(self, shown: NDArray[np.float32]) -> Mapping[str, NDArray[Any]]:
        features, logits = judge_in(self.model("teacher-0")).seen(shown)
        return {"features": features.rows, "told": logits.argmax(-1), "first": shown[:SHOWN]}

    def _kept(self, name: str, make: Callable[[], Mapping[str, NDArray[Any]]]) -> Found:
        path = self.folder / "drawn" / f"{name}-{self.size.drawn}.npz"
        if not path.is_file():
            if not self.run:
                raise Absent(name)
            began = time.monotonic()
            made = make()
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_suffix(".part")
            with unfinished.open("wb") as file:
                np.savez(file, **made)  # type: ignore[arg-type]
            settle(unfinished, path)
            self._seconds.append(time.monotonic() - began)
            self._told(name)
        with np.load(path) as arrays:
            space = judge_in(self.model("teacher-0")).space
            return Found(Features(arrays["features"], space), arrays["told"], arrays["first"])

    def _told(self, name: str) -> None:
        left = max(0, self.planned - len(list((self.folder / "drawn").glob(f"*-{self.size.drawn}.npz"))))
        sys.stderr.write(
            f"{name}: {self._seconds[-1]:.0f} s; {left} of {self.planned} cells remain, "
            f"about {left * float(np.mean(self._seconds)) / 60:.0f} minutes\n"
        )


SHOWN = 200
"""Pictures that are kept of a cell."""


def drawn(folder: Path, how: Description, rows: Dataset) -> NDArray[np.float32]:
    """A picture for each row, from the noise of its number, by the network in a folder, in PyTorch."""
    task = ImageGeneration(drawing=how)
    model = Model.read(folder)
    model.files[FILE] = how.written()
    session = EagerSession(task, model, task.graphs(model), "cpu")
    found: NDArray[np.float32] = np.concatenate(
        [task.call(session, feed)["pictures"] for feed in task.scored_feeds(rows, folder)[0]]
    )
    return found
