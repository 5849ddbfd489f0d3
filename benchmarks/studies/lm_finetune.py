"""Remakes `docs/results/lm-finetune.md`: SmolLM2-135M fine-tuned once on two corpora, then scored and timed in four runtimes, beside what
existing tools make of it.

    python -m benchmarks.studies.lm_finetune --model SMOLLM2 --brown BROWN --bbc BBC [--work FOLDER] [--only train build time page] [--quick]

`train` makes the model that the other studies of language models start from, `build` its files for all runtimes and their scores, `time`
measures, on a machine that does nothing else. What is in FOLDER already is not made again; `--again` measures once more.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.studies.lm_lab import BATCH, ROW, Ground, Learned, Watch, kept, learn, prepared, source

WORK = Path("runs/lm-study")
TOKENS = 409_600
"""Of fine-tuning: about 45 minutes of one core."""
RATE = 5e-5
PHASES = ("train", "build", "time", "page")
LEVEL = 0.01
"""A curve that falls by less over the last fifth of its tokens is level."""


def tuned(model: Path, sources: dict[str, Path], work: Path, tokens: int) -> Learned:
    """The fine-tuned model in `work/model`, and how it came to be; goes on where it was cut."""

    def make() -> dict[str, object]:
        made = source(model)
        made.save_files(work / "files")
        ground = Ground(prepared(sources, work / "texts"), work / "files")
        found = learn(made, ground, Watch(work / "training", ground.task, seed=0), {"learning_rate": RATE, "warmup": 0.05}, tokens=tokens)
        made.save(work / "model")
        return asdict(found)

    return Learned.read(kept(work / "training.json", make))


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what is asked for of what is not there."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    for name in ("model", "brown", "bbc"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--only", nargs="+", choices=PHASES, default=list(PHASES))
    given = parser.parse_args(arguments)
    found = tuned(given.model, {"brown": given.brown, "bbc": given.bbc}, given.work, given.tokens)
    sys.stderr.write(f"{found.tokens:,} tokens in rows of {ROW}, {BATCH} a step, {found.tokens_per_second:.0f} tokens/s; {found.held}\n")


if __name__ == "__main__":
    main()
