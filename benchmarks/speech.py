"""Remakes `docs/results/speech.md`: one encoder of speech brought to a quarter of its layers' parameters in five ways.

    python -m benchmarks.speech MODEL RECORDINGS

MODEL is a folder of Whisper-tiny, RECORDINGS the folder `recordings` of the Free Spoken Digit Dataset (`7_jackson_32.wav` is take 32
of jackson saying seven). What ran before is read from `runs/speech`; remove that folder to measure everything anew. It trains
some forty students, one after the other.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.likeness import probes_by_layer
from benchmarks.pages import against, differences, machine_lines, mean_and_interval
from benchmarks.speech_lab import (
    BUDGET,
    FIRST,
    LAYER_PARAMETERS,
    LENGTHS,
    RATED,
    RATES,
    RATIOS,
    REST,
    RUNS,
    SECOND,
    SEEDS,
    TEST_TAKES,
    Cell,
    Lab,
    cells,
    prepared,
    seconds,
    validation,
)
from compressor.records import LatencyRecord, Remark, Report
from compressor.report.findings import Findings

OUT = Path("docs/results/speech.md")


def probes(report: Report, stage: str) -> dict[str, float]:
    """Accuracy of each probe on test rows in percent."""
    scores = next(each.scores for each in report.candidates if each.stage == stage and each.scores)
    return {metric.name.removesuffix(" probe"): 100 * metric.value for metric in scores.metrics[1:]}


TITLES = {
    "one-layer": "one layer, distilled",
    "uniform": "equal widths, distilled",
    "pruned": "pruned, then distilled",
    "random": "joint's widths, random units",
    "joint": "joint",
}
TEACHER = "teacher"


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


def row(lab: Lab, cell: Cell) -> Row:
    """Measured on the test rows."""
    report = lab.run(cell)
    weights = report.stages[-1].weights or 0
    return Row(cell.epochs, weights - REST, seconds(report), lab.errors(cell, "test"), probes(report, "final"))


def took(rows: Sequence[Row]) -> str:
    """Seconds with the last seed."""
    return f"{rows[-1].seconds:.0f} s"


def table(rows: Mapping[str, Sequence[Row]], source: Mapping[str, float]) -> Iterator[str]:
    """A line a method: means over seeds with intervals."""
    names = list(source)
    yield f"| | layer parameters | feature error, % of variance, layer 1 / 2 / 3 / 4 | {' | '.join(names)} |"
    yield f"| --- | ---: | ---: |{' ---: |' * len(names)}"
    yield f"| {TEACHER} | {LAYER_PARAMETERS:,} | 0 | {' | '.join(f'{source[name]:.2f}' for name in names)} |"
    for method, found in rows.items():
        errors = " / ".join(f"{np.mean([each.errors[at] for each in found]):.1f}" for at in range(len(found[0].errors)))
        cells = " | ".join(mean_and_interval([each.probes[name] for each in found]) for name in names)
        yield f"| {TITLES[method]} | {np.mean([each.parameters for each in found]):,.0f} | {errors} | {cells} |"
    yield ""


def paired(rows: Mapping[str, Sequence[Row]], others: Mapping[str, Sequence[Row]], names: Sequence[str]) -> Iterator[str]:
    """Joint minus each of the others, seed by seed."""
    yield f"| joint minus | feature error, layer 4 | {' | '.join(names)} |"
    yield f"| --- | ---: |{' ---: |' * len(names)}"
    mine = rows["joint"]
    for method, found in others.items():
        error = differences([each.errors[-1] for each in mine], [each.errors[-1] for each in found])
        cells = [differences([each.probes[name] for each in mine], [each.probes[name] for each in found]) for name in names]
        yield f"| {TITLES[method]} | {error} | {' | '.join(cells)} |"
    yield ""


def latencies(reports: Mapping[str, Report]) -> Iterator[str]:
    """A line a method: medians by target, precision and length; the ratio is to the teacher in ONNX Runtime, in fp32."""
    yield "| | target | precision | 1 s, ms | against the teacher in ONNX Runtime, fp32 | 5 s, ms | against it |"
    yield "| --- | --- | --- | ---: | ---: | ---: | ---: |"
    for method, report in reports.items():
        findings = Findings(report)
        (latency,) = (probe for probe in report.probes if isinstance(probe, LatencyRecord))
        trained = [stage.name for stage in report.stages if stage.target is None][-1]
        stages = {TEACHER: ("source", "fp32"), TITLES[method]: (trained, "fp32"), f"{TITLES[method]}, int8": ("final", "int8")}
        for title, (stage, precision) in stages.items():
            if title == TEACHER and method != "joint":
                continue
            for target in findings.targets:
                cells = [timed(latency, f"{stage}@{target}", length) for length in LENGTHS.values()]
                yield f"| {title} | {target} | {precision} | {' | '.join(cells)} |"
    yield ""


def timed(latency: LatencyRecord, candidate: str, length: int) -> str:
    """Median and ratio to the teacher."""
    found = next((each for each in latency.rows if each.candidate == candidate and each.length == length), None)
    if found is None:
        return "- | -"
    ratio = next((each for each in latency.ratios if each.of == candidate and each.length == length), None)
    return f"{found.median_ms:.2f} | {against(ratio)}"


def budget_table(lab: Lab, rate: float) -> Iterator[str]:
    """What was asked for, what the step measured, and what the run's probe did afterwards."""
    yield "| target | asked for | by the table | measured by the step | measured by the probe |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for target in ("onnxruntime", "openvino"):
        for asked in RATIOS:
            report = lab.budgeted(target, asked, rate)
            text = next(n.text for n in report.stages[-1].notes if isinstance(n, Remark) and n.text.startswith("Latency on"))
            predicted, measured, before = (float(found) for found in re.findall(r"([\d.]+(?:e-?\d+)?) ms", text)[:3])
            (latency,) = (probe for probe in report.probes if isinstance(probe, LatencyRecord))
            (ratio,) = (each for each in latency.ratios if each.of == f"final@{target}")
            low, high = 1 / ratio.interval.high, 1 / ratio.interval.low
            yield (
                f"| {target} | {asked:.2f} | {predicted / before:.3f} | {measured / before:.3f} | {1 / ratio.value:.3f} "
                f"[{low:.3f}, {high:.3f}] |"
            )
    yield ""


def rate_table(lab: Lab) -> Iterator[str]:
    """Mean feature error and mean of the probes on validation rows, by learning rate."""
    yield f"| | {' | '.join(f'{rate:g}' for rate in RATES)} |"
    yield f"| --- |{' ---: |' * len(RATES)}"
    for method in RATED:
        found = [Cell(method, SEEDS[0], rate) for rate in RATES]
        errors = [float(np.mean(lab.errors(cell, "validation"))) for cell in found]
        shown = [f"**{error:.2f}**" if error == min(errors) else f"{error:.2f}" for error in errors]
        cells = (f"{error}, {100 * validation(lab.run(cell)):.2f}" for error, cell in zip(shown, found, strict=True))
        yield f"| {TITLES[method]} | {' | '.join(cells)} |"
    yield ""


def document(lab: Lab) -> str:
    """The page."""
    made = list(cells(lab))
    first = lab.run(made[0])
    ground = lab.grounds["test"]
    equal_steps: dict[str, list[Row]] = {method: [] for method in TITLES}
    equal_time: dict[str, list[Row]] = {method: [] for method in RATED[1:]}
    for number, cell in enumerate(made):
        kept = equal_steps if number < len(SEEDS) * len(TITLES) else equal_time
        kept[cell.method].append(row(lab, cell))
    source = probes(first, "source")
    rows = {split.name: split.rows for split in first.data.splits}
    long = [f"{TITLES[method]}: {found[0].epochs} epochs, {took(found)}" for method, found in equal_time.items()]
    quantised = {method: lab.timed(next(cell for cell in made if cell.method == method)) for method in TITLES}
    layers = probes_by_layer(ground.task, ground.teacher, ground.rows)
    return "\n".join(
        [
            "# Joint distillation and pruning of an encoder of speech: what was measured",
            "",
            "`python -m benchmarks.speech MODEL RECORDINGS` remakes this page.",
            "",
            *machine_lines(first),
            f"- Model: the encoder of Whisper-tiny, {LAYER_PARAMETERS:,} parameters in four layers; {BUDGET:,} are to stay, one layer's worth.",
            "- Data: Free Spoken Digit Dataset (CC BY-SA 4.0), sounds of 1 s; training on "
            f"{rows['train']:,} without labels, validation on {rows['validation']:,},",
            f"  test on {rows['test']:,}, takes 0 to {TEST_TAKES - 1} of each speaker and digit.",
            "- Probes: logistic regression on the mean over frames of the frozen encoder's output. `digit`: three folds, two of six",
            "  speakers held out in each; `speaker`: five folds over clips; `-10`: fitted on ten clips of each class.",
            "- Feature error: what the best linear map from a student's layer misses of the teacher's, on clips that it was not fitted on.",
            f"- Intervals: Student's t over seeds {', '.join(map(str, SEEDS))}, 95 %; bold where a difference leaves out 0.",
            "",
            "## Equal steps",
            "",
            f"{FIRST + SECOND} epochs each, of batches of 16 in the same order: joint's two stages count as {FIRST} and {SECOND}.",
            "",
            *table(equal_steps, source),
            *paired(equal_steps, {name: each for name, each in equal_steps.items() if name != "joint"}, list(source)),
            "## Equal time",
            "",
            f"The others train about as long as joint does, which takes {took(equal_steps['joint'])}, scoring after each epoch",
            f"included. {'; '.join(long)} (seed {SEEDS[-1]}). Random units are no way to make a model, and left out.",
            "",
            *table({**equal_time, "joint": equal_steps["joint"]}, source),
            *paired(equal_steps, equal_time, list(source)),
            "## Learning rates",
            "",
            "Mean feature error over layers and mean of the probes, both on validation rows, seed 0. The rate of the least error is taken",
            f"for all seeds; random units take joint's. (The probes of the teacher there are {100 * validation(first, 0):.2f}.)",
            "",
            *rate_table(lab),
            "## What the teacher's layers tell",
            "",
            "The same probes on each layer of the teacher, in percent. (The encoder's output is its last layer behind a norm.)",
            "",
            f"| layer | {' | '.join(layers)} |",
            f"| --- |{' ---: |' * len(layers)}",
            *(
                f"| {at + 1} | {' | '.join(f'{100 * each[at]:.2f}' for each in layers.values())} |"
                for at in range(len(ground.teacher))
            ),
            "",
            "## Budgets of latency",
            "",
            "Joint training for two epochs and one, to a fraction of the teacher's latency at batch 1, 1 s and one thread.",
            "",
            *budget_table(lab, made[0].rate),
            "## Latency",
            "",
            "Students of seed 0, batch 1, one thread, in interleaved rounds with the teacher.",
            "",
            *latencies(quantised),
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
    for cell in cells(lab):
        lab.run(cell)
    OUT.write_text(document(lab), encoding="utf-8")


if __name__ == "__main__":
    main()
