"""Remakes `docs/results/lm-depth.md`: a language model brought from 30 layers to 20, taught in four ways, then by its own texts; and its width.

    python -m benchmarks.studies.lm_depth [--work FOLDER] [--tokens N] [--seeds N] [--rates R ...] [--only PART ...] [--quick]

Starts from the model and texts that `benchmarks.studies.lm_finetune` left in FOLDER, and keeps a cell for each training there: a study that was
cut goes on. `--quick` runs one seed at one learning rate. Two processes with `--share 1/2` and `--share 2/2` train the methods of equal tokens
between them and write nothing; `--page` trains nothing and writes what is there. What is not there yet the page says.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.studies.lm_finetune import WORK
from benchmarks.studies.lm_lab import BATCH, POINTS, ROW, Ground, source
from benchmarks.studies.lm_students import (
    LABELS,
    MORE,
    OBJECTIVES,
    ON_POLICY,
    TESTED,
    Absent,
    Book,
    Cell,
    Student,
    best_rate,
    whole,
)
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
"""Equal tokens come first, always."""


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

    def planned(self, parts: Sequence[str], methods: int = len(OBJECTIVES)) -> int:
        """Tokens of all cells: trials, and by part equal tokens, equal minutes, on-policy with its control, both ways of width."""
        each = {"tokens": methods, "minutes": methods - 1, "on-policy": 2 * SHARE, "width": 2}
        tried = methods + 2 * ("width" in parts)
        trials = tried * len(self.rates) * TRIAL if len(self.rates) > 1 else 0
        return round(self.tokens * (trials + len(self.seeds) * sum(each[part] for part in {"tokens", *parts})))


@dataclass
class Depth:
    """The study: what was found, as far as it is there."""

    book: Book
    plan: Plan
    keep: bool = False
    """Whether students stay, for on-policy to go on from."""

    def rate(self, method: str, shape: str = "depth") -> float:
        """Of a method: the best of its trials."""
        rates = self.plan.rates
        return rates[0] if len(rates) == 1 else best_rate(self.book, rates, lambda rate: self.plan.trial(method, rate, shape))

    def equal_tokens(self, shape: str = "depth", methods: Sequence[str] = tuple(OBJECTIVES)) -> dict[str, list[Student]]:
        """By method, a student for each seed; one seed after the other."""
        made: dict[str, list[Student]] = {method: [] for method in methods}
        for seed in self.plan.seeds:
            for method in methods:
                cell = self.plan.cell(method, self.rate(method, shape), seed, shape)
                made[method].append(self.book.student(cell, keep=self.keep and shape == "depth"))
        return made

    def whole_seeds(self) -> tuple[int, ...]:
        """Seeds of which all methods of equal tokens are there."""
        found = []
        for seed in self.plan.seeds:
            with suppress(Absent):
                replace(self, plan=replace(self.plan, seeds=(seed,))).equal_tokens()
                found.append(seed)
        return tuple(found)

    def equal_minutes(self, found: Mapping[str, Sequence[Student]]) -> dict[str, list[Student]]:
        """The same with as many tokens as each method has time for while the quickest one sees all."""
        took = {method: float(np.median([each.learned.seconds for each in students])) for method, students in found.items()}
        made: dict[str, list[Student]] = {method: [] for method in found}
        for seed in self.plan.seeds:
            for method in found:
                tokens = self.plan.tokens * min(took.values()) / took[method]
                made[method].append(self.book.student(self.plan.cell(method, self.rate(method), seed, tokens=tokens)))
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
            start, tokens = self.plan.cell(best, rate, seed), whole(self.plan.tokens * SHARE, POINTS, BATCH)
            self.book.student(start, keep=True)
            more = Cell(MORE, self.plan.layers, rate / 2, tokens, seed, start=start.name, objectives=best)
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
    teacher = study.book.ground.loss(source(study.book.model).module, "bf16", split="test", count=TESTED)
    found = study.equal_tokens()
    shown = dict(sections(study, found, parts))
    seeds = f"{len(plan.seeds)} seed{'s' if len(plan.seeds) > 1 else ''} ({', '.join(map(str, plan.seeds))})"
    lines = [
        f"# A language model of 30 layers brought to {plan.layers}: what was measured",
        "",
        f"`{command(plan, ('tokens', *shown))}` remakes this page.",
        "",
        *lacking(plan, ("tokens", *shown)),
        "",
        f"- Machine: {here.named}, one thread, bf16; torch {installed.get('torch')}.",
        "- The teacher is the model of [lm-finetune](lm-finetune.md); students take evenly spaced layers of it. Rows of",
        f"  {ROW} tokens, {BATCH} a step; no token is seen twice.",
        f"- `test`: nats that a token of {TESTED} windows of test documents costs; the teacher's is {teacher:.3f}. `end`: share of the held-out",
        "  loss that went over the last fifth of the tokens: how far from level each curve ends.",
        "- `tokens/s` and `minutes` are by the clock, with what the curve took; trainings may have run two at a time, a core each.",
        f"- {seeds}; {rates(study)}",
        "",
        f"## Equal tokens: {whole(plan.tokens, POINTS, BATCH):,}",
        "",
        *table(found),
    ]
    for title, rows in shown.values():
        lines += ["", f"## {title}", "", *rows]
    return "\n".join(lines) + "\n"


def sections(
    study: Depth, found: Mapping[str, Sequence[Student]], parts: Sequence[str]
) -> Iterator[tuple[str, tuple[str, list[str]]]]:
    """Title and table of each further part that is asked for and there."""
    best = study.best(found)
    makers: Mapping[str, tuple[str, Callable[[], list[str]]]] = {
        "minutes": ("Equal minutes", lambda: list(table(study.equal_minutes(found)))),
        "on-policy": (
            f"From {best} on: more of the same, or its own texts, equal minutes",
            lambda: list(table(study.going_on(found), MORE)),
        ),
        "width": ("As few parameters by width", lambda: list(table(study.equal_tokens("width", (LABELS, best))))),
    }
    for part, (title, make) in makers.items():
        with suppress(Absent):
            if part in parts:
                yield part, (title, make())


def command(plan: Plan, parts: Sequence[str]) -> str:
    """That remakes the page."""
    rates = "" if plan.rates == RATES else f" --rates {' '.join(f'{rate:g}' for rate in plan.rates)}"
    seeds = "" if len(plan.seeds) == len(SEEDS) else f" --seeds {len(plan.seeds)}"
    only = "" if set(parts) >= set(PARTS) else f" --only {' '.join(parts)}"
    return f"python -m benchmarks.studies.lm_depth --tokens {plan.tokens}{seeds}{rates}{only}"


def rates(study: Depth) -> str:
    """How they came to be."""
    if len(study.plan.rates) == 1:
        return f"one learning rate for all, {study.plan.rates[0]:g}: none was tried."
    chosen = ", ".join(f"{method} {study.rate(method):g}" for method in OBJECTIVES)
    return f"learning rates by {len(study.plan.rates)} trials each: {chosen}."


def lacking(plan: Plan, parts: Sequence[str]) -> Iterator[str]:
    """What this page does not show."""
    tokens = whole(plan.tokens, POINTS, BATCH)
    short = [f"{tokens:,} tokens a student instead of the {LEAST:,} asked"] if tokens < LEAST else []
    few = [f"{len(plan.seeds)} of {len(SEEDS)} seeds"] if len(plan.seeds) < len(SEEDS) else []
    untried = ["no trials of learning rates"] if len(plan.rates) == 1 else []
    left = [f"nothing of {each}" for each in PARTS if each not in parts]
    if missing := [*short, *few, *untried, *left]:
        yield f"**Not run at full scale: {'; '.join(missing)}.**"
        if short:
            yield "What is told apart below is so at this number of tokens; it may turn at more, above all where `end` is far from 0."


def table(found: Mapping[str, Sequence[Student]], against: str = LABELS) -> Iterator[str]:
    """A line a method, held against one of them, pair by pair of seeds."""
    yield f"| method | parameters, M | tokens | tokens/s | minutes | held out | end | test | against {against} |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    base = [each.test for each in found[against]]
    for method, students in found.items():
        learned = [each.learned for each in students]
        tests = [each.test for each in students]
        speed, minutes = (
            float(np.median(values)) for values in zip(*((at.tokens_per_second, at.seconds / 60) for at in learned), strict=True)
        )
        end, fall = (float(np.mean(values)) for values in zip(*((at.end, at.fall) for at in learned), strict=True))
        yield (
            f"| {method} | {students[0].weights / 1e6:.1f} | {learned[0].tokens:,} | {speed:.0f} | {minutes:.1f} | {end:.3f} | {fall:.2%} | "
            f"{over(tests)} | {'' if method == against else beside(tests, base)} |"
        )
    yield ""
    yield verdict(found, against)


def over(tests: Sequence[float]) -> str:
    """Mean with Student's interval over seeds; of one seed the number."""
    return mean_and_interval(tests, 3) if len(tests) > 1 else f"{tests[0]:.3f}"


def beside(tests: Sequence[float], base: Sequence[float]) -> str:
    """Paired differences; of one seed the number."""
    return differences(tests, base, 3) if len(tests) > 1 else f"{tests[0] - base[0]:+.3f}"


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
    pairs = len(names) * (len(names) - 1) // 2
    apart_by = f"Intervals of 95 % over {count} seeds, each of the {pairs} pairs by itself, without a correction for their number"
    return f"{apart_by}, leave out 0 for: {'; '.join(told) or 'no pair, so no ranking is claimed'}."


def shared(text: str) -> tuple[int, int]:
    """`1/2`: the first of two shares.

    Raises:
        ValueError: it is none.
    """
    at, count = (int(part) for part in text.split("/"))
    if not 1 <= at <= count:
        raise ValueError(f"{text} is no share: from 1/{count} to {count}/{count}")
    return at, count


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is not there, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--seeds", type=int, default=len(SEEDS))
    parser.add_argument(
        "--rates", type=float, nargs="+", default=RATES, help="learning rates that are tried; one is taken as it is"
    )
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--quick", action="store_true", help="one seed at one learning rate")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--share", type=shared, help="train this share of the methods of equal tokens (1/2, 2/2), write nothing")
    parser.add_argument("--page", action="store_true", help="train nothing, write what is there")
    given = parser.parse_args(arguments)
    plan = Plan(given.tokens, tuple(range(given.seeds)), tuple(given.rates), given.layers)
    if given.quick:
        plan = replace(plan, seeds=SEEDS[:1], rates=RATES[1:2])
    methods = tuple(OBJECTIVES)[given.share[0] - 1 :: given.share[1]] if given.share else tuple(OBJECTIVES)
    planned = plan.planned(["tokens"] if given.share else given.only, len(methods))
    book = Book(
        given.work / "model", Ground(given.work / "texts", given.work / "files"), given.work / "depth", planned, not given.page
    )
    study = Depth(book, plan, keep="on-policy" in given.only)
    if given.share:
        study.equal_tokens(methods=methods)
        return
    if given.page:
        study = replace(study, plan=replace(plan, seeds=study.whole_seeds()))
    if not study.plan.seeds:
        raise SystemExit("no seed has all its students yet: train them first")
    given.out.write_text(document(study, given.only), encoding="utf-8")
    sys.stderr.write(f"{given.out} is written\n")


if __name__ == "__main__":
    main()
