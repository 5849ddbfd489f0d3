"""From training on to int8: speed and probes of every file on the way, as a table and a chart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.studies.pages import against, latency_of, milliseconds, ratio_of
from benchmarks.studies.speech_lab import INT8, LENGTHS, METHODS, SEEDS, TARGETS, Lab
from compressor.contracts.records import LatencyRecord, Ratio, Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CHART = Path("docs/results/speech-frontier.svg")
TEACHER = "teacher"
FP32 = "fp32"
BASELINE = "source@onnxruntime"
SHORT = LENGTHS["1 s"]
FASTER, LOST = 6.0, 1.0
"""What is asked for: so many times as fast, and no probe more than so many points below."""
TITLES = {
    TEACHER: "teacher",
    "one-layer": "one layer, distilled",
    "uniform": "equal widths, distilled",
    "pruned": "pruned, then distilled",
    "random": "joint's widths, random units",
    "joint": "joint",
}
COLOURS = dict(zip(TITLES, ("#777777", "#8a6fae", "#3b76af", "#4f8a4c", "#c9a227", "#c0392b"), strict=True))
MARKERS = dict(zip(TARGETS, "os", strict=True))


@dataclass(frozen=True)
class Point:
    """One file of one run."""

    method: str
    seed: int
    target: str
    precision: str
    latency: LatencyRecord
    probes: Mapping[str, float]
    """In percent, on test rows."""

    @property
    def candidate(self) -> str:
        """Its name in its run."""
        return candidate(self.target, self.precision)

    def ms(self, length: int = SHORT) -> float:
        """Median latency."""
        return milliseconds(self.latency, self.candidate, length=length)

    def ratio(self, length: int = SHORT) -> Ratio:
        """To the teacher in ONNX Runtime, in fp32, timed in the same rounds."""
        return ratio_of(self.latency, self.candidate, to=BASELINE, length=length)

    def lost(self, teacher: Mapping[str, float]) -> float:
        """Points of the probe that lost most; negative where all have gained."""
        return max(teacher[name] - self.probes[name] for name in teacher)

    def meets(self, teacher: Mapping[str, float]) -> bool:
        """What is asked for, with the whole interval of the speed-up and the points as they are."""
        ratio = self.ratio()
        return ratio.outcome == "faster" and ratio.interval.low >= FASTER and self.lost(teacher) <= LOST


def points(lab: Lab) -> list[Point]:
    """Files of the teacher, of joint training with every seed, and of the others with the first."""
    found = list(files(lab.timed(None), TEACHER, SEEDS[0]))
    for method in METHODS:
        for seed in SEEDS if method == "joint" else SEEDS[:1]:
            found += files(lab.timed(lab.cell(method, seed, lab.best_rate(method))), method, seed)
    return found


def files(report: Report, method: str, seed: int) -> Iterator[Point]:
    """On each target in fp32 and in int8."""
    for target in TARGETS:
        for precision in (FP32, INT8):
            scores = accuracies(report, candidate(target, precision))
            yield Point(method, seed, target, precision, latency_of(report), scores)


def candidate(target: str, precision: str) -> str:
    """Name of a file of `Lab.timed`."""
    return f"final@{target}" if precision == FP32 else f"final@{target}-{precision}"


def accuracies(report: Report, candidate: str) -> dict[str, float]:
    """Of each probe on test rows, in percent."""
    scores = next(each.scores for each in report.candidates if each.id == candidate)
    assert scores is not None
    return {metric.name.removesuffix(" probe"): 100 * metric.value for metric in scores.metrics[1:]}


def table(found: Sequence[Point]) -> Iterator[str]:
    """A line a file; probes in points against the teacher's fp32 file in ONNX Runtime."""
    teacher = found[0].probes
    yield f"| | seed | target | precision | 1 s, ms | as fast | {' | '.join(teacher)} | meets both |"
    yield f"| --- | ---: | --- | --- | ---: | ---: |{' ---: |' * len(teacher)} --- |"
    for each in found:
        cells = " | ".join(f"{value - teacher[name]:+.2f}" for name, value in each.probes.items())
        where = f"| {TITLES[each.method]} | {each.seed} | {each.target} | {each.precision} | {each.ms():.2f}"
        yield f"{where} | {against(each.ratio())} | {cells} | {'yes' if each.meets(teacher) else 'no'} |"
    yield ""


def verdict(found: Sequence[Point]) -> str:
    """How many seeds of joint training meet what is asked for in OpenVINO."""
    teacher = found[0].probes
    asked = [each for each in found if (each.method, each.target, each.precision) == ("joint", "openvino", INT8)]
    slowest = min((each.ratio() for each in asked), key=lambda ratio: ratio.value)
    most = max(each.lost(teacher) for each in asked)
    lost = f"the most that a probe lost is {most:.2f} points" if most > 0 else f"each probe gained {-most:.2f} points or more"
    return (
        f"The goal: at least {FASTER:g}x, with the whole interval, and at most {LOST:g} point lost on each probe, by the int8 file in "
        f"OpenVINO. {sum(each.meets(teacher) for each in asked)} of {len(asked)} seeds of joint training meet both: the slowest has "
        f"{against(slowest)}, and {lost}."
    )


def lengths_table(found: Sequence[Point]) -> Iterator[str]:
    """Medians and ratios at every length, first seed."""
    heads = " | ".join(f"{name}, ms | as fast" for name in LENGTHS)
    yield f"| | target | precision | {heads} |"
    yield f"| --- | --- | --- |{' ---: | ---: |' * len(LENGTHS)}"
    for each in found:
        if each.seed == SEEDS[0]:
            cells = " | ".join(f"{each.ms(length):.2f} | {against(each.ratio(length))}" for length in LENGTHS.values())
            yield f"| {TITLES[each.method]} | {each.target} | {each.precision} | {cells} |"
    yield ""


def draw(found: Sequence[Point]) -> None:
    """A panel for each probe: accuracy against speed, what is asked for in dots."""
    from matplotlib import style
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    teacher, grey = found[0].probes, "#555555"
    settings = {"svg.hashsalt": CHART.stem, "font.size": 8.5, "axes.spines.top": False, "axes.spines.right": False}
    with style.context(["default", settings]):
        figure = Figure(figsize=(9.2, 6), layout="constrained")
        for axes, name in zip(figure.subplots(2, 2, sharex=True).flat, teacher, strict=True):
            panel(axes, found, name, teacher[name])
        figure.supxlabel("times as fast as the teacher in ONNX Runtime, fp32; batch 1, 1 s, one thread", fontsize=8.5)
        handles = [Line2D([], [], ls="", marker="o", color=colour, label=TITLES[method]) for method, colour in COLOURS.items()]
        handles += [Line2D([], [], ls="", marker=mark, color=grey, mfc="none", label=name) for name, mark in MARKERS.items()]
        handles += [Line2D([], [], ls="", marker="D", color=grey, label="filled: int8")]
        figure.legend(handles=handles, loc="outside upper center", ncols=5, frameon=False)
        figure.savefig(CHART, metadata={"Date": None, "Creator": None})


def panel(axes: Axes, found: Sequence[Point], name: str, teacher: float) -> None:
    """One probe."""
    axes.axhline(teacher - LOST, color="#999999", ls=":", lw=1)
    axes.axvline(FASTER, color="#999999", ls=":", lw=1)
    for each in found:
        colour = COLOURS[each.method]
        fill = colour if each.precision == INT8 else "white"
        axes.plot(each.ratio().value, each.probes[name], MARKERS[each.target], color=colour, mfc=fill, ms=6, mew=1.2)
    axes.set_title(f"{name} probe, %", loc="left", fontsize=9, fontweight="bold")
    axes.grid(color="#dddddd", lw=0.6)
    axes.set_axisbelow(True)
