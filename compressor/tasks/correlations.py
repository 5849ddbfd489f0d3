"""Correlations of numbers that models tell with the true ones, of many draws of the rows at once.

A draw says how often it holds each row: sums over rows are then products of matrices, and nothing is sorted once per draw.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from compressor.contracts import statistics

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Figure: TypeAlias = Callable[[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]], NDArray[np.float64]]

DIFFERENCE_METHOD = "jackknife over rows, paired, no narrower than a bootstrap"
GROUPS = 100
"""Of rows that the jackknife leaves out in turn, where there are more rows."""


def pearson(told: NDArray[np.float64], true: NDArray[np.float64], draws: NDArray[np.int64]) -> NDArray[np.float64]:
    """Linear correlation in each draw, `[draws]` in [-1, 1]; 0 where one of the two does not vary.

    Args:
        told: numbers `[n]`, or `[draws, n]` where they differ between draws.
        true: as `told`.
        draws: how often each draw holds each row, `[draws, n]`.
    """
    one, other = (values - _mean(values, draws)[:, None] for values in (told, true))
    both, first, second = (
        np.einsum("dn,dn,dn->d", draws, left, right) for left, right in ((one, other), (one, one), (other, other))
    )
    spread = np.sqrt(first) * np.sqrt(second)
    found: NDArray[np.float64] = np.divide(both, spread, out=np.zeros_like(both), where=spread > 0)
    return found


def spearman(told: NDArray[np.float64], true: NDArray[np.float64], draws: NDArray[np.int64]) -> NDArray[np.float64]:
    """Correlation of ranks in each draw, as `pearson`; equal numbers have the mean of their ranks."""
    return pearson(_ranks(told, draws), _ranks(true, draws), draws)


def gained_interval(
    figure: Figure, mine: NDArray[np.float64], theirs: NDArray[np.float64], true: NDArray[np.float64], *, seed: int
) -> tuple[float, float]:
    """95 % interval of what a correlation gained from `theirs` to `mine` on the same rows: the wider ends of two.

    One is Student's by the jackknife over rows, or groups of them (Efron, Tibshirani: An Introduction to the Bootstrap, 1993, chapter 11);
    the other a bootstrap's percentiles, which are too narrow by themselves where rows are few or skewed.
    """
    from scipy.special import stdtrit

    def gained(draws: NDArray[np.int64]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = figure(mine, true, draws) - figure(theirs, true, draws)
        return found

    n = len(true)
    groups = min(n, GROUPS)
    of = np.random.default_rng(seed).permutation(n) % groups
    block = max(1, statistics.DRAWN_AT_ONCE // n)
    left_out = np.concatenate(
        [gained((of != each[:, None]).astype(np.int64)) for each in np.array_split(np.arange(groups), -(-groups // block))]
    )
    error = math.sqrt((groups - 1) / groups * float(np.square(left_out - left_out.mean()).sum()))
    spread = float(stdtrit(max(groups - 1, 1), 0.975)) * error
    centre = float(gained(np.ones((1, n), np.int64))[0])
    low, high = np.quantile(np.concatenate([gained(draws) for draws in statistics.draws_of(n, seed)]), (0.025, 0.975))
    return min(float(low), centre - spread), max(float(high), centre + spread)


def _mean(values: NDArray[np.float64], draws: NDArray[np.int64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.einsum("dn,dn->d", draws, np.broadcast_to(values, draws.shape)) / draws.sum(axis=1)
    return found


def _ranks(values: NDArray[np.float64], draws: NDArray[np.int64]) -> NDArray[np.float64]:
    """Ranks from 0 of numbers `[n]` in each draw, `[draws, n]`; what a draw does not hold has the rank that it would have."""
    order = np.argsort(values, kind="stable")
    _, starts, group = np.unique(values[order], return_index=True, return_inverse=True)
    alike = np.add.reduceat(draws[:, order], starts, axis=1)
    ranks = np.cumsum(alike, axis=1) - (alike + 1) / 2
    found = np.empty(draws.shape)
    found[:, order] = ranks[:, group]
    return found
