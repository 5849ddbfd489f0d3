"""What one scale for all levels of noise costs a network that is called at many: ranges that move, and errors against scales of each level's own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compressor.contracts import Feed, Task
from compressor.contracts.figures import significant, trimmed
from compressor.contracts.notes import Note, Remark, Table
from compressor.contracts.statistics import paired

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from passes.quantization.quantizers.layers import Quantized

GROUPS = 4
"""Of levels, as near to equally many as can be."""
FEWEST = 2
"""Calls of a group, below which nothing is said of it."""
MOST_LAYERS = 12
COSTLY = 1.5
"""Times by which the error has to be larger than with scales of a level's own, to be warned of."""


@dataclass(frozen=True)
class Group:
    """Neighbouring levels with the calls at them."""

    low: float
    high: float
    calls: tuple[int, ...]
    """By their numbers."""

    def __str__(self) -> str:
        spread = (trimmed(self.low), trimmed(self.high))
        return spread[0] if self.low == self.high else f"{spread[0]} to {spread[1]}"


def grouped(levels: Sequence[float]) -> tuple[Group, ...]:
    """The calls by level, from the cleanest; of each call's level."""
    distinct = sorted(set(levels))
    count = min(GROUPS, len(distinct))
    ends = [distinct[number * len(distinct) // count : (number + 1) * len(distinct) // count] for number in range(count)]
    found = [
        Group(each[0], each[-1], tuple(at for at, level in enumerate(levels) if each[0] <= level <= each[-1])) for each in ends
    ]
    return tuple(group for group in found if len(group.calls) >= FEWEST)


def notes_of(
    graph: Quantized, again: Callable[[Sequence[Feed]], Quantized], calls: Sequence[Feed], task: Task, name: str
) -> Iterator[Note]:
    """Which layers' ranges move with the level, and what it costs; nothing where calls have no level, or all one.

    Args:
        graph: quantised by ranges of all calls.
        again: quantises the same by others.
        calls: that ranges were taken from.
        task: says their levels.
        name: of the graph, where there are several; else empty.
    """
    if not calls or task.level(calls[0]) is None:
        return
    groups = grouped([level for call in calls if (level := task.level(call)) is not None])
    if len(groups) < 2:
        return
    of = f", graph {name}" if name else ""
    yield moving(graph.ranges(calls), groups, of)
    yield from costing(graph, again, calls, groups, of)


def moving(ranges: Mapping[str, NDArray[np.float64]], groups: Sequence[Group], of: str) -> Table:
    """Layers whose ranges move most: `[calls, 2]` of each, the least and the greatest value that its products read."""
    spans = {layer: [_span(each[list(group.calls)]) for group in groups] for layer, each in ranges.items()}
    lost = {layer: _bits_lost(found) for layer, found in spans.items()}
    most = sorted(lost, key=lambda layer: -lost[layer])[:MOST_LAYERS]
    return Table(
        title=f"Ranges of activations by level of noise{of}: the {len(most)} of {len(lost)} layers whose ranges move most. Bits are those that one "
        "range for all leaves unused at the level with the narrowest",
        columns=("layer", *map(str, groups), "bits"),
        rows=tuple(
            (layer, *(f"{significant(low)} to {significant(high)}" for low, high in spans[layer]), round(lost[layer], 2))
            for layer in most
        ),
    )


def _span(ranges: NDArray[np.float64]) -> tuple[float, float]:
    """With 0 in it, as a range of bytes has it."""
    return min(0.0, float(ranges[:, 0].min())), max(0.0, float(ranges[:, 1].max()))


def _bits_lost(spans: Sequence[tuple[float, float]]) -> float:
    whole = max(high for _, high in spans) - min(low for low, _ in spans)
    least = min(high - low for low, high in spans)
    return math.log2(whole / least) if least > 0 else 0.0


def costing(
    graph: Quantized, again: Callable[[Sequence[Feed]], Quantized], calls: Sequence[Feed], groups: Sequence[Group], of: str
) -> Iterator[Note]:
    """Errors of what the graph gives by level, as a share of its square, by one range for all and by ranges of the level's own calls."""
    rows, costly = list[tuple[str | float, ...]](), list[str]()
    for group in groups:
        own = [calls[at] for at in group.calls]
        exact = graph.outputs(own, exact=True)
        shared, apart = (error_of(each.outputs(own), exact) for each in (graph, again(own)))
        _, low, high, _ = paired(shared - apart, None, 0, binary=False)
        times = float(shared.mean() / max(apart.mean(), 1e-30))
        rows.append(
            (str(group), len(own), _share(shared), _share(apart), round(times, 2), f"{_percent(low)} to {_percent(high)}")
        )
        if times >= COSTLY and low > 0:
            costly.append(f"{group} ({significant(times, 2)} times)")
    yield Table(
        title=f"What one scale for all levels costs{of}: mean square error of one call, as a share of what it gives",
        columns=("level", "calls", "one scale", "its own scale", "times", "difference, 95 %"),
        rows=tuple(rows),
    )
    if costly:
        text = (
            f"One scale of activations for all levels of noise costs much{of}: the error of a call is larger than with scales of its level's own at "
            f"levels {', '.join(costly)}. `exclude` the layers whose ranges move most, or set `max_drop`."
        )
        yield Remark(text=text, warns=True)


def error_of(found: NDArray[np.float32], exact: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mean square difference of each call, as a share of the mean square of all that is exact: `[calls]`."""
    import numpy as np

    apart = np.square(found.astype(np.float64) - exact).reshape(len(exact), -1).mean(1)
    scale: float = np.square(exact.astype(np.float64)).mean()
    return np.asarray(apart / max(scale, 1e-30))


def _share(errors: NDArray[np.float64]) -> str:
    return _percent(float(errors.mean()))


def _percent(value: float) -> str:
    return f"{significant(100 * value)} %"
