"""Remakes `docs/results/lm-depth.md`: a language model brought from 30 layers to 20, taught in four ways, then by its own texts; and its width.

    python -m benchmarks.studies.lm_depth [--work FOLDER] [--tokens N] [--quick]

Starts from the model and texts that `benchmarks.studies.lm_finetune` left in FOLDER, and keeps a cell for each training there: a study that was
cut goes on. `--quick` runs one seed at one learning rate. What is not there yet the page says.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.studies.lm_finetune import WORK
from benchmarks.studies.lm_lab import BATCH, POINTS, ROW, Ground, source
from benchmarks.studies.lm_students import LABELS, MORE, OBJECTIVES, ON_POLICY, Book, Cell, Student, best_rate, whole
from benchmarks.studies.pages import apart, differences, mean_and_interval
from compressor.deploy.machine import machine, versions

OUT = Path("docs/results/lm-depth.md")
LAYERS = 20
TOKENS, LEAST = 307_200, 300_000
SEEDS = (0, 1, 2)
RATES = (1e-4, 3e-4, 1e-3)
TRIAL = 1 / 6
"""Share of the tokens that each rate of each method is tried with."""
SHARE = 1 / 4
"""Of the best method's tokens: what it goes on with, and on-policy for as many minutes."""
PACE = 10
"""Steps by which a pace is found."""
PARTS = ("tokens", "minutes", "on-policy", "width")


@dataclass(frozen=True)
class Plan:
    """How much is run."""

    tokens: int
    seeds: tuple[int, ...]
    rates: tuple[float, ...]
    layers: int = LAYERS

    def trial(self, method: str, rate: float, shape: str = "depth") -> Cell:
        """By which a rate is chosen, with a seed of its own."""
        return Cell(method, self.layers, rate, whole(self.tokens * TRIAL, POINTS, BATCH), 100, shape)

    def cell(self, method: str, rate: float, seed: int, shape: str = "depth", tokens: float | None = None) -> Cell:
        """Of equal tokens, unless others are given."""
        return Cell(method, self.layers, rate, whole(tokens or self.tokens, POINTS, BATCH), seed, shape)

    @property
    def planned(self) -> int:
        """Tokens of all cells: trials, equal tokens and minutes, on-policy and its control, both ways of width."""
        ways, seeds = len(OBJECTIVES), len(self.seeds)
        trials = (ways + 2) * len(self.rates) * TRIAL if len(self.rates) > 1 else 0
        return round(self.tokens * (trials + seeds * (2 * ways - 1 + 2 * SHARE + 2)))


@dataclass
class Depth:
    """The study: what was found, as far as it is there."""

    book: Book
    plan: Plan

    def rate(self, method: str, shape: str = "depth") -> float:
        """Of a method: the best of its trials."""
        rates = self.plan.rates
        return rates[0] if len(rates) == 1 else best_rate(self.book, rates, lambda rate: self.plan.trial(method, rate, shape))

    def equal_tokens(self, shape: str = "depth", methods: Sequence[str] = tuple(OBJECTIVES)) -> dict[str, list[Student]]:
        """By method, a student for each seed."""
        return {
            method: [
                self.book.student(self.plan.cell(method, self.rate(method, shape), seed, shape), keep=True)
                for seed in self.plan.seeds
            ]
            for method in methods
        }

    def equal_minutes(self, found: Mapping[str, Sequence[Student]]) -> dict[str, list[Student]]:
        """The same with as many tokens as each method has time for while the quickest one sees all."""
        took = {method: float(np.median([each.learned.seconds for each in students])) for method, students in found.items()}
        made = {}
        for method in found:
            tokens = self.plan.tokens * min(took.values()) / took[method]
            cells = [self.plan.cell(method, self.rate(method), seed, tokens=tokens) for seed in self.plan.seeds]
            made[method] = [self.book.student(each, keep=True) for each in cells]
        return made

    def best(self, found: Mapping[str, Sequence[Student]]) -> str:
        """The method of the least mean loss on test, of those with a teacher."""
        taught = [method for method in found if method != LABELS]
        return min(taught, key=lambda method: float(np.mean([each.test for each in found[method]])))

    def going_on(self, found: Mapping[str, Sequence[Student]]) -> dict[str, list[Student]]:
        """From the best method's students: more of the same, and on-policy for as many minutes; both at half its rate."""
        best = self.best(found)
        rate = self.rate(best)
        made: dict[str, list[Student]] = {MORE: [], ON_POLICY: []}
        for seed in self.plan.seeds:
            start = self.plan.cell(best, rate, seed).name
            more = Cell(
                MORE,
                self.plan.layers,
                rate / 2,
                whole(self.plan.tokens * SHARE, POINTS, BATCH),
                seed,
                start=start,
                objectives=best,
            )
            control = self.book.student(more)
            pace = self.book.student(replace(more, method=ON_POLICY, tokens=PACE * ROW * BATCH)).learned.tokens_per_second
            tokens = whole(control.learned.seconds * pace, POINTS, BATCH)
            made[MORE].append(control)
            made[ON_POLICY].append(self.book.student(replace(more, method=ON_POLICY, tokens=tokens)))
        return made


# ------------------------------------------------------------------ the page


def document(study: Depth, parts: Sequence[str]) -> str:
    """What there is, part by part; runs what is asked for and not there."""
    plan, here, installed = study.plan, machine(), versions()
    teacher = study.book.ground.loss(source(study.book.model).module, "bf16", split="test", count=96)
    lines = [
        f"# A language model of 30 layers brought to {plan.layers}: what was measured",
        "",
        f"`python -m benchmarks.studies.lm_depth --tokens {plan.tokens}{' --quick' if len(plan.seeds) == 1 else ''}` remakes this page.",
        "",
        f"- Machine: {here.processor}, {here.cores} cores, one thread, bf16; torch {installed.get('torch')}.",
        "- The teacher is the model of [lm-finetune](lm-finetune.md); students take evenly spaced layers of it. Rows of "
        f"{ROW} tokens, {BATCH} a step.",
        f"- `test`: nats that a token of 96 windows of test documents costs; the teacher's is {teacher:.3f}. `end`: share of the held-out",
        "  loss that went over the last fifth of the tokens: how far from level each curve ends.",
        f"- {len(plan.seeds)} seed{'s' if len(plan.seeds) > 1 else ''} ({', '.join(map(str, plan.seeds))}); {rates(study)}",
        "",
        *lacking(plan, parts),
    ]
    found = study.equal_tokens()
    lines += ["", f"## Equal tokens: {whole(plan.tokens, POINTS, BATCH):,}", "", *table(found)]
    if "minutes" in parts:
        lines += ["", "## Equal minutes", "", *table(study.equal_minutes(found))]
    if "on-policy" in parts:
        best = study.best(found)
        lines += [
            "",
            f"## From {best} on: more of the same, or its own texts, equal minutes",
            "",
            *table(study.going_on(found), MORE),
        ]
    if "width" in parts:
        width = study.equal_tokens("width", (LABELS, study.best(found)))
        lines += ["", "## As few parameters by width", "", *table(width)]
    return "\n".join(lines) + "\n"


def rates(study: Depth) -> str:
    """How they came to be."""
    if len(study.plan.rates) == 1:
        return f"one learning rate for all, {study.plan.rates[0]:g}: none was tried."
    chosen = ", ".join(f"{method} {study.rate(method):g}" for method in OBJECTIVES)
    return f"learning rates by {len(study.plan.rates)} trials each: {chosen}."


def lacking(plan: Plan, parts: Sequence[str]) -> Iterator[str]:
    """What this page does not show."""
    short = [f"{plan.tokens:,} tokens a cell, of {LEAST:,} that were asked for"] if plan.tokens < LEAST else []
    few = [f"{len(plan.seeds)} of {len(SEEDS)} seeds"] if len(plan.seeds) < len(SEEDS) else []
    untried = ["no trials of learning rates"] if len(plan.rates) == 1 else []
    left = [f"nothing of {each}" for each in PARTS if each not in parts]
    if missing := [*short, *few, *untried, *left]:
        yield f"**Not there yet: {'; '.join(missing)}. No ranking is claimed.**"


def table(found: Mapping[str, Sequence[Student]], against: str = LABELS) -> Iterator[str]:
    """A line a method, held against one of them, pair by pair of seeds."""
    yield f"| method | parameters, M | tokens | tokens/s | minutes | held out | end | test | against {against} |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    base = [each.test for each in found[against]]
    for method, students in found.items():
        learned = [each.learned for each in students]
        tests = [each.test for each in students]
        speed, minutes = (
            np.median([at(each) for each in learned])
            for at in (lambda each: each.tokens_per_second, lambda each: each.seconds / 60)
        )
        end, fall = (np.mean([at(each) for each in learned]) for at in (lambda each: each.end, lambda each: each.fall))
        yield (
            f"| {method} | {students[0].weights / 1e6:.1f} | {learned[0].tokens:,} | {speed:.0f} | {minutes:.1f} | {end:.3f} | {fall:.2%} | "
            f"{over(tests)} | {'' if method == against else beside(tests, base)} |"
        )
    yield ""
    yield verdict(found, against)


def over(tests: Sequence[float]) -> str:
    """Mean with Student's interval over seeds; of one seed the number."""
    return mean_and_interval(tests) if len(tests) > 1 else f"{tests[0]:.3f}"


def beside(tests: Sequence[float], base: Sequence[float]) -> str:
    """Paired differences; of one seed the number."""
    return differences(tests, base) if len(tests) > 1 else f"{tests[0] - base[0]:+.3f}"


def verdict(found: Mapping[str, Sequence[Student]], against: str) -> str:
    """Pairs of methods whose interval over seeds leaves out 0."""
    count = len(found[against])
    if count < 2:
        return "One seed: no ranking."
    names = list(found)
    told = []
    for at, one in enumerate(names):
        for other in names[at + 1 :]:
            low, high = apart([each.test for each in found[one]], [each.test for each in found[other]])
            if low > 0 or high < 0:
                told.append(f"{other if low > 0 else one} below {one if low > 0 else other}")
    return f"Told apart over {count} seeds, each pair by itself: {'; '.join(told) or 'none'}."


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is not there, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--quick", action="store_true", help="one seed at one learning rate")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    given = parser.parse_args(arguments)
    plan = Plan(given.tokens, SEEDS[:1] if given.quick else SEEDS, RATES[1:2] if given.quick else RATES, given.layers)
    ground = Ground(given.work / "texts", given.work / "files")
    study = Depth(Book(given.work / "model", ground, given.work / "depth", plan.planned), plan)
    given.out.write_text(document(study, given.only), encoding="utf-8")
    sys.stderr.write(f"{given.out} is written\n")


if __name__ == "__main__":
    main()
