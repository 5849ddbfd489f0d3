"""How long two models take for one input: blocks of calls in turn, medians, and a ratio with its interval."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import mean, median, stdev
from typing import Any

from demos.side.process import Side

ROUNDS = 7
STUDENT_95 = {2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447}
"""Quantiles of Student's t for intervals of 95 %, by degrees of freedom."""
FEWEST_ROUNDS = 3
"""Rounds from which an interval is told."""
SECONDS = 2.0
"""What a measurement takes, about; slow models take longer."""
MOST_CALLS = 200
FLOOR = 0.02
"""No ratio is told more closely than this, as in reports: what processes of one model differ by does not show in rounds."""


@dataclass(frozen=True)
class Timed:
    """A median with the ends of its 95 % interval."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Reading:
    """What was measured so far."""

    rounds: int
    calls: int
    """Of each model in a round."""
    threads: int
    seconds: tuple[Timed, ...]
    """Of each side, in their order."""
    ratio: Timed | None
    """How many times faster the last side is than the first; None where there is one."""

    @property
    def whole(self) -> bool:
        """Whether all rounds were run."""
        return self.rounds == ROUNDS


def measured(sides: Sequence[Side], given: Any) -> Iterator[Reading]:
    """Time the sides on one input, in turn (A/B/A/B), each in its own process; a reading after each round from the third on.

    Both are warm: they answered before, and the first calls of each block are not recorded. A round's time is the median of its
    block, a model's the median over rounds, a ratio that of the ratios within rounds, with Student's interval over their logarithms
    and no closer than 2 %.

    Raises:
        Refused: a model cannot answer.
    """
    slowest = max(min(side.time(given, 2)) for side in sides)
    calls = max(1, min(MOST_CALLS, int(SECONDS / (ROUNDS * len(sides) * slowest))))
    found: list[list[float]] = [[] for _ in sides]
    for number in range(1, ROUNDS + 1):
        for side, rounds in zip(sides, found, strict=True):
            rounds.append(median(side.time(given, calls)))
        if number >= FEWEST_ROUNDS:
            yield reading(found, calls, sides[-1].threads)


def reading(found: Sequence[Sequence[float]], calls: int, threads: int) -> Reading:
    """What rounds of each side say, in seconds."""
    first, last = found[0], found[-1]
    ratio = with_interval([a / b for a, b in zip(first, last, strict=True)], FLOOR) if len(found) > 1 else None
    return Reading(len(first), calls, threads, tuple(with_interval(rounds) for rounds in found), ratio)


def with_interval(values: Sequence[float], floor: float = 0.0) -> Timed:
    """The median, with Student's interval of the mean of logarithms laid about it, at least `floor` wide on either side."""
    middle, logs = median(values), [math.log(value) for value in values]
    half = STUDENT_95[len(logs) - 1] * stdev(logs) / math.sqrt(len(logs))
    apart = abs(mean(logs) - math.log(middle))  # the interval holds the mean and the median
    half = max(half, apart, math.log1p(floor))
    return Timed(middle, middle * math.exp(-half), middle * math.exp(half))
