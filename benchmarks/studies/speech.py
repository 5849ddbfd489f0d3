"""Remakes `docs/results/speech.md`: one encoder of speech brought to a quarter of its layers' parameters in five ways.

    python -m benchmarks.studies.speech MODEL RECORDINGS

MODEL is a folder of Whisper-tiny.en, RECORDINGS the folder `recordings` of the Free Spoken Digit Dataset (`7_jackson_32.wav` is take 32
of jackson saying seven). What ran before is read from `runs/speech`; remove that folder to measure everything anew. It trains
some forty students, one after the other.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.studies.pages import apart, controls, differences, latency_of, machine_lines, mean_and_interval
from benchmarks.studies.speech_chain import (
    BASELINE,
    CHART,
    TEACHER,
    TITLES,
    Point,
    accuracies,
    draw,
    lengths_table,
    points,
    verdict,
)
from benchmarks.studies.speech_chain import table as chain_table
from benchmarks.studies.speech_lab import (
    BUDGET,
    FIRST,
    LAYER_PARAMETERS,
    METHODS,
    RATES,
    RATIOS,
    REST,
    RUNS,
    SECOND,
    SEEDS,
    TARGETS,
    TAUGHT,
    TEST_TAKES,
    Cell,
    Lab,
    equal_steps,
    equal_time,
    prepared,
    seconds,
    validation,
)
from compressor.contracts.notes import Remark

OUT = Path("docs/results/speech.md")
TOLERANCE = 0.05
"""How far above a budget of latency counts as met on this page, whatever the pass itself aims at."""


@dataclass(frozen=True)
class Row:
    """What one cell ended with."""

    epochs: int
    parameters: int
    """Of the blocks."""
    seconds: float
    """That its steps took."""
    errors: Sequence[float]
    """Feature errors by layer of the teacher, in percent."""
    probes: Mapping[str, float]


def rows(lab: Lab, cells: Sequence[Cell]) -> dict[str, list[Row]]:
    """Measured on the test rows, by method."""
    found: dict[str, list[Row]] = {}
    for cell in cells:
        report = lab.run(cell)
        weights = report.stages[-1].weights or 0
        made = Row(
            cell.epochs, weights - REST, seconds(report), lab.errors(cell, "test"), accuracies(report, "final@onnxruntime")
        )
        found.setdefault(cell.method, []).append(made)
    return found


def ran(lab: Lab, cells: Iterable[Cell]) -> list[Cell]:
    """The same cells, each run before the next one is asked for."""
    found = []
    for cell in cells:
        lab.run(cell)
        found.append(cell)
    return found


def spread(times: Sequence[float]) -> str:
    """Median, least and most seconds."""
    return f"{np.median(times):.0f} s ({min(times):.0f} to {max(times):.0f})"


def table(found: Mapping[str, Sequence[Row]], source: Mapping[str, float]) -> Iterator[str]:
    """A line a method: means over seeds with intervals."""
    names = list(source)
    yield f"| | layer parameters | feature error, % of variance, layer 1 / 2 / 3 / 4 | {' | '.join(names)} |"
    yield f"| --- | ---: | ---: |{' ---: |' * len(names)}"
    yield f"| {TITLES[TEACHER]} | {LAYER_PARAMETERS:,} | 0 | {' | '.join(f'{source[name]:.2f}' for name in names)} |"
    for method, each in found.items():
        errors = " / ".join(f"{np.mean([row.errors[at] for row in each]):.1f}" for at in range(len(each[0].errors)))
        cells = " | ".join(mean_and_interval([row.probes[name] for row in each]) for name in names)
        yield f"| {TITLES[method]} | {np.mean([row.parameters for row in each]):,.0f} | {errors} | {cells} |"
    yield ""


def columns(found: Sequence[Row]) -> dict[str, list[float]]:
    """What joint training is compared by, seed by seed: the mean feature error of the imitated layers, and each probe."""
    errors = [float(np.mean([row.errors[layer - 1] for layer in TAUGHT])) for row in found]
    return {"feature error": errors, **{name: [row.probes[name] for row in found] for name in found[0].probes}}


def paired(joint: Sequence[Row], others: Mapping[str, Sequence[Row]]) -> Iterator[str]:
    """Joint minus each of the others, seed by seed, and in words what leaves out 0."""
    mine = columns(joint)
    yield f"| joint minus | {' | '.join(mine)} |"
    yield f"| --- |{' ---: |' * len(mine)}"
    better: dict[str, list[str]] = {"better": [], "worse": []}
    for method, found in others.items():
        theirs = columns(found)
        yield f"| {TITLES[method]} | {' | '.join(differences(mine[name], theirs[name]) for name in mine)} |"
        for name in mine:
            low, high = apart(mine[name], theirs[name])
            if low > 0 or high < 0:
                better["better" if (low > 0) != (name == "feature error") else "worse"].append(f"{name} than {TITLES[method]}")
    count = len(mine) * len(others)
    yield ""
    for word, which in better.items():
        yield f"Joint is {word} in {len(which)} of {count} comparisons{': ' if which else ''}{'; '.join(which)}."
    yield ""


def budget_table(lab: Lab, rate: float) -> Iterator[str]:
    """What was asked for, what the step measured, and what the run's probe did afterwards."""
    yield "| target | asked for | by the table | measured by the step | | measured by the probe | |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    for target in TARGETS:
        for asked in RATIOS:
            report = lab.budgeted(target, asked, rate)
            text = next(n.text for n in report.stages[-1].notes if isinstance(n, Remark) and n.text.startswith("Latency on"))
            predicted, measured, before = (float(found) for found in re.findall(r"([\d.]+(?:e-?\d+)?) ms", text)[:3])
            (ratio,) = (each for each in latency_of(report).ratios if each.of == f"final@{target}")
            low, high = 1 / ratio.interval.high, 1 / ratio.interval.low
            yield (
                f"| {target} | {asked:.2f} | {predicted / before:.3f} | {measured / before:.3f} | {met(measured / before, asked)} | "
                f"{1 / ratio.value:.3f} [{low:.3f}, {high:.3f}] | {met(1 / ratio.value, asked)} |"
            )
    yield ""


def met(ratio: float, asked: float) -> str:
    """How far from the budget, and whether that counts as met."""
    return f"{ratio / asked - 1:+.1%}, {'met' if ratio <= (1 + TOLERANCE) * asked else 'missed'}"


def rate_table(lab: Lab) -> Iterator[str]:
    """Mean feature error of the imitated layers and mean of the probes on validation rows, by learning rate."""
    yield f"| | {' | '.join(f'{rate:g}' for rate in RATES)} |"
    yield f"| --- |{' ---: |' * len(RATES)}"
    for method in METHODS:
        errors = [lab.taught_error(method, rate) for rate in RATES]
        scores = [validation(lab.run(lab.cell(method, SEEDS[0], rate))) for rate in RATES]
        cells = [
            f"{bold(f'{error:.2f}', error == min(errors))}, {bold(f'{100 * score:.2f}', score == max(scores))}"
            for error, score in zip(errors, scores, strict=True)
        ]
        yield f"| {TITLES[method]} | {' | '.join(cells)} |"
    yield ""


def bold(text: str, chosen: bool) -> str:
    """The text, bold if chosen."""
    return f"**{text}**" if chosen else text


def other_rule(lab: Lab) -> Iterator[str]:
    """Test rows at the rates that the probes would choose, first seed."""
    found: dict[str, tuple[float, Row]] = {}
    for method in METHODS:
        tried = [lab.cell(method, SEEDS[0], rate) for rate in RATES]
        best = max(tried, key=lambda cell: validation(lab.run(cell)))
        found[method] = best.rate, rows(lab, [best])[method][0]
    names = list(found["joint"][1].probes)
    yield f"| | learning rate | feature error, imitated layers | {' | '.join(names)} |"
    yield f"| --- | ---: | ---: |{' ---: |' * len(names)}"
    for method, (rate, row) in found.items():
        (error,) = columns([row])["feature error"]
        yield f"| {TITLES[method]} | {rate:g} | {error:.2f} | {' | '.join(f'{row.probes[name]:.2f}' for name in names)} |"
    yield ""


def document(lab: Lab, steps: Sequence[Cell], times: Sequence[Cell], chain: Sequence[Point]) -> str:
    """The page."""
    first = lab.run(steps[0])
    ground = lab.grounds["test"]
    by_steps, by_time = rows(lab, steps), rows(lab, times)
    source = accuracies(first, BASELINE)
    split = {each.name: each.rows for each in first.data.splits}
    took = "; ".join(f"{TITLES[method]} {spread(lab.times(method))}" for method in METHODS)
    long = "; ".join(
        f"{TITLES[method]}: {each[0].epochs} epochs, {spread([row.seconds for row in each])}" for method, each in by_time.items()
    )
    fastest = {"joint": min(lab.times("joint")), **{method: min(row.seconds for row in each) for method, each in by_time.items()}}
    least = "; ".join(f"{TITLES[method]} {each:.0f} s" for method, each in fastest.items())
    layers = ground.probes_by_layer()
    heard = ground.sounding.mean()
    return "\n".join(
        [
            "# Joint distillation and pruning of an encoder of speech: what was measured",
            "",
            "`python -m benchmarks.studies.speech MODEL RECORDINGS` remakes this page.",
            "",
            *machine_lines(first),
            f"- Model: the encoder of Whisper-tiny.en (weights of sha256 {(first.model.sha256 or '')[:16]}), {LAYER_PARAMETERS:,} parameters in",
            f"  four layers; {BUDGET:,} are to stay, one layer's worth.",
            "- Data: Free Spoken Digit Dataset (github.com/Jakobovski/free-spoken-digit-dataset, CC BY-SA 4.0),",
            f"  sounds padded to 1 s, {heard:.0%} of which sounds; training on {split['train']:,} without labels,",
            f"  validation on {split['validation']:,}, test on {split['test']:,}, takes 0 to {TEST_TAKES - 1} of each speaker and digit. "
            "Students, unlike the teacher, hear all six",
            "  speakers in training. The cut between training and validation is drawn by the seed; test rows are always the same.",
            "- Probes: logistic regression (standardised features, C = 1, not tuned, the same for all) on the mean over frames of the frozen",
            "  encoder's output, fitted in folds of the test rows. `digit`: three folds, two of six speakers held out in each; `speaker`:",
            "  five folds over clips; `-10`: fitted on ten clips of each class, drawn once for each fold.",
            "- Feature error: what the best linear map from a student's layer misses of the teacher's, in percent of its variance, on clips",
            f"  that it was not fitted on, padding left out. Layers {' and '.join(map(str, TAUGHT))} are imitated; a student of one layer is "
            "held against all by it. Differences are of the mean over the imitated layers.",
            f"- Intervals: Student's t over seeds {', '.join(map(str, SEEDS))}, 95 %, no correction for their number; bold where a difference "
            "leaves out 0. They hold what",
            "  training draws, not what a choice of other clips or speakers would change.",
            "",
            "## Equal steps",
            "",
            f"{FIRST + SECOND} epochs each, of batches of 16 in the same order: joint's two stages count as {FIRST} and {SECOND}.",
            "",
            *table(by_steps, source),
            *paired(by_steps["joint"], {name: each for name, each in by_steps.items() if name != "joint"}),
            "## Equal time",
            "",
            "Training with equal steps took, scoring after each epoch included, median, least and most over rates and seeds:",
            f"{took}. By these medians the others get more epochs here:",
            f"{long}. The longest times are of runs that",
            f"shared the machine with other work: the fastest runs took {least}. Random units",
            "are a control of where units are kept, not a way to make a model, and left out.",
            "",
            *table({**by_time, "joint": by_steps["joint"]}, source),
            *paired(by_steps["joint"], by_time),
            "## Learning rates",
            "",
            "Mean feature error of the imitated layers and mean of the probes, both on validation rows, first seed; the best of each is bold.",
            "The rate of the least feature error is taken for all seeds, since what students are taught is to be like the teacher; the",
            f"probes of the teacher itself come to {100 * validation(first, 0):.2f} there.",
            "",
            *rate_table(lab),
            "Chosen by the probes instead, test rows, first seed:",
            "",
            *other_rule(lab),
            "## What the teacher's layers tell",
            "",
            "The same probes on each layer of the teacher, and on its output, which is the last layer behind a norm; in percent.",
            "",
            f"| layer | {' | '.join(layers)} |",
            f"| --- |{' ---: |' * len(layers)}",
            *(
                f"| {at + 1} | {' | '.join(f'{100 * each[at]:.2f}' for each in layers.values())} |"
                for at in range(len(ground.teacher))
            ),
            f"| output | {' | '.join(f'{source[name]:.2f}' for name in layers)} |",
            "",
            "## The chain to int8",
            "",
            verdict(chain),
            "",
            f"![Accuracy of each probe against speed]({CHART.name})",
            "",
            "Every file, after static quantisation on 64 sounds where it says int8, against the teacher's fp32 file in ONNX Runtime, at batch 1,",
            f"1 s and one thread, in interleaved rounds; probes in points, on {split['test']:,} clips, as they are. The teacher's own files come",
            "first: what quantisation alone costs.",
            "",
            *chain_table(chain),
            controls([each.latency for each in chain[:: 2 * len(TARGETS)]]),
            "",
            "## Latency",
            "",
            "The same files, first seed, at two lengths.",
            "",
            *lengths_table(chain),
            "The equal widths are no multiples of 16, those of joint and of pruning are.",
            "",
            "## Budgets of latency",
            "",
            "Joint training for two epochs and one, to a fraction of the teacher's latency at batch 1, 1 s and one thread. A budget counts as",
            f"met up to {TOLERANCE:.0%} above it. The step measures to choose widths, the run's probe measures what was chosen anew; the table's",
            "figure is of the teacher's latency as measured beside the student.",
            "",
            *budget_table(lab, lab.best_rate("joint")),
        ]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all cells and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("recordings", type=Path)
    parser.add_argument("--runs", type=Path, default=RUNS)
    given = parser.parse_args(arguments)
    lab = Lab(given.model, prepared(given.recordings, given.runs / "data"), given.runs)
    steps = ran(lab, equal_steps(lab))
    chain, times = points(lab), ran(lab, equal_time(lab))
    draw(chain)
    OUT.write_text(document(lab, steps, times, chain), encoding="utf-8")


if __name__ == "__main__":
    main()
