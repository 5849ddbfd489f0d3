"""Precision, recall, density and coverage: which rows lie among the nearest neighbours of the other set's rows.

A row's ball reaches to its k-th nearest neighbour in its own set; what lies on its edge is inside. Precision is the share of generated
rows in the ball of any real row, recall that of real rows in the ball of any generated one (Kynkaanniemi et al., NeurIPS 2019); density
counts in how many real balls a generated row lies, over k, and coverage is the share of real balls that hold a generated row (Naeem et
al., ICML 2020). All four depend on how many rows there are and on k: only values of equal n, m and k say anything of each other, and
real rows against other real rows say what can be reached.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from compressor.contracts.quality import Interval
from compressor.tasks.generated.estimates import Estimate, sets_of, student
from compressor.tasks.generated.pairs import blocks, rounding, squared_distances
from compressor.tasks.metrics import wilson

if TYPE_CHECKING:
    from numpy.typing import NDArray

NEAREST = 5
METHOD = "jackknife over generated and real rows, {} as of so many independent rows"


@dataclass(frozen=True)
class Neighbourhood:
    """How generated and real rows lie among each other."""

    nearest: int
    """The k of all four."""
    precision: Estimate
    recall: Estimate
    density: Estimate
    """0 and more; about 1 where both sets are of one distribution."""
    coverage: Estimate
    inside: NDArray[np.bool_]
    """Whether each generated row lies in the ball of a real one, `[n]`: what it adds to precision."""
    balls: NDArray[np.int64]
    """In how many it lies, `[n]`."""


def neighbourhood(generated: NDArray[Any], real: NDArray[Any], *, nearest: int = NEAREST) -> Neighbourhood:
    """Precision, recall, density and coverage of generated features `[n, d]` among real ones `[m, d]`.

    Intervals are over draws of equally many rows; they leave out that a real row that is not drawn makes its neighbours' balls larger.

    Args:
        generated: features of generated rows.
        real: of real rows.
        nearest: the k of the balls, from 1 to the rows of the smaller set less 1.

    Raises:
        ValueError: see `sets_of`, or `nearest` is beyond that.
    """
    ours, theirs = sets_of(generated, real)
    most = min(len(ours), len(theirs)) - 1
    if not 1 <= nearest <= most:
        raise ValueError(
            f"{nearest} nearest neighbours in {len(ours)} generated and {len(theirs)} real rows: from 1 to {most} there are"
        )
    middle = theirs.mean(axis=0)
    ours, theirs = ours - middle, theirs - middle
    slack = rounding(ours, theirs)
    of_real = _inside(ours, theirs, _radii(theirs, nearest) + slack)
    of_ours = _inside(theirs, ours, _radii(ours, nearest) + slack)
    n, m = len(ours), len(theirs)
    density = float(of_real.balls.sum() / (nearest * n))
    error = float(np.hypot(_deviation(of_real.balls / nearest), _deviation(of_real.rows * (m / (nearest * n)))))
    return Neighbourhood(
        nearest,
        precision=Estimate(*_share(of_real.balls, of_real.alone_in), n=n, real=m),
        recall=Estimate(*_share(of_ours.balls, of_ours.alone_in), n=n, real=m),
        density=Estimate(density, student(density, error, min(n, m) - 1, METHOD.format("normal")), n, m),
        coverage=Estimate(*_share(of_real.rows, of_real.only), n=n, real=m),
        inside=of_real.balls > 0,
        balls=of_real.balls,
    )


@dataclass(frozen=True)
class _Inside:
    """Which of `n` rows lie in which of `m` balls."""

    balls: NDArray[np.int64]
    """Of each row, how many balls hold it: `[n]`."""
    rows: NDArray[np.int64]
    """Of each ball, how many rows it holds: `[m]`."""
    alone_in: NDArray[np.int64]
    """Of each ball, how many rows lie in no other: `[m]`."""
    only: NDArray[np.int64]
    """Of each row, how many balls hold no other: `[n]`."""


def _inside(rows: NDArray[np.float64], centres: NDArray[np.float64], radii: NDArray[np.float64]) -> _Inside:
    """Of rows `[n, d]` and balls around `[m, d]` with squared radii `[m]`."""
    n, m = len(rows), len(centres)
    balls, held, last = np.zeros(n, np.int64), np.zeros(m, np.int64), np.zeros(m, np.int64)
    alone_in = np.zeros(m, np.int64)
    for block in blocks(n, m):
        within = squared_distances(rows[block], centres) <= radii
        balls[block] = within.sum(axis=1)
        alone_in += within[balls[block] == 1].sum(axis=0)
        held += within.sum(axis=0)
        last = np.where(within.any(axis=0), block.start + within.argmax(axis=0), last)
    only = np.bincount(last[held == 1], minlength=n)
    return _Inside(balls, held, alone_in, only)


def _radii(rows: NDArray[np.float64], nearest: int) -> NDArray[np.float64]:
    """Squared distance of each row's k-th nearest neighbour among the others: `[n]`."""
    found = np.empty(len(rows))
    for block in blocks(len(rows), len(rows)):
        squared = squared_distances(rows[block], rows)
        squared[np.arange(len(squared)), np.arange(block.start, block.stop)] = np.inf
        squared.partition(nearest - 1, axis=1)
        found[block] = squared[:, nearest - 1]
    return found


def _share(counts: NDArray[np.int64], lost: NDArray[np.int64]) -> tuple[float, Interval]:
    """Share of rows that are held at all, with Wilson's interval of as many independent rows as have its error.

    Args:
        counts: of each row by how much it is held.
        lost: of each row of the other set, how many of them are held by it alone.
    """
    held = counts > 0
    share, error = float(held.mean()), float(np.hypot(_deviation(held), _deviation(lost * (len(lost) / len(held)))))
    return share, share_interval(share, error, len(held))


def share_interval(share: float, error: float, rows: int) -> Interval:
    """Wilson's interval of a share with a standard error, as of so many independent rows, `rows` of them at most."""
    spread = min(max(share, 0.5 / rows), 1 - 0.5 / rows)  # none or all of the rows vary too
    count = min(spread * (1 - spread) / error**2, rows) if error > 0 else rows
    found = wilson(share * count, count)
    return found.model_copy(update={"method": METHOD.format("Wilson")})


def _deviation(values: NDArray[Any]) -> float:
    """Standard error of the mean of independent values."""
    return float(np.std(values, ddof=1) / np.sqrt(len(values)))
