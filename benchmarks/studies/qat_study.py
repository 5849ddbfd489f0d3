"""What studies of cells share: which cells a plan has, what was found of them, and the parts of a page that show it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.studies.pages import mean_and_interval
from benchmarks.studies.qat_cells import BY_BLOCKS, RANKED, ROUNDED, TARGETS, TAUGHT, TOOLED, Absent, Book, Cell, Found
from benchmarks.studies.qat_numbers import against, against_reference, recovered
from compressor.contracts.notes import Series

if TYPE_CHECKING:
    from compressor.contracts.records import Report

SEEDS = (0, 1, 2)
INTERVALS = (
    "- Accuracy is that of the deployed files, in percent of test rows. Intervals of 95 %: in brackets over test rows, paired, of these",
    "  trainings; and, after `seeds`, Student's over seeds, of these rows. **Bold** where both leave out 0 (of PTQ, which no seed has a",
    "  part in, the first).",
)


@dataclass(frozen=True)
class Plan:
    """How much is run."""

    parts: Mapping[str, tuple[str, ...]]
    """Methods of each part, which is a case and a scheme (`bbc-W2A8`); the first part is what a winner is chosen by."""
    steps: int
    seeds: tuple[int, ...]
    rates: tuple[float, ...]
    methods: tuple[str, ...]
    """Those of `TAUGHT` that are run; others always are."""

    def of(self, part: str) -> tuple[str, ...]:
        """Methods of a part."""
        return tuple(each for each in self.parts[part] if each not in TAUGHT or each in self.methods)

    def cells_in(self, part: str) -> int:
        """How many a part has, trials among them."""
        trained, started = (
            sum((each in TAUGHT or each in RANKED) and each.endswith(BY_BLOCKS) == by_blocks for each in self.of(part))
            for by_blocks in (False, True)
        )
        untaught = len(self.of(part)) - trained - started
        return untaught + trained * (len(self.seeds) + len(self.rates) - 1) + started * len(self.seeds)


@dataclass
class Study:
    """What was found, as far as it is there."""

    book: Book
    plan: Plan

    def cell(self, part: str, method: str, seed: int, rate: float | None = None) -> Cell:
        """Of a method and a seed, at its best rate unless another is given."""
        data, scheme = part.split("-")
        if method not in TAUGHT:
            return Cell(data, scheme, method)
        chosen = self.rate(part, method) if rate is None else rate
        return Cell(data, scheme, method, self.plan.steps, chosen, seed)

    def rate(self, part: str, method: str) -> float:
        """The learning rate that is best on validation rows with the first seed, without a start by blocks; of equals the lower one."""
        rates, seed, method = sorted(self.plan.rates), self.plan.seeds[0], method.removesuffix(BY_BLOCKS)
        if len(rates) == 1:
            return rates[0]
        tried = {rate: self.book.found(self.cell(part, method, seed, rate)).validation for rate in rates}
        return max(tried, key=tried.__getitem__)

    def methods(self, part: str) -> tuple[str, ...]:
        """Of a part, those that are ranked by their names.

        Raises:
            Absent: there are no ranks yet.
        """
        return tuple(dict.fromkeys(self._named(each) for each in self.plan.of(part)))

    def _named(self, method: str) -> str:
        if method not in RANKED:
            return method
        place, added = RANKED[method]
        ranked = self.ranked()
        return f"{ranked[min(place, len(ranked) - 1)]}{added}"

    def ranked(self) -> list[str]:
        """Methods of the first part, best on validation rows first, over seeds.

        Raises:
            Absent: not all methods are there.
        """
        part = next(iter(self.plan.parts))
        taught = [each for each in self.plan.of(part) if each in TAUGHT]
        scores = {
            each: np.mean([self.book.found(self.cell(part, each, seed)).validation for seed in self.plan.seeds])
            for each in taught
        }
        return sorted(scores, key=scores.__getitem__, reverse=True)

    def found(self, part: str) -> dict[str, dict[int, Found]]:
        """By method and seed, one seed after the other, those that are ranked last; cells that are not there are left out."""
        made: dict[str, dict[int, Found]] = {}
        self._find(part, [each for each in self.plan.of(part) if each not in RANKED], made)
        with suppress(Absent):
            self._find(part, [each for each in self.methods(part) if each not in made], made)
        return made

    def _find(self, part: str, methods: Sequence[str], made: dict[str, dict[int, Found]]) -> None:
        for seed in self.plan.seeds:
            for method in methods:
                if method in TAUGHT or method not in made:
                    with suppress(Absent):
                        made.setdefault(method, {})[seed] = self.book.found(self.cell(part, method, seed))


# ------------------------------------------------------------------ parts of a page


def rates(study: Study) -> str:
    """How they came to be."""
    if len(study.plan.rates) == 1:
        return f"One learning rate for all, {study.plan.rates[0]:g}: none was tried."
    return f"Learning rates: the best of {', '.join(f'{rate:g}' for rate in study.plan.rates)} on validation rows with the first seed."


def title_of(study: Study, part: str) -> str:
    """Scheme and rows of a part."""
    data, scheme = part.split("-")
    return f"{scheme} on {study.book.cases[data].title}"


def cells_lacking(study: Study, there: Mapping[str, Mapping[str, Mapping[int, Found]]]) -> Iterator[str]:
    """Parts, methods and seeds that are not there."""
    plan = study.plan
    for part in plan.parts:
        name = title_of(study, part)
        if part not in there:
            yield f"nothing of {name}"
            continue
        try:
            methods = study.methods(part)
        except Absent:
            methods = plan.of(part)
        wanted = {each: len(plan.seeds) if each in TAUGHT or each in RANKED else 1 for each in methods}
        for each, count in wanted.items():
            if len(there[part].get(each, {})) < count:
                yield f"{each} of {name}: {len(there[part].get(each, {}))} of {count} cells"
    if len(plan.seeds) < len(SEEDS):
        yield f"{len(plan.seeds)} of {len(SEEDS)} seeds"


def tested_rows(there: Mapping[str, Mapping[str, Mapping[int, Found]]], data: str) -> int:
    """How many rows of a case its cells were tested on."""
    found = next(methods for part, methods in there.items() if part.split("-")[0] == data)
    return len(next(iter(next(iter(found.values())).values())).reference)


def courses(report: Report, tested: int) -> Iterator[str]:
    """Rows, and validation of the trainings that made the reference, by step."""
    rows = {split.name: split.rows for split in report.data.splits}
    yield f"Training on {rows['train']:,} rows, validation on {rows['validation']:,}, test on {tested:,}."
    for stage in report.stages:
        for note in stage.notes:
            if isinstance(note, Series) and note.title.startswith("Validation"):
                (points,) = note.curves.values()
                what = note.title.removeprefix("Validation").removeprefix(", ")
                yield from course(f"{stage.name}{f', {what}' if what else ''}", points, rows["validation"])


def course(name: str, points: Sequence[tuple[float, float]], rows: int) -> Iterator[str]:
    """Validation of one training, and whether it had stopped improving."""
    yield ""
    yield f"| {name}, step | {' | '.join(f'{step:.0f}' for step, _ in points)} |"
    yield f"| --- |{' ---: |' * len(points)}"
    yield f"| accuracy on validation, % | {' | '.join(f'{100 * value:.1f}' for _, value in points)} |"
    yield ""
    values = [value for _, value in points]
    before = max(values[:-1], default=0.0)
    if values[-1] <= before:
        yield "Validation stops improving before the end."
    else:
        more = round((values[-1] - before) * rows)
        yield f"**The last point is the best, by {more} of {rows} rows: validation had not stopped improving.**"


def table(study: Study, part: str, found: Mapping[str, Mapping[int, Found]]) -> Iterator[str]:
    """A line for each method."""
    reference = 100 * float(next(iter(next(iter(found.values())).values())).reference.mean())
    yield f"The float file has {reference:.2f} in ONNX Runtime."
    yield ""
    yield (
        "| method | runs | learning rate | ONNX Runtime | OpenVINO | against float, points | of PTQ's loss | MB | KL of attention maps | "
        "labels as simulated |"
    )
    yield f"| --- |{' ---: |' * 9}"
    rounded = list(found.get(ROUNDED, {}).values())
    for method, seeds in found.items():
        each = list(seeds.values())
        accuracy = " | ".join(
            over([one.accuracy(target) for one in each]) if target in each[0].right else "-" for target in TARGETS
        )
        size = " / ".join(f"{each[0].megabytes[target]:.1f}" for target in TARGETS if target in each[0].megabytes)
        maps = [one.divergence for one in each if one.divergence is not None]
        yield (
            f"| {method} | {len(each)} | {f'{study.rate(part, method):g}' if method in TAUGHT else ''} | {accuracy} | "
            f"{against_reference(each, drawn=method in TAUGHT)} | "
            f"{recovered(each, rounded) if method in TAUGHT and rounded else ''} | {size} | {f'{np.mean(maps):.3f}' if maps else ''} | "
            f"{'' if method in TOOLED else f'{min(one.agreement for one in each):.1%}'} |"
        )


def over(values: Sequence[float]) -> str:
    """Mean with Student's interval over seeds; of one the number."""
    return mean_and_interval(values) if len(values) > 1 else f"{values[0]:.2f}"


def verdicts(found: Mapping[str, Mapping[int, Found]]) -> Iterator[str]:
    """Pairs of methods that both intervals tell apart, pairs of single runs by rows alone."""
    names = list(found)
    told, files, compared = list[str](), list[str](), 0
    for one, other in ((one, other) for at, one in enumerate(names) for other in names[at + 1 :]):
        first, second = (one, other) if one in TAUGHT else (other, one)
        gap = against(found[first], found[second], drawn=(first in TAUGHT, second in TAUGHT))
        if gap is None:
            continue
        compared += 1
        line = f"- {first if gap.value > 0 else second} above {second if gap.value > 0 else first}: {abs(gap)} points."
        if gap.clear:
            told.append(line)
        elif gap.seeds is None and (gap.rows[0] > 0 or gap.rows[1] < 0):
            files.append(line)
    yield (
        f"Of {compared} pairs of methods, each by itself and without a correction for their number, intervals tell apart: "
        f"{'' if told else 'none, so no ranking is claimed.'}"
    )
    yield from ("", *told) if told else ()
    if files:
        yield from ("", "Of these files alone, one run each, whatever another seed gives, test rows tell apart:", "", *files)


def arguments(parser: argparse.ArgumentParser, *, work: Path, out: Path, steps: int, rates: Sequence[float]) -> None:
    """Options that such studies have in common."""
    parser.add_argument("--work", type=Path, default=work)
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--seeds", type=int, default=len(SEEDS))
    parser.add_argument(
        "--rates", type=float, nargs="+", default=rates, help="learning rates that are tried; one is taken as it is"
    )
    parser.add_argument("--out", type=Path, default=out)
    parser.add_argument("--quick", action="store_true", help="one seed at one learning rate")
    parser.add_argument("--page", action="store_true", help="run nothing, write what is there")
