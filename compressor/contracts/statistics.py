"""Paired differences with their interval: one metric, two models, the same rows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from compressor.contracts.records import Difference, Interval, Metric

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from compressor.contracts.evaluation import Evaluation

NORMAL_95 = 1.959963984540054
RESAMPLES = 2000
DRAWN_AT_ONCE = 4_000_000
"""Numbers of rows that are held at a time: 32 MB."""
PAIRED_BOOTSTRAP = "bootstrap over rows, paired, studentised"


def difference(
    candidate: Evaluation, reference: Evaluation, *, metric: str, name: str, seed: int, changed: int | None
) -> Difference:
    """Candidate against reference by one metric, in the unit that its losses are counted in; negative means worse.

    Where rows are right or wrong, the interval is Bonett and Price's adjusted Wald interval for paired proportions (J. Educ.
    Behav. Stat. 37, 2012), which keeps a width when no row differs; else a studentised bootstrap over rows (Efron, Tibshirani: An
    Introduction to the Bootstrap, 1993, chapter 12), weighted as they count, which follows skewed rows, and no narrower than
    Student's, as resamples of few rows that differ say too little. A metric that is a property of the whole set has no interval here.

    Raises:
        ValueError: the two were not evaluated on the same number of rows.
    """
    import numpy as np

    mine, theirs = candidate.gains.get(metric), reference.gains.get(metric)
    held = reference.scores.of(metric)
    scale = scale_of(held)
    if mine is None or theirs is None:
        sign = 1.0 if held.better == "higher" else -1.0
        change, interval = sign * (candidate.scores.of(metric).value - held.value), None
    else:
        if len(mine) != len(theirs):
            raise ValueError(f"{len(mine)} rows against {len(theirs)}: not the same rows")
        binary = bool(np.isin(mine, (0.0, 1.0)).all() and np.isin(theirs, (0.0, 1.0)).all())
        with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is told by a verdict, not warned of
            change, low, high, method = paired(mine - theirs, reference.weights, seed, binary=binary)
        interval = Interval(low=scale * low, high=scale * high, method=method)
    return Difference(
        reference=name,
        metric=metric,
        change=round(scale * change, 6),
        unit=held.drop,
        interval=interval,
        n=held.n,
        changed=changed,
    )


def scale_of(reference: Metric) -> float:
    """What a change of a metric is multiplied with to be in its unit: points, or per cent of the reference's value."""
    return 100.0 if reference.drop == "points" else 100.0 / max(abs(reference.value), 1e-12)


def paired(
    gained: NDArray[np.float64], weights: NDArray[np.float64] | None, seed: int, *, binary: bool
) -> tuple[float, float, float, str]:
    """Mean of what each row gained, `[n]`, with the ends of its 95 % interval and the method; `binary` where rows are right or wrong."""
    import numpy as np

    mean = float(np.average(gained, weights=weights))
    if weights is None and binary:
        n = len(gained)
        better, worse = (float((gained == sign).sum() + 1) / (n + 2) for sign in (1, -1))
        centre, spread = better - worse, math.sqrt((better + worse - (better - worse) ** 2) / (n + 2))
        return mean, max(-1.0, centre - NORMAL_95 * spread), min(1.0, centre + NORMAL_95 * spread), "Bonett-Price, paired"
    counted = np.ones(len(gained)) if weights is None else np.asarray(weights, dtype=np.float64)
    from scipy.special import stdtrit

    error = float(_mean_and_error(gained[None], counted[None])[1][0])
    if error == 0.0:
        return mean, mean, mean, PAIRED_BOOTSTRAP
    found = [_mean_and_error(gained[rows], counted[rows]) for rows in resampled(len(gained), seed)]
    means, errors = (np.concatenate(each) for each in zip(*found, strict=True))
    varied = errors > 0.0
    low, high = np.quantile((means[varied] - mean) / errors[varied], (0.025, 0.975)) if varied.any() else (0.0, 0.0)
    student = float(stdtrit(max(len(gained) - 1, 1), 0.975))
    return mean, mean - max(float(high), student) * error, mean - min(float(low), -student) * error, PAIRED_BOOTSTRAP


def _mean_and_error(gained: NDArray[np.float64], weights: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weighted means of rows `[draws, n]` and their standard errors, linearised, since the weights are drawn too: `[draws]` each."""
    import numpy as np

    total = weights.sum(axis=1)
    means = (gained * weights).sum(axis=1) / total
    residuals = np.square(weights * (gained - means[:, None])).sum(axis=1)
    n = gained.shape[1]
    errors: NDArray[np.float64] = np.sqrt(residuals * n / max(n - 1, 1)) / total
    return means, errors


def draws_of(
    rows: int, seed: int, times: int = RESAMPLES, *, counts: NDArray[np.float64] | None = None
) -> Iterator[NDArray[np.int64]]:
    """How often each row is held by each of `times` draws of so many rows with replacement, each as likely as its count (else all alike).

    In blocks `[draws, rows]`, as `resampled`, for figures that are sums over rows. There may be more counts than rows are drawn.
    """
    import numpy as np

    counted = np.ones(rows) if counts is None else counts
    draw, block, shares = np.random.default_rng(seed), max(1, DRAWN_AT_ONCE // len(counted)), counted / counted.sum()
    for done in range(0, times, block):
        yield draw.multinomial(rows, shares, size=min(block, times - done))


def resampled(n: int, seed: int, times: int = RESAMPLES) -> Iterator[NDArray[np.int64]]:
    """Rows drawn with replacement, `times` n of them in blocks `[draws, n]`: all at once, many rows would fill the memory."""
    import numpy as np

    draw, block = np.random.default_rng(seed), max(1, DRAWN_AT_ONCE // n)
    for done in range(0, times, block):
        yield draw.integers(0, n, size=(min(block, times - done), n))
