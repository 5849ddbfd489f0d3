"""How well a network finds pictures that are hidden in noise, by how much of it there is: a row at each level in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from compressor.contracts import Evaluation, Feed, Measure
from compressor.contracts.notes import Table
from compressor.contracts.quality import Interval, Metric
from compressor.contracts.statistics import paired
from compressor.tasks.batches import grouped
from compressor.tasks.generation.description import Description
from compressor.tasks.generation.samplers import asked_once

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DENOISING = Measure("denoising-error", better="lower", drop="percent", written="number")
"""Mean square of what a row's picture, found by one evaluation from a noisy one, differs from the row's own by; pixels lie in [-1, 1]. A model that
draws in few steps tells one picture where others tell the mean of many that it could be: its error may be larger by that, and no fault."""
LEVELS = 8
"""Row number i is asked at the middle of bin i modulo so many, even ones of the time."""
FEWEST = 4
"""Rows of a level that an interval is told of."""


def errors_of(
    predict: Callable[[Feed], Feed],
    real: NDArray[np.float32],
    labels: Sequence[int],
    how: Description,
    *,
    gives: str,
    batch: int,
) -> NDArray[np.float64]:
    """Error of each row, `[n]`: its own noise, at its own level; the network alone, without guidance, as if nothing came after the step.

    Args:
        predict: draws the rows of a feed.
        real: the rows' pictures `[n, C, H, W]`.
        labels: of these rows, as the network takes them.
        how: how the model draws.
        gives: name of the pictures that `predict` gives.
        batch: rows of one call.
    """
    import numpy as np

    from compressor.tasks.inputs.sampling import noise_of

    alone, found = how.model_copy(update={"policy": None}), np.zeros(len(real))
    for at in range(min(LEVELS, len(real))):
        times = np.array([middle_of(at)])
        level, table = how.process.at(times), asked_once(how.process, times, depths=how.depths)
        for rows in grouped(range(at, len(real), LEVELS), batch):
            chosen = list(rows)
            feed = alone.feed(chosen, [labels[row] for row in chosen], table)
            noisy = level.alpha * real[chosen] + level.sigma * noise_of(chosen, how.shape)
            told = predict({**feed, "noise": noisy.astype(np.float32)})[gives].astype(np.float64)
            found[chosen] = np.square(told - real[chosen]).reshape(len(chosen), -1).mean(1)
    return found


def mean_of(errors: NDArray[np.float64]) -> Metric:
    """Over rows and levels, with the interval of a mean."""
    import numpy as np

    with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is told by a verdict
        mean, low, high, method = paired(errors, None, 0, binary=False)
    return DENOISING.metric(mean, len(errors), Interval(low=low, high=high, method=method.replace(", paired", "")))


def middle_of(level: int) -> float:
    """Time in [0, 1] of a level."""
    return (level + 0.5) / LEVELS


def by_level(evaluations: Mapping[str, Evaluation], split: str) -> Iterator[Table]:
    """Errors of several models by level, of all but the first with how much they are above that one's, by the same rows and noise."""
    errors = {name: -each.gains[DENOISING.name] for name, each in evaluations.items() if DENOISING.name in each.gains}
    if not errors:
        return
    first = next(iter(errors.values()))
    rows = [
        (f"{middle_of(level):.2f}", *(_told(each[level::LEVELS], first[level::LEVELS]) for each in errors.values()))
        for level in range(min(LEVELS, len(first)))
    ]
    title = (
        f"Score by noise level: mean square error of the picture that one evaluation finds in a noisy one, {len(first)} {split} rows; "
        "time 1 is noise. "
        f"In brackets: against {next(iter(errors))}, with 95 % intervals by the same rows and noise"
    )
    yield Table(title=title, columns=("time", *errors), rows=tuple(rows))


def _told(mine: NDArray[np.float64], theirs: NDArray[np.float64]) -> str:
    import numpy as np

    mean, held = float(mine.mean()), float(theirs.mean())
    if mine is theirs or np.array_equal(mine, theirs) or len(mine) < FEWEST or not (np.isfinite(mine).all() and held > 0):
        return f"{mean:.4f}"
    change, low, high, _ = paired(mine - theirs, None, 0, binary=False)
    return f"{mean:.4f} ({100 * change / held:+.1f} %, {100 * low / held:+.1f} to {100 * high / held:+.1f})"
