"""Whether generated rows are of the class that they were asked to be of, as a classifier sees them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from compressor.contracts.quality import Interval
from compressor.tasks.metrics import wilson

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class ClassAccuracy:
    """Rows that a classifier tells the class of which they were asked to be. It errs too: its accuracy on real rows is the yardstick."""

    value: float
    interval: Interval
    """Wilson's, for these noises and this classifier."""
    right: NDArray[np.bool_]
    """Of each row, `[n]`: two models on the same noise are compared row by row."""
    by_class: NDArray[np.float64]
    """Share of right rows of each class, `[classes]`; NaN of one that was not asked for."""


def class_accuracy(told: NDArray[Any], asked: NDArray[Any], *, classes: int) -> ClassAccuracy:
    """Of classes told and asked for, `[n]` each, whole numbers from 0.

    Raises:
        ValueError: they are not equally many, none at all, or one is no class.
    """
    for name, given in (("told", told), ("asked for", asked)):
        if given.ndim != 1 or not len(given) or given.dtype.kind not in "iu":
            raise ValueError(f"classes {name} are {given.dtype} {list(given.shape)}, expected a whole number for each row")
        if given.min() < 0 or given.max() >= classes:
            raise ValueError(f"classes {name} lie from {given.min()} to {given.max()}, and there are {classes}")
    if len(told) != len(asked):
        raise ValueError(f"{len(told)} classes told and {len(asked)} asked for: not the same rows")
    right = told == asked
    counts, hits = np.bincount(asked, minlength=classes), np.bincount(asked[right], minlength=classes)
    by_class = np.divide(hits, counts, out=np.full(classes, np.nan), where=counts > 0)
    return ClassAccuracy(float(right.mean()), wilson(int(right.sum()), len(right)), right, by_class)
