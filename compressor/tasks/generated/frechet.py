"""Frechet distance of two sets of features: that of the normal distributions which have their means and covariances.

    |m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2)        (Dowson, Landau, J. Multivar. Anal. 12, 1982)

With F F' = S, the last trace is the sum of the singular values of F1' F2: no root of a matrix is taken, so nothing becomes complex, and
covariances may lack rank. The plain figure is too large by about a constant over n, which can be many times the distance itself
(Chong, Forsyth, CVPR 2020); a jackknife over groups of rows takes that off, and its spread is the interval.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from compressor.tasks.generated.estimates import Estimate, jackknife_error, paired_sets, sets_of, student

if TYPE_CHECKING:
    from numpy.typing import NDArray

GROUPS = 30
"""Of rows that are left out in turn."""
ROWS_PER_FEATURE = 4
"""With fewer rows the bias is more than a constant over n: no jackknife knows it."""
METHOD = f"jackknife over {GROUPS} groups of generated and real rows"


@dataclass(frozen=True)
class _Sums:
    """What mean and covariance of rows are made of."""

    n: int
    total: NDArray[np.float64]
    products: NDArray[np.float64]

    @classmethod
    def of(cls, rows: NDArray[np.float64]) -> _Sums:
        return cls(len(rows), rows.sum(axis=0), rows.T @ rows)

    def less(self, rows: NDArray[np.float64]) -> _Sums:
        """Without some of the rows."""
        return _Sums(self.n - len(rows), self.total - rows.sum(axis=0), self.products - rows.T @ rows)

    def moments(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        mean = self.total / self.n
        return mean, (self.products - self.n * np.outer(mean, mean)) / (self.n - 1)


def frechet(generated: NDArray[Any], real: NDArray[Any], *, seed: int = 0) -> Estimate:
    """Frechet distance of generated features `[n, d]` from real ones `[m, d]`, in squared units of the features, its bias taken off.

    It may be a little below 0 where both come of one distribution. With fewer than 4 d rows it is the plain figure, without interval.

    Args:
        generated: features of generated rows.
        real: of real rows.
        seed: of the groups that the jackknife leaves out.

    Raises:
        ValueError: see `sets_of`.
    """
    ours, theirs = sets_of(generated, real)
    return _estimate(*_left_out(ours, theirs, seed), n=len(ours), real=len(theirs))


def frechet_difference(candidate: NDArray[Any], reference: NDArray[Any], real: NDArray[Any], *, seed: int = 0) -> Estimate:
    """How much farther a candidate's rows are than a reference's: negative where the candidate is nearer.

    Args:
        candidate: features `[n, d]`.
        reference: features `[n, d]` of rows that came of the same noise, in the same order.
        real: features `[m, d]`, the same for both.
        seed: of the groups.

    Raises:
        ValueError: see `paired_sets`.
    """
    mine, other, theirs = paired_sets(candidate, reference, real)
    (one, ones), (two, twos) = _left_out(mine, theirs, seed), _left_out(other, theirs, seed)
    return _estimate(one - two, ones - twos, n=len(mine), real=len(theirs))


def _estimate(plain: float, left_out: NDArray[np.float64], *, n: int, real: int) -> Estimate:
    if not len(left_out):
        return Estimate(plain, None, n, real, bias=None)
    bias = (GROUPS - 1) * float(left_out.mean() - plain)
    value = plain - bias
    return Estimate(value, student(value, jackknife_error(left_out), GROUPS - 1, METHOD), n, real, bias)


def _left_out(ours: NDArray[np.float64], theirs: NDArray[np.float64], seed: int) -> tuple[float, NDArray[np.float64]]:
    """The plain distance, and what it is without each group of rows, `[groups]`; of those none where rows are too few.

    A group is left out of both sets at once: what both add to the variance adds up, and what both add to the bias shrinks alike.
    """
    middle = theirs.mean(axis=0)  # far from 0 sums of products lose what covariances are made of
    ours, theirs = ours - middle, theirs - middle
    mine, other = _Sums.of(ours), _Sums.of(theirs)
    plain = _distance(mine, other)
    if min(len(ours), len(theirs)) < max(ROWS_PER_FEATURE * ours.shape[1], 2 * GROUPS):
        return plain, np.empty(0)
    of_ours, of_theirs = (np.random.default_rng(seed).permutation(len(rows)) % GROUPS for rows in (ours, theirs))
    found = [_distance(mine.less(ours[of_ours == group]), other.less(theirs[of_theirs == group])) for group in range(GROUPS)]
    return plain, np.asarray(found)


def _distance(ours: _Sums, theirs: _Sums) -> float:
    (mean, covariance), (other, others) = ours.moments(), theirs.moments()
    shared = np.linalg.svd(_root(covariance).T @ _root(others), compute_uv=False).sum()
    return float(np.square(mean - other).sum() + np.trace(covariance) + np.trace(others) - 2 * shared)


def _root(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """F of F F' = covariance, `[d, rank]`: directions whose variance is rounding are left out."""
    variances, directions = np.linalg.eigh(covariance)
    kept = variances > len(variances) * np.finfo(np.float64).eps * max(variances[-1], 0.0)
    found: NDArray[np.float64] = directions[:, kept] * np.sqrt(variances[kept])
    return found
