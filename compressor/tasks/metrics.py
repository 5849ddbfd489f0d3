"""Counts of right answers as figures with intervals: Wilson's interval, and precision, recall and F1 by class.

Each is a line or two, and the libraries that have them take a second to import: a second of every run.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING

from compressor.contracts.records import Interval

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NORMAL_95 = 1.959963984540054
"""97.5 % quantile of the standard normal distribution."""


@dataclass(frozen=True)
class ByClass:
    """Figures by class, each `[classes]`; a figure with nothing to divide by is 0."""

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    f1: NDArray[np.float64]
    n: NDArray[np.int64]
    """Rows of the class."""


def wilson(right: float, n: float) -> Interval:
    """95 % interval of a share of `right` out of `n` (Wilson, J. Am. Stat. Assoc. 22, 1927), in [0, 1]. Neither has to be whole.

    Raises:
        ZeroDivisionError: n is 0.
    """
    share, z = right / n, NORMAL_95
    centre, spread = 2 * right + z**2, z * sqrt(4 * n * share * (1 - share) + z**2)
    low, high = (centre - spread) / (2 * (n + z**2)), (centre + spread) / (2 * (n + z**2))
    return Interval(low=0.0 if right == 0 else low, high=1.0 if right == n else high, method="Wilson")


def by_class(predicted: NDArray[np.int64], labels: NDArray[np.int64], classes: int) -> ByClass:
    """Precision, recall and F1 of predictions `[n]` against labels `[n]`, all in 0 to `classes` - 1."""
    import numpy as np

    said, true = np.bincount(predicted, minlength=classes), np.bincount(labels, minlength=classes)
    right = np.bincount(labels[predicted == labels], minlength=classes)
    return ByClass(right / np.maximum(said, 1), right / np.maximum(true, 1), 2 * right / np.maximum(said + true, 1), true)
