"""What cells of `benchmarks.studies.diffusion_steps` come to: distances from real pictures and from each other, with intervals."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from benchmarks.studies.diffusion_cells import Absent, Book, Found
from benchmarks.studies.diffusion_plans import CLASSES, GUIDANCE, UNALIGNED, Cell, guided, layered, students, teachers
from benchmarks.studies.lm_lab import kept
from compressor.contracts.quality import Interval
from compressor.tasks.generated.classes import ClassAccuracy, class_accuracy
from compressor.tasks.generated.estimates import Estimate
from compressor.tasks.generated.frechet import frechet, frechet_difference
from compressor.tasks.generated.kernel_distance import Polynomial, kernel_distance

if TYPE_CHECKING:
    from numpy.typing import NDArray

Table: TypeAlias = "NDArray[Any]"

FEW = 16
"""Evaluations of what is drawn before students are trained."""
ESTIMATES = 1
"""Raised when equal rows give other estimates."""
POINT = 0.01
"""Of class accuracy, that a student may lose."""


@dataclass(frozen=True)
class Plan:
    """How much is run."""

    seeds: int
    teachers: int
    methods: tuple[str, ...]
    beyond: bool = True
    """Whether fewer blocks and guidance alone are run too."""

    def cells(self) -> Iterator[Cell]:
        """The teacher as it is meant to be sampled and in few steps, then what there is of the first seed, of others, and of the teacher else."""
        first, *others = teachers()
        others.sort(key=lambda cell: cell.evaluations)
        yield first
        yield from (cell for cell in others if cell.evaluations <= FEW)
        yield from self._students(0)
        if self.beyond:
            yield from layered()
            yield from (cell for cell in guided() if cell not in others)
        for seed in range(1, self.seeds):
            yield from self._students(seed)
        for seed in range(1, self.seeds if self.beyond else 1):
            yield from layered(seed)
        for seed in range(self.seeds if self.beyond and "dmd" in self.methods else 0):
            yield from students(UNALIGNED, seed)
        yield from (cell for cell in others if cell.evaluations > FEW)
        for seed in range(1, self.teachers):
            yield next(iter(teachers(seed)))

    def wide(self) -> Iterator[Cell]:
        """Of those, the ones that have many pictures: teachers in their own steps, the first in few by the same sampler, and what learned of it."""
        own = next(teachers())
        for cell in self.cells():
            few = cell.run == own.run and cell.evaluations <= FEW and cell.sampling.sampler == own.sampling.sampler
            if cell.kind in self.methods or cell.sampling == own.sampling or (few and cell.sampling.guidance == GUIDANCE):
                yield cell

    def _students(self, seed: int) -> Iterator[Cell]:
        for method in self.methods:
            yield from students(method, seed)


@dataclass
class Study:
    """What was found, as far as it is there."""

    book: Book
    plan: Plan
    many: bool = False
    """Whether cells have as many pictures as are there; else all have as many."""

    def there(self) -> dict[Cell, Found]:
        """All cells; makes those that are asked for and not there."""
        found = {}
        for cell in self.plan.cells():
            with suppress(Absent):
                found[cell] = self.of(cell)
        return found

    def of(self, cell: Cell) -> Found:
        """What a cell came to.

        Raises:
            Absent: it is not there, and nothing is to be run.
        """
        return self.book.more(cell) if self.many and cell in self.wide else self.book.found(cell)

    @property
    def few(self) -> Study:
        """The same, of which all cells have as many pictures."""
        return replace(self, many=False)

    @cached_property
    def wide(self) -> frozenset[Cell]:
        """Cells that have many pictures: of a kind all or none, so that means over its seeds are of like ones."""
        cells, book = list(self.plan.wide()), self.book
        there = [cell for cell in cells if book.run or book.place(cell.name).is_file()]
        short = {cell.kind for cell in there if not (book.run or book.place(cell.name, book.size.many).is_file())}
        return frozenset(cell for cell in there if cell.kind not in short)

    @cached_property
    def bound(self) -> tuple[Table, Table, float]:
        """Features of real pictures of the labels that are asked for, of those that all are held against, and the judge's accuracy on all."""
        real, half = self.real(), len(self.book.rows) // 2
        rows, held = real.features.rows, len(self.book.rows) - half
        drawn = len(rows) - held
        chosen = [*self.book.known[:drawn], *self.book.known[half:]]
        return rows[:drawn], rows[drawn:], float((real.told == np.asarray(chosen)).mean())

    def real(self) -> Found:
        """Real pictures, those whose labels are asked for first."""
        return self.book.real(self.book.size.many if self.many and self.wide else None)

    def frechet(self, rows: Table) -> Estimate:
        """Distance of pictures, by their features, from real ones."""
        return self._once("frechet", (rows,), lambda: frechet(rows, self.bound[1]))

    def kernel(self, rows: Table) -> Estimate:
        """The same by the cubic kernel."""
        return self._once("kernel", (rows,), lambda: kernel_distance(rows, self.bound[1], Polynomial()))

    def distance(self, cell: Cell) -> Estimate:
        """Frechet's of a cell."""
        return self.frechet(self.of(cell).features.rows)

    def accuracy(self, cell: Cell) -> ClassAccuracy:
        """How often the judge sees the class that was asked for."""
        return self.right(self.of(cell).told)

    def right(self, told: NDArray[Any]) -> ClassAccuracy:
        """The same of classes that it told."""
        return class_accuracy(told, self.book.labels[: len(told)], classes=CLASSES)

    def farther(self, cell: Cell, other: Cell) -> Estimate:
        """How much farther by Frechet's distance one is than another of the same noise, by the pictures that both have."""
        one, two = (self.of(each).features.rows for each in (cell, other))
        both = min(len(one), len(two))
        return self.apart(one[:both], two[:both])

    def apart(self, rows: Table, others: Table) -> Estimate:
        """The same of features of any pictures."""
        return self._once("apart", (rows, others), lambda: frechet_difference(rows, others, self.bound[1]))

    def as_good(self, cell: Cell, other: Cell) -> bool:
        """Whether pictures are no farther, as far as intervals tell, and at most a point less often of their class."""
        around = self.farther(cell, other).interval
        one, two = (self.of(each).told for each in (cell, other))
        both = min(len(one), len(two))
        lost = self.right(two[:both]).value - self.right(one[:both]).value
        return around is not None and around.low <= 0 and lost <= POINT

    def _once(self, what: str, rows: tuple[Table, ...], make: Callable[[], Estimate]) -> Estimate:
        """An estimate, which is kept by the rows that it is of."""
        given = hashlib.sha256(f"{what} {ESTIMATES}".encode())
        for each in (*rows, self.bound[1]):
            given.update(np.ascontiguousarray(each).tobytes())
        found = kept(self.book.folder / "estimates" / f"{given.hexdigest()}.json", lambda: _written(make()))
        around = found.pop("interval")
        return Estimate(interval=None if around is None else Interval.model_validate(around), **found)


def _written(found: Estimate) -> dict[str, Any]:
    around = None if found.interval is None else found.interval.model_dump(mode="json")
    return {"value": found.value, "interval": around, "n": found.n, "real": found.real, "bias": found.bias}


def ranged(found: Estimate) -> str:
    """A figure with its interval."""
    around = found.interval
    return f"{found.value:.3g}" + (f" [{around.low:.2g}, {around.high:.2g}]" if around else "")


def signed(apart: Estimate) -> str:
    """A difference with its interval; bold where it leaves 0 out."""
    around = apart.interval
    if around is None:
        return f"{apart.value:+.3g}"
    text = f"{apart.value:+.3g} [{around.low:+.3g}, {around.high:+.3g}]"
    return f"**{text}**" if around.low > 0 or around.high < 0 else text


def over_trainings(apart: Sequence[float]) -> str:
    """Mean of differences of several trainings, with Student's interval of 95 %; bold where it leaves 0 out."""
    from scipy.stats import t

    mean, deviation = float(np.mean(apart)), float(np.std(apart, ddof=1))
    half = float(t.ppf(0.975, len(apart) - 1)) * deviation / len(apart) ** 0.5
    text = f"{mean:+.3g} ± {half:.2g}"
    return f"**{text}**" if abs(mean) > half else text


def fewest(study: Study, found: Iterable[Cell]) -> Cell:
    """The way of the fewest evaluations in which the teacher alone is as good as in its own steps."""
    first, own = next(teachers()), set(teachers())
    good = [cell for cell in found if cell in own and (cell == first or study.as_good(cell, first))]
    return min(good, key=lambda cell: cell.evaluations)
