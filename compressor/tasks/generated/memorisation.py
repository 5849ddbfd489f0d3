"""Whether generated rows are copies: how near they lie to training rows, beside rows that no model has seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from compressor.contracts.quality import Interval
from compressor.tasks.generated.estimates import sets_of
from compressor.tasks.generated.neighbours import share_interval
from compressor.tasks.generated.pairs import blocks, rounding, squared_distances

if TYPE_CHECKING:
    from numpy.typing import NDArray

QUANTILE = 0.05
LEAST_BELOW = 5
"""Held-out rows that lie below a quantile which can be spoken of."""
SEEN = "training rows"
METHOD = "Wilson, as of so many independent rows, for both sets of rows"


@dataclass(frozen=True)
class Memorisation:
    """Distances to the nearest training row, in the unit of the features."""

    generated: NDArray[np.float64]
    """Of each generated row, `[n]`."""
    held_out: NDArray[np.float64]
    """Of each held-out row, `[m]`."""
    nearest: NDArray[np.int64]
    """The training row that each generated one lies nearest to, `[n]`: to be looked at."""
    quantile: float
    limit: float
    """The distance that this share of held-out rows lies within."""
    share: float
    """Of generated rows that lie as near: about the quantile where a model draws new rows, more where it copies."""
    interval: Interval
    copies: int
    """Generated rows that are a training row but for rounding."""


def memorisation(
    generated: NDArray[Any], training: NDArray[Any], held_out: NDArray[Any], *, quantile: float = QUANTILE
) -> Memorisation:
    """How near generated rows `[n, d]` lie to training rows `[t, d]`, beside held-out rows `[m, d]` of the same source.

    A share far below the quantile is no merit: rows that lie off the data are far from training rows too.

    Args:
        generated: features, or the rows themselves.
        training: of what the model learned from.
        held_out: of rows that it did not see, drawn as training rows were.
        quantile: of held-out distances, in (0, 1).

    Raises:
        ValueError: see `sets_of`, the quantile is none, or fewer than 5 held-out rows lie below it.
    """
    if not 0 < quantile < 1:
        raise ValueError(f"quantile {quantile}: it lies between 0 and 1")
    if len(held_out) * quantile < LEAST_BELOW:
        raise ValueError(
            f"{len(held_out)} held-out rows say nothing of their quantile {quantile}: {int(np.ceil(LEAST_BELOW / quantile))} do"
        )
    ours, seen = sets_of(generated, training, least=1, names=("generated rows", SEEN))
    theirs, _ = sets_of(held_out, training, least=1, names=("held-out rows", SEEN))
    middle = seen.mean(axis=0)
    ours, seen, theirs = ours - middle, seen - middle, theirs - middle
    distances, nearest = _nearest(ours, seen)
    beside, _ = _nearest(theirs, seen)
    slack = rounding(ours, seen, theirs)
    limits = _limits(beside, quantile)
    low, share, high = (float((distances <= limit).mean()) for limit in limits)
    error = float(np.hypot(np.sqrt(share * (1 - share) / len(ours)), (high - low) / 2))
    return Memorisation(
        np.sqrt(distances),
        np.sqrt(beside),
        nearest,
        quantile,
        limit=float(np.sqrt(limits[1])),
        share=share,
        interval=share_interval(share, error, len(ours)).model_copy(update={"method": METHOD}),
        copies=int((distances <= slack).sum()),
    )


def _limits(squared: NDArray[np.float64], quantile: float) -> NDArray[np.float64]:
    """A quantile of held-out distances, between those a standard error of its own below and above."""
    error = np.sqrt(quantile * (1 - quantile) / len(squared))
    found: NDArray[np.float64] = np.quantile(squared, np.clip([quantile - error, quantile, quantile + error], 0, 1))
    return found


def _nearest(rows: NDArray[np.float64], others: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Squared distance to the nearest of the others, and which it is: `[n]` each."""
    found, which = np.empty(len(rows)), np.empty(len(rows), np.int64)
    for block in blocks(len(rows), len(others)):
        squared = squared_distances(rows[block], others)
        which[block] = squared.argmin(axis=1)
        found[block] = squared[np.arange(len(squared)), which[block]]
    return found, which
