"""All figures of generated rows at once, with what they were measured by: what a report keeps, and what may be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from compressor.contracts.evaluation import Measure
from compressor.contracts.notes import Record
from compressor.contracts.quality import Difference, Interval, Metric
from compressor.contracts.statistics import scale_of
from compressor.errors import NotComparable
from compressor.tasks.generated.features import Features, Space, one_of, same_space
from compressor.tasks.generated.frechet import frechet, frechet_difference
from compressor.tasks.generated.kernel_distance import Gaussian, Polynomial, kernel_difference, kernel_distance
from compressor.tasks.generated.neighbours import NEAREST, neighbourhood

if TYPE_CHECKING:
    from compressor.tasks.generated.estimates import Estimate

FRECHET = Measure("frechet-distance", better="lower", written="number")
KERNEL = Measure("kernel-distance", better="lower", written="number")
GAUSSIAN = Measure("gaussian-kernel-distance", better="lower", written="number")
"""Losses of distances are in points, hundredths of their own unit: per cent of what is about 0 where all is well would say nothing."""
PRECISION, RECALL, COVERAGE = Measure("precision"), Measure("recall"), Measure("coverage")
DENSITY = Measure("density", drop="percent")
DISTANCES = (FRECHET, KERNEL, GAUSSIAN)
MEASURES = (*DISTANCES, PRECISION, RECALL, DENSITY, COVERAGE)
NEEDS_EQUAL_ROWS = (PRECISION, RECALL, DENSITY, COVERAGE)
"""Measures whose mean over draws depends on how many rows there are."""


class Quality(Record):
    """Figures of one model's rows."""

    space: Space
    n: int
    """Generated rows."""
    real: int
    """Rows that they are held against."""
    nearest: int
    """The k of precision, recall, density and coverage."""
    bandwidth: float
    """Of the Gaussian kernel, by the real rows."""
    metrics: tuple[Metric, ...]
    plain: Mapping[str, float]
    """What the figures of these rows are before a bias is taken off: the Frechet distance that other programs would give."""

    def of(self, measure: Measure) -> Metric:
        """The figure of a measure."""
        return next(metric for metric in self.metrics if metric.name == measure.name)


def quality(generated: Features, real: Features, *, nearest: int = NEAREST, seed: int = 0) -> Quality:
    """All figures of generated rows against real ones, with 95 % intervals over draws of both.

    Raises:
        NotComparable: features are of different networks.
        ValueError: see `sets_of` and `neighbourhood`.
    """
    space = same_space(generated, real)
    ours, theirs = generated.rows, real.rows
    gaussian, near = Gaussian.by_median(theirs), neighbourhood(ours, theirs, nearest=nearest)
    found: dict[Measure, Estimate] = {
        FRECHET: frechet(ours, theirs, seed=seed),
        KERNEL: kernel_distance(ours, theirs, Polynomial()),
        GAUSSIAN: kernel_distance(ours, theirs, gaussian),
        PRECISION: near.precision,
        RECALL: near.recall,
        DENSITY: near.density,
        COVERAGE: near.coverage,
    }
    return Quality(
        space=space,
        n=len(ours),
        real=len(theirs),
        nearest=nearest,
        bandwidth=gaussian.bandwidth,
        metrics=tuple(measure.metric(each.value, each.n, each.interval) for measure, each in found.items()),
        plain={measure.name: each.plain for measure, each in found.items() if each.bias != 0},
    )


def differences(candidate: Features, reference: Features, real: Features, *, seed: int = 0) -> dict[Measure, Estimate]:
    """By distance, how much farther a candidate's rows are than a reference's, in the distance's unit: negative where they are nearer.

    Args:
        candidate: of one model's rows.
        reference: of the other's, of the same noise in the same order.
        real: the same rows for both.
        seed: of groups that are left out.

    Raises:
        NotComparable: features are of different networks.
        ValueError: see `paired_sets`.
    """
    same_space(candidate, reference, real)
    mine, other, theirs = candidate.rows, reference.rows, real.rows
    return {
        FRECHET: frechet_difference(mine, other, theirs, seed=seed),
        KERNEL: kernel_difference(mine, other, theirs, Polynomial()),
        GAUSSIAN: kernel_difference(mine, other, theirs, Gaussian.by_median(theirs)),
    }


def told(found: Estimate, reference: Metric, *, name: str) -> Difference:
    """A paired difference as gates and reports read it: negative is worse, in the unit that losses of the measure are counted in.

    Args:
        found: how much farther the candidate is.
        reference: the same figure of the reference.
        name: of the reference.
    """
    scale, interval = -scale_of(reference), None
    if found.interval is not None:
        low, high = (scale * end for end in (found.interval.high, found.interval.low))
        interval = Interval(low=low, high=high, method=found.interval.method)
    return Difference(
        reference=name, metric=reference.name, change=scale * found.value, unit=reference.drop, interval=interval, n=found.n
    )


class Spread(Record):
    """What one recipe gives by its seeds: a model each, trained from its own."""

    measure: str
    space: Space
    n: int
    values: tuple[float, ...]
    """Of each seed."""

    @property
    def mean(self) -> float:
        """Over seeds."""
        return fmean(self.values)

    @property
    def deviation(self) -> float:
        """Over seeds, of which there are 2 or more; what sampling adds is in it."""
        return stdev(self.values)

    def holds(self, other: Spread) -> bool:
        """Whether another recipe's mean is at most 2 deviations beyond this one's, for a measure that is better when it is lower.

        Raises:
            NotComparable: they are of different measures, networks or numbers of rows.
        """
        one_of([self.space, other.space])
        if (self.measure, self.n) != (other.measure, other.n):
            raise NotComparable(f"{self.measure} of {self.n} rows, and {other.measure} of {other.n}")
        return other.mean <= self.mean + 2 * self.deviation


def spread(measure: Measure, seeds: Sequence[Quality]) -> Spread:
    """One figure of models that differ in their seed.

    Raises:
        NotComparable: they were measured by different networks, or on different numbers of rows.
        ValueError: there are fewer than 2.
    """
    if len(seeds) < 2:
        raise ValueError(f"{len(seeds)} seeds have no spread: at least 2 do")
    space = one_of([each.space for each in seeds])
    if len(counts := {(each.n, each.real) for each in seeds}) > 1:
        raise NotComparable(f"figures of different numbers of generated and real rows: {sorted(counts)}")
    return Spread(measure=measure.name, space=space, n=seeds[0].n, values=tuple(each.of(measure).value for each in seeds))


def gap(candidate: Quality, reference: Quality, measure: Measure) -> tuple[float, Interval | None]:
    """A candidate's figure less a reference's, as of independent draws: where both came of the same noise, `differences` knows more.

    Raises:
        NotComparable: they were measured by different networks; or the figure depends on numbers of rows that differ.
    """
    one_of([candidate.space, reference.space])
    mine, other = candidate.of(measure), reference.of(measure)
    sizes = [(each.n, each.real, each.nearest) for each in (candidate, reference)]
    unknown = mine.interval is None or other.interval is None
    if (unknown or measure in NEEDS_EQUAL_ROWS) and sizes[0] != sizes[1]:
        raise NotComparable(f"{measure.name} of {sizes[0]} and of {sizes[1]} generated rows, real rows and neighbours")
    change = mine.value - other.value
    if mine.interval is None or other.interval is None:
        return change, None
    below = ((mine.value - mine.interval.low) ** 2 + (other.interval.high - other.value) ** 2) ** 0.5
    above = ((mine.interval.high - mine.value) ** 2 + (other.value - other.interval.low) ** 2) ** 0.5
    return change, Interval(low=change - below, high=change + above, method="of two independent intervals (MOVER)")
