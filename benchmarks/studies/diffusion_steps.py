"""Remakes `docs/results/diffusion-steps.md`: a teacher that draws Fashion-MNIST by each sampler, and students of every method in 8, 4, 2 and 1 steps.

    python -m benchmarks.studies.diffusion_steps --fashion-mnist FOLDER [--work FOLDER] [--epochs N] [--evaluations N] [--rate R] [--drawn N]
        [--many N] [--seeds N] [--teachers N] [--methods M ...] [--dinov2 FOLDER] [--quick] [--times] [--page]

FOLDER has `train.parquet` and `test.parquet`. A cell is what one model draws in one way; models and cells are kept in the folder of work: a study
that was cut goes on, and says how many cells remain and how long they take. Students that run fewer blocks, guidance alone and a teacher where an
oracle asks for it belong to the first seed; some students that run fewer blocks have all. `--quick` runs one seed; `--times` builds files and
times them, then steps of every method, and nothing else: it takes about a quarter of an hour of a machine that does nothing else once the files are
there. `--page` runs nothing and writes what is there.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.studies import diffusion_adaptive, diffusion_costs, diffusion_dino, diffusion_int8, diffusion_times
from benchmarks.studies.diffusion_beyond import looked_at
from benchmarks.studies.diffusion_cells import Book
from benchmarks.studies.diffusion_page import SEEDS, document
from benchmarks.studies.diffusion_plans import METHODS, ROUNDED, Size
from benchmarks.studies.diffusion_scores import Plan, Study

OUT, WORK = Path("docs/results/diffusion-steps.md"), Path("runs/diffusion-steps")


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
    parser.add_argument(
        "--many", type=int, default=usual.many, help="pictures of students, and of the teacher in its own steps and in few"
    )
    parser.add_argument("--seeds", type=int, default=SEEDS, help="of students")
    parser.add_argument("--teachers", type=int, default=1, help="seeds of teachers; students learn from the first")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument(
        "--dinov2",
        type=Path,
        help="folder of DINOv2-small in the layout of transformers, whose features pictures are held by too",
    )
    parser.add_argument("--quick", action="store_true", help="one seed")
    parser.add_argument("--times", action="store_true", help="time files and steps, and nothing else")
    parser.add_argument("--page", action="store_true", help="run nothing, write what is there")
    given = parser.parse_args(arguments)
    if given.drawn > given.many:
        parser.error(f"--drawn {given.drawn} is more than --many {given.many}")
    size = Size(given.epochs, given.evaluations, given.rate, given.drawn, given.many)
    plan = Plan(1 if given.quick else given.seeds, given.teachers, tuple(given.methods))
    cells, wide = tuple(plan.cells()), tuple(plan.wide())
    book = Book(given.work, given.fashion_mnist, size, run=not given.page, planned=cells, wide=wide)
    if given.times:
        diffusion_times.times(book)
        diffusion_costs.cells(book)
        return
    if not given.page:
        run(Study(book, plan), given.dinov2)
    book.run = False
    given.out.write_text(document(Study(book, plan), given.out), encoding="utf-8")
    sys.stderr.write(f"{given.out} is written\n")


def run(study: Study, dinov2: Path | None) -> None:
    """Everything that is not there, and says before how long it takes."""
    for count in (study.book.size.drawn, study.book.size.many):
        study.book.real(count)
    sys.stderr.write(f"{study.book.left()}\n")
    found = study.there()
    if "shortcut" in study.plan.methods:
        for student in diffusion_adaptive.STUDENTS:
            diffusion_adaptive.likes(study.book, student)
            diffusion_adaptive.mended(study.book, student, "refine")
        for name in ROUNDED:
            for target in diffusion_int8.NAMES:
                diffusion_int8.found(study.book, name, target)
    if dinov2 is not None:
        seen = diffusion_dino.Seen(study.book, dinov2)
        seen.real()
        for cell in looked_at(study, found):
            seen.of(cell)
    replace(study, many=True).there()


if __name__ == "__main__":
    main()
