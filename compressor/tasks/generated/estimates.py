"""A figure of a set of generated rows with its interval, and what sets of features have to be."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from compressor.contracts.quality import Interval

if TYPE_CHECKING:
    from numpy.typing import NDArray


LARGEST = 1e20
"""Size of a feature beyond which errors of kernels, which are made of its twelfth power, are no numbers any more."""


@dataclass(frozen=True)
class Estimate:
    """What is thought of all rows that could be drawn, by those that were."""

    value: float
    interval: Interval | None
    """95 %, over draws of generated and of real rows; None where there are too few rows to tell."""
    n: int
    """Generated rows."""
    real: int
    """Rows that they are held against."""
    bias: float | None = 0.0
    """What was taken off the plain figure of these rows, whose mean over draws is not the truth; None where that is not known, and the
    value is the plain one."""

    @property
    def plain(self) -> float:
        """The figure of these rows as they are: what other programs give, good for comparing sets of equally many rows only."""
        return self.value + (self.bias or 0.0)


def rows_of(rows: NDArray[Any], what: str, *, least: int = 2) -> NDArray[np.float64]:
    """Features `[n, d]` as they are computed with.

    Raises:
        ValueError: they are no table of finite numbers, or fewer than `least` rows; `what` names them.
    """
    if rows.ndim != 2 or not rows.shape[1] or rows.dtype.kind not in "fiu":
        raise ValueError(f"{what} are {rows.dtype} {list(rows.shape)}, expected numbers [rows, features]")
    if len(rows) < least:
        raise ValueError(f"{len(rows)} {what}: at least {least} are needed")
    found = rows.astype(np.float64)
    if not np.isfinite(found).all():
        bad = np.flatnonzero(~np.isfinite(found).all(axis=1))
        raise ValueError(f"{len(bad)} of {len(rows)} {what} hold NaN or infinite features (first: row {bad[0]})")
    if (largest := float(np.abs(found).max())) > LARGEST:
        raise ValueError(f"{what} hold features as large as {largest:.3g}: more than {LARGEST:g} cannot be computed with")
    return found


def sets_of(
    generated: NDArray[Any], real: NDArray[Any], *, least: int = 2, names: tuple[str, str] = ("generated rows", "real rows")
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Generated and real features, `[n, d]` and `[m, d]`. Generated rows may be all alike, which is as bad as it scores. `names` are told.

    Raises:
        ValueError: one is no table of finite numbers, both differ in width, there are too few rows, or no feature of real rows varies.
    """
    ours, theirs = (rows_of(rows, name, least=least) for rows, name in zip((generated, real), names, strict=True))
    if ours.shape[1] != theirs.shape[1]:
        raise ValueError(f"{names[0]} have {ours.shape[1]} features and {names[1]} {theirs.shape[1]}: not the same features")
    if (theirs == theirs[0]).all():
        raise ValueError(f"the {len(theirs)} {names[1]} are all alike: these features tell nothing apart")
    return ours, theirs


def paired_sets(
    candidate: NDArray[Any], reference: NDArray[Any], real: NDArray[Any], *, least: int = 2
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Features of two models' rows, where row i of both came of the same noise, and of real ones.

    Raises:
        ValueError: as `sets_of`, or the models' rows are not equally many.
    """
    mine, theirs = sets_of(candidate, real, least=least, names=("rows of the candidate", "real rows"))
    other, _ = sets_of(reference, real, least=least, names=("rows of the reference", "real rows"))
    if len(mine) != len(other):
        raise ValueError(f"{len(mine)} rows of one model against {len(other)} of the other: not the same noise")
    return mine, other, theirs


def student(value: float, error: float, freedom: int, method: str) -> Interval:
    """Student's interval of a value with a standard error."""
    from scipy.special import stdtrit

    spread = float(stdtrit(max(freedom, 1), 0.975)) * error
    return Interval(low=value - spread, high=value + spread, method=method)


def jackknife_error(left_out: NDArray[np.float64]) -> float:
    """Standard error by what a figure is without each row or group in turn, `[groups]` (Efron, Tibshirani: An Introduction to the Bootstrap,
    1993, chapter 11)."""
    groups = len(left_out)
    return math.sqrt((groups - 1) / groups * float(np.square(left_out - left_out.mean()).sum()))
