"""How near rows that were drawn are to real ones: named measures of two sets of features, each with its interval."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeAlias

from compressor.contracts import Measure
from compressor.contracts.quality import Interval

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Found: TypeAlias = "tuple[float, Interval | None]"
Score: TypeAlias = "Callable[[NDArray[np.float64], NDArray[np.float64]], Found]"
"""Value and interval of features `[n, d]` of rows that were drawn, and `[m, d]` of real ones."""
NORMAL_95 = 1.959963984540054
LINEARISED = "normal, linearised over rows of both sets"


def kernel_distance(drawn: NDArray[np.float64], real: NDArray[np.float64]) -> Found:
    """Squared maximum mean discrepancy by the cubic kernel (1 + x.y / d)^3, unbiased: 0 for sets of one distribution, and then often below.

    Binkowski et al., Demystifying MMD GANs, 2018, arXiv:1801.01401; times 1000, as is the custom. The interval is that of the sum's linear part
    (Hoeffding): it is too wide where the distributions are equal.
    """
    import numpy as np

    (n, width), m = drawn.shape, len(real)
    if min(n, m) < 2:
        return float("nan"), None
    own, theirs, both = (((one @ other.T) / width + 1) ** 3 for one, other in ((drawn, drawn), (real, real), (drawn, real)))
    mine = (own.sum(1) - np.diag(own)) / (n - 1)
    others = (theirs.sum(1) - np.diag(theirs)) / (m - 1)
    value = mine.mean() + others.mean() - 2 * both.mean()
    error = 2 * np.sqrt(np.var(mine - both.mean(1), ddof=1) / n + np.var(others - both.mean(0), ddof=1) / m)
    low, high = (1000 * float(value + sign * NORMAL_95 * error) for sign in (-1, 1))
    return 1000 * float(value), Interval(low=low, high=high, method=LINEARISED)


KERNEL_DISTANCE = Measure("kernel-distance", better="lower", drop="percent")
SCORES: Mapping[Measure, Score] = {KERNEL_DISTANCE: kernel_distance}
"""Distances of sets; the first is what quality is held by unless a plan says otherwise."""
