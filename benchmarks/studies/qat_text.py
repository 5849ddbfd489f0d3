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
from dataclasses import replace
from pathlib import Path

from benchmarks.studies import qat_costs
from benchmarks.studies.pages import machine_lines
from benchmarks.studies.qat_cells import (
    BATCH,
    CALIBRATION,
    LABELS,
    LOSSES,
    RANKED,
    ROUNDED,
    SOFT,
    STARTED,
    TAUGHT,
    TOOLS,
    UNIFIED,
    WEIGHT_ONLY,
    WINNER,
    Book,
    Found,
)
from benchmarks.studies.qat_numbers import against_reference
from benchmarks.studies.qat_study import (
    INTERVALS,
    SEEDS,
    Plan,
    Study,
    arguments,
    cells_lacking,
    courses,
    rates,
    table,
    tested_rows,
    verdicts,
)
from benchmarks.studies.qat_texts import LENGTH, NAMES, Rows, prepared, text_case

OUT, WORK = Path("docs/results/qat-text.md"), Path("runs/qat-text")
RATES = (3e-5, 1e-4, 3e-4)
STEPS = 1850
"""Of the optimiser, three times over the training rows of 20 Newsgroups."""
RECOVERED, LOST = 80, 2
"""Expected: per cent of what PTQ loses that distillation wins back; points that ternary weights lose at most."""

PARTS: Mapping[str, tuple[str, ...]] = {
    "newsgroups-W2A8": (ROUNDED, *LOSSES, *(each for each in RANKED if each != WINNER)),
    "newsgroups-W4A8": (ROUNDED, WEIGHT_ONLY, LABELS, SOFT, UNIFIED),
    "newsgroups-W8A8": (ROUNDED, TOOLS, SOFT),
    "bbc-W2A8": (ROUNDED, LABELS, SOFT, WINNER),
}
"""All parts."""


# ------------------------------------------------------------------ the page


def document(study: Study, rows: Rows, parts: Sequence[str], costs: qat_costs.Costs) -> str:
    """What there is, part by part; runs what is asked for and not there."""
    there = {part: found for part in parts if (found := study.found(part))}
    if not there:
        raise SystemExit("no cell is there yet")
    plan, references = study.plan, {}
    for data in dict.fromkeys(part.split("-")[0] for part in there):
        references[data] = study.book.reference(data)
    learned = next(iter(references.values())).stages[-1].parameters
    lines = [
        "# Quantisation-aware training and distillation of a text encoder: what was measured",
        "",
        f"`{command(study, rows, (*parts, *([qat_costs.PART] if costs else [])))}` remakes this page.",
        "",
        *lacking(study, rows, there, costs),
        *machine_lines(next(iter(references.values()))),
        f"- Model: all-MiniLM-L6-v2, texts of {LENGTH} tokens, fine-tuned for {learned['epochs']} epochs at {learned['learning_rate']:g} (the",
        "  best of its epochs by validation); all start from that model and learn from it. One fine-tuning for each set of rows, one thread.",
        f"- Equal steps: {plan.steps:,} of {BATCH} rows, AdamW, the last weights stay; {CALIBRATION} rows for calibration. {rates(study)}",
        "- `PTQ`: our scheme, rounded and not trained (one step at a rate of 1e-9). `QAT` learns from labels alone, `KL` from the teacher's logits",
        "  alone; other losses are sums over the six layers, beside KL. `unified`: KL, hidden states, attention maps, and attention",
        "  output at half weight. `block-wise`: before it, and beside the equal steps, each block learns to give",
        f"  what it gave in float, by {STARTED:,} rows in a fifth of the steps; at the rate of the same losses without it.",
        *INTERVALS,
        "- Latency: not measured, as other work ran on the machine.",
    ]
    for data, report in references.items():
        lines += ["", f"## {NAMES[data]}", "", *courses(report, tested_rows(there, data))]
        for part, found in there.items():
            if part.startswith(f"{data}-"):
                lines += ["", f"### {part.split('-')[1]}", "", *table(study, part, found), "", *verdicts(found)]
                if part.endswith("W2A8") and (expected := list(expectations(found))):
                    lines += ["", *expected]
    if costs:
        lines += ["", "## What a step costs", "", *qat_costs.section(costs)]
    return "\n".join(lines) + "\n"


def command(study: Study, rows: Rows, parts: Sequence[str]) -> str:
    """That remakes the page."""
    plan = study.plan
    words = [f"--steps {plan.steps}"] if plan.steps != STEPS else []
    words += [f"--seeds {len(plan.seeds)}"] if len(plan.seeds) != len(SEEDS) else []
    words += [f"--rates {' '.join(f'{rate:g}' for rate in plan.rates)}"] if plan.rates != RATES else []
    words += [f"--train {rows.train}"] if rows.train else []
    words += [f"--test {rows.test}"] if rows.test else []
    words += [f"--validation {rows.scored}"] if rows.scored else []
    words += [f"--only {' '.join(parts)}"] if set(parts) != {*PARTS, qat_costs.PART} else []
    chosen = " ".join(f'"{each}"' for each in plan.methods)
    words += [f"--methods {chosen}"] if len(plan.methods) != len(LOSSES) else []
    return " ".join(["python -m benchmarks.studies.qat_text", *words])


def lacking(
    study: Study, rows: Rows, there: Mapping[str, Mapping[str, Mapping[int, Found]]], costs: qat_costs.Costs
) -> Iterator[str]:
    """What this page does not show."""
    plan = study.plan
    short = [f"{rows.train:,} training rows of 20 Newsgroups instead of all"] if rows.train else []
    short += [f"{rows.test:,} test rows of it instead of all"] if rows.test else []
    short += [f"{plan.steps:,} steps instead of {STEPS:,}"] if plan.steps < STEPS else []
    short += ["no trials of learning rates"] if len(plan.rates) == 1 else []
    short += [f"no {each}" for each in LOSSES if each not in plan.methods]
    short += cells_lacking(study, there)
    measured = sum(len(turns) for kinds in costs.values() for turns in kinds.values())
    short.append(f"{measured} of {qat_costs.COUNT} measurements of what a step costs")
    yield f"**Not run: {'; '.join(short)}.**"
    if plan.steps < STEPS or rows.train:
        yield "What is told apart below is so at this number of steps and rows; it may turn at more."
    yield ""


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


def costs_of(book: Book, rows: Rows, *, run: bool) -> qat_costs.Costs:
    """What steps cost, of the model and rows of 20 Newsgroups."""
    if run:
        book.reference("newsgroups")
    return qat_costs.cells(book.model("newsgroups"), prepared("newsgroups", rows, book.folder), book.folder, run=run)


def main(words: Sequence[str] | None = None) -> None:
    """Run what is not there, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    arguments(parser, work=WORK, out=OUT, steps=STEPS, rates=RATES)
    parser.add_argument("--train", type=int, help="training rows of 20 Newsgroups; all unless given")
    parser.add_argument("--test", type=int, help="test rows of 20 Newsgroups; all unless given")
    parser.add_argument("--validation", type=int, help="validation rows that a cell is scored on; all unless given")
    parser.add_argument("--methods", nargs="+", choices=list(LOSSES), default=list(LOSSES), help="what trains")
    parser.add_argument("--only", nargs="+", choices=[*PARTS, qat_costs.PART], default=[*PARTS, qat_costs.PART])
    given = parser.parse_args(words)
    plan = Plan(PARTS, given.steps, tuple(range(given.seeds)), tuple(given.rates), tuple(given.methods))
    if given.quick:
        plan = replace(plan, seeds=SEEDS[:1], rates=RATES[1:2])
    parts = [each for each in PARTS if each in given.only]
    rows = Rows(given.train, given.test, given.validation)
    cases = {name: text_case(name, rows) for name in NAMES}
    study = Study(Book(given.work, cases, sum(map(plan.cells_in, parts)), not given.page), plan)
    for part in parts if not given.page else ():
        study.found(part)
    costs = costs_of(study.book, rows, run=not given.page and qat_costs.PART in given.only)
    given.out.write_text(document(study, rows, parts, costs), encoding="utf-8")
    sys.stderr.write(f"{given.out} is written\n")


if __name__ == "__main__":
    main()
