"""The charts of what the latency probe measured: the distribution of the calls, and the throughput."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from compressor.contracts.records import LatencyRow, Workload
from compressor.report import wording
from compressor.report.drawing import ACCENT, ACCENT_SOFT, INK, MUTED, PAPER, Chart, bare, draw
from compressor.report.findings import Findings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POINTS_DRAWN = 150
"""Calls drawn as points, by candidate: the rest only shapes the box. `report.json` has them all."""


def distribution(findings: Findings, workload: Workload) -> Chart:
    """All calls of every candidate at one workload, as boxes over points."""
    rows = [row for (_, at), row in findings.rows.items() if at == workload]

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        bare(axes, grid="x")
        for place, row in enumerate(rows):
            _box_and_points(axes, place, row)
        _log_milliseconds(axes, rows)
        axes.set_yticks(range(len(rows)), [f"{wording.shortened(row.candidate, 40)}" for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlabel("ms a call, logarithmic")

    drawn = f"; at most {POINTS_DRAWN} of the calls are drawn" if any(row.n > POINTS_DRAWN for row in rows) else ""
    return draw(
        f"distribution-{_slug(workload)}",
        paint,
        title=f"Every call at {workload}",
        caption=f"Box: quartiles and median; whiskers: 5th and 95th percentile; points: single calls{drawn}.",
        height_inches=0.75 + 0.42 * len(rows),
    )


def _slug(workload: Workload) -> str:
    kind = "" if workload.kind == "forward" else f"{workload.kind}-"
    return f"{kind}{workload.batch}-{workload.length or 'any'}"


def _box_and_points(axes: Axes, place: int, row: LatencyRow) -> None:
    calls = [call for samples in row.samples_ms for call in samples]
    final = row.candidate.startswith("final@")
    if calls:
        drawn = _some(calls, row.candidate)
        wobble = random.Random(row.candidate)
        axes.plot(
            drawn,
            [place + wobble.uniform(-0.27, 0.27) for _ in drawn],
            ".",
            color=MUTED,
            ms=2.6,
            alpha=0.5,
            mew=0,
            rasterized=False,
        )
        axes.boxplot(
            calls,
            positions=[place],
            orientation="horizontal",
            widths=0.5,
            whis=(5, 95),
            showfliers=False,
            patch_artist=True,
            boxprops={"facecolor": ACCENT_SOFT if final else PAPER, "edgecolor": ACCENT if final else INK, "alpha": 0.85},
            medianprops={"color": ACCENT if final else INK, "lw": 2},
            whiskerprops={"color": ACCENT if final else INK},
            capprops={"color": ACCENT if final else INK},
            manage_ticks=False,
        )
    axes.annotate(
        wording.milliseconds(row.median_ms), (1.02, place), xycoords=("axes fraction", "data"), va="center", annotation_clip=False
    )


def _some(calls: Sequence[float], seed: str) -> list[float]:
    """Evenly spaced quantiles and both ends: the picture of all calls with fewer points."""
    if len(calls) <= POINTS_DRAWN:
        return list(calls)
    ordered, last = sorted(calls), POINTS_DRAWN - 1
    kept = [ordered[round(place * (len(ordered) - 1) / last)] for place in range(POINTS_DRAWN)]
    random.Random(seed).shuffle(kept)
    return kept


def _log_milliseconds(axes: Axes, rows: Sequence[LatencyRow]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    calls = [call for row in rows for samples in row.samples_ms for call in samples] or [row.median_ms for row in rows]
    axes.set_xscale("log")
    axes.set_xlim(min(calls) / 1.1, max(calls) * 1.1)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def throughput(findings: Findings) -> Chart:
    """Throughput of every candidate, one panel per workload."""
    names = list(dict.fromkeys(candidate for candidate, _ in findings.rows))
    workloads = findings.workloads[:4]

    def paint(figure: Figure) -> None:
        panels = figure.subplots(1, len(workloads), sharey=True, squeeze=False)[0]
        for axes, workload in zip(panels, workloads, strict=True):
            bare(axes, grid="x")
            for place, name in enumerate(names):
                _throughput_bar(axes, place, findings.rows.get((name, workload)))
            axes.set_title(str(workload))
            axes.set_xlabel(wording.throughput_unit(workload.unit))
            axes.locator_params(axis="x", nbins=3)
            axes.margins(x=0.3)
            axes.set_xlim(left=0)
        panels[0].set_yticks(range(len(names)), [wording.shortened(name, 40) for name in names])
        panels[0].set_ylim(len(names) - 0.4, -0.6)

    caption = "What one call makes divided by its median latency. Longer is better; hatched is the final model."
    return draw("throughput", paint, title="Throughput", caption=caption, height_inches=0.9 + 0.3 * len(names))


def _throughput_bar(axes: Axes, place: int, row: LatencyRow | None) -> None:
    if row is None:
        axes.annotate("not measured", (0, place), (4, 0), textcoords="offset points", va="center", color=MUTED)
        return
    final = row.candidate.startswith("final@")
    axes.barh(place, row.throughput_per_s, 0.56, color=ACCENT_SOFT, edgecolor=ACCENT, lw=0.8, hatch="////" if final else "")
    text = wording.significant(row.throughput_per_s)
    axes.annotate(text, (row.throughput_per_s, place), (4, 0), textcoords="offset points", va="center")
