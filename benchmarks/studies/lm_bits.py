"""Remakes `docs/results/lm-bits.md`: a fine-tuned SmolLM2-135M in 8 and 4 bits, rounded and trained, beside what existing tools make of it.

    python -m benchmarks.studies.lm_bits --source SMOLLM2 --tuned FOLDER [--work FOLDER] [--only train build time page] [--quick]

FOLDER is what `lm_finetune` left: `model` and `texts`. `train` runs the cells that train, `build` all others, the peers' files and the scores, `time`
measures, on a machine that does nothing else, `page` alone runs nothing and writes what is there. What is in the work folder is not made again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.studies.lm_bits_cells import METHODS, SEEDS, TRAINED_STEPS, Book, Cell
from benchmarks.studies.lm_bits_files import Files
from benchmarks.studies.lm_bits_page import Asked, Page, document
from benchmarks.studies.lm_grid import Apart, apart
from benchmarks.studies.lm_lab import kept
from benchmarks.studies.lm_runtimes import ROUNDS, excerpts, timing

OUT, WORK = Path("docs/results/lm-bits.md"), Path("runs/lm-bits")
PHASES = ("train", "build", "time", "page")
SECONDS = 80.0
"""Of all rounds of one kind of call, as far as they can be told in it."""
QUICK_ROUNDS, QUICK_SECONDS = 5, 20.0
WATCHED = ("ort-w4", "ort-w4-qad")
"""Beginnings of names of files whose operators are looked at where they are far from the bound."""


def cells(asked: Asked) -> list[Cell]:
    """All of them, those that train with the first seed last, then those of other seeds."""
    still = [Cell(name) for name, how in METHODS.items() if not how.trains]
    taught = [Cell(name, seed, asked.steps) for seed in asked.seeds for name, how in METHODS.items() if how.trains]
    return [*still, *taught]


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what is asked for of what is not there."""
    given = parsed(arguments)
    seeds = SEEDS[:1] if given.quick else SEEDS[: given.seeds]
    asked = Asked(seeds, given.steps, given.threads, QUICK_ROUNDS if given.quick else ROUNDS)
    texts = given.tuned / "texts"
    few, runs = excerpts(texts, given.work / "excerpts", documents=2), bool({*PHASES[:2]} & {*given.only})
    book = Book(given.work, (given.tuned / "model").resolve(), texts, few, run=runs)
    everything = cells(asked)
    files = Files(book, everything, given.threads)
    for phase in (phase for phase in PHASES[:2] if phase in given.only):
        made = list(book.made([each for each in everything if each.how.trains == (phase == "train")]))
        sys.stderr.write(f"{phase}: {len(made)} cells are there\n")
    if "build" in given.only:
        files.make_peers()
        sys.stderr.write(f"{len(files.scored(run=True))} files are there and scored\n")
    if "time" in given.only:
        if given.again:
            (given.work / f"timing-{given.threads}.json").unlink(missing_ok=True)
        seconds = QUICK_SECONDS if given.quick else SECONDS
        once = Files(book, [each for each in everything if each.timed_as == each.name], given.threads)
        timing(once, seconds=seconds, rounds=asked.rounds, watched=once.named(WATCHED))
    if "page" in given.only:
        distance = Apart.read(kept(given.work / "grid.json", lambda: apart(given.source, book.model)))
        page = Page.of(files, distance, asked)
        OUT.write_text(document(page), encoding="utf-8")


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """What the command says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--source", type=Path, required=True, help="folder of the model before its fine-tuning")
    parser.add_argument("--tuned", type=Path, required=True, help="the work folder of lm_finetune")
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--steps", type=int, default=TRAINED_STEPS, help="of a cell that trains")
    parser.add_argument("--seeds", type=int, choices=range(1, len(SEEDS) + 1), default=len(SEEDS))
    parser.add_argument("--threads", type=int, default=2, help="of every runtime")
    parser.add_argument("--only", nargs="+", choices=PHASES, default=list(PHASES))
    parser.add_argument("--quick", action="store_true", help=f"one seed, {QUICK_ROUNDS} rounds in {QUICK_SECONDS:g} seconds")
    parser.add_argument("--again", action="store_true", help="measure times once more")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
