"""Sections of `benchmarks.studies.diffusion_page` on what lies beside fewer steps: no data, fewer blocks, guidance alone, a teacher where needed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress

from benchmarks.studies import diffusion_adaptive, diffusion_dino
from benchmarks.studies.diffusion_cells import Absent, Found
from benchmarks.studies.diffusion_plans import (
    AGAIN,
    COUNTS,
    FEWER_BLOCKS,
    METHODS,
    SCALES,
    STEPS_AND_LAYERS,
    THEN,
    UNALIGNED,
    Cell,
    guided,
    layered,
    students,
    teachers,
)
from benchmarks.studies.diffusion_scores import Study, over_trainings, ranged, signed
from compressor.tasks.generated.kernel_distance import Polynomial, kernel_difference, kernel_distance

ABSENT = "Not run"
NEAREST = 3
"""Students that DINOv2 looks at."""


def without_data(study: Study, found: dict[Cell, Found]) -> Iterator[str]:
    """What boot, which reads no rows, is against methods that do, in one step."""
    boot = next(students("boot", 0))
    if boot not in found:
        yield f"{ABSENT}."
        return
    yield "`boot` reads no rows: its plan has no `data:`. All had as many evaluations, and draw in one step from the same noise. Pictures are"
    yield "those of the tables above."
    yield ""
    yield "| with data | Frechet distance | `boot`, without, is farther by | points of class accuracy |"
    yield f"| --- |{' ---: |' * 3}"
    for method in METHODS:
        cell = list(students(method, 0))[-1]
        if method != "boot" and cell in found:
            points = 100 * (study.accuracy(boot).value - study.accuracy(cell).value)
            far = ranged(study.distance(cell))
            yield f"| {method} | {far} | {signed(study.farther(boot, cell))} | {points:+.1f} |"


def aligned(study: Study, found: dict[Cell, Found]) -> Iterator[str]:
    """What `dmd` owes to noise that is drawn as in the teacher's training."""
    study = study.few
    pairs = [
        (one, other)
        for seed in range(study.plan.seeds)
        for one, other in zip(students("dmd", seed), students(UNALIGNED, seed), strict=True)
        if one in found and other in found
    ]
    if not pairs:
        yield f"{ABSENT}."
        return
    yield "Presto! finds that `dmd` gains where its losses draw noise at the times of the teacher's training, here logit-normal, as above. Against"
    yield f"it, all losses at those of the student's input, which are uniform; {study.book.size.drawn:,} pictures each."
    yield ""
    yield "| steps | seed | aligned: Frechet distance | not aligned | not aligned is farther by | points of class accuracy |"
    yield f"| ---: |{' ---: |' * 5}"
    for one, other in pairs:
        far = [ranged(study.distance(cell)) for cell in (one, other)]
        points = 100 * (study.accuracy(other).value - study.accuracy(one).value)
        yield f"| {one.sampling.steps} | {one.seed} | {far[0]} | {far[1]} | {signed(study.farther(other, one))} | {points:+.1f} |"
    for count in COUNTS:
        apart = [study.farther(other, one).value for one, other in pairs if one.sampling.steps == count]
        if len(apart) > 1:
            yield ""
            yield f"- In {count}: not aligned is farther by {over_trainings(apart)}, mean of {len(apart)} trainings with Student's interval."


def blocks(study: Study, cell: Cell) -> int:
    """That run for a picture."""
    if "constant" in cell.run:
        return int(STEPS_AND_LAYERS * round(6 * FEWER_BLOCKS["constant"]["depths"][0]))
    how = study.book.how(cell)
    known: list[int] = how.table()[:, -1].astype(int).tolist()
    return sum(each or max(how.depths, default=6) for each in known)


def fewer_blocks(study: Study, found: dict[Cell, Found]) -> Iterator[str]:
    """Students in four steps that run two thirds of the blocks, against those that run all."""
    study, cells = study.few, [cell for cell in layered() if cell in found]
    whole = _whole(0)
    if not cells or whole not in found:
        yield f"{ABSENT}."
        return
    yield "Students in 4 steps, by `distill-steps` (shortcut) and `distill-layers` in either order, with half of the evaluations each, counted as"
    yield "if all blocks ran. `presto` and `ase` run 3, 3, 4 and 6 of 6 blocks from noise to the clean row, `constant` 4 each time."
    yield f"{study.book.size.drawn:,} pictures each; the first training of each, then means of those that were chosen by it."
    yield ""
    yield "| passes | blocks a picture | Frechet distance | farther than with all blocks | than `constant` in the same order | class accuracy |"
    yield f"| --- |{' ---: |' * 5}"
    for cell in (whole, *cells):
        control = _control(cell)
        against = signed(study.farther(cell, control)) if control in found and control != cell else ""
        apart = signed(study.farther(cell, whole)) if cell != whole else ""
        far = ranged(study.distance(cell))
        yield (
            f"| {cell.kind.replace(THEN, ', then ')} | {blocks(study, cell)} | {far} | {apart} | {against} | {study.accuracy(cell).value:.1%} |"
        )
    yield from _blocks_over_seeds(study, found)


def _blocks_over_seeds(study: Study, found: dict[Cell, Found]) -> Iterator[str]:
    """What trainings of several seeds come to, each against that of the same seed which runs all blocks, or against its control."""
    for passes in AGAIN:
        cells = [cell for cell in found if cell.kind == passes]
        pairs = {
            "with all blocks": [(cell, _whole(cell.seed)) for cell in cells],
            "its control": [(cell, _control(cell)) for cell in cells],
        }
        told = []
        for name, both in pairs.items():
            apart = [study.farther(cell, other).value for cell, other in both if other in found and other != cell]
            told += [f"than {name} by {over_trainings(apart)} ({len(apart)} trainings)"] if len(apart) > 1 else []
        if told:
            yield ""
            yield f"- {passes.replace(THEN, ', then ')}: farther {', '.join(told)}, means with Student's interval."


def _whole(seed: int) -> Cell:
    """That runs all blocks, in as many steps."""
    return next(cell for cell in students("shortcut", seed) if cell.sampling.steps == STEPS_AND_LAYERS)


def _control(cell: Cell) -> Cell:
    """Of the same order of passes."""
    first, _, second = cell.kind.partition(THEN)
    names = ("shortcut", "constant") if first == "shortcut" else ("constant", second)
    return next(students(THEN.join(names), cell.seed))


def guidance(study: Study, found: dict[Cell, Found]) -> Iterator[str]:
    """One evaluation instead of two, at the teacher's scale and another."""
    cells = list(guided())
    pairs = [pair for pair in zip(cells[::2], cells[1::2], strict=True) if all(cell in found for cell in pair)]
    if not pairs:
        yield f"{ABSENT}."
        return
    steps = pairs[0][0].sampling.steps
    yield f"`distill-guidance` by as many evaluations, told scales between 1 and 4; both are sampled by DPM++ 2M in {steps} steps."
    yield f"{study.few.book.size.drawn:,} pictures each."
    yield ""
    yield "| scale | evaluations of teacher and student | Frechet distance of the teacher | of the student | farther by | class accuracy of both |"
    yield f"| ---: |{' ---: |' * 5}"
    for taught, told in pairs:
        far = [ranged(study.distance(cell)) for cell in (taught, told)]
        right = ", ".join(f"{study.accuracy(cell).value:.1%}" for cell in (taught, told))
        asked = f"{taught.evaluations}, {told.evaluations}"
        yield f"| {taught.sampling.guidance:g} | {asked} | {far[0]} | {far[1]} | {signed(study.farther(told, taught))} | {right} |"
    if len(pairs) < len(SCALES):
        yield ""
        yield "Other scales were not run."


def where_needed(study: Study) -> Iterator[str]:
    """Distances against evaluations by the share that is mended."""
    study = study.few
    ways = [(student, mend) for student in diffusion_adaptive.STUDENTS for mend in diffusion_adaptive.MENDS]
    lines = []
    for student, mend in ways:
        with suppress(Absent):
            lines += list(_by_share(study, student, mend))
    if not lines:
        yield f"{ABSENT}."
        return
    teacher = diffusion_adaptive.TEACHER
    yield "An oracle, a classifier of another seed than the judge, sends the share k of a student's pictures that it likes least to the teacher"
    yield f"({teacher.sampling.sampler}, {teacher.sampling.steps} steps), by a limit that {diffusion_adaptive.CALIBRATED:,} other pictures"
    yield f"gave. To refine, they are noised to time {diffusion_adaptive.LEVEL_REACHED:.3g}; to regenerate, drawn anew. Control: as many by chance."
    yield ""
    yield (
        "| student | mended | k | sent | evaluations a picture | Frechet distance | farther than by chance | than the nearest plain way at no more "
        "evaluations | class accuracy |"
    )
    yield f"| --- | --- |{' ---: |' * 7}"
    yield from lines
    yield ""
    yield "A class accuracy above that of real pictures says that two classifiers agree on them, no more. Plain ways are the teacher in those steps"
    yield "and `shortcut` in 8, 4 and 2:"
    yield ""
    for cell in _plain(study):
        yield f"- {cell.kind}, {cell.sampling.steps} steps, {cell.evaluations} evaluations: {ranged(study.distance(cell))}."


def _plain(study: Study) -> list[Cell]:
    """Ways without an oracle that are there."""
    found = []
    for cell in (*list(students("shortcut", 0))[:3], diffusion_adaptive.TEACHER):
        with suppress(Absent):
            study.book.found(cell)
            found.append(cell)
    return found


def _by_share(study: Study, student: Cell, mend: diffusion_adaptive.Mend) -> Iterator[str]:
    for share in diffusion_adaptive.SHARES:
        found, chosen = (
            diffusion_adaptive.mixed(study.book, student, mend, share, by_chance=by_chance) for by_chance in (False, True)
        )
        plain = min(
            (cell for cell in _plain(study) if cell.evaluations <= found.evaluations),
            key=lambda cell: study.distance(cell).value,
        )
        apart = study.apart(found.features, study.book.found(plain).features.rows)
        against = f"{signed(apart)} ({plain.kind} in {plain.sampling.steps})"
        yield (
            f"| {student.kind}, {student.sampling.steps} steps | {mend} | {share:g} | {found.sent:.1%} | {found.evaluations:.1f} | "
            f"{ranged(study.frechet(found.features))} | {signed(study.apart(found.features, chosen.features))} | {against} | "
            f"{study.right(found.told).value:.1%} |"
        )


def looked_at(study: Study, found: Iterable[Cell]) -> list[Cell]:
    """What DINOv2 looks at: the teacher in its own steps, and the nearest students in 4."""
    four = [cell for cell in found if cell.kind in METHODS and cell.seed == 0 and cell.sampling.steps == COUNTS[1]]
    four.sort(key=lambda cell: study.distance(cell).value)
    return [next(teachers()), *four[:NEAREST]]


def by_dino(study: Study, found: dict[Cell, Found]) -> Iterator[str]:
    """Kernel distances on features of another network."""
    study = study.few
    seen, drawn = diffusion_dino.Seen(study.book), study.book.size.drawn
    try:
        real = seen.real()
        rows = {cell: seen.of(cell) for cell in looked_at(study, found)}
    except Absent:
        yield f"{ABSENT}: `--dinov2 FOLDER` names the network's weights."
        return
    near, held, first = real[:drawn], real[drawn:], next(teachers())
    yield f"DINOv2-small at {diffusion_dino.EDGE} pixels, its class token; {drawn:,} pictures, cubic kernel, the same noise."
    yield ""
    yield "| model | steps | kernel distance | farther than the teacher in 50 steps |"
    yield f"| --- |{' ---: |' * 3}"
    yield f"| real pictures | | {ranged(kernel_distance(near, held, Polynomial()))} | |"
    for cell, mine in rows.items():
        name = cell.kind if cell != first else f"teacher, {cell.sampling.sampler}"
        apart = "" if cell == first else signed(kernel_difference(mine, rows[first], held, Polynomial()))
        yield f"| {name} | {cell.sampling.steps} | {ranged(kernel_distance(mine, held, Polynomial()))} | {apart} |"


def over_seeds(study: Study, found: dict[Cell, Found]) -> Iterator[str]:
    """Means over seeds of trainings, where there are several; their spread is that of trainings, not of draws."""
    reference = next(teachers())
    for method in METHODS:
        for count in COUNTS:
            cells = [cell for cell in found if cell.kind == method and cell.sampling.steps == count]
            if len(cells) < 2:
                continue
            text = over_trainings([study.farther(cell, reference).value for cell in cells])
            yield f"- {method} in {count}: farther than the teacher in 50 steps by {text}, mean of {len(cells)} trainings with Student's interval."
