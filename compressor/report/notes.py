"""Charts that a pass asked for: curves and bars, drawn for any pass alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compressor.contracts.notes import Bars, Series
from compressor.report import wording
from compressor.report.drawing import ACCENT, ACCENT_SOFT, DASHES, INK, MARKERS, MUTED, SECOND, SECOND_SOFT, Chart, bare, draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_BARS = 60
POINTS_DRAWN = 300
MARKS = 10
"""Markers along one curve: enough to tell curves apart without colour."""


def curves(note: Series, *, name: str) -> Chart | None:
    """Curves over one axis, told apart by dash and marker."""
    if not any(note.curves.values()):
        return None

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        bare(axes, grid="y")
        for number, (label, values) in enumerate(note.curves.items()):
            step = max(1, len(values) // POINTS_DRAWN)
            shown = (*values[::step], *values[-1:]) if step > 1 else values
            axes.plot(
                [x for x, _ in shown],
                [y for _, y in shown],
                color=(ACCENT, SECOND, INK, MUTED)[number % 4],
                ls=DASHES[number // 4 % len(DASHES)],
                marker=MARKERS[number % len(MARKERS)],
                markevery=max(1, len(shown) // MARKS),
                ms=4,
                lw=1.5,
                label=wording.shortened(label, 40),
            )
        axes.set_xlabel(note.x)
        axes.set_ylabel(note.y)
        if len(note.curves) > 1:
            figure.legend(loc="outside upper left", ncols=min(len(note.curves), 4))

    ends = "; ".join(f"{label} ends at {wording.significant(values[-1][1])}" for label, values in note.curves.items() if values)
    return draw(name, paint, title=note.title, caption=f"{note.y} over {note.x}: {ends}.", height_inches=2.8)


def bars(note: Bars, *, name: str) -> Chart | None:
    """One bar per label, those marked hatched, with whiskers where there are intervals."""
    if not note.values:
        return None
    shown = dict(list(note.values.items())[:MOST_BARS])

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        bare(axes, grid="x")
        for place, (label, value) in enumerate(shown.items()):
            _bar(axes, place, value, note.intervals.get(label), marked=label in note.marked)
        axes.set_yticks(range(len(shown)), [wording.shortened(label, 46) for label in shown])
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.margins(x=0.12)
        axes.set_xlabel(note.unit)

    marked = f" Hatched: {note.mark}." if note.marked and note.mark else ""
    whiskers = " Whiskers: 95 % intervals." if note.intervals else ""
    left_out = f" The first {len(shown)} of {len(note.values)}." if len(shown) < len(note.values) else ""
    return draw(
        name,
        paint,
        title=note.title,
        caption=f"In {note.unit}.{marked}{whiskers}{left_out}",
        height_inches=0.7 + 0.26 * len(shown),
    )


def _bar(axes: Axes, place: int, value: float, interval: tuple[float, float] | None, *, marked: bool) -> None:
    soft, strong = (SECOND_SOFT, SECOND) if marked else (ACCENT_SOFT, ACCENT)
    axes.barh(place, value, 0.6, color=soft, edgecolor=strong, lw=0.8, hatch="////" if marked else "")
    ahead = value >= 0
    low, high = interval or (value, value)
    if interval:
        axes.hlines(place, low, high, color=INK, lw=0.9)
    axes.annotate(
        wording.trimmed(value),
        (max(value, high) if ahead else min(value, low), place),
        (4 if ahead else -4, 0),
        textcoords="offset points",
        va="center",
        ha="left" if ahead else "right",
        fontsize=7.5,
    )
