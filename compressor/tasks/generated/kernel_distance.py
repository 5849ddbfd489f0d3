"""Kernel distance of two sets of features: the squared maximum mean discrepancy, as a U-statistic.

    mean k(x, x') + mean k(y, y') - 2 mean k(x, y), over pairs of different rows     (Gretton et al., JMLR 13, 2012, eq. 3)

Its mean over draws is the truth at any n, so it is negative about half of the time where both sets come of one distribution.
With `Polynomial` it is KID (Binkowski et al., ICLR 2018) on other features; with `Gaussian` it is like CMMD (Jayasumana et al.,
CVPR 2024), on other features and with another bandwidth: values are comparable with neither's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from compressor.tasks.generated.estimates import Estimate, jackknife_error, paired_sets, rows_of, sets_of, student
from compressor.tasks.generated.pairs import blocks, squared_distances

if TYPE_CHECKING:
    from numpy.typing import NDArray

METHOD = "jackknife over generated and real rows"
LOOKED_AT = 1000
"""Real rows by which a bandwidth is chosen."""


class Kernel(Protocol):
    """How alike two rows are."""

    def of(self, left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of each row `[n, d]` and each of the others `[m, d]`: `[n, m]`."""
        ...


@dataclass(frozen=True)
class Polynomial:
    """(x y / d + 1)^3. It hears means, covariances and skewness, and is not indifferent to where 0 lies."""

    def of(self, left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
        """Cubes of scaled products."""
        products = left @ (right.T / left.shape[1])
        products += 1.0
        found: NDArray[np.float64] = products * products
        found *= products
        return found


@dataclass(frozen=True)
class Gaussian:
    """exp(-|x - y|^2 / 2 b^2). It hears any difference of two distributions, best one at distances of about its bandwidth b."""

    bandwidth: float

    @classmethod
    def by_median(cls, real: NDArray[Any]) -> Gaussian:
        """With the median distance of pairs of real rows, at most 1,000 of them spread evenly: the same for all models that are held
        against these rows.

        Raises:
            ValueError: half of the pairs or more are alike, or see `rows_of`.
        """
        rows = rows_of(real, "real rows")
        rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), LOOKED_AT)).astype(np.int64)]
        squared = squared_distances(rows, rows)[np.triu_indices(len(rows), k=1)]
        median = float(np.sqrt(np.median(squared)))
        if not median > 0:
            raise ValueError("half of the pairs of real rows are alike: no bandwidth comes of them")
        return cls(median)

    def of(self, left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
        """Between 0 and 1."""
        found = squared_distances(left, right)
        found *= -0.5 / self.bandwidth**2
        return np.exp(found, out=found)


def kernel_distance(generated: NDArray[Any], real: NDArray[Any], kernel: Kernel) -> Estimate:
    """Squared kernel distance of generated features `[n, d]` from real ones `[m, d]`, without bias: it may be negative.

    Raises:
        ValueError: see `sets_of`; 3 rows of each are needed.
    """
    ours, theirs = _centred(kernel, *sets_of(generated, real, least=3))
    within, beside, across = _within(ours, kernel), _within(theirs, kernel), _across(ours, theirs, kernel)
    n, m = len(ours), len(theirs)
    value, of_ours, of_theirs = _distances(within, *across)
    kept = beside.sum() / (m * (m - 1))
    without = (beside.sum() - 2 * beside) / ((m - 1) * (m - 2))
    return _estimate(value + float(kept), of_ours, of_theirs + without, n=n, real=m)


def kernel_difference(candidate: NDArray[Any], reference: NDArray[Any], real: NDArray[Any], kernel: Kernel) -> Estimate:
    """How much farther a candidate's rows are than a reference's: negative where the candidate is nearer.

    Args:
        candidate: features `[n, d]`.
        reference: features `[n, d]` of rows that came of the same noise, in the same order.
        real: features `[m, d]`, the same for both; what they are among each other falls out.
        kernel: of both distances.

    Raises:
        ValueError: see `paired_sets`; 3 rows of each are needed.
    """
    mine, other, theirs = _centred(kernel, *paired_sets(candidate, reference, real, least=3))
    one = _distances(_within(mine, kernel), *_across(mine, theirs, kernel))
    two = _distances(_within(other, kernel), *_across(other, theirs, kernel))
    return _estimate(one[0] - two[0], one[1] - two[1], one[2] - two[2], n=len(mine), real=len(theirs))


def _centred(kernel: Kernel, *sets: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Around the mean of the last set where the kernel goes by distances: far from 0 those would lose digits."""
    return tuple(rows - sets[-1].mean(axis=0) for rows in sets) if isinstance(kernel, Gaussian) else sets


def _within(rows: NDArray[np.float64], kernel: Kernel) -> NDArray[np.float64]:
    """Of each row the sum of its kernel with all others of its set: `[n]`. Each pair is computed once."""
    found = np.zeros(len(rows))
    for block in blocks(len(rows), len(rows)):
        values = kernel.of(rows[block], rows[block.start :])
        size = block.stop - block.start
        np.fill_diagonal(values, 0.0)
        found[block] += values.sum(axis=1)
        found[block.stop :] += values[:, size:].sum(axis=0)
    return found


def _across(
    ours: NDArray[np.float64], theirs: NDArray[np.float64], kernel: Kernel
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums of the kernel with all rows of the other set: `[n]` of ours and `[m]` of theirs."""
    mine, other = np.empty(len(ours)), np.zeros(len(theirs))
    for block in blocks(len(ours), len(theirs)):
        values = kernel.of(ours[block], theirs)
        mine[block] = values.sum(axis=1)
        other += values.sum(axis=0)
    return mine, other


def _distances(
    within: NDArray[np.float64], mine: NDArray[np.float64], other: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """The distance without what real rows are among each other; what it is without each generated row, and without each real one."""
    n, m = len(mine), len(other)
    alike, shared = within.sum(), mine.sum()
    value = float(alike / (n * (n - 1)) - 2 * shared / (n * m))
    of_ours = (alike - 2 * within) / ((n - 1) * (n - 2)) - 2 * (shared - mine) / ((n - 1) * m)
    of_theirs = alike / (n * (n - 1)) - 2 * (shared - other) / (n * (m - 1))
    return value, of_ours, of_theirs


def _estimate(value: float, of_ours: NDArray[np.float64], of_theirs: NDArray[np.float64], *, n: int, real: int) -> Estimate:
    error = float(np.hypot(jackknife_error(of_ours), jackknife_error(of_theirs)))
    return Estimate(value, student(value, error, min(n, real) - 1, METHOD), n, real)
