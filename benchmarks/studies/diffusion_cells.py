"""Cells of `benchmarks.studies.diffusion_steps`: a teacher, students of it, and what rows of each are like, kept in a folder."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.studies import ablation
from benchmarks.studies.diffusion_plans import (
    CLASSES,
    ROUNDED,
    SIZE,
    TIMED,
    Cell,
    Size,
    data,
    rounded_plan,
    student_plan,
    teacher_plan,
    timed_student,
)
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
from compressor.tasks.generation.graphs import rows_drawn
from compressor.tasks.generation.image_generation import ImageGeneration
from compressor.tasks.generation.judging import judge_in
from compressor.tasks.generation.pictures import pictures_of
from compressor.tasks.image_classification import undecoded
from compressor.tasks.reading import column_of

if TYPE_CHECKING:
    from datasets import Dataset
    from numpy.typing import NDArray

    from compressor.contracts import Session


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
    size: Size = field(default_factory=Size)
    run: bool = True
    """Whether what is not there is made."""
    planned: Sequence[Cell] = ()
    """All cells of the study."""
    wide: Sequence[Cell] = ()
    """Those of them that have many pictures."""

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
        if method in ROUNDED:
            cell = timed_student(ROUNDED[method])
            self.report(cell.run)
            return rounded_plan(self.pictures, self.model(cell.run, cell.model), seed, ROUNDED[method])
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
        """What is asked for: those of the first test rows, of as many as are drawn at most."""
        return np.asarray(self.known[: max(self.size.drawn, self.size.many)], dtype=np.int64)

    @cached_property
    def known(self) -> list[int]:
        """Labels of all test rows."""
        return column_of(self.rows, "label")

    def real(self, count: int | None = None) -> Found:
        """Test pictures: the first ones, whose labels are asked for, then the second half, which all are held against."""
        count = count or self.size.drawn
        return self.kept("real", lambda: self._real(count), count)

    def _real(self, count: int) -> Mapping[str, NDArray[Any]]:
        if count > len(self.rows) // 2:
            raise SystemExit(
                f"{count:,} pictures are asked for, and {len(self.rows):,} test rows are there: half of them are held against all"
            )
        self.report("teacher-0")
        return self.seen(self.real_pictures(count))

    def real_pictures(self, count: int | None = None) -> NDArray[np.float32]:
        """Those of `real`."""
        files, rows = self.model("teacher-0"), self.rows
        chosen = [*range(count or self.size.drawn), *range(len(rows) // 2, len(rows))]
        return pictures_of(undecoded(rows, "image"), chosen, "image", described(files).shape)

    def found(self, cell: Cell) -> Found:
        """What a cell came to.

        Raises:
            Absent: it is not there, and nothing is to be run.
        """
        return self.kept(cell.name, lambda: self.seen(self._drawn(cell, range(self.size.drawn))))

    def more(self, cell: Cell) -> Found:
        """The same of many pictures, of which the first are those that are there already.

        Raises:
            Absent: they are not there, and nothing is to be run.
        """
        return self.kept(cell.name, lambda: self._continued(cell), self.size.many)

    def _continued(self, cell: Cell) -> Mapping[str, NDArray[Any]]:
        begun = self.found(cell)
        others = self.seen(self._drawn(cell, range(len(begun.told), self.size.many)))
        pairs = {"features": begun.features.rows, "told": begun.told}
        return {**{name: np.concatenate([rows, others[name]]) for name, rows in pairs.items()}, "first": begun.first}

    def shown(self, cell: Cell) -> NDArray[np.float32]:
        """All pictures of a cell: those that are kept, or drawn again where only some are."""
        kept = self.found(cell).first
        return kept if len(kept) == self.size.drawn else self._drawn(cell, range(self.size.drawn))

    def _drawn(self, cell: Cell, numbers: range) -> NDArray[np.float32]:
        self.report(cell.run)
        folder, how = self.model(cell.run, cell.model), self.how(cell)
        return rows_of(how, opened(folder, how), how.known(self.known), numbers)

    def how(self, cell: Cell) -> Description:
        """How a cell is drawn."""
        return described(self.model(cell.run, cell.model)).model_copy(update={"sampling": cell.sampling})

    def seen(self, shown: NDArray[np.float32]) -> Mapping[str, NDArray[Any]]:
        """Pictures as the judge sees them, to be kept."""
        features, logits = judge_in(self.model("teacher-0")).seen(shown)
        return {"features": features.rows, "told": logits.argmax(-1), "first": shown[:SHOWN]}

    def kept(self, name: str, make: Callable[[], Mapping[str, NDArray[Any]]], count: int | None = None) -> Found:
        """What is there under a name, of so many pictures, or is made now.

        Raises:
            Absent: it is not there, and nothing is to be run.
        """
        path = self.place(name, count)
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
            sys.stderr.write(f"{name}: {time.monotonic() - began:.0f} s; {self.left()}\n")
        with np.load(path) as arrays:
            space = judge_in(self.model("teacher-0")).space
            return Found(Features(arrays["features"], space), arrays["told"], arrays["first"])

    def place(self, name: str, count: int | None = None) -> Path:
        """Where what has a name is kept."""
        return self.folder / "drawn" / f"{name}-{count or self.size.drawn}.npz"

    def left(self) -> str:
        """What of `planned` is not there, and about how long it takes by how long the first teacher took."""
        size = self.size
        cells = [cell for cell in self.planned if not self.place(cell.name).is_file()]
        more = [cell for cell in self.wide if not self.place(cell.name, size.many).is_file()]
        asked = sum(cell.evaluations * size.drawn for cell in cells)
        asked += sum(cell.evaluations * (size.many - size.drawn) for cell in more)
        for run in dict.fromkeys(cell.run for cell in cells):
            asked += 0 if (self.folder / run / "run" / "report.json").is_file() else self._asked(run)
        took = self.report("teacher-0")
        pace = self._asked("teacher-0") / took.stages[-1].seconds
        many = f", {len(more)} have fewer than {size.many:,} pictures" if more else ""
        return f"{len(cells)} of {len(self.planned)} cells remain{many}, about {asked / pace / 60:.0f} minutes of a core"

    def _asked(self, run: str) -> int:
        """Evaluations of a network in a training, a backward pass counted as two."""
        return 3 * TRAIN_ROWS * self.size.epochs if run.startswith("teacher") else self.size.evaluations


TRAIN_ROWS = 59_500
"""Of Fashion-MNIST, less those of validation."""
AT_ONCE = 64
SHOWN = 1000
"""Pictures that are kept of a cell, at most."""


def opened(folder: Path, how: Description) -> EagerSession:
    """The network in a folder, to draw by, in PyTorch."""
    task = ImageGeneration(drawing=how)
    model = Model.read(folder)
    model.files[FILE] = how.written()
    return EagerSession(task, model, task.graphs(model), "cpu")


def rows_of(how: Description, session: Session, labels: Sequence[int], numbers: range | None = None) -> NDArray[np.float32]:
    """Rows of some numbers, or of all, of the label and from the noise of each.

    Feeds that are scored would be drawn by the table of the session's own folder.
    """
    table, known, found = how.table(), np.asarray(labels), []
    every = np.asarray(range(len(known)) if numbers is None else numbers)
    for at in range(0, len(every), AT_ONCE):
        chosen = every[at : at + AT_ONCE]
        feed = how.feed(chosen, known[chosen], table)
        found.append(rows_drawn(session, feed, table)[0])
    return np.concatenate(found)
