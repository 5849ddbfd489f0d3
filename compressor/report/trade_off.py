"""Quality against latency: every candidate that was scored and timed on the same file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from compressor.contracts.records import Metric
from compressor.report import wording
from compressor.report.axes import padded, whiskers
from compressor.report.drawing import (
    ACCENT,
    MARKERS,
    MUTED,
    PAPER,
    Chart,
    bare,
    draw,
)
from compressor.report.findings import Findings, Row
from compressor.report.labels import Named, place_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def trade_off(findings: Findings) -> Chart | None:
    """Test quality against median latency of every candidate measured, both with intervals; what is not finite has no place."""
    found = [row for row in map(findings.row, findings.report.candidates) if row.latency and row.quality]
    rows = [row for row in found if row.quality and math.isfinite(row.quality.value)]
    if not rows:
        return None
    metric = next(row.quality for row in rows if row.quality)

    upside_down = "" if metric.better == "higher" else f" (the axis of {metric.name} is upside down)"

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        bare(axes, grid="both")
        _limit_trade_off(axes, rows, reference=findings.report.reference)
        points = [_mark_trade_off(axes, row, findings.targets.index(row.candidate.target)) for row in rows]
        axes.set_xlabel(f"median latency in ms at {findings.workloads[0]} (left is faster)")
        axes.set_ylabel(f"{metric.name} on test{' in %' if metric.in_percent else ''}")
        _legend_of_targets(
            axes, [target for target in findings.targets if any(row.candidate.target == target for row in rows)], findings
        )
        place_labels(axes, points)

    return draw(
        "trade-off",
        paint,
        title="Quality against latency",
        caption=f"Every candidate that was scored and timed on the same file. Up and left is better{upside_down}; bars are intervals; "
        "the marker tells the target, filled is the final model. A hollow triangle at the edge lies outside the axis.",
        height_inches=4.4,
    )


def _limit_trade_off(axes: Axes, rows: Sequence[Row], *, reference: str) -> None:
    trained = [row for row in rows if row.candidate.stage != "source" or reference == "source"] or rows
    shown = [row.quality for row in trained if row.quality]
    low, high = (_scale(shown[0]) * end for end in padded(shown))
    axes.set_ylim((low, high) if shown[0].better == "higher" else (high, low))
    times = [row.latency.median_ms for row in rows if row.latency]
    if max(times) > 4 * min(times):
        from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlim(min(times) / 1.35, max(times) * 1.35)
    else:
        axes.set_xlim(0, max(times) * 1.15)


def _mark_trade_off(axes: Axes, row: Row, target: int) -> Named:
    if row.latency is None or row.quality is None:  # both are there: the caller filtered on it
        raise AssertionError(row.candidate.id)
    scale = _scale(row.quality)
    x, y, final = row.latency.median_ms, scale * row.quality.value, row.candidate.stage == "final"
    color, fill = (ACCENT, ACCENT) if final else (MUTED, PAPER)
    bottom, top = axes.get_ylim()
    if not min(bottom, top) <= y <= max(bottom, top):
        below = (y < bottom) == (bottom < top)
        edge = bottom if below else top
        axes.plot(x, edge, "v" if below else "^", color=color, mfc="none", ms=7, clip_on=False)
        return Named(x, edge, f"{wording.shortened(row.candidate.id, 30)}, {wording.metric(row.quality)}")
    across, along = row.latency.interval, row.quality.interval
    scaled = None if along is None else along.model_copy(update={"low": scale * along.low, "high": scale * along.high})
    axes.errorbar(x, y, xerr=whiskers(x, across), yerr=whiskers(y, scaled), fmt="none", ecolor=color, lw=0.9, alpha=0.8)
    axes.plot(x, y, MARKERS[target % len(MARKERS)], color=color, mfc=fill, ms=7.5, mew=1.3, zorder=3)
    lines = [(across.low, y, across.high, y), *([(x, scaled.low, x, scaled.high)] if scaled else [])]
    return Named(x, y, wording.shortened(row.candidate.id if final else row.candidate.stage, 30), tuple(lines))


def _scale(metric: Metric) -> float:
    """Fractions are drawn in per cent, all else as it is."""
    return 100.0 if metric.in_percent else 1.0


def _legend_of_targets(axes: Axes, targets: Sequence[str], findings: Findings) -> None:
    from matplotlib.lines import Line2D

    def handle(target: str) -> Line2D:
        marker = MARKERS[findings.targets.index(target) % len(MARKERS)]
        return Line2D([], [], ls="", marker=marker, color=MUTED, mfc=PAPER, ms=7, label=wording.shortened(target, 40))

    axes.figure.legend(handles=[handle(target) for target in targets], loc="outside upper left", ncols=min(len(targets), 4))
