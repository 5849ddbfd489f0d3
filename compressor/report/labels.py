"""Names beside points, moved until they neither cover one another nor leave the chart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from compressor.report.drawing import INK, MUTED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

ALIGNMENTS = {1: "left", 0: "center", -1: "right"}
DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))
GAPS = (9, 16, 26, 40, 58, 80, 110)
"""Distances from the point that are tried, in points of type."""


@dataclass(frozen=True)
class Named:
    """A point in data coordinates, its name, and the lines `(x, y, x, y)` of its error bars."""

    x: float
    y: float
    name: str
    lines: tuple[tuple[float, float, float, float], ...] = ()


def place_labels(axes: Axes, points: Sequence[Named]) -> None:
    """Write each name at the free place nearest to its point, with a thin line where it had to move far."""
    axes.get_figure(root=True).draw_without_rendering()  # type: ignore[union-attr]  # room is measured in a layout that stands
    taken = [box for point in points for box in _obstacles(axes, point)]
    for point in points:
        taken.append(_place(axes, point, taken=taken))


def _obstacles(axes: Axes, point: Named) -> Iterator[Bbox]:
    from matplotlib.transforms import Bbox

    yield Bbox([axes.transData.transform((point.x, point.y))] * 2).padded(6)
    for x0, y0, x1, y1 in point.lines:
        ends = Bbox(axes.transData.transform([(x0, y0), (x1, y1)])).padded(1)
        if seen := Bbox.intersection(ends, axes.bbox):
            yield seen


def _place(axes: Axes, point: Named, *, taken: Sequence[Bbox]) -> Bbox:
    tried = []
    for number, (gap, (right, up)) in enumerate(product(GAPS, DIRECTIONS)):
        label = _annotate(axes, point, offset=(right * gap, up * gap))
        box = label.get_window_extent().padded(1.5)
        label.remove()
        cost = _outside(axes.bbox, box) + sum(_overlap(other, box) for other in taken)
        tried.append((cost, number, (right * gap, up * gap), box))
        if cost < 1:
            break
    _, _, offset, box = min(tried, key=lambda found: found[:2])
    _annotate(axes, point, offset=offset, line=max(map(abs, offset)) > GAPS[1]).set_in_layout(False)
    return box


def _annotate(axes: Axes, point: Named, *, offset: tuple[int, int], line: bool = False) -> Annotation:
    right, up = (0 if part == 0 else part // abs(part) for part in offset)
    return axes.annotate(
        point.name,
        (point.x, point.y),
        offset,
        textcoords="offset points",
        ha=ALIGNMENTS[right],
        va="center" if up == 0 else "bottom" if up > 0 else "top",
        color=INK,
        zorder=5,
        arrowprops={"arrowstyle": "-", "color": MUTED, "lw": 0.7, "shrinkA": 1, "shrinkB": 4} if line else None,
    )


def _overlap(one: Bbox, other: Bbox) -> float:
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return float(max(width, 0.0) * max(height, 0.0))


def _outside(frame: Bbox, box: Bbox) -> float:
    return float(box.width * box.height) - _overlap(frame, box)
