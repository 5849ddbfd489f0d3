"""What charts of metrics have in common: the ends of an axis, the whiskers of an interval, a column of text beside the rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from compressor.contracts.records import Interval, Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def whiskers(value: float, interval: Interval | None) -> list[list[float]] | None:
    """Error-bar lengths below and above `value`; an interval need not contain it. One that is not finite is not drawn."""
    if interval is None or not (math.isfinite(interval.low) and math.isfinite(interval.high)):
        return None
    return [[max(value - interval.low, 0.0)], [max(interval.high - value, 0.0)]]


def padded(metrics: Sequence[Metric]) -> tuple[float, float]:
    """Axis ends around metrics and their intervals, as far as they are finite."""
    found = [
        end
        for metric in metrics
        for end in (metric.value, *((metric.interval.low, metric.interval.high) if metric.interval else ()))
    ]
    ends = [end for end in found if math.isfinite(end)]
    if not ends:
        return 0.0, 1.0
    fraction = metrics[0].drop == "points"
    room = max(0.08 * (max(ends) - min(ends)), 0.004 if fraction else 0.004 * max(map(abs, ends)))
    low, high = min(ends) - room, max(ends) + room
    return (max(low, -0.02), min(high, 1.02)) if metrics[0].in_percent else (low, high)


def beside(axes: Axes, place: int, text: str, color: str, *, column: int = 0) -> None:
    at = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "annotation_clip": False}
    axes.annotate(text, (1, place), (6 + 46 * column, 0), va="center", color=color, **at)  # type: ignore[arg-type]
