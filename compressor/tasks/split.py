"""Which rows are cut off a split: the rows that scikit-learn's `train_test_split` takes, whose import takes a second of every run.

Equal draws matter, since the digest of the rows is part of every key.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def cut(labels: Sequence[int], count: int, *, seed: int) -> tuple[list[int], list[int]]:
    """Numbers of the rows that stay and of the `count` rows that are taken, both in order.

    Each class gives its share, as far as every class can: it has two rows or more, and both parts are as large as there are
    classes. Else any row is taken as likely as another.
    """
    import numpy as np

    numbers, sizes = np.unique(np.asarray(labels), return_inverse=True, return_counts=True)[1:]
    draw, left = np.random.RandomState(seed), len(labels) - count
    if sizes.min() < 2 or min(count, left) < len(sizes):
        order = draw.permutation(len(labels))
        return sorted(order[count:].tolist()), sorted(order[:count].tolist())
    staying = _shares(sizes, left, draw)
    taken = _shares(sizes - staying, count, draw)
    stay, take = [], []
    for number, size in enumerate(sizes):
        rows = np.flatnonzero(numbers == number)[draw.permutation(size)]
        stay += rows[: staying[number]].tolist()
        take += rows[staying[number] : staying[number] + taken[number]].tolist()
    return sorted(stay), sorted(take)


def _shares(sizes: NDArray[np.int64], count: int, draw: np.random.RandomState) -> NDArray[np.int64]:
    """How many of `count` each class gives: its share rounded down, and one more where most is left, drawn among equals."""
    import numpy as np

    exact = sizes / sizes.sum() * count
    shares = np.floor(exact)
    left, rest = int(count - shares.sum()), exact - shares
    for value in np.unique(rest)[::-1]:
        if left <= 0:
            break
        equals = np.flatnonzero(rest == value)
        chosen = draw.choice(equals, size=min(len(equals), left), replace=False)
        shares[chosen] += 1
        left -= len(chosen)
    whole: NDArray[np.int64] = shares.astype(np.int64)
    return whole
