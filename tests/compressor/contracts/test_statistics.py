"""Intervals of differences by what rows are: right or wrong, weighted, unbounded, or a property of the whole set."""

from __future__ import annotations

import numpy as np
import pytest

from compressor.contracts import Evaluation, Measure
from compressor.contracts.records import Scores
from compressor.contracts.statistics import DRAWN_AT_ONCE, difference, resampled

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
