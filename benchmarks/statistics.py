"""What can be said of timings: bootstrap intervals of medians and ratios, floors for percentiles, steadiness."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit

from compressor.contracts.records import Interval

PERCENTILE_FLOORS = {90: 64, 99: 662}
"""Fewest samples from which a percentile is told; the query counts that MLPerf's early stopping asks for at 99 % confidence."""

RESAMPLES = 4000
METHOD = "bootstrap of the median over rounds, expanded percentile"
WIDENED = f"{METHOD}; no narrower than what processes of one model differ by"
EFFECT_FLOOR = 0.02
"""No ratio is told more closely than this, however still the machine was."""
MEDIAN_OF_THREE = 1.16
"""Standard deviation of a median of three or more groups of rounds over that of their mean, at most."""

Outcome: TypeAlias = Literal["faster", "slower", "no measurable change", "undecided"]


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
    medians = np.sort(values)[_middles(n, seed)].mean(axis=1)
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


def allowance(attempts: Sequence[Sequence[Sequence[float]]], *, level: float = 0.95) -> float:
    """How far apart two processes of one model may be by chance: half the interval of a ratio, as a logarithm.

    Rounds cannot show what a process keeps as long as it lives: where its memory and threads lie, a neighbour on its core.
    Processes of one model side by side do. The half-width is Student's, from the variance between processes within an
    attempt, pooled over attempts; times over several attempts differ less, as each has new processes.

    Args:
        attempts: by attempt, then by process of the model (at least two), the times of its rounds.
        level: how often the interval holds the true ratio.

    Raises:
        ValueError: an attempt has fewer than two processes.
    """
    variances = [_between(processes) for processes in attempts]
    degrees = sum(len(processes) - 1 for processes in attempts)
    quantile = -float(stdtrit(degrees, 0.5 - level / 2.0))
    averaged = MEDIAN_OF_THREE if len(attempts) > 2 else 1.0
    return quantile * averaged * math.sqrt(2.0 * float(np.mean(variances)) / len(attempts))


def _between(processes: Sequence[Sequence[float]]) -> float:
    """Variance between processes, in logarithms: of the medians over rounds, what a round did to all of them taken out."""
    if len(processes) < 2:
        raise ValueError(f"how far processes differ needs at least 2 of them, got {len(processes)}")
    times = np.log(np.asarray(processes, dtype=np.float64))
    return float(np.median(times - times.mean(axis=0), axis=1).var(ddof=1))


def widened(value: float, interval: Interval, *, by: float) -> Interval:
    """The interval with at least `by`, a logarithm, on either side of the value."""
    low, high = min(interval.low, value * math.exp(-by)), max(interval.high, value * math.exp(by))
    return Interval(low=low, high=high, level=interval.level, method=WIDENED)


def judge(interval: Interval, *, disturbed: bool) -> Outcome:
    """Faster or slower only where the interval leaves 1 out; what noise could explain is undecided on a disturbed machine."""
    if interval.low > 1.0:
        return "faster"
    if interval.high < 1.0:
        return "slower"
    return "undecided" if disturbed else "no measurable change"


def percentile(samples: Sequence[float], percent: int) -> float | None:
    """The percentile of the pooled samples, or None where there are fewer than its floor."""
    if len(samples) < PERCENTILE_FLOORS[percent]:
        return None
    return float(np.percentile(samples, percent))


def is_steady(medians: Sequence[float], *, tolerance: float, blocks: int = 3) -> bool:
    """Whether the medians of the last `blocks` blocks lie within `tolerance` of each other."""
    last = medians[-blocks:]
    return len(last) == blocks and max(last) <= min(last) * (1.0 + tolerance)


@lru_cache(maxsize=8)
def _middles(n: int, seed: int) -> NDArray[np.int64]:
    """Ranks of the two values in the middle of each resample of n, `[resamples, 2]`: the same for all that is drawn by a seed."""
    picks = np.random.default_rng(seed).integers(0, n, size=(RESAMPLES, n))
    return np.sort(picks, axis=1)[:, [(n - 1) // 2, n // 2]]


def _expanded_tail(n: int, level: float) -> float:
    """Tail probability at which the percentile interval of n values is as wide as Student's."""
    quantile = stdtrit(n - 1, 0.5 - level / 2.0)
    return float(ndtr(quantile * np.sqrt(n / (n - 1))))
