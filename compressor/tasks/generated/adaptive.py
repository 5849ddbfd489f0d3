"""Which of a student's rows a teacher mends: the limit below which an oracle likes them too little.

Starodubcev et al., Your Student is Better Than Expected, CVPR 2024, arXiv:2312.10835: a share k of the student's rows, those that the oracle
likes least, is refined by the teacher from a middle level of noise, or drawn anew by it. A row then takes

    evaluations of the student + k * evaluations of the teacher

on average. Rows are drawn so by `inputs.sampling.adapted`, in a run as in an export. What the oracle costs is no evaluation, and is timed where
the whole is. Whoever judges the result by the oracle's own network finds it better than it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Threshold:
    """Which rows are liked enough, chosen so that a share of a student's rows is not; `inputs.sampling.sends` tells them."""

    share: float
    """k, in [0, 1]: of the rows that it was calibrated on, so many are sent on."""
    limit: float
    """Rows that are liked less are sent on."""
    tied: float
    """Of rows that are liked exactly so much, this share is sent on: an oracle may tell few different values."""

    @classmethod
    def calibrated(cls, liked: NDArray[Any], share: float) -> Threshold:
        """By how much an oracle likes rows of the student, `[n]`.

        Raises:
            ValueError: there are none, one is not finite, or the share is none.
        """
        if not 0 <= share <= 1:
            raise ValueError(f"a share of {share} of the rows: it lies between 0 and 1")
        if liked.ndim != 1 or not len(liked) or not np.isfinite(liked).all():
            raise ValueError(
                f"an oracle that told {list(liked.shape)} numbers, all of them finite: {bool(np.isfinite(liked).all())}"
            )
        if share in (0, 1):
            return cls(share, limit=-np.inf if share == 0 else np.inf, tied=0.0)
        ordered = np.sort(liked)
        limit = float(ordered[min(int(share * len(liked)), len(liked) - 1)])
        below, at = float((liked < limit).mean()), float((liked == limit).mean())
        return cls(share, limit, tied=(share - below) / at)
