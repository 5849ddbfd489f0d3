"""Remakes `docs/results/diffusion-steps.md`: a teacher that draws Fashion-MNIST by each sampler, and students of every method in 8, 4, 2 and 1 steps.

    python -m benchmarks.studies.diffusion_steps --fashion-mnist FOLDER [--work FOLDER] [--epochs N] [--evaluations N] [--rate R] [--drawn N]
        [--seeds N] [--teachers N] [--methods M ...] [--quick] [--times] [--page]

FOLDER has `train.parquet` and `test.parquet`. A cell is what one model draws in one way; models and cells are kept in the folder of work: a study
that was cut goes on, and says how many cells remain. `--quick` runs one seed; `--times` builds files and times them, and nothing else: it takes
about two minutes of a machine that does nothing else once the files are there. `--page` runs nothing and writes what is there.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from benchmarks.studies import diffusion_times
from benchmarks.studies.diffusion_cells import (
    ASKED,
    BATCH,
    CLASSES,
    COUNTS,
    GUIDANCE,
    METHODS,
    Absent,
    Book,
    Cell,
    Found,
    Size,
    students,
    teachers,
)
from benchmarks.studies.diffusion_grid import save_grid
from benchmarks.studies.pages import machine_lines
from compressor.tasks.generated.classes import ClassAccuracy, class_accuracy
from compressor.tasks.generated.frechet import frechet, frechet_difference
from compressor.tasks.generated.kernel_distance import Polynomial, kernel_distance

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from compressor.tasks.generated.estimates import Estimate

Table: TypeAlias = "NDArray[Any]"

OUT, WORK = Path("docs/results/diffusion-steps.md"), Path("runs/diffusion-steps")
SEEDS = 3
SPREAD = 3
"""Teachers that a spread is told of."""
FASTER, AGAINST_FEWEST = 15, 4
"""Expected of students in pictures a second, against the teacher in 50 steps and in as few as it needs."""
FEW = 16
"""Evaluations of what is drawn before students are trained."""
POINT = 0.01
"""Of class accuracy, that a student may lose."""


@dataclass(frozen=True)
class Plan:
    """How much is run."""

    seeds: int
    teachers: int
    methods: tuple[str, ...]

    def cells(self) -> Iterator[Cell]:
        """The teacher as it is meant to be sampled and in few steps, students of a seed, and what else there is to see of the teacher."""
        first, *others = teachers()
        others.sort(key=lambda cell: cell.evaluations)
        yield first
        yield from (cell for cell in others if cell.evaluations <= FEW)
        for seed in range(self.seeds):
            for method in self.methods:
                yield from students(method, seed)
        yield from (cell for cell in others if cell.evaluations > FEW)
        for seed in range(1, self.teachers):
            yield next(iter(teachers(seed)))


@dataclass
class Study:
    """What was found, as far as it is there."""

    book: Book
    plan: Plan
    _known: dict[tuple[str, ...], Estimate] = field(default_factory=dict)

    def there(self) -> dict[Cell, Found]:
        """All cells; makes those that are asked for and not there."""
        found = {}
        for cell in self.plan.cells():
            with suppress(Absent):
                found[cell] = self.book.found(cell)
        return found

    @cached_property
    def bound(self) -> tuple[Table, Table, float]:
        """Features of real pictures of the labels that are asked for, of those that all are held against, and the judge's accuracy on all."""
        real, drawn = self.book.real(), self.book.size.drawn
        chosen = [*self.book.rows["label"][:drawn], *self.book.rows["label"][len(self.book.rows) // 2 :]]
        rows = real.features.rows
        return rows[:drawn], rows[drawn:], float((real.told == np.asarray(chosen)).mean())

    def frechet(self, name: str, rows: Table) -> Estimate:
        """Distance of pictures from real ones."""
        return self._once((name, "frechet"), lambda: frechet(rows, self.bound[1]))

    def kernel(self, name: str, rows: Table) -> Estimate:
        """The same by the cubic kernel."""
        return self._once((name, "kernel"), lambda: kernel_distance(rows, self.bound[1], Polynomial()))

    def accuracy(self, cell: Cell) -> ClassAccuracy:
        """How often the judge sees the class that was asked for."""
        return class_accuracy(self.book.found(cell).told, self.book.labels, classes=CLASSES)

    def farther(self, cell: Cell, other: Cell) -> Estimate:
        """How much farther by Frechet's distance one is than another of the same noise."""
        mine, theirs = (self.book.found(each).features.rows for each in (cell, other))
        return self._once((cell.name, other.name), lambda: frechet_difference(mine, theirs, self.bound[1]))

    def as_good(self, cell: Cell, other: Cell) -> bool:
        """Whether pictures are no farther, as far as intervals tell, and at most a point less often of their class."""
        around = self.farther(cell, other).interval
        return around is not None and around.low <= 0 and self.accuracy(cell).value >= self.accuracy(other).value - POINT

    def _once(self, key: tuple[str, ...], make: Callable[[], Estimate]) -> Estimate:
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]


# ------------------------------------------------------------------ the page


def document(study: Study, out: Path) -> str:
    """What there is."""
    found, book = study.there(), study.book
    if not found or next(iter(found)) != next(teachers()):
        raise SystemExit("no teacher is there yet")
    report = book.report("teacher-0")
    save_grid(book, found, out.with_suffix(".png"))
    trained = report.stages[-1]
    lines = [
        "# Fewer steps for a network that draws: what was measured",
        "",
        f"`{command(study)}` remakes this page.",
        "",
        *lacking(found),
        "",
        *machine_lines(report),
        f"- Data: Fashion-MNIST (MIT licence), {report.data.splits[0].rows:,} rows to train on. Network: `dit`, 1.85 M parameters, patches of 4.",
        f"- Teacher: {book.size.epochs} epochs of `plans/diffusion-teacher.yaml` ({BATCH} rows a step), {trained.seconds / 60:.0f} minutes on one",
        f"  core. Guidance {GUIDANCE:g}, which takes two evaluations a step; students have it folded in and take one.",
        f"- Equal training compute: {book.size.evaluations:,} evaluations of the network by each student (a backward pass counts as two),",
        f"  {BATCH} rows a step, AdamW at {book.size.rate:g} for all (none was tried), falling to 0; an average of the weights is kept. One training",
        "  serves all numbers of steps, but of `progressive`, which trains four times for as much in all.",
        f"- Scores: {book.size.drawn:,} pictures of the labels of the first test rows, picture i from the noise of seed i whatever draws it, in",
        f"  PyTorch, against {len(study.bound[1]):,} test rows, by features of the data's own classifier",
        f"  ({book.real().features.space.digest[:12]}, right on {study.bound[2]:.1%} of these real pictures). Intervals of 95 % over draws of",
        "  pictures, of these trainings; differences are paired by noise. The kernel distance is the cubic one.",
        "",
        *pictures(out),
        "",
        "## The teacher alone, by its sampler",
        "",
        *table(study, [cell for cell in teachers() if cell in found]),
        "",
        *alone(study, found),
        *spread(study, found),
        "",
        "## Students",
        "",
        *table(study, [cell for cell in found if cell.kind != "teacher"]),
        "",
        "## What a training takes",
        "",
        *costs(study),
        "",
        "## Pictures a second",
        "",
        *speed(study, found),
        "",
        "## What became of the goals",
        "",
        *goals(study, found),
    ]
    return "\n".join(lines) + "\n"


def command(study: Study) -> str:
    """That remakes the page."""
    size, plan, usual = study.book.size, study.plan, Size()
    words = [
        f"--{name} {getattr(size, name):g}"
        for name in ("epochs", "evaluations", "rate", "drawn")
        if getattr(size, name) != getattr(usual, name)
    ]
    words += [f"--seeds {plan.seeds}"] if plan.seeds != SEEDS else []
    words += [f"--teachers {plan.teachers}"] if plan.teachers != 1 else []
    words += [f"--methods {' '.join(plan.methods)}"] if set(plan.methods) != set(METHODS) else []
    return " ".join(["python -m benchmarks.studies.diffusion_steps --fashion-mnist FOLDER", *words])


def lacking(found: dict[Cell, Found]) -> Iterator[str]:
    """What this page does not show."""
    short = []
    for method in METHODS:
        seeds = {cell.seed for cell in found if cell.kind == method}
        short += [f"{method}: {len(seeds)} of {SEEDS} seeds"] if len(seeds) < SEEDS else []
    missing = [f"{cell.sampling.sampler} {cell.sampling.steps}" for cell in teachers() if cell not in found]
    short += [f"the teacher by {', '.join(missing)}"] if missing else []
    known = len({cell.seed for cell in found if cell.kind == "teacher"})
    short += [f"{known} of {SPREAD} teachers, so its spread over seeds is not known"] if known < SPREAD else []
    short += ["distances on features of DINOv2", "DMD and BOOT", "fewer layers", "int8"]
    yield f"**Not run: {'; '.join(short)}.** Of one seed nothing is claimed beyond these trainings."


def pictures(out: Path) -> Iterator[str]:
    """The grid."""
    yield f"![Rows of pictures, from the same noise]({out.with_suffix('.png').name})"
    yield ""
    yield "The first test row of each class, and what is drawn for it from the same noise, row by row of the grid."


def table(study: Study, cells: Iterable[Cell]) -> Iterator[str]:
    """A line for each cell; the first line is the bound."""
    reference, near = next(teachers()), study.bound[0]
    yield "| model | steps | evaluations | Frechet distance | kernel distance | farther than the teacher in 50 steps | class accuracy |"
    yield f"| --- |{' ---: |' * 6}"
    right = float((study.book.real().told[: len(near)] == study.book.labels).mean())
    yield f"| real pictures | | | {ranged(study.frechet('real', near))} | {ranged(study.kernel('real', near))} | | {right:.1%} |"
    for cell in cells:
        rows = study.book.found(cell).features.rows
        apart = "" if cell == reference else signed(study.farther(cell, reference))
        right, around = study.accuracy(cell).value, study.accuracy(cell).interval
        name = cell.sampling.sampler if cell.kind == "teacher" else f"{cell.kind}, seed {cell.seed}"
        yield (
            f"| {name} | {cell.sampling.steps} | {cell.evaluations} | {ranged(study.frechet(cell.name, rows))} | "
            f"{ranged(study.kernel(cell.name, rows))} | {apart} | {right:.1%} [{around.low:.1%}, {around.high:.1%}] |"
        )


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


def fewest(study: Study, found: Iterable[Cell]) -> Cell:
    """The way of the fewest evaluations in which the teacher alone is as good as in its own steps."""
    first = next(teachers())
    good = [cell for cell in found if cell.run == "teacher-0" and (cell == first or study.as_good(cell, first))]
    return min(good, key=lambda cell: cell.evaluations)


def alone(study: Study, found: dict[Cell, Found]) -> Iterator[str]:
    """How few steps the teacher needs."""
    cell = fewest(study, found)
    yield (
        f"With the fewest evaluations and as good as in 50 steps, as far as these intervals tell, and at most a point of accuracy below: "
        f"{cell.sampling.sampler} in {cell.sampling.steps} steps, {cell.evaluations} evaluations. An interval that holds 0 is no proof of equality."
    )


def spread(study: Study, found: dict[Cell, Found]) -> Iterator[str]:
    """What teachers of several seeds differ by."""
    each = {cell.seed: cell for cell in found if cell.kind == "teacher" and cell.sampling == next(teachers()).sampling}
    if len(each) < SPREAD:
        return
    values = [study.frechet(cell.name, found[cell].features.rows).value for cell in each.values()]
    yield (
        f"Teachers of {len(values)} seeds: Frechet distance {np.mean(values):.3g}, deviation {np.std(values, ddof=1):.2g}; inside their spread "
        f"is what lies below {np.mean(values) + 2 * np.std(values, ddof=1):.3g}."
    )


def costs(study: Study) -> Iterator[str]:
    """Steps and minutes of each method's training."""
    yield "| method | steps of the optimiser | evaluations for a row | evaluations | minutes on one core |"
    yield f"| --- |{' ---: |' * 4}"
    for method in study.plan.methods:
        with suppress(Absent):
            took = [study.book.report(f"{method}-{seed}").stages[1].seconds / 60 for seed in range(study.plan.seeds)]
            steps = study.book.size.steps(method)
            times = "4 x " if method == "progressive" else ""
            yield (
                f"| {method} | {times}{steps:,} | {ASKED[method]:g} | {steps * BATCH * ASKED[method]:,.0f} | "
                f"{', '.join(f'{each:.1f}' for each in took)} |"
            )
    yield ""
    yield "By the clock, with scores on validation, while other work ran on the other core. `progressive` trains once for each number of steps."


def speed(study: Study, found: dict[Cell, Found]) -> Iterator[str]:
    """Times, where there are any."""
    with suppress(Absent):
        record = diffusion_times.times(study.book)
        cell = fewest(study, found)
        yield from diffusion_times.section(record, cell.sampling.steps if cell.sampling.sampler == "dpm++2m" else None)
        return
    yield "Not measured yet: other work ran on the machine. `--times` measures them."


def goals(study: Study, found: dict[Cell, Found]) -> Iterator[str]:
    """What of the goals held, by these cells."""
    reference = next(teachers())
    good = [cell for cell in found if cell.kind != "teacher" and study.as_good(cell, reference)]
    named = ", ".join(f"{cell.kind} in {cell.sampling.steps}" for cell in good)
    yield (
        f"Expected: {FASTER} times as fast as the teacher in 50 steps and {AGAINST_FEWEST} times as fast as in the fewest that it needs, inside the "
        f"spread of {SPREAD} teachers. **Whether students are inside it is not decided: there are fewer teachers.** As good as this one in 50 "
        f"steps, as far as intervals tell, and at most a point of accuracy below: {named or 'no student'}. By the nearest method of each number of "
        "steps, of one training each:"
    )
    yield ""
    for count in COUNTS:
        yield from nearest(
            study,
            [cell for cell in found if cell.kind != "teacher" and cell.sampling.steps == count and cell.seed == 0],
            fewest(study, found),
        )


def nearest(study: Study, taking: list[Cell], least: Cell) -> Iterator[str]:
    """Of cells with one number of steps the nearest one, what it is against the teacher, and what sets it apart from the next."""
    if not taking:
        return
    reference = next(teachers())
    one, *others = sorted(taking, key=lambda cell: study.frechet(cell.name, study.book.found(cell).features.rows).value)
    lost = 100 * (study.accuracy(one).value - study.accuracy(reference).value)
    after = f"; {others[0].kind} is farther by {signed(study.farther(others[0], one))}" if others else ""
    yield (
        f"- {one.sampling.steps}: {one.kind}, farther than the teacher in 50 steps by {signed(study.farther(one, reference))}, {lost:+.1f} points of "
        f"accuracy, {reference.evaluations / one.evaluations:.0f} times fewer evaluations than in 50 steps and "
        f"{least.evaluations / one.evaluations:.1f} times fewer than {least.sampling.sampler} in {least.sampling.steps}{after}."
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is not there, and write the page."""
    usual = Size()
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--fashion-mnist", type=Path, required=True, help="folder of train.parquet and test.parquet")
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--epochs", type=int, default=usual.epochs, help="of the teacher")
    parser.add_argument("--evaluations", type=int, default=usual.evaluations, help="of the network, in a student's training")
    parser.add_argument("--rate", type=float, default=usual.rate, help="learning rate of students")
    parser.add_argument("--drawn", type=int, default=usual.drawn, help="pictures of a cell")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="of students")
    parser.add_argument("--teachers", type=int, default=1, help="seeds of teachers; students learn from the first")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--quick", action="store_true", help="one seed")
    parser.add_argument("--times", action="store_true", help="time files, and nothing else")
    parser.add_argument("--page", action="store_true", help="run nothing, write what is there")
    given = parser.parse_args(arguments)
    size = Size(given.epochs, given.evaluations, given.rate, given.drawn)
    plan = Plan(1 if given.quick else given.seeds, given.teachers, tuple(given.methods))
    book = Book(given.work, given.fashion_mnist, size, run=not given.page, planned=1 + len(list(plan.cells())))
    if given.times:
        diffusion_times.times(book)
        return
    if not given.page:
        book.real()
        Study(book, plan).there()
    book.run = False
    given.out.write_text(document(Study(book, plan), given.out), encoding="utf-8")
    sys.stderr.write(f"{given.out} is written\n")


if __name__ == "__main__":
    main()
