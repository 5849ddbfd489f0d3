"""Quality against latency: every candidate that was scored and timed on the same file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

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
    """Test quality against median latency of every candidate measured, both with intervals."""
    rows = [row for row in map(findings.row, findings.report.candidates) if row.latency and row.quality]
    if not rows:
        return None
    metric = rows[0].candidate.scores.metric if rows[0].candidate.scores else "quality"

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        bare(axes, grid="both")
        _limit_trade_off(axes, rows, reference=findings.report.reference)
        points = [_mark_trade_off(axes, row, findings.targets.index(row.candidate.target)) for row in rows]
        axes.set_xlabel(f"median latency in ms at {findings.workloads[0]} (left is faster)")
        axes.set_ylabel(f"{metric} on test in %")
        _legend_of_targets(
            axes, [target for target in findings.targets if any(row.candidate.target == target for row in rows)], findings
        )
        place_labels(axes, points)

    return draw(
        "trade-off",
        paint,
        title="Quality against latency",
        caption="Every candidate that was scored and timed on the same file. Up and left is better; bars are intervals; "
        "the marker tells the target, filled is the final model. A hollow triangle at the edge lies outside the axis.",
        height_inches=4.4,
    )


def _limit_trade_off(axes: Axes, rows: Sequence[Row], *, reference: str) -> None:
    trained = [row for row in rows if row.candidate.stage != "source" or reference == "source"] or rows
    low, high = padded([row.quality for row in trained if row.quality])
    axes.set_ylim(100 * low, 100 * high)
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
    x, y, final = row.latency.median_ms, 100 * row.quality.value, row.candidate.stage == "final"
    color, fill = (ACCENT, ACCENT) if final else (MUTED, PAPER)
    low, high = axes.get_ylim()
    if not low <= y <= high:
        edge = low if y < low else high
        axes.plot(x, edge, "v" if y < low else "^", color=color, mfc="none", ms=7, clip_on=False)
        return Named(x, edge, f"{wording.shortened(row.candidate.id, 30)}, {wording.percent(y / 100)}")
    across, along = row.latency.interval, row.quality.interval
    percent = None if along is None else along.model_copy(update={"low": 100 * along.low, "high": 100 * along.high})
    axes.errorbar(x, y, xerr=whiskers(x, across), yerr=whiskers(y, percent), fmt="none", ecolor=color, lw=0.9, alpha=0.8)
    axes.plot(x, y, MARKERS[target % len(MARKERS)], color=color, mfc=fill, ms=7.5, mew=1.3, zorder=3)
    lines = [(across.low, y, across.high, y), *([(x, percent.low, x, percent.high)] if percent else [])]
    return Named(x, y, wording.shortened(row.candidate.id if final else row.candidate.stage, 30), tuple(lines))


def _legend_of_targets(axes: Axes, targets: Sequence[str], findings: Findings) -> None:
    from matplotlib.lines import Line2D

    def handle(target: str) -> Line2D:
        marker = MARKERS[findings.targets.index(target) % len(MARKERS)]
        return Line2D([], [], ls="", marker=marker, color=MUTED, mfc=PAPER, ms=7, label=wording.shortened(target, 40))

    axes.figure.legend(handles=[handle(target) for target in targets], loc="outside upper left", ncols=min(len(targets), 4))
