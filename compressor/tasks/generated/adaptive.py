"""Drawing by a student, and by its teacher only where an oracle does not like what the student drew.

Starodubcev et al., Your Student is Better Than Expected, CVPR 2024, arXiv:2312.10835: a share k of the student's rows, those that the oracle
likes least, is refined by the teacher from a middle level of noise, or drawn anew by it. A row then takes

    evaluations of the student + k * evaluations of the teacher

on average. What the oracle costs is no evaluation, and is timed where the whole is. Whoever judges the result by the oracle's own network
finds it better than it is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from compressor.contracts import Feed
from compressor.tasks.inputs.sampling import likes, noised, sends

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from compressor.tasks.generated.classifier import Classifier

Draw: TypeAlias = "Callable[[Feed], NDArray[Any]]"
"""Rows `[n, ...]` of a feed, by a session: the loop around a model's graph."""
Oracle: TypeAlias = "Callable[[Feed, NDArray[Any]], NDArray[Any]]"
"""How much the rows of a feed are liked, `[n]`: higher is better, on any scale."""
NOISE, SEED, LABEL = "noise", "seed", "label"
"""Of a feed: what rows start from, the number that a row's draws come of, and the class that it is asked to be of."""


@dataclass(frozen=True)
class Drawn:
    """A model that draws rows from a feed."""

    draw: Draw
    evaluations: int
    """Of its network for each row; guidance by two outputs counts twice."""


class Mender(Protocol):
    """What is done about rows that an oracle does not like."""

    @property
    def evaluations(self) -> int:
        """Of the teacher's network for each row."""
        ...

    def of(self, feed: Feed, rows: NDArray[Any]) -> NDArray[Any]:
        """Better rows of the same feed, `[n, ...]`."""
        ...


@dataclass(frozen=True)
class Regenerated(Drawn):
    """The teacher draws them anew, from the same noise."""

    def of(self, feed: Feed, rows: NDArray[Any]) -> NDArray[Any]:  # noqa: ARG002 - they are forgotten
        """What the teacher alone would draw."""
        return self.draw(feed)


@dataclass(frozen=True)
class Refined(Drawn):
    """The teacher goes on from `alpha * row + sigma * fresh noise`: `draw` starts at that level, and makes the steps that are left."""

    alpha: float
    sigma: float

    def of(self, feed: Feed, rows: NDArray[Any]) -> NDArray[Any]:
        """The rows with their finer features drawn anew; the higher the level, the coarser."""
        return self.draw({**feed, NOISE: noised(rows, feed[SEED], self.alpha, self.sigma)})


@dataclass(frozen=True)
class Threshold:
    """Which rows are liked enough, chosen so that a share of a student's rows is not."""

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

    def sends(self, liked: NDArray[Any], seeds: NDArray[Any]) -> NDArray[np.bool_]:
        """Which rows are sent on, `[n]`: each by itself, in whatever batch it is."""
        found: NDArray[np.bool_] = sends(liked, seeds, self.limit, self.tied)
        return found


@dataclass(frozen=True)
class Adapted:
    """Rows that were drawn so, `[n, ...]`."""

    rows: NDArray[Any]
    liked: NDArray[Any]
    """How much the oracle liked the student's rows, `[n]`."""
    sent: NDArray[np.bool_]
    """Which were sent on, `[n]`."""
    evaluations: float
    """Mean over these rows, the student's and the teacher's together."""


def adaptive(
    feed: Feed, student: Drawn, mender: Mender, *, oracle: Oracle, threshold: Threshold, by_row: Collection[str]
) -> Adapted:
    """Draw the rows of a feed by the student, and mend those that the oracle likes less than the threshold.

    Args:
        feed: with `noise` and `seed`, each `[n, ...]`.
        student: what draws first.
        mender: what is done about the others.
        oracle: what decides; it is asked for rows that it has not seen in calibration.
        threshold: of this oracle on this student's rows.
        by_row: names of inputs that have an entry for each row; the others are the same for all.

    Raises:
        ValueError: the oracle tells something that is not finite.
    """
    rows = student.draw(feed)
    liked = _liked(oracle, feed, rows)
    sent = threshold.sends(liked, feed[SEED])
    chosen = np.flatnonzero(sent)
    if len(chosen):
        rows = rows.copy()
        rows[chosen] = mender.of({name: array[chosen] if name in by_row else array for name, array in feed.items()}, rows[chosen])
    return Adapted(rows, liked, sent, student.evaluations + len(chosen) / len(rows) * mender.evaluations)


def by_shares(
    feed: Feed, student: Drawn, mender: Mender, *, oracle: Oracle, thresholds: Sequence[Threshold]
) -> tuple[Adapted, ...]:
    """What `adaptive` draws at several thresholds, each row drawn once by either model: a trade-off of quality and evaluations.

    Raises:
        ValueError: the oracle tells something that is not finite.
    """
    rows = student.draw(feed)
    liked, mended = _liked(oracle, feed, rows), mender.of(feed, rows)
    found = []
    for threshold in thresholds:
        sent = threshold.sends(liked, feed[SEED])
        mixed = np.where(sent.reshape(-1, *[1] * (rows.ndim - 1)), mended, rows)
        found.append(Adapted(mixed, liked, sent, student.evaluations + float(sent.mean()) * mender.evaluations))
    return tuple(found)


def by_class(classifier: Classifier) -> Oracle:
    """An oracle: how sure a classifier is that a picture is of the class that was asked for, as a logarithm."""

    def liked(feed: Feed, rows: NDArray[Any]) -> NDArray[Any]:
        found: NDArray[Any] = likes(classifier.seen(rows)[1], feed[LABEL])
        return found

    return liked


def _liked(oracle: Oracle, feed: Feed, rows: NDArray[Any]) -> NDArray[Any]:
    liked = np.asarray(oracle(feed, rows))
    if liked.shape != (len(rows),) or not np.isfinite(liked).all():
        raise ValueError(
            f"an oracle told {list(liked.shape)} numbers of {len(rows)} rows: one finite number for each is expected"
        )
    return liked
