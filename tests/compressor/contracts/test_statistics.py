"""Intervals of differences by what rows are: right or wrong, weighted, unbounded, or a property of the whole set."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm, t

from compressor.contracts import Evaluation, Measure
from compressor.contracts.records import Scores
from compressor.contracts.statistics import DRAWN_AT_ONCE, PAIRED_BOOTSTRAP, difference, paired, resampled, scale_of

ERROR = Measure("error", better="lower", drop="percent")


def scored(value, gains=None, weights=None):
    scores = Scores(split="test", metric="error", metrics=(ERROR.metric(value, 100),))
    return Evaluation(scores, {}, {} if gains is None else {"error": gains}, weights)


def test_equal_models_lose_nothing_when_the_measure_is_unbounded():
    same = scored(0.001, -np.full(100, 0.001))
    found = difference(same, same, metric="error", name="source", seed=0, changed=None)
    assert (found.change, found.interval.low, found.interval.high, found.unit) == (0, 0, 0, "percent")


def test_a_lower_error_is_a_gain_in_per_cent_of_the_reference():
    draw = np.random.default_rng(0)
    costs = draw.uniform(1, 3, 100)
    mine, theirs = scored(float(costs.mean()) * 0.9, -0.9 * costs), scored(float(costs.mean()), -costs)
    found = difference(mine, theirs, metric="error", name="source", seed=0, changed=None)
    assert found.change == pytest.approx(10)
    assert found.interval.low < 10 < found.interval.high


def test_rows_count_by_their_weights():
    gains, weights = np.array([1.5, 0.0]), np.array([3.0, 1.0])
    found = difference(
        scored(-1.125, gains, weights), scored(1.0, 0 * gains, weights), metric="error", name="s", seed=0, changed=None
    )
    assert found.change == pytest.approx(112.5)


def test_a_property_of_the_set_has_a_change_and_no_interval():
    found = difference(scored(12.0), scored(10.0), metric="error", name="source", seed=0, changed=None)
    assert (found.change, found.interval) == (-20.0, None)


def test_many_rows_are_drawn_in_blocks_that_give_the_same_interval(monkeypatch):
    costs = np.random.default_rng(1).uniform(1, 3, 50)
    mine, theirs = scored(1.9, -0.95 * costs), scored(2.0, -costs)
    whole = difference(mine, theirs, metric="error", name="source", seed=0, changed=None)
    monkeypatch.setattr("compressor.contracts.statistics.DRAWN_AT_ONCE", 350)
    assert difference(mine, theirs, metric="error", name="source", seed=0, changed=None) == whole


def test_many_rows_are_drawn_in_blocks_that_hold_what_one_draw_would():
    n, seed = 3 * DRAWN_AT_ONCE // 10, 5
    first, *others = resampled(n, seed, 7)
    assert [len(first), *(len(block) for block in others)] == [3, 3, 1]
    assert first.size <= DRAWN_AT_ONCE
    whole = np.random.default_rng(seed).integers(0, 50, (20, 50))
    np.testing.assert_array_equal(np.concatenate(list(resampled(50, seed, 20))), whole)


# ------------------------------------------------------------------ held against the formulas, written out


@pytest.mark.parametrize(("gained", "lost", "n"), [(6, 2, 20), (0, 0, 5), (0, 3, 3), (3, 0, 3), (1, 40, 100)])
def test_interval_of_right_and_wrong_rows_is_that_of_bonett_and_price(gained, lost, n):
    rows = np.array([1.0] * gained + [-1.0] * lost + [0.0] * (n - gained - lost))
    better, worse = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    half = norm.ppf(0.975) * math.sqrt((better + worse - (better - worse) ** 2) / (n + 2))
    mean, low, high, method = paired(rows, None, 0, binary=True)
    assert mean == pytest.approx((gained - lost) / n)
    assert (low, high) == pytest.approx((max(-1, better - worse - half), min(1, better - worse + half)))
    assert method == "Bonett-Price, paired"
    assert low >= -1
    assert high <= 1


def written_out(gained, weights, seed):
    """The studentised interval, row by row and draw by draw."""

    def error(rows):
        mine, total = weights[rows], weights[rows].sum()
        mean = (gained[rows] * mine).sum() / total
        spread = sum((weight * (gain - mean)) ** 2 for weight, gain in zip(mine, gained[rows], strict=True))
        return mean, math.sqrt(spread * n / (n - 1)) / total

    n = len(gained)
    mean, own = error(np.arange(n))
    drawn = (error(rows) for rows in np.random.default_rng(seed).integers(0, n, (2000, n)))
    low, high = np.quantile([(found - mean) / each for found, each in drawn if each > 0], (0.025, 0.975))
    student = t.ppf(0.975, n - 1)
    return mean, mean - max(high, student) * own, mean - min(low, -student) * own


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n", [4, 30])
@pytest.mark.parametrize("skewed", [1, -1, 0])
def test_interval_of_other_rows_is_studentised_and_no_narrower_than_students(n, weighted, skewed):
    draw = np.random.default_rng(n)
    gained = draw.normal(1, 0.2, n) if skewed == 0 else skewed * np.exp(draw.normal(0, 1.5, n))
    weights = draw.uniform(1, 5, n) if weighted else None
    *found, method = paired(gained, weights, 3, binary=weighted)
    assert found == pytest.approx(written_out(gained, np.ones(n) if weights is None else weights, 3))
    assert method == PAIRED_BOOTSTRAP == "bootstrap over rows, paired, studentised"


@pytest.mark.parametrize("apart", [1.0, 2.0])
def test_two_rows_have_the_interval_of_one_degree_of_freedom(apart):
    mean, low, high, _ = paired(np.array([0.0, apart]), None, 0, binary=False)
    assert (mean, high - low) == pytest.approx((apart / 2, 2 * t.ppf(0.975, 1) * apart / 2))


def test_single_row_has_no_width():
    assert paired(np.array([0.25]), None, 0, binary=False)[:3] == (0.25, 0.25, 0.25)


@pytest.mark.parametrize(
    ("mine", "theirs", "binary"),
    [
        ([0, 1, 1], [1, 1, 0], True),
        ([0, 1, 0.5], [1, 1, 0], False),
        ([0, 1, 1], [1, 2, 0], False),
        ([-1, 1, 1], [1, 1, 0], False),
    ],
)
def test_rows_are_right_or_wrong_only_where_both_sides_are_0_or_1(mine, theirs, binary):
    sides = [scored(float(np.mean(each)), np.array(each, dtype=float)) for each in (mine, theirs)]
    found = difference(*sides, metric="error", name="source", seed=0, changed=None)
    assert found.interval.method == ("Bonett-Price, paired" if binary else PAIRED_BOOTSTRAP)


def test_difference_says_what_it_is_of():
    gains = np.array([1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0])
    points = Measure("hits", better="higher", drop="points")

    def hits(gains):
        return Evaluation(
            Scores(split="test", metric="hits", metrics=(points.metric(float(gains.mean()), 7),)), {}, {"hits": gains}, None
        )

    found = difference(hits(gains), hits(gains[::-1] * 0), metric="hits", name="step", seed=0, changed=5)
    assert (found.reference, found.metric, found.unit, found.n, found.changed) == ("step", "hits", "points", 7, 5)
    assert found.change == round(100 * 5 / 7, 6)
    _, low, high, _ = paired(gains, None, 0, binary=True)
    assert (found.interval.low, found.interval.high) == (100 * low, 100 * high)


def test_change_of_a_property_of_the_set_has_the_sign_of_a_gain():
    def of(value, better):
        measure = Measure("error", better=better, drop="points")
        return Evaluation(Scores(split="test", metric="error", metrics=(measure.metric(value, 9),)), {})

    for better, change in (("higher", 300.0), ("lower", -300.0)):
        found = difference(of(5.0, better), of(2.0, better), metric="error", name="source", seed=0, changed=None)
        assert (found.change, found.interval) == (change, None)


def test_gains_on_one_side_only_are_not_paired():
    found = difference(scored(12.0, np.ones(3)), scored(10.0), metric="error", name="source", seed=0, changed=None)
    assert found.interval is None
    assert difference(scored(12.0), scored(10.0, np.ones(3)), metric="error", name="s", seed=0, changed=None).interval is None


def test_other_numbers_of_rows_are_refused_with_both():
    with pytest.raises(ValueError, match=r"^3 rows against 2: not the same rows$"):
        difference(scored(1.0, np.ones(3)), scored(1.0, np.ones(2)), metric="error", name="source", seed=0, changed=None)


@pytest.mark.parametrize("broken", [np.inf, 1e308])
def test_gains_that_are_not_finite_are_no_warning(broken):
    mine, theirs = scored(1.0, np.array([broken, broken, -broken])), scored(1.0, np.array([broken, -broken, broken]))
    found = difference(mine, theirs, metric="error", name="source", seed=0, changed=None)
    assert not math.isfinite(found.change)


def test_points_are_hundredths_and_per_cent_are_of_the_references_value():
    points, per_cent = (Measure("error", better="lower", drop=drop) for drop in ("points", "percent"))
    assert [scale_of(points.metric(value, 9)) for value in (4.0, 0.0)] == [100.0, 100.0]
    assert [scale_of(per_cent.metric(value, 9)) for value in (4.0, -4.0, 1e-12)] == [25.0, 25.0, pytest.approx(1e14)]
    assert scale_of(per_cent.metric(0.0, 9)) == pytest.approx(1e14)


def test_blocks_are_of_so_many_draws_as_fit():
    assert len(list(resampled(3, 0))) == 1
    assert sum(len(block) for block in resampled(3, 0)) == 2000
    assert [len(block) for block in resampled(DRAWN_AT_ONCE + 1, 0, 2)] == [1, 1]
