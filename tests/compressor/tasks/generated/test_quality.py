import numpy as np
import pytest

from compressor.contracts.quality import Metric
from compressor.errors import NotComparable
from compressor.tasks.generated.features import Features, Space
from compressor.tasks.generated.frechet import frechet
from compressor.tasks.generated.kernel_distance import Gaussian, Polynomial, kernel_difference
from compressor.tasks.generated.quality import (
    DISTANCES,
    FRECHET,
    KERNEL,
    MEASURES,
    PRECISION,
    Quality,
    differences,
    gap,
    quality,
    spread,
    told,
)

KNOWN = Metric(name="accuracy", value=0.9, n=100)
ONE, OTHER = (Space(name="classifier", digest=letter * 64, width=4, accuracy=KNOWN) for letter in "ab")


def features(seed, n=150, *, mean=0.0, space=ONE):
    return Features((np.random.default_rng(seed).normal(size=(n, 4)) + mean).astype(np.float32), space)


def test_all_figures_stand_beside_what_they_were_measured_by():
    ours, theirs = features(0, 120, mean=0.3), features(1)
    found = quality(ours, theirs)
    assert (found.space, found.n, found.real, found.nearest) == (ONE, 120, 150, 5)
    assert [metric.name for metric in found.metrics] == [measure.name for measure in MEASURES]
    assert all(metric.interval.low <= metric.value <= metric.interval.high for metric in found.metrics)
    alone = frechet(ours.rows, theirs.rows)
    assert found.of(FRECHET).value == alone.value
    assert found.plain == {FRECHET.name: alone.plain}
    assert Quality.model_validate_json(found.model_dump_json()) == found


def test_differences_are_paired_and_of_one_bandwidth():
    mine, other, real = features(0, mean=0.4), features(0, mean=0.2), features(1)
    found = differences(mine, other, real)
    assert list(found) == list(DISTANCES)
    assert found[KERNEL] == kernel_difference(mine.rows, other.rows, real.rows, Polynomial())
    bandwidth = Gaussian.by_median(real.rows)
    assert found[DISTANCES[2]] == kernel_difference(mine.rows, other.rows, real.rows, bandwidth)
    assert all(each.interval.low > 0 for each in found.values())


def test_a_paired_difference_is_told_in_hundredths_of_the_distance_and_negative_where_it_is_worse():
    mine, other, real = features(0, mean=0.6), features(0, mean=0.5), features(1)
    found, reference = differences(mine, other, real)[KERNEL], quality(other, real).of(KERNEL)
    difference = told(found, reference, name="source")
    assert (difference.reference, difference.metric, difference.unit, difference.n) == ("source", KERNEL.name, "points", 150)
    assert difference.change == pytest.approx(-100 * found.value)
    assert difference.interval.low < difference.change < difference.interval.high < 0
    few = differences(features(0, 20), features(2, 20), real)[FRECHET]
    assert told(few, quality(features(2, 20), real).of(FRECHET), name="source").interval is None


def test_figures_of_different_networks_are_never_held_against_each_other():
    told = r"measured by classifier (a{12}|b{12}), right on 90.0% of 100 held-out rows, and by classifier"
    with pytest.raises(NotComparable, match=told):
        quality(features(0), features(1, space=OTHER))
    with pytest.raises(NotComparable, match=told):
        differences(features(0), features(0, space=OTHER), features(1))
    mine, other = quality(features(0), features(1)), quality(features(0, space=OTHER), features(1, space=OTHER))
    with pytest.raises(NotComparable, match=told):
        gap(mine, other, FRECHET)
    with pytest.raises(NotComparable, match=told):
        spread(FRECHET, [mine, other])
    with pytest.raises(NotComparable, match=told):
        spread(FRECHET, [mine, mine]).holds(spread(FRECHET, [other, other]))


def test_what_depends_on_how_many_rows_there_are_is_compared_at_equal_numbers_only():
    few, many = quality(features(0, 100), features(1)), quality(features(2), features(1))
    with pytest.raises(NotComparable, match=r"precision of \(100, 150, 5\) and of \(150, 150, 5\) generated rows"):
        gap(few, many, PRECISION)
    assert gap(few, many, KERNEL)[1] is not None
    tiny = quality(features(0, 20), features(1))
    assert tiny.of(FRECHET).interval is None
    with pytest.raises(NotComparable, match="frechet-distance of"):
        gap(tiny, many, FRECHET)
    assert gap(tiny, tiny, FRECHET) == (0.0, None)


def test_a_gap_is_as_wide_as_both_intervals_together():
    far, near = quality(features(0, mean=0.8), features(1)), quality(features(2, mean=0.2), features(1))
    change, interval = gap(far, near, KERNEL)
    assert change == far.of(KERNEL).value - near.of(KERNEL).value
    assert interval.low < change < interval.high
    assert interval.low > 0
    widths = [each.of(KERNEL).interval.high - each.of(KERNEL).interval.low for each in (far, near)]
    assert interval.high - interval.low == pytest.approx(np.hypot(*widths))


def test_a_recipe_spreads_over_its_seeds_and_holds_what_lies_within_two_deviations():
    seeds = [quality(features(seed, mean=0.3 + 0.05 * seed), features(9)) for seed in range(3)]
    found = spread(KERNEL, seeds)
    values = [each.of(KERNEL).value for each in seeds]
    assert (found.mean, found.deviation) == (pytest.approx(np.mean(values)), pytest.approx(np.std(values, ddof=1)))
    assert found.holds(found)
    moved = found.model_copy(update={"values": tuple(each + 1.9 * found.deviation for each in values)})
    assert found.holds(moved)
    assert not found.holds(moved.model_copy(update={"values": tuple(each + 2.1 * found.deviation for each in values)}))
    with pytest.raises(NotComparable, match="kernel-distance of 150 rows, and frechet-distance of 150"):
        found.holds(spread(FRECHET, seeds))
    with pytest.raises(NotComparable, match="different numbers of generated and real rows"):
        spread(KERNEL, [seeds[0], quality(features(0, 100), features(9))])
    with pytest.raises(ValueError, match="1 seeds have no spread"):
        spread(KERNEL, seeds[:1])
