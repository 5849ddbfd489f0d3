"""The page of `benchmarks.studies.diffusion_steps`: what was run, and no more than it says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from benchmarks.studies import diffusion_costs, diffusion_int8, diffusion_times
from benchmarks.studies.diffusion_beyond import (
    ABSENT,
    aligned,
    by_dino,
    fewer_blocks,
    guidance,
    over_seeds,
    where_needed,
    without_data,
)
from benchmarks.studies.diffusion_cells import Absent, Found
from benchmarks.studies.diffusion_goals import SPREAD, goals, of_teachers, spread
from benchmarks.studies.diffusion_grid import save_grid
from benchmarks.studies.diffusion_plans import (
    ASKED,
    BATCH,
    GUIDANCE,
    METHODS,
    THEN,
    TIMED,
    UNALIGNED,
    Cell,
    Size,
    guided,
    layered,
    teachers,
)
from benchmarks.studies.diffusion_scores import Study, fewest, ranged, signed
from benchmarks.studies.pages import machine_lines

SEEDS = 3
"""Of students."""


def document(study: Study, out: Path) -> str:
    """What there is."""
    found, book, wide = study.there(), study.book, replace(study, many=True)
    if not found or next(iter(found)) != next(teachers()):
        raise SystemExit("no teacher is there yet")
    save_grid(book, found, out.with_suffix(".png"))
    lines = [
        *opening(wide, found),
        "",
        *pictures(out),
        "",
        "## The teacher alone, by its sampler",
        "",
        *table(wide, [cell for cell in teachers() if cell in found]),
        "",
        *alone(wide, found),
        *spread(wide, found),
        "",
        "## Students",
        "",
        *table(wide, [cell for cell in found if cell.kind in METHODS]),
        "",
        *(line for each in over_seeds(wide, found) for line in (each, "")),
        "## Without data",
        "",
        *without_data(wide, found),
        "",
        "## Noise of `dmd`",
        "",
        *aligned(study, found),
        "",
        "## Fewer blocks and fewer steps",
        "",
        *fewer_blocks(study, found),
        "",
        "## Guidance in one evaluation",
        "",
        *guidance(study, found),
        "",
        "## A teacher that is asked only where an oracle says so",
        "",
        *where_needed(study),
        "",
        "## In int8",
        "",
        *in_int8(wide),
        "",
        "## By features of DINOv2",
        "",
        *by_dino(study, found),
        "",
        "## What a training takes",
        "",
        *costs(study),
        "",
        "## Pictures a second",
        "",
        *speed(wide, found),
        "",
        "## What became of the goals",
        "",
        *goals(wide, found),
    ]
    return "\n".join(lines) + "\n"


def opening(study: Study, found: dict[Cell, Found]) -> list[str]:
    """Title, what is not there, and how all was made."""
    book = study.book
    report = book.report("teacher-0")
    trained = report.stages[-1]
    return [
        "# Fewer steps for a network that draws: what was measured",
        "",
        f"`{command(study)}` remakes this page.",
        "",
        *lacking(study, found),
        "",
        *machine_lines(report),
        f"- Data: Fashion-MNIST (MIT licence), {report.data.splits[0].rows:,} rows to train on. Network: `dit`, 1.85 M parameters, patches of 4.",
        f"- Teacher: {book.size.epochs} epochs of `plans/diffusion-teacher.yaml` ({BATCH} rows a step), {trained.seconds / 60:.0f} minutes on one",
        f"  core; the recipe has {Size().epochs}. Whether more bring it nearer was not tried.",
        f"  Guidance {GUIDANCE:g}, which takes two evaluations a step; students have it folded in and take one.",
        f"- Equal training compute: {book.size.evaluations:,} evaluations of the network by each student (a backward pass counts as two),",
        f"  {BATCH} rows a step, AdamW at {book.size.rate:g} for all (none was tried), falling to 0; an average of the weights is kept. One training",
        "  serves all numbers of steps, but of `progressive`, which trains four times for as much in all.",
        f"- Scores: {book.size.drawn:,} pictures, or as many as tables say (differences: as both have), of the labels of the first test rows,",
        f"  picture i from the noise of seed i whatever draws it, in PyTorch, against {len(study.bound[1]):,} test rows, by features of the data's",
        "  own classifier",
        f"  ({book.real().features.space.digest[:12]}, right on {study.bound[2]:.1%} of these real pictures). Intervals of 95 % over draws of",
        "  pictures, of these trainings; differences are paired by noise. The kernel distance is the cubic one.",
    ]


def command(study: Study) -> str:
    """That remakes the page."""
    size, plan, usual = study.book.size, study.plan, Size()
    words = [
        f"--{name} {getattr(size, name):g}"
        for name in ("epochs", "evaluations", "rate", "drawn", "many")
        if getattr(size, name) != getattr(usual, name)
    ]
    words += [f"--seeds {plan.seeds}"] if plan.seeds != SEEDS else []
    words += [f"--teachers {plan.teachers}"] if plan.teachers != 1 else []
    words += [f"--methods {' '.join(plan.methods)}"] if set(plan.methods) != set(METHODS) else []
    words += ["--dinov2 FOLDER"] if not _absent(by_dino(study, study.there())) else []
    return " ".join(["python -m benchmarks.studies.diffusion_steps --fashion-mnist FOLDER", *words])


def lacking(study: Study, found: dict[Cell, Found]) -> Iterator[str]:
    """What this page does not show."""
    short = []
    for method in (*METHODS, UNALIGNED):
        absent = SEEDS - len({cell.seed for cell in found if cell.kind == method})
        short += [f"{method}: {absent} of {SEEDS} seeds"] if absent > 0 else []
    missing = [f"{cell.sampling.sampler} {cell.sampling.steps}" for cell in teachers() if cell not in found]
    short += [f"the teacher by {', '.join(missing)}"] if missing else []
    absent = SPREAD - len(of_teachers(study, found))
    short += [f"{absent} of {SPREAD} teachers, so their spread over seeds is not known"] if absent > 0 else []
    layers = [cell.kind.replace(THEN, ", then ") for seed in range(SEEDS) for cell in layered(seed) if cell not in found]
    short += [f"fewer blocks by {'; by '.join(_times(layers))}"] if layers else []
    short += ["guidance alone"] if any(cell not in found for cell in guided()) else []
    others = {"the policy of an oracle": where_needed(study), "distances on features of DINOv2": by_dino(study, found)}
    short += [name for name, section in others.items() if _absent(section)]
    rounded = diffusion_int8.missing(study.book)
    short += [f"{TIMED} in int8: {', '.join(rounded)}"] if rounded else []
    fewer = Counter(cell.kind for cell in study.plan.wide() if cell in found and cell not in replace(study, many=True).wide)
    short += [f"{study.book.size.many:,} pictures of {', '.join(fewer)}"] if fewer else []
    short += ["the cost of a step"] if _absent(a_step(study)) else []
    if short:
        yield f"**Not run: {'; '.join(short)}.** Of one seed nothing is claimed beyond these trainings."


def _times(names: Iterable[str]) -> Iterator[str]:
    """Each name once, with how often it is there."""
    yield from (f"{name} ({count} trainings)" if count > 1 else name for name, count in Counter(names).items())


def _absent(section: Iterator[str]) -> bool:
    return next(section).startswith(ABSENT)


def pictures(out: Path) -> Iterator[str]:
    """The grid."""
    yield f"![Rows of pictures, from the same noise]({out.with_suffix('.png').name})"
    yield ""
    yield "The first test row of each class, and what is drawn for it from the same noise, row by row of the grid."


def table(study: Study, cells: Iterable[Cell]) -> Iterator[str]:
    """A line for each cell; the first line is the bound."""
    reference, near = next(teachers()), study.bound[0]
    yield "| model | steps | evaluations | pictures | Frechet distance | kernel distance | farther than the teacher in 50 steps | class accuracy |"
    yield f"| --- |{' ---: |' * 7}"
    right = float((study.real().told[: len(near)] == study.book.labels[: len(near)]).mean())
    yield f"| real pictures | | | {len(near):,} | {ranged(study.frechet(near))} | {ranged(study.kernel(near))} | | {right:.1%} |"
    for cell in cells:
        rows = study.of(cell).features.rows
        apart = "" if cell == reference else signed(study.farther(cell, reference))
        right, around = study.accuracy(cell).value, study.accuracy(cell).interval
        name = cell.sampling.sampler if cell.kind == "teacher" else f"{cell.kind}, seed {cell.seed}"
        yield (
            f"| {name} | {cell.sampling.steps} | {cell.evaluations} | {len(rows):,} | {ranged(study.frechet(rows))} | "
            f"{ranged(study.kernel(rows))} | {apart} | {right:.1%} [{around.low:.1%}, {around.high:.1%}] |"
        )


def alone(study: Study, found: dict[Cell, Found]) -> Iterator[str]:
    """How few steps the teacher needs."""
    cell = fewest(study, found)
    yield (
        f"With the fewest evaluations and as good as in 50 steps, as far as these intervals tell, and at most a point of accuracy below: "
        f"{cell.sampling.sampler} in {cell.sampling.steps} steps, {cell.evaluations} evaluations. An interval that holds 0 is no proof of equality."
    )


def costs(study: Study) -> Iterator[str]:
    """Steps and minutes of each method's training."""
    yield "| method | steps of the optimiser | evaluations for a row | evaluations | minutes on one core |"
    yield f"| --- |{' ---: |' * 4}"
    for method in study.plan.methods:
        if took := list(_minutes(study, method)):
            steps = study.book.size.steps(method)
            times = "4 x " if method == "progressive" else ""
            yield (
                f"| {method} | {times}{steps:,} | {ASKED[method]:.3g} | {steps * BATCH * ASKED[method]:,.0f} | "
                f"{', '.join(f'{each:.1f}' for each in took)} |"
            )
    yield ""
    yield "By the clock, with scores on validation, while other work ran on the machine. `progressive` trains once for each number of steps. Of"
    yield "the steps of `dmd` every sixth is one of the student, the others are of the fake network and its judge."
    yield ""
    yield from a_step(study)


def a_step(study: Study) -> Iterator[str]:
    """What a step costs beside what it must do, where it was measured."""
    try:
        yield from diffusion_costs.section(diffusion_costs.cells(study.book))
    except Absent:
        yield f"{ABSENT}: what a step costs beside its passes; `--times` measures it."


def _minutes(study: Study, method: str) -> Iterator[float]:
    """Of each training that is there."""
    for seed in range(study.plan.seeds):
        with suppress(Absent):
            yield study.book.report(f"{method}-{seed}").stages[1].seconds / 60


def in_int8(study: Study) -> Iterator[str]:
    """What rounding costs, where it was run."""
    try:
        yield from diffusion_int8.section(study)
    except Absent:
        yield f"{ABSENT}."


def speed(study: Study, found: dict[Cell, Found]) -> Iterator[str]:
    """Times, where there are any."""
    with suppress(Absent):
        record = diffusion_times.times(study.book)
        cell = fewest(study, found)
        yield from diffusion_times.section(
            record, cell.sampling.steps if cell.sampling.sampler == diffusion_times.SAMPLER else None
        )
        return
    yield "Not measured yet: other work ran on the machine. `--times` measures them."
