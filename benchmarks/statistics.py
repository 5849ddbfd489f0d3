"""What can be said of timings: bootstrap intervals of medians and ratios, floors for percentiles, steadiness."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
from scipy.special import ndtr, stdtrit

from compressor.contracts.records import Interval

PERCENTILE_FLOORS = {90: 64, 99: 662}
"""Fewest samples from which a percentile is told; the query counts that MLPerf's early stopping asks for at 99 % confidence."""

RESAMPLES = 4000
METHOD = "bootstrap of the median over rounds, expanded percentile"

Outcome: TypeAlias = Literal["faster", "slower", "no measurable change"]


def median_with_interval(rounds: Sequence[float], *, seed: int, level: float = 0.95) -> tuple[float, Interval]:
    """Median over rounds and its bootstrap interval.

    The rounds are resampled with replacement, not the calls: calls within a round share whatever else the machine was
    doing, so they are no independent evidence. Plain percentiles are too narrow for the few rounds of a run; they are
    expanded by the factor that makes them match Student's t (Hesterberg 2015, "What Teachers Should Know About the
    Bootstrap", expanded percentile interval), which brings the coverage to 93 to 98 % for 5 rounds and more.

    Raises:
        ValueError: fewer than two rounds.
    """
    values = np.asarray(rounds, dtype=np.float64)
    n = values.size
    if n < 2:
        raise ValueError(f"an interval needs at least 2 rounds, got {n}")
    picks = np.random.default_rng(seed).integers(0, n, size=(RESAMPLES, n))
    medians = np.median(values[picks], axis=1)
    tail = _expanded_tail(n, level)
    low, high = np.quantile(medians, [tail, 1.0 - tail])
    return float(np.median(values)), Interval(low=float(low), high=float(high), level=level, method=METHOD)


def ratio_with_interval(to: Sequence[float], of: Sequence[float], *, seed: int, level: float = 0.95) -> tuple[float, Interval]:
    """Speed-up of `of` over `to`: median over rounds of time `to` / time `of` in the same round, with its interval.

    Pairing by round cancels what slows both sides alike (clock changes, a busy neighbour), and the median ignores the odd
    round in which only one side was hit.

    Raises:
        ValueError: the two have different numbers of rounds, or fewer than two.
    """
    if len(to) != len(of):
        raise ValueError(f"paired rounds must be equally many, got {len(to)} and {len(of)}")
    return median_with_interval(np.asarray(to) / np.asarray(of), seed=seed, level=level)


def judge(value: float, interval: Interval, *, floor: float) -> Outcome:
    """Faster or slower only where the interval excludes 1 and the effect exceeds `floor` (0.02 for 2 %)."""
    if interval.low > 1.0 and value - 1.0 > floor:
        return "faster"
    if interval.high < 1.0 and 1.0 / value - 1.0 > floor:
        return "slower"
    return "no measurable change"


def percentile(samples: Sequence[float], percent: int) -> float | None:
    """The percentile of the pooled samples, or None where there are fewer than its floor."""
    if len(samples) < PERCENTILE_FLOORS[percent]:
        return None
    return float(np.percentile(samples, percent))


def is_steady(medians: Sequence[float], *, tolerance: float, blocks: int = 3) -> bool:
    """Whether the medians of the last `blocks` blocks lie within `tolerance` of each other."""
    last = medians[-blocks:]
    return len(last) == blocks and max(last) <= min(last) * (1.0 + tolerance)


def _expanded_tail(n: int, level: float) -> float:
    """Tail probability at which the percentile interval of n values is as wide as Student's."""
    quantile = stdtrit(n - 1, 0.5 - level / 2.0)
    return float(ndtr(quantile * np.sqrt(n / (n - 1))))
