"""How near one language model's answers are to another's, by the likeliest words of some tokens of each document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compressor.contracts import Feed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LOOKED_AT = 32
"""Tokens of a document whose answers are kept, spread evenly over it."""
WORDS = 16
"""Likeliest words that are kept of each."""
LEAST_SHARED = 0.5
"""Probability that words which both kept have to hold in the mean."""
NONE = -1
"""The word where a document has fewer tokens."""


def looked_at(counted: NDArray[np.bool_], before: int, total: int) -> NDArray[np.bool_]:
    """Which tokens of a window are looked at: of `total` that count in a document at most `LOOKED_AT`, `before` lie in windows before."""
    import numpy as np

    chosen = np.unique(np.arange(min(LOOKED_AT, total)) * max(total, 1) // max(1, min(LOOKED_AT, total)))
    numbers = before + np.cumsum(counted) - 1
    found: NDArray[np.bool_] = counted & np.isin(numbers, chosen)
    return found


def likeliest(logits: NDArray[Any]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The likeliest words and their log-probabilities, `[T, at most WORDS]` each, the likeliest first; of logits `[T, V]`."""
    import numpy as np

    count = min(WORDS, logits.shape[-1])
    with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is told by a verdict, not warned of
        words = np.argpartition(-logits, count - 1, axis=-1)[:, :count]
        words = np.take_along_axis(
            words, np.argsort(-np.take_along_axis(logits, words, axis=-1), axis=-1, kind="stable"), axis=-1
        )
        most = logits.max(axis=-1, keepdims=True).astype(np.float64)
        total = most + np.log(np.exp(logits - most).sum(axis=-1, keepdims=True))
        logs = np.take_along_axis(logits, words, axis=-1) - total
    return words.astype(np.int32), logs.astype(np.float32)


def agreement(candidate: Feed, reference: Feed) -> float | None:
    """Share of the tokens looked at whose likeliest word is the same; None where none was."""
    mine, theirs = candidate["words"][..., 0], reference["words"][..., 0]
    looked = theirs != NONE
    return float((mine == theirs)[looked].mean()) if looked.any() else None


def divergence(candidate: Feed, reference: Feed) -> float | None:
    """KL divergence of the candidate from the reference in nats, a mean over the tokens looked at; None where none was, or where the
    words that both kept hold less than half of the probability, so that little could be said.

    Words that are not among the likeliest of both count as one: by that it is too small, by no more than what the divergence among
    them adds, and 0 where both are equal.
    """
    import numpy as np

    looked = reference["words"][..., 0] != NONE
    if not looked.any():
        return None
    (mine, q), (theirs, p) = ((each["words"][looked], each["logs"][looked].astype(np.float64)) for each in (candidate, reference))
    same = theirs[:, :, None] == mine[:, None, :]
    shared = same.any(axis=-1)
    told = np.where(same, q[:, None, :], 0.0).sum(axis=-1)
    within = np.where(shared, np.exp(p) * (p - told), 0.0).sum(axis=-1)
    if float(np.where(shared, np.exp(p), 0.0).sum(axis=-1).mean()) < LEAST_SHARED:
        return None
    rest = [np.clip(1 - np.where(shared, np.exp(each), 0.0).sum(axis=-1), 1e-12, 1.0) for each in (p, told)]
    return float((within + rest[0] * np.log(rest[0] / rest[1])).mean())
