"""Intervals and verdicts on synthetic timings, where the truth is known."""

import math

import numpy as np
import pytest
from scipy.stats import norm, t

from benchmarks.statistics import (
    MEDIAN_OF_THREE,
    allowance,
    is_steady,
    judge,
    median_with_interval,
    percentile,
    ratio_with_interval,
    widened,
)
from compressor.contracts.records import Interval

EXPERIMENTS = 400


def rounds(rng, ms: float, *, n: int, noise: float = 0.03):
    return ms * np.exp(noise * rng.standard_normal(n))


@pytest.mark.parametrize("n", [5, 7, 9, 13])
@pytest.mark.parametrize("shape", ["normal", "heavy tails"])
def test_interval_of_a_median_covers_the_truth_about_as_often_as_it_says(n, shape):
    rng = np.random.default_rng(n)
    draw = rng.standard_normal if shape == "normal" else (lambda size: rng.standard_t(2, size))
    covered = 0
    for i in range(EXPERIMENTS):
        _, interval = median_with_interval(10.0 + draw(n), seed=i)
        covered += interval.low <= 10.0 <= interval.high
    assert 0.90 <= covered / EXPERIMENTS <= 0.995


def test_interval_of_a_ratio_covers_a_known_speed_up_in_spite_of_drift():
    rng = np.random.default_rng(1)
    covered = 0
    for i in range(EXPERIMENTS):
        drift = np.exp(np.cumsum(0.1 * rng.standard_normal(9)))
        _, interval = ratio_with_interval(drift * rounds(rng, 15, n=9), drift * rounds(rng, 10, n=9), seed=i)
        covered += interval.low <= 1.5 <= interval.high
    assert 0.92 <= covered / EXPERIMENTS <= 0.99


def told(to, of, *, by=0.02, seed):
    value, interval = ratio_with_interval(to, of, seed=seed)
    return judge(widened(value, interval, by=math.log1p(by)), disturbed=False)


def test_equal_candidates_are_hardly_ever_called_different():
    rng = np.random.default_rng(2)
    called = [told(rounds(rng, 10, n=9), rounds(rng, 10, n=9), seed=i) for i in range(EXPERIMENTS)]
    assert called.count("no measurable change") >= 0.94 * EXPERIMENTS


@pytest.mark.parametrize(("factor", "expected"), [(1.5, "faster"), (1 / 1.5, "slower")])
def test_a_known_change_is_always_found(factor, expected):
    rng = np.random.default_rng(3)
    for i in range(50):
        value, interval = ratio_with_interval(rounds(rng, 10 * factor, n=9), rounds(rng, 10, n=9), seed=i)
        assert value == pytest.approx(factor, rel=0.1)
        assert judge(widened(value, interval, by=math.log1p(0.02)), disturbed=False) == expected


def test_ratio_ignores_one_round_in_which_a_neighbour_was_busy():
    to, of = np.full(9, 10.0), np.full(9, 5.0)
    to[4] = 90.0
    value, interval = ratio_with_interval(to, of, seed=0)
    assert (value, interval.low, interval.high) == (2.0, 2.0, 2.0)


def test_interval_is_the_same_again_when_the_seed_is():
    values = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.5]
    assert median_with_interval(values, seed=4) == median_with_interval(values, seed=4)


def test_interval_refuses_a_single_round():
    with pytest.raises(ValueError, match="at least 2 rounds, got 1"):
        median_with_interval([1.0], seed=0)


def test_ratio_refuses_unpaired_rounds():
    with pytest.raises(ValueError, match="got 2 and 3"):
        ratio_with_interval([1.0, 2.0], [1.0, 2.0, 3.0], seed=0)


@pytest.mark.parametrize(
    ("low", "high", "still", "disturbed"),
    [
        (1.01, 1.05, "faster", "faster"),
        (0.859, 0.941, "slower", "slower"),
        (0.99, 2.0, "no measurable change", "undecided"),
        (0.5, 1.0, "no measurable change", "undecided"),
    ],
)
def test_judge_goes_by_the_interval_alone(low, high, still, disturbed):
    interval = Interval(low=low, high=high, method="given")
    assert judge(interval, disturbed=False) == still
    assert judge(interval, disturbed=True) == disturbed


@pytest.mark.parametrize(
    ("value", "low", "high", "expected"), [(1.03, 1.01, 1.05, "faster"), (1.015, 1.01, 1.02, "no measurable change")]
)
def test_no_ratio_is_told_more_closely_than_two_per_cent(value, low, high, expected):
    interval = widened(value, Interval(low=low, high=high, method="given"), by=math.log1p(0.02))
    assert interval.low <= min(low, value / 1.02) + 1e-12
    assert interval.high >= max(high, value * 1.02) - 1e-12
    assert judge(interval, disturbed=False) == expected


# ------------------------------------------------------------------ what processes of one model differ by


def test_allowance_is_students_interval_of_two_processes():
    of_process = (0.10, 0.02, -0.05, -0.07)
    processes = [[math.exp(each + round_) for round_ in (0.3, -0.2, 0.0)] for each in of_process]
    expected = 3.182446 * math.sqrt(2) * np.std(of_process, ddof=1)
    assert allowance([processes]) == pytest.approx(expected, rel=1e-6)


def test_allowance_is_nothing_where_processes_agree_whatever_rounds_do():
    assert allowance([[[1.0, 2.0, 5.0]] * 4]) == pytest.approx(0.0, abs=1e-12)


def test_allowance_shrinks_with_attempts_as_each_has_new_processes():
    apart = [[1.0, 1.0], [1.1, 1.1], [0.9, 0.9], [1.0, 1.0]]
    one, three = allowance([apart]), allowance([apart] * 3)
    assert three == pytest.approx(one * 2.262157 / 3.182446 * MEDIAN_OF_THREE / math.sqrt(3), rel=1e-6)


def test_allowance_refuses_a_single_process():
    with pytest.raises(ValueError, match="at least 2 of them, got 1"):
        allowance([[[1.0, 2.0]]])


@pytest.mark.parametrize(("percent", "floor"), [(90, 64), (99, 662)])
def test_percentile_is_told_only_from_its_floor_on(percent, floor):
    assert percentile([1.0] * (floor - 1), percent) is None
    assert percentile([1.0] * floor, percent) == 1.0


def test_percentile_of_a_ramp_is_its_percent():
    assert percentile(np.arange(1001) / 10, 99) == pytest.approx(99.0)


def test_is_steady_asks_for_three_blocks_that_agree():
    assert not is_steady([1.0, 1.0], tolerance=0.02)
    assert not is_steady([1.0, 1.05, 1.0], tolerance=0.02)
    assert is_steady([5.0, 1.0, 1.01, 1.02], tolerance=0.02)


# ------------------------------------------------------------------ held against the formulas, written out


def written_out(values, *, seed, level):
    """Median, and the percentile interval of the medians of resamples, its tails expanded as Student's."""
    n = len(values)
    medians = [np.median(np.sort(values)[picks]) for picks in np.random.default_rng(seed).integers(0, n, (4000, n))]
    tail = norm.cdf(-t.ppf(0.5 + level / 2, n - 1) * math.sqrt(n / (n - 1)))
    low, high = np.quantile(medians, (tail, 1 - tail))
    return float(np.median(values)), float(low), float(high)


@pytest.mark.parametrize("level", [0.95, 0.5])
@pytest.mark.parametrize("n", [2, 5, 8])
def test_interval_of_a_median_is_the_expanded_percentile_interval(n, level):
    values = list(np.random.default_rng(n).lognormal(size=n))
    value, found = median_with_interval(values, seed=3, level=level)
    assert (value, found.low, found.high) == pytest.approx(written_out(values, seed=3, level=level))
    assert (found.level, found.method) == (level, "bootstrap of the median over rounds, expanded percentile")
    if level == 0.95:
        assert median_with_interval(values, seed=3) == (value, found), "95 % unless it is said"


def test_ratio_is_that_of_rounds_with_its_level():
    to, of = np.random.default_rng(0).lognormal(size=(2, 40)).tolist()
    ratios = [mine / other for mine, other in zip(to, of, strict=True)]
    assert ratio_with_interval(to, of, seed=5) == median_with_interval(ratios, seed=5)
    assert ratio_with_interval(to, of, seed=6, level=0.8) == median_with_interval(ratios, seed=6, level=0.8)


@pytest.mark.parametrize(("attempts", "factor"), [(1, 1.0), (2, 1.0), (3, 1.16)])
def test_allowance_is_of_the_level_that_is_asked_for(attempts, factor):
    of_process = [(0.1, 0.0, -0.2), (0.3, 0.1, 0.2), (0.0, 0.05, 0.1)][:attempts]
    given = [[[math.exp(each)] * 2 for each in one] for one in of_process]
    variance = np.mean([np.var(one, ddof=1) for one in of_process])
    for level, found in ((0.95, allowance(given)), (0.5, allowance(given, level=0.5))):
        student = t.ppf(0.5 + level / 2, 2 * attempts)
        assert found == pytest.approx(student * factor * math.sqrt(2 * variance / attempts))


def test_allowance_takes_medians_over_rounds_of_what_sets_a_process_apart():
    rounds_of = np.array([[1.0, 2.0, 4.0, 8.0], [1.5, 2.0, 5.0, 7.0], [1.0, 3.0, 4.5, 16.0]])
    apart = np.log(rounds_of) - np.log(rounds_of).mean(axis=0)
    variance = np.var([np.median(one) for one in apart], ddof=1)
    assert allowance([rounds_of.tolist()]) == pytest.approx(t.ppf(0.975, 2) * math.sqrt(2 * variance))


def test_allowance_takes_two_processes_and_refuses_one_among_several_attempts():
    assert allowance([[[1.0], [math.e]]]) == pytest.approx(t.ppf(0.975, 1))
    with pytest.raises(ValueError, match=r"^how far processes differ needs at least 2 of them, got 1$"):
        allowance([[[1.0], [2.0]], [[1.0]]])


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(1.9, 2.1, (1.0, 4.0)), (0.5, 2.1, (0.5, 4.0)), (1.9, 5.0, (1.0, 5.0)), (0.1, 9.0, (0.1, 9.0))]
)
def test_interval_is_widened_to_either_side_of_the_value_where_it_is_narrower(low, high, expected):
    found = widened(2.0, Interval(low=low, high=high, level=0.8, method="given"), by=math.log(2))
    assert (found.low, found.high) == pytest.approx(expected)
    assert (found.level, found.method) == (
        0.8,
        "bootstrap of the median over rounds, expanded percentile; no narrower than what processes of one model differ by",
    )


def test_what_is_widened_to_1_leaves_it_in():
    for low, high in ((1.0, 1.5), (0.5, 1.0)):
        assert judge(Interval(low=low, high=high, method="given"), disturbed=False) == "no measurable change"


def test_refusals_say_what_was_given():
    with pytest.raises(ValueError, match=r"^an interval needs at least 2 rounds, got 0$"):
        median_with_interval([], seed=0)
    with pytest.raises(ValueError, match=r"^paired rounds must be equally many, got 3 and 2$"):
        ratio_with_interval([1.0, 2.0, 3.0], [1.0, 2.0], seed=0)


@pytest.mark.parametrize(
    ("medians", "blocks", "steady"),
    [
        ([1.0, 1.02, 1.0], 3, True),
        ([1.0, 1.03, 1.0], 3, False),
        ([9.0, 1.02, 1.0], 2, True),
        ([1.0], 2, False),
        ([1.02, 1.0, 1.0], 3, True),
        ([100.0, 102.0, 100.0], 3, True),
    ],
)
def test_steady_blocks_lie_within_the_tolerance_of_the_least(medians, blocks, steady):
    assert is_steady(medians, tolerance=0.02, blocks=blocks) is steady
    assert blocks != 3 or is_steady([9.0, *medians], tolerance=0.02) is steady, "three blocks unless it is said"
