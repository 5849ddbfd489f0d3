"""Remakes `docs/results/qat-text.md`: a text encoder in 2, 4 and 8 bits, by post-training quantisation and by training with each loss.

    python -m benchmarks.studies.qat_text [--work FOLDER] [--steps N] [--seeds N] [--rates R ...] [--methods M ...] [--only PART ...] [--quick]
        [--train N --test N --validation N]

A cell is a run of a plan, kept in FOLDER: a study that was cut goes on, and says how many cells remain. `--quick` runs one seed at one learning
rate; `--page` runs nothing and writes what is there. What is not there the page says.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.studies import qat_costs
from benchmarks.studies.pages import machine_lines, mean_and_interval
from benchmarks.studies.qat_cells import (
    BATCH,
    CALIBRATION,
    LENGTH,
    PARTS,
    REFERENCE,
    ROUNDED,
    TARGETS,
    TAUGHT,
    WINNER,
    Absent,
    Book,
    Cell,
    Found,
    Rows,
)
from benchmarks.studies.qat_numbers import against, against_reference, recovered
from compressor.contracts.notes import Series

if TYPE_CHECKING:
    from compressor.contracts.records import Report

OUT, WORK = Path("docs/results/qat-text.md"), Path("runs/qat-text")
SEEDS = (0, 1, 2)
RATES = (3e-5, 1e-4, 3e-4)
STEPS = 1850
"""Of the optimiser, three times over the training rows of 20 Newsgroups."""
NAMES = {"bbc": "BBC News", "newsgroups": "20 Newsgroups"}
RECOVERED, LOST = 80, 2
"""Expected: per cent of what PTQ loses that distillation wins back; points that ternary weights lose at most."""


@dataclass(frozen=True)
class Plan:
    """How much is run."""

    steps: int
    seeds: tuple[int, ...]
    rates: tuple[float, ...]
    methods: tuple[str, ...]
    """Those of `TAUGHT` that are run; others always are."""

    def of(self, part: str) -> tuple[str, ...]:
        """Methods of a part."""
        return tuple(each for each in PARTS[part] if each not in TAUGHT or each in self.methods)

    def cells_in(self, part: str) -> int:
        """How many a part has, trials among them."""
        trained = sum(each in TAUGHT or each == WINNER for each in self.of(part))
        return len(self.of(part)) - trained + trained * (len(self.seeds) + len(self.rates) - 1)


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
        """The learning rate that is best on validation rows with the first seed; of equals the lower one."""
        rates, seed = sorted(self.plan.rates), self.plan.seeds[0]
        if len(rates) == 1:
            return rates[0]
        tried = {rate: self.book.found(self.cell(part, method, seed, rate)).validation for rate in rates}
        return max(tried, key=tried.__getitem__)

    def methods(self, part: str) -> tuple[str, ...]:
        """Of a part, the winner by its name.

        Raises:
            Absent: there is no winner yet.
        """
        found = [self.winner() if each == WINNER else each for each in self.plan.of(part)]
        return tuple(dict.fromkeys(found))

    def winner(self) -> str:
        """Best on validation rows of 20 Newsgroups at W2A8, over seeds.

        Raises:
            Absent: not all methods are there.
        """
        part = "newsgroups-W2A8"
        taught = [each for each in self.plan.of(part) if each in TAUGHT]
        scores = {
            each: np.mean([self.book.found(self.cell(part, each, seed)).validation for seed in self.plan.seeds])
            for each in taught
        }
        return max(scores, key=scores.__getitem__)

    def found(self, part: str) -> dict[str, dict[int, Found]]:
        """By method and seed, one seed after the other; cells that are not there are left out."""
        made: dict[str, dict[int, Found]] = {}
        for seed in self.plan.seeds:
            for method in self._methods_there(part):
                if method in TAUGHT or method not in made:
                    with suppress(Absent):
                        made.setdefault(method, {})[seed] = self.book.found(self.cell(part, method, seed))
        return made

    def _methods_there(self, part: str) -> tuple[str, ...]:
        try:
            return self.methods(part)
        except Absent:
            return tuple(each for each in self.plan.of(part) if each != WINNER)


# ------------------------------------------------------------------ the page


def document(study: Study, parts: Sequence[str], costs: qat_costs.Costs) -> str:
    """What there is, part by part; runs what is asked for and not there."""
    there = {part: found for part in parts if (found := study.found(part))}
    if not there:
        raise SystemExit("no cell is there yet")
    plan, references = study.plan, {}
    for data in dict.fromkeys(part.split("-")[0] for part in there):
        references[data] = study.book.reference(data)
    lines = [
        "# Quantisation-aware training and distillation of a text encoder: what was measured",
        "",
        f"`{command(study, (*parts, *([qat_costs.PART] if costs else [])))}` remakes this page.",
        "",
        *lacking(study, parts, there, costs),
        *machine_lines(next(iter(references.values()))),
        f"- Model: all-MiniLM-L6-v2, texts of {LENGTH} tokens, fine-tuned for {REFERENCE['epochs']} epochs at {REFERENCE['learning_rate']:g} (the",
        "  best of its epochs by validation); all start from that model and learn from it. One fine-tuning for each set of rows, one thread.",
        f"- Equal steps: {plan.steps:,} of {BATCH} rows, AdamW, the last weights stay; {CALIBRATION} rows for calibration. {rates(study)}",
        "- `PTQ`: our scheme, rounded and not trained (one step at a rate of 1e-9). `QAT` learns from labels alone, `KL` from the teacher's logits",
        "  alone; other losses are sums over the six layers, beside KL. `unified`: KL, hidden states, attention maps, and attention",
        "  output at half weight.",
        "- Accuracy is that of the deployed files, in percent of test rows. Intervals of 95 %: in brackets over test rows, paired, of these",
        "  trainings; and, after `seeds`, Student's over seeds, of these rows. **Bold** where both leave out 0 (of PTQ, which no seed has a",
        "  part in, the first).",
        "- Latency: not measured, as other work ran on the machine.",
    ]
    for data, report in references.items():
        tested = next(
            one for part, found in there.items() if part.startswith(data) for each in found.values() for one in each.values()
        )
        lines += ["", f"## {NAMES[data]}", "", *curve(report, len(tested.reference))]
        for part, found in there.items():
            if part.startswith(f"{data}-"):
                lines += ["", f"### {part.split('-')[1]}", "", *table(study, part, found), "", *verdicts(part, found)]
    if costs:
        lines += ["", "## What a step costs", "", *qat_costs.section(costs)]
    return "\n".join(lines) + "\n"


def command(study: Study, parts: Sequence[str]) -> str:
    """That remakes the page."""
    plan, rows = study.plan, study.book.rows
    words = [f"--steps {plan.steps}"] if plan.steps != STEPS else []
    words += [f"--seeds {len(plan.seeds)}"] if len(plan.seeds) != len(SEEDS) else []
    words += [f"--rates {' '.join(f'{rate:g}' for rate in plan.rates)}"] if plan.rates != RATES else []
    words += [f"--train {rows.train}"] if rows.train else []
    words += [f"--test {rows.test}"] if rows.test else []
    words += [f"--validation {rows.scored}"] if rows.scored else []
    words += [f"--only {' '.join(parts)}"] if set(parts) != {*PARTS, qat_costs.PART} else []
    chosen = " ".join(f'"{each}"' for each in plan.methods)
    words += [f"--methods {chosen}"] if len(plan.methods) != len(TAUGHT) else []
    return " ".join(["python -m benchmarks.studies.qat_text", *words])


def rates(study: Study) -> str:
    """How they came to be."""
    if len(study.plan.rates) == 1:
        return f"One learning rate for all, {study.plan.rates[0]:g}: none was tried."
    return f"Learning rates: the best of {', '.join(f'{rate:g}' for rate in study.plan.rates)} on validation rows with the first seed."


def lacking(
    study: Study, parts: Sequence[str], there: Mapping[str, Mapping[str, Mapping[int, Found]]], costs: qat_costs.Costs
) -> Iterator[str]:
    """What this page does not show."""
    plan, rows = study.plan, study.book.rows
    short = [f"{rows.train:,} training rows of 20 Newsgroups instead of all"] if rows.train else []
    short += [f"{rows.test:,} test rows of it instead of all"] if rows.test else []
    short += [f"{plan.steps:,} steps instead of {STEPS:,}"] if plan.steps < STEPS else []
    short += ["no trials of learning rates"] if len(plan.rates) == 1 else []
    short += [f"no {each}" for each in TAUGHT if each not in plan.methods]
    for part in PARTS:
        name = f"{part.split('-')[1]} on {NAMES[part.split('-')[0]]}"
        if part not in parts or part not in there:
            short.append(f"nothing of {name}")
            continue
        wanted = {each: len(plan.seeds) if each in TAUGHT else 1 for each in plan.of(part) if each != WINNER}
        short += [
            f"{each} of {name}: {len(there[part].get(each, {}))} of {count} cells"
            for each, count in wanted.items()
            if len(there[part].get(each, {})) < count
        ]
    if len(plan.seeds) < len(SEEDS):
        short.append(f"{len(plan.seeds)} of {len(SEEDS)} seeds")
    measured = sum(len(turns) for kinds in costs.values() for turns in kinds.values())
    short.append(f"{measured} of {qat_costs.COUNT} measurements of what a step costs")
    short.append("no block-wise start")
    yield f"**Not run: {'; '.join(short)}.**"
    if plan.steps < STEPS or rows.train:
        yield "What is told apart below is so at this number of steps and rows; it may turn at more."
    yield ""


def curve(report: Report, tested: int) -> Iterator[str]:
    """Rows, and validation of the fine-tuning by epoch."""
    rows = {split.name: split.rows for split in report.data.splits}
    yield f"Training on {rows['train']:,} rows, validation on {rows['validation']:,}, test on {tested:,}."
    series = next(note for note in report.stages[-1].notes if isinstance(note, Series) and note.title.startswith("Validation"))
    (points,) = series.curves.values()
    yield ""
    yield f"| fine-tuning, step | {' | '.join(f'{step:.0f}' for step, _ in points)} |"
    yield f"| --- |{' ---: |' * len(points)}"
    yield f"| accuracy on validation, % | {' | '.join(f'{100 * value:.1f}' for _, value in points)} |"
    yield ""
    values = [value for _, value in points]
    if values[-1] <= max(values[:-1], default=0.0):
        yield "Validation stops improving before the end."
    else:
        more = round((values[-1] - max(values[:-1], default=0.0)) * rows["validation"])
        yield f"**The last epoch is the best, by {more} of {rows['validation']} rows: validation had not stopped improving.**"


def table(study: Study, part: str, found: Mapping[str, Mapping[int, Found]]) -> Iterator[str]:
    """A line for each method."""
    reference = 100 * float(next(iter(next(iter(found.values())).values())).reference.mean())
    yield f"The fine-tuned model's file has {reference:.2f} in ONNX Runtime."
    yield ""
    yield (
        "| method | runs | learning rate | ONNX Runtime | OpenVINO | against fine-tuned, points | of PTQ's loss | MB | KL of attention maps | "
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
            f"{min(one.agreement for one in each):.1%} |"
        )


def over(values: Sequence[float]) -> str:
    """Mean with Student's interval over seeds; of one the number."""
    return mean_and_interval(values) if len(values) > 1 else f"{values[0]:.2f}"


def verdicts(part: str, found: Mapping[str, Mapping[int, Found]]) -> Iterator[str]:
    """Pairs of methods that both intervals tell apart, pairs of single runs by rows alone, and what became of the expectations."""
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
    if part.endswith("W2A8") and (expected := list(expectations(found))):
        yield from ("", *expected)


def expectations(found: Mapping[str, Mapping[int, Found]]) -> Iterator[str]:
    """Whether ternary weights lose as little as was expected, and distillation wins back as much."""
    for method, seeds in found.items():
        if method in TAUGHT and len(seeds) > 1:
            lost = against_reference(list(seeds.values()))
            low, high = (
                min(ends) if at == 0 else max(ends)
                for at, ends in enumerate(zip(*filter(None, (lost.rows, lost.seeds)), strict=True))
            )
            held = "at most that" if low >= -LOST else "more than that" if high < -LOST else "undecided"
            yield f"- {method}: expected to lose at most {LOST} points; found {-lost.value:.2f}, between {-high:.2f} and {-low:.2f}: {held}."


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is not there, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seeds", type=int, default=len(SEEDS))
    parser.add_argument(
        "--rates", type=float, nargs="+", default=RATES, help="learning rates that are tried; one is taken as it is"
    )
    parser.add_argument("--train", type=int, help="training rows of 20 Newsgroups; all unless given")
    parser.add_argument("--test", type=int, help="test rows of 20 Newsgroups; all unless given")
    parser.add_argument("--validation", type=int, help="validation rows that a cell is scored on; all unless given")
    parser.add_argument("--methods", nargs="+", choices=list(TAUGHT), default=list(TAUGHT), help="what trains")
    parser.add_argument("--only", nargs="+", choices=[*PARTS, qat_costs.PART], default=[*PARTS, qat_costs.PART])
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--quick", action="store_true", help="one seed at one learning rate")
    parser.add_argument("--page", action="store_true", help="run nothing, write what is there")
    given = parser.parse_args(arguments)
    plan = Plan(given.steps, tuple(range(given.seeds)), tuple(given.rates), tuple(given.methods))
    if given.quick:
        plan = replace(plan, seeds=SEEDS[:1], rates=RATES[1:2])
    parts = [each for each in PARTS if each in given.only]
    book = Book(given.work, Rows(given.train, given.test, given.validation), sum(map(plan.cells_in, parts)), not given.page)
    study = Study(book, plan)
    for part in parts if not given.page else ():
        study.found(part)
    costs = study.book.costs(run=not given.page and qat_costs.PART in given.only)
    given.out.write_text(document(study, parts, costs), encoding="utf-8")
    sys.stderr.write(f"{given.out} is written\n")


if __name__ == "__main__":
    main()
