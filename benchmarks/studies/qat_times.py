"""Size, latency and quality of the files of `benchmarks.studies.qat_others`, as a table and a chart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from benchmarks.latency import Latency
from benchmarks.statistics import ratio_with_interval
from benchmarks.studies.lm_lab import kept
from benchmarks.studies.lm_runtimes import told
from benchmarks.studies.pages import controls
from benchmarks.studies.qat_cells import ROUNDED, TARGETS, TAUGHT, TOOLS, Case, Found, gains
from compressor.contracts import Candidate, Target, Workload, registry
from compressor.contracts.records import LatencyRecord
from compressor.deploy.bench import ProcessBench
from compressor.plan.bound import load_plan
from compressor.report import EVALUATIONS, read_report
from compressor.run.rows import rows_in

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from benchmarks.studies.qat_study import Study

PART = "time"
FLOAT = "fp32"
NAMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
SECONDS = {"pictures": 170.0, "speech": 80.0}
"""For each case: five minutes in all, with what is built before."""
ROUNDS, CONTROLS, INPUTS = 7, 2, 8
COLOURS = {FLOAT: "#777777", "W8A8": "#3b76af", "W4A8": "#c0392b"}
MARKERS = dict(zip(TARGETS, "os", strict=True))
There: TypeAlias = "Mapping[str, Mapping[str, Mapping[int, Found]]]"
"""By part, method and seed."""
Times: TypeAlias = Mapping[str, LatencyRecord]
"""By case."""


@dataclass(frozen=True)
class Point:
    """One file: of the first seed, where it was trained."""

    data: str
    scheme: str
    method: str
    target: str
    megabytes: float
    accuracy: float
    """In percent of test rows."""
    path: Path
    record: LatencyRecord | None = None

    @property
    def stage(self) -> str:
        """As it is named where it is timed."""
        return FLOAT if self.scheme == FLOAT else f"{self.scheme}-{self.method.replace(' ', '-')}"

    @property
    def candidate(self) -> str:
        """Stage and target."""
        return f"{self.stage}@{self.target}"

    @property
    def rounds(self) -> Sequence[float] | None:
        """Milliseconds of each round; None where it was not timed."""
        rows = self.record.rows if self.record else ()
        return next((row.rounds_ms for row in rows if row.candidate == self.candidate), None)

    @property
    def ms(self) -> float | None:
        """Median of a call of one row."""
        rows = self.record.rows if self.record else ()
        return next((row.median_ms for row in rows if row.candidate == self.candidate), None)


def points(study: Study, there: There, times: Times) -> list[Point]:
    """Of each case the float files first, then those of each part."""
    found: list[Point] = []
    for part, methods in there.items():
        data, scheme = part.split("-")
        for method, seeds in methods.items():
            seed, one = next(iter(seeds.items()))
            run = study.book.folder / study.cell(part, method, seed).name / "run"
            if not any(each.data == data for each in found):
                found += floats(study.book.cases[data], run, times.get(data))
            for target in one.right:
                path = run / "artifacts" / f"final@{target}"
                found.append(
                    Point(data, scheme, method, target, one.megabytes[target], one.accuracy(target), path, times.get(data))
                )
    return found


def floats(case: Case, run: Path, record: LatencyRecord | None) -> Iterator[Point]:
    """The files that all others of a case are made of."""
    sizes = {each.id: each.bytes / 1e6 for each in read_report(run).candidates}
    for target in TARGETS:
        name = f"{case.base}@{target}"
        accuracy = 100 * float(gains(run / EVALUATIONS / name).mean())
        yield Point(case.name, FLOAT, "float", target, sizes[name], accuracy, run / "artifacts" / name, record)


def times(study: Study, there: There, *, run: bool) -> dict[str, LatencyRecord]:
    """By case, what was measured, or is now."""
    found = {}
    for data in dict.fromkeys(part.split("-")[0] for part in there):
        path = study.book.folder / f"times-{data}.json"
        if run or path.is_file():
            mine = [each for each in points(study, there, {}) if each.data == data]
            found[data] = LatencyRecord.model_validate(kept(path, partial(_dumped, study, mine)))
    return found


def _dumped(study: Study, files: Sequence[Point]) -> dict[str, Any]:
    return measured(study, files).model_dump(mode="json")


def measured(study: Study, files: Sequence[Point]) -> LatencyRecord:
    """One row at a time, all files of a case in interleaved rounds; the float file in ONNX Runtime is the baseline."""
    runtimes: Mapping[str, Target] = {name: registry.load("target", name)(threads=1) for name in TARGETS}
    bound = load_plan(files[-1].path.parents[1] / "plan.yaml")
    candidates = [
        Candidate(each.candidate, each.stage, each.target, runtimes[each.target], each.path, bound.task) for each in files
    ]
    workload = Workload()
    feeds = bound.task.feeds(rows_in(bound).split("test"), files[0].path, workload, count=INPUTS)
    probe = Latency(
        rounds=ROUNDS,
        seconds=SECONDS[files[0].data],
        inputs=INPUTS,
        warm_up_seconds=0.3,
        controls=CONTROLS,
        control_limit=0.1,
    )
    with ProcessBench(study.book.folder / "bench", tell=told) as bench:
        return probe.measure(candidates, {workload: feeds}, bench, seed=0)


# ------------------------------------------------------------------ the page


def section(study: Study, there: There, times: Times) -> Iterator[str]:
    """A table of all files, the chart, and whether ours are as fast as the tools'."""
    found = points(study, there, times)
    yield "Files of the first seed; one row at a time, one thread, all files of a case in interleaved rounds. `as fast`: over the float file"
    yield "in ONNX Runtime, with 95 % intervals. *: no other file of the case is both better and smaller; **: nor better and faster."
    yield ""
    yield "![size, latency and quality](qat-others.svg)"
    for data in dict.fromkeys(each.data for each in found):
        mine = [each for each in found if each.data == data]
        yield from ("", f"### {study.book.cases[data].title}: files", "")
        if data in times:
            record = times[data]
            yield f"{controls([record])} Other processes took {record.load_before:.0%} of the processors before and {record.load_after:.0%} after."
        else:
            yield "**Not timed**: `--only time` does it, on a still machine."
        yield ""
        yield "| scheme | method | target | accuracy, % | MB | ms | as fast |"
        yield f"| --- | --- | --- |{' ---: |' * 4}"
        yield from (line(each, mine) for each in mine)
        if reached := list(goals(mine)):
            yield from ("", *reached)


def line(point: Point, all_of_case: Sequence[Point]) -> str:
    """Of the table."""
    smallest = "\\*" if not any(beats(other, point, "megabytes") for other in all_of_case) else ""
    fastest = "\\*\\*" if point.ms is not None and not any(beats(other, point, "ms") for other in all_of_case) else ""
    milliseconds, fast = "not timed", ""
    if point.ms is not None:
        value, low, high = over(all_of_case[0], point)
        milliseconds, fast = f"{point.ms:.2f}{fastest}", f"{value:.2f}x [{low:.2f}, {high:.2f}]"
    size, where = f"{point.megabytes:.1f}{smallest}", NAMES[point.target]
    return f"| {point.scheme} | {point.method} | {where} | {point.accuracy:.2f} | {size} | {milliseconds} | {fast} |"


def beats(other: Point, point: Point, what: str) -> bool:
    """Whether another file is at least as good and as small or fast, and better in one of them."""
    mine, theirs = getattr(point, what), getattr(other, what)
    if mine is None or theirs is None:
        return False
    return other.accuracy >= point.accuracy and theirs <= mine and (other.accuracy, theirs) != (point.accuracy, mine)


def over(slow: Point, fast: Point) -> tuple[float, float, float]:
    """How many times as fast the second is as the first, with an interval that has what processes of one file differ by in it."""
    assert slow.rounds is not None
    assert fast.rounds is not None
    value, around = ratio_with_interval(slow.rounds, fast.rounds, seed=0)
    noise = 1 + max((control.noise for control in fast.record.controls), default=0.0) if fast.record else 1.0
    return value, around.low / noise, around.high * noise


def goals(found: Sequence[Point]) -> Iterator[str]:
    """Whether our files of 8 bits are no slower than the tools' fastest, and those of 4 bits smaller than theirs of 8."""
    tools = [each for each in found if each.method == TOOLS]
    ours = [each for each in found if each.method in (ROUNDED, *TAUGHT)]
    best = min((each for each in tools if each.ms is not None), key=lambda each: each.ms or 0.0, default=None)
    for each in ours:
        if each.scheme == "W8A8" and each.ms is not None and best is not None:
            value, low, high = over(best, each)
            held = "held" if low >= 1 else "missed" if high < 1 else "undecided"
            yield (
                f"- {each.method} at W8A8 in {NAMES[each.target]}: no slower than the tools' fastest of 8 bits ({NAMES[best.target]}): {value:.2f}x "
                f"as fast [{low:.2f}, {high:.2f}]: {held}."
            )
        elif each.scheme == "W4A8" and (same := [one for one in tools if one.target == each.target]):
            held = "held" if each.megabytes < same[0].megabytes else "missed"
            yield (
                f"- {each.method} at W4A8 in {NAMES[each.target]}: smaller than the tools' file of 8 bits there: {each.megabytes:.1f} MB against "
                f"{same[0].megabytes:.1f}, {each.accuracy - same[0].accuracy:+.2f} points: {held}."
            )


def draw(found: Sequence[Point], out: Path) -> None:
    """A row for each case: accuracy against size, and against latency where it was timed."""
    from matplotlib import style
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    cases = list(dict.fromkeys(each.data for each in found))
    settings = {"svg.hashsalt": out.stem, "font.size": 8.5, "axes.spines.top": False, "axes.spines.right": False}
    with style.context(["default", settings]):
        figure = Figure(figsize=(9.2, 0.6 + 2.9 * len(cases)), layout="constrained")
        for axes, data in zip(figure.subplots(len(cases), 2, squeeze=False), cases, strict=True):
            mine = [each for each in found if each.data == data]
            panel(axes[0], mine, "megabytes", f"{data}: accuracy, %, by MB")
            panel(axes[1], mine, "ms", f"{data}: accuracy, %, by ms of one row")
        grey = "#555555"
        handles = [Line2D([], [], ls="", marker="o", color=colour, label=name) for name, colour in COLOURS.items()]
        handles += [
            Line2D([], [], ls="", marker=mark, color=grey, mfc="none", label=NAMES[name]) for name, mark in MARKERS.items()
        ]
        handles += [Line2D([], [], ls="", marker="D", color=grey, label="filled: trained, or float")]
        figure.legend(handles=handles, loc="outside upper center", ncols=6, frameon=False)
        figure.savefig(out, metadata={"Date": None, "Creator": None})


def panel(axes: Axes, found: Sequence[Point], what: str, title: str) -> None:
    """Files of one case; the line joins those that none beats."""
    axes.set_title(title, loc="left", fontsize=9, fontweight="bold")
    axes.grid(color="#dddddd", lw=0.6)
    axes.set_axisbelow(True)
    shown = [each for each in found if getattr(each, what) is not None]
    if not shown:
        axes.text(0.5, 0.5, "not timed", ha="center", transform=axes.transAxes, color="#777777")
        return
    front = sorted(
        (each for each in shown if not any(beats(other, each, what) for other in shown)),
        key=lambda each: float(getattr(each, what)),
    )
    axes.plot([getattr(each, what) for each in front], [each.accuracy for each in front], color="#bbbbbb", lw=1, zorder=1)
    for each in shown:
        colour = COLOURS[each.scheme]
        fill = colour if each.method in TAUGHT or each.scheme == FLOAT else "white"
        axes.plot(getattr(each, what), each.accuracy, MARKERS[each.target], color=colour, mfc=fill, ms=6, mew=1.2)
