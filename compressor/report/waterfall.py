"""The waterfall: quality, latency and size after each step, and what each step changed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from textwrap import fill
from typing import TYPE_CHECKING

from compressor.contracts.records import Interval
from compressor.report import wording
from compressor.report.axes import beside, padded, whiskers
from compressor.report.drawing import (
    ACCENT,
    ACCENT_SOFT,
    INK,
    MUTED,
    PAPER,
    Chart,
    bare,
    draw,
)
from compressor.report.findings import Findings, Step

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROW_INCHES = 0.34
TITLE_INCHES = 0.16
TITLE_LETTERS = 26
"""As many as fit above one of three charts; a metric's and a workload's name can be longer."""


def waterfall(findings: Findings, target: str) -> Chart:
    """Quality, latency and size after each step, and what each step changed."""
    steps = findings.chain(target)
    metric = next((step.quality.name for step in steps if step.quality), "quality")
    at = f" at {findings.workloads[0]}" if findings.workloads else ""
    titles = [fill(title, TITLE_LETTERS) for title in (f"{metric} on validation", f"median latency{at}", "size")]

    def paint(figure: Figure) -> None:
        quality, latency, size = figure.subplots(1, 3, sharey=True)
        _quality_steps(quality, steps, reference=findings.report.reference)
        _shrinking_bars(latency, [step.latency.median_ms if step.latency else None for step in steps], wording.milliseconds)
        _shrinking_bars(size, [step.bytes for step in steps], wording.size)
        for axes, title in zip((quality, latency, size), titles, strict=True):
            axes.set_title(title)
        names = [wording.step(wording.shortened(step.name, 26), rolled_back=step.rolled_back) for step in steps]
        quality.set_yticks(range(len(steps)), names)
        quality.set_ylim(len(steps) - 0.4, -0.6)

    return draw(
        f"waterfall-{target}",
        paint,
        title=f"From source to {target}",
        caption="What is left after each step. Hatched is what the step took away; changes are against the step measured before. "
        f"Sizes of steps on the torch model are of that model, the last one is of what {target} deploys.",
        height_inches=0.59 + TITLE_INCHES * max(title.count("\n") + 1 for title in titles) + ROW_INCHES * len(steps),
    )


def _quality_steps(axes: Axes, steps: Sequence[Step], *, reference: str) -> None:
    bare(axes, grid="x")
    axes.set_xlim(*_quality_limits(steps, reference))
    axes.tick_params(axis="y", pad=9)
    before: float | None = None
    write = next((wording.on_scale(step.quality) for step in steps if step.quality), wording.percent)
    for place, step in enumerate(steps):
        if step.quality is None:
            beside(axes, place, "not measured", MUTED)
            continue
        value = step.quality.value
        if not math.isfinite(value):
            beside(axes, place, "not finite", MUTED)
            continue
        if before is not None:
            axes.plot([before, value], [place - 1, place], color=MUTED, lw=0.7, zorder=1)
        _quality_mark(axes, value, place, interval=step.quality.interval)
        beside(axes, place, write(value), INK)
        beside(axes, place, "" if before is None else wording.step_between(before, step.quality), MUTED, column=1)
        before = value
    _few_ticks(axes, write)


def _quality_limits(steps: Sequence[Step], reference: str) -> tuple[float, float]:
    """Ends of the axis: a source with an untrained head would squeeze everything else into one corner."""
    names = [step.name for step in steps]
    first = names.index(reference) if reference in names else 0
    shown = [step.quality for step in steps[first:] if step.quality] or [step.quality for step in steps if step.quality]
    return padded(shown)


def _quality_mark(axes: Axes, value: float, place: int, *, interval: Interval | None) -> None:
    low, high = axes.get_xlim()
    if low <= value <= high:
        axes.errorbar(value, place, xerr=whiskers(value, interval), fmt="o", color=ACCENT, ms=5.5, capsize=3, lw=1.2)
    else:
        edge, marker = (low, "<") if value < low else (high, ">")
        axes.plot(edge, place, marker, color=ACCENT, mfc=PAPER, ms=6, clip_on=False)


def _shrinking_bars(axes: Axes, values: Sequence[float | None], write: Callable[[float | None], str]) -> None:
    bare(axes, grid="x")
    before: float | None = None
    for place, value in enumerate(values):
        if value is None:
            beside(axes, place, "not measured", MUTED)
            continue
        axes.barh(place, value, height=0.58, color=ACCENT if place == len(values) - 1 else ACCENT_SOFT, edgecolor=ACCENT, lw=0.8)
        if before is not None and before > value:
            axes.barh(place, before - value, left=value, height=0.58, fill=False, edgecolor=MUTED, hatch="////", lw=0.5)
        beside(axes, place, write(value), INK)
        beside(axes, place, wording.change(before, value), MUTED, column=1)
        before = value
    axes.set_xlim(left=0)
    _few_ticks(axes, write)


def _few_ticks(axes: Axes, write: Callable[[float], str]) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(2))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: write(value)))
