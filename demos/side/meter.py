"""How long two models take for one input: blocks of calls in turn, medians, and a ratio with its interval."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, median, stdev
from typing import Any

from demos.side.process import Block, Side

ROUNDS = 7
STUDENT_95 = 2.447
"""Quantile of Student's t for intervals of 95 % of so many rounds."""
SETTLE_SECONDS = 0.3
"""What a browser is left to draw the answers before anything is timed."""
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
    """What was measured."""

    calls: int
    """Of each model in a round."""
    threads: int
    seconds: tuple[Timed, ...]
    """Of each side, in their order."""
    ratio: Timed | None
    """How many times faster the last side is than the first; None where there is one."""
    lost: float
    """Share of a median call in which others had the processor, at worst over the sides, in [0, 1]."""


def measured(sides: Sequence[Side], given: Any) -> Reading:
    """Time the sides on one input, in turn (A/B/A/B), each in its own process.

    Both are warm: they answered before, and the first calls of each block are not recorded. A round's time is the median of its
    block, a model's the median over rounds, a ratio that of the ratios within rounds, with Student's interval over their logarithms
    and no closer than 2 %.

    Raises:
        Refused: a model cannot answer.
    """
    time.sleep(SETTLE_SECONDS)
    slowest = max(min(side.time(given, 2).seconds) for side in sides)
    calls = max(1, min(MOST_CALLS, int(SECONDS / (ROUNDS * len(sides) * slowest))))
    blocks = [[side.time(given, calls) for side in sides] for _ in range(ROUNDS)]
    return reading(list(zip(*blocks, strict=True)), calls, sides)


def reading(blocks: Sequence[Sequence[Block]], calls: int, sides: Sequence[Side]) -> Reading:
    """What the blocks of each side say."""
    found = [[median(block.seconds) for block in rounds] for rounds in blocks]
    ratio = with_interval([a / b for a, b in zip(found[0], found[-1], strict=True)], FLOOR) if len(found) > 1 else None
    idle = max(1.0 - median(block.processor / median(block.seconds) for block in rounds) for rounds in blocks)
    lost = idle if all((side.facts or {}).get("device", "").upper() == "CPU" for side in sides) else 0.0
    return Reading(calls, sides[-1].threads, tuple(map(with_interval, found)), ratio, max(0.0, lost))


def with_interval(values: Sequence[float], floor: float = 0.0) -> Timed:
    """The median, with Student's interval of the mean of logarithms laid about it, at least `floor` wide on either side."""
    middle, logs = median(values), [math.log(value) for value in values]
    half = STUDENT_95 * stdev(logs) / math.sqrt(len(logs))
    apart = abs(mean(logs) - math.log(middle))  # the interval holds the mean and the median
    half = max(half, apart, math.log1p(floor))
    return Timed(middle, middle * math.exp(-half), middle * math.exp(half))
