"""Pairs of rows of two sets, a block of them at a time: memory does not grow with the product of both."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

CELLS = 4_000_000
"""Pairs of a block: 32 MB."""
ALIKE = 1e-12
"""Of the largest squared length: squared distances that differ by less are equal but for rounding."""


def blocks(rows: int, columns: int) -> Iterator[slice]:
    """Rows of a table of pairs, so many at a time that memory does not grow with their product."""
    step = max(1, CELLS // columns)
    return (slice(at, min(at + step, rows)) for at in range(0, rows, step))


def squared_distances(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared Euclidean distances `[n, m]` of rows `[n, d]` from rows `[m, d]`, right to about 1e-15 of the rows' squared lengths."""
    found = left @ (-2.0 * right.T)
    found += np.square(left).sum(axis=1)[:, None]
    found += np.square(right).sum(axis=1)
    return np.maximum(found, 0.0, out=found)


def rounding(*sets: NDArray[np.float64]) -> float:
    """How far apart squared distances of rows of these sets may be computed that are equal."""
    return ALIKE * float(max(np.square(rows).sum(axis=1).max() for rows in sets))
