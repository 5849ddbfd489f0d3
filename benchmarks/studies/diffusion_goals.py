"""What became of the goals of `benchmarks.studies.diffusion_steps`: who is inside the spread of several teachers, and how fast."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress

import numpy as np

from benchmarks.studies import diffusion_int8, diffusion_times
from benchmarks.studies.diffusion_cells import Absent, Found
from benchmarks.studies.diffusion_plans import (
    COUNTS,
    METHODS,
    ROUNDED,
    TIMED,
    Cell,
    teachers,
)
from benchmarks.studies.diffusion_scores import POINT, Study, fewest, signed

SPREAD = 3
"""Teachers that a spread is told of."""
FASTER, AGAINST_FEWEST = 15, 4
"""Expected of students in pictures a second, against the teacher in 50 steps and in as few as it needs."""


def goals(study: Study, found: dict[Cell, Found]) -> Iterator[str]:
    """What of the goals held, by these cells."""
    reference = next(teachers())
    good = [cell for cell in found if cell.kind in METHODS and study.as_good(cell, reference)]
    named = _counted(good, found)
    yield (
        f"Expected: {FASTER} times as fast as the teacher in 50 steps and {AGAINST_FEWEST} times as fast as in the fewest that it needs, inside the "
        f"spread of {SPREAD} teachers. {_inside(study, found)} As good as this one in 50 steps, as far as intervals "
        f"tell, and at most a point of accuracy below: {named or 'no student'}."
    )
    yield ""
    if fast := list(fast_enough(study, found)):
        yield from (*fast, "")
    yield "By the nearest method of each number of steps that is at most a point below, of the first training each:"
    yield ""
    for count in COUNTS:
        yield from nearest(
            study,
            [cell for cell in found if cell.kind in METHODS and cell.sampling.steps == count and cell.seed == 0],
            fewest(study, found),
        )


def _inside(study: Study, found: dict[Cell, Found]) -> str:
    """Which students are inside the teachers' spread, in int8 too, and how fast those are."""
    values = of_teachers(study, found)
    if len(values) < SPREAD:
        return f"**Whether students are inside it is not decided: {SPREAD - len(values)} of {SPREAD} teachers were not trained.**"
    cells = [cell for cell in found if cell.kind in METHODS]
    near = [cell for cell in cells if _is_inside(study, values, study.of(cell))]
    rounded = diffusion_int8.there(study.book)
    inside = (key for key, each in rounded.items() if _is_inside(study, values, each))
    files = [f"{TIMED} in {ROUNDED[name]} ({diffusion_int8.NAMES[target]})" for name, target in inside]
    in_int8_too = f"in int8: {', '.join(files) or 'none'}" if rounded else "in int8 it was not looked at"
    return (
        f"Inside it, by a Frechet distance of at most {_farthest(values):.3g} and at most a point of accuracy below the first teacher: "
        f"{_counted(near, found) or 'no student'}; {in_int8_too}."
    )


def fast_enough(study: Study, found: dict[Cell, Found]) -> Iterator[str]:
    """How fast those are that are inside the spread in all their trainings; a student of any method as that of `TIMED` in as many steps."""
    values, least = of_teachers(study, found), fewest(study, found).sampling
    if len(values) < SPREAD or (least.sampler, least.steps) not in {
        (diffusion_times.SAMPLER, each) for each in diffusion_times.FEWER
    }:
        return
    every = [cell for cell in found if cell.kind in METHODS]
    outside = {(cell.kind, cell.sampling.steps) for cell in every if not _is_inside(study, values, study.of(cell))}
    ways = {(cell.kind, cell.sampling.steps) for cell in every} - outside
    stages = [(f"{kind} in {count}", f"student-{count}", tuple(diffusion_int8.NAMES)) for kind, count in sorted(ways)]
    rounded = diffusion_int8.there(study.book)
    stages += [
        (f"{TIMED} in {ROUNDED[name]} in int8", name, (target,))
        for (name, target), each in rounded.items()
        if _is_inside(study, values, each)
    ]
    with suppress(Absent):
        record = diffusion_times.times(study.book)
        timed = {row.candidate for row in record.rows}
        for title, stage, targets in stages:
            for target in (each for each in targets if f"{stage}@{each}" in timed):
                first = diffusion_times.held(record, f"{stage}@{target}", f"source@{target}", FASTER)
                fewer = f"teacher-{least.steps}@{target}"
                second = diffusion_times.held(record, f"{stage}@{target}", fewer, AGAINST_FEWEST)
                yield f"- {title}, {diffusion_int8.NAMES[target]}: {first} times as fast as in 50 steps, {second} as in {least.steps}."


def _is_inside(study: Study, values: list[float], each: Found) -> bool:
    """Whether pictures are as near as teachers of several seeds, and draw their classes."""
    known = study.of(next(teachers())).told[: len(each.told)]
    lost = study.right(known).value - study.right(each.told[: len(known)]).value
    return study.frechet(each.features.rows).value <= _farthest(values) and lost <= POINT


def nearest(study: Study, taking: list[Cell], least: Cell) -> Iterator[str]:
    """Of cells with one number of steps the nearest one that draws its classes, what it is against the teacher, and what sets it apart from the next.

    What is nearer and loses more than a point of class accuracy is named too.
    """
    reference = next(teachers())
    ordered = sorted(taking, key=lambda cell: study.distance(cell).value)
    told = [cell for cell in ordered if study.accuracy(cell).value >= study.accuracy(reference).value - POINT]
    if not told:
        return
    one, *others = told
    after = f"; {others[0].kind} is farther by {signed(study.farther(others[0], one))}" if others else ""
    wrong = ordered[: ordered.index(one)]
    besides = "".join(
        f" {cell.kind} is nearer by {signed(study.farther(one, cell))} and loses {-_points(study, cell):.1f} points."
        for cell in wrong
    )
    yield (
        f"- {one.sampling.steps}: {one.kind}, farther than the teacher in 50 steps by {signed(study.farther(one, reference))}, "
        f"{_points(study, one):+.1f} points of accuracy, {reference.evaluations / one.evaluations:.0f} times fewer evaluations than in 50 steps and "
        f"{least.evaluations / one.evaluations:.1f} times fewer than {least.sampling.sampler} in {least.sampling.steps}{after}.{besides}"
    )


def _points(study: Study, cell: Cell) -> float:
    """Of class accuracy, more than the teacher in its own steps."""
    return 100 * (study.accuracy(cell).value - study.accuracy(next(teachers())).value)


def spread(study: Study, found: dict[Cell, Found]) -> Iterator[str]:
    """What teachers of several seeds differ by."""
    values = of_teachers(study, found)
    if len(values) >= SPREAD:
        yield (
            f"Teachers of {len(values)} seeds: Frechet distance {np.mean(values):.3g}, deviation {np.std(values, ddof=1):.2g}; inside their "
            f"spread is what lies below {_farthest(values):.3g}."
        )


def of_teachers(study: Study, found: dict[Cell, Found]) -> list[float]:
    """Distances of teachers of several seeds in their own steps."""
    own = {cell.seed: cell for cell in found if cell.kind == "teacher" and cell.sampling == next(teachers()).sampling}
    return [study.distance(cell).value for cell in own.values()]


def _farthest(values: list[float]) -> float:
    """Up to which a distance is inside the spread of some."""
    return float(np.mean(values) + 2 * np.std(values, ddof=1))


def _counted(good: Iterable[Cell], found: Iterable[Cell]) -> str:
    """Ways that are among `good`, with how many of their trainings are."""
    those, every = (Counter((cell.kind, cell.sampling.steps) for cell in cells) for cells in (good, found))
    return ", ".join(f"{kind} in {steps} ({count} of {every[kind, steps]})" for (kind, steps), count in those.items())
