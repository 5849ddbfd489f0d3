import itertools

import numpy as np
import pytest

from compressor.tasks.generated import pairs
from compressor.tasks.generated.kernel_distance import Gaussian, Polynomial, kernel_difference, kernel_distance

KERNELS = [Polynomial(), Gaussian(2.0)]


def normal(seed, n, d=4, *, mean=0.0):
    return np.random.default_rng(seed).normal(size=(n, d)) + mean


def by_pairs(ours, theirs, kernel):
    """The U-statistic as it is written: a mean over pairs of different rows."""

    def mean(left, right):
        return np.mean(
            [kernel.of(one[None], other[None])[0, 0] for one, other in [(left[i], right[j]) for i, j in pairs_of(left, right)]]
        )

    def pairs_of(left, right):
        return [(i, j) for i, j in itertools.product(range(len(left)), range(len(right))) if left is not right or i != j]

    return mean(ours, ours) + mean(theirs, theirs) - 2 * mean(ours, theirs)


def error_by_leaving_out(ours, theirs, figure):
    """The jackknife's standard error, each row left out in turn."""

    def of(values):
        return (len(values) - 1) / len(values) * np.square(np.array(values) - np.mean(values)).sum()

    mine = [figure(np.delete(ours, at, axis=0), theirs) for at in range(len(ours))]
    return np.sqrt(of(mine) + of([figure(ours, np.delete(theirs, at, axis=0)) for at in range(len(theirs))]))


@pytest.mark.parametrize("kernel", KERNELS)
def test_value_and_error_are_those_of_the_definition(kernel):
    ours, theirs = normal(0, 7, mean=0.4), normal(1, 9)
    found = kernel_distance(ours, theirs, kernel)
    assert found.value == pytest.approx(by_pairs(ours, theirs, kernel), rel=1e-9)
    error = error_by_leaving_out(ours, theirs, lambda *sets: by_pairs(*sets, kernel))
    assert found.interval.high - found.value == pytest.approx(2.446912 * error, rel=1e-5)  # Student's quantile of 6


def test_kernels_are_their_formulas():
    x, y = np.array([[1.0, 2.0]]), np.array([[3.0, -1.0]])
    assert Polynomial().of(x, y)[0, 0] == pytest.approx((1 / 2 + 1) ** 3)
    assert Gaussian(2.0).of(x, y)[0, 0] == pytest.approx(np.exp(-13 / 8))


@pytest.mark.parametrize("mean", [0.0, 0.3])
def test_gaussian_distance_is_unbiased_and_its_intervals_hold_the_closed_form(mean):
    d, b = 4, 2.0
    shrunk = (b**2 / (b**2 + 2)) ** (d / 2)
    truth = 2 * shrunk * (1 - np.exp(-d * mean**2 / (2 * (b**2 + 2))))
    found = [kernel_distance(normal(2 * s, 60, mean=mean), normal(2 * s + 1, 80), Gaussian(b)) for s in range(400)]
    values = np.array([each.value for each in found])
    assert abs(values.mean() - truth) < 3.5 * values.std() / 20
    assert np.mean([each.interval.low <= truth <= each.interval.high for each in found]) >= 0.92


def test_polynomial_distance_is_unbiased_and_negative_about_half_of_the_time_within_one_distribution():
    values = np.array([kernel_distance(normal(2 * s, 50), normal(2 * s + 1, 50), Polynomial()).value for s in range(400)])
    assert abs(values.mean()) < 3.5 * values.std() / 20
    assert 0.4 < (values < 0).mean() < 0.75


def test_paired_differences_equal_those_of_distances_and_hold_their_mean():
    real = normal(1, 90)
    mine, other = normal(0, 70, mean=0.5), normal(0, 70, mean=0.3)
    for kernel in KERNELS:
        apart = kernel_distance(mine, real, kernel).value - kernel_distance(other, real, kernel).value
        assert kernel_difference(mine, other, real, kernel).value == pytest.approx(apart, rel=1e-9)

        def figure(both, real, kernel=kernel):
            return by_pairs(both[:, :4], real, kernel) - by_pairs(both[:, 4:], real, kernel)

        few = (mine[:7], other[:7], real[:9])
        error = error_by_leaving_out(np.hstack(few[:2]), few[2], figure)
        found = kernel_difference(*few, kernel)
        assert found.interval.high - found.value == pytest.approx(2.446912 * error, rel=1e-5)


def test_the_same_noise_makes_differences_narrower():
    real, noise = normal(1, 200), normal(0, 200)
    paired = kernel_difference(noise + 0.3, noise + 0.2, real, Polynomial())
    apart = kernel_difference(noise + 0.3, normal(2, 200) + 0.2, real, Polynomial())
    assert paired.interval.low > 0
    assert paired.interval.high - paired.interval.low < 0.5 * (apart.interval.high - apart.interval.low)


@pytest.mark.parametrize("kernel", KERNELS)
def test_blocks_of_any_size_give_the_same(kernel, monkeypatch):
    ours, theirs = normal(0, 41, mean=0.2), normal(1, 57)
    whole = kernel_distance(ours, theirs, kernel)
    monkeypatch.setattr(pairs, "CELLS", 57 * 3 + 5)
    part = kernel_distance(ours, theirs, kernel)
    assert part.value == pytest.approx(whole.value, rel=1e-9)
    assert part.interval.low == pytest.approx(whole.interval.low, rel=1e-9)


def test_gaussian_distance_does_not_depend_on_where_and_how_features_lie_nor_on_their_unit():
    ours, theirs = normal(0, 80, mean=0.3), normal(1, 80)
    plain = kernel_distance(ours, theirs, Gaussian.by_median(theirs)).value
    turn = np.linalg.qr(normal(2, 4))[0]
    for mine, other in (
        (ours + 1e4, theirs + 1e4),
        (ours @ turn, theirs @ turn),
        (1e3 * ours, 1e3 * theirs),
        (ours[::-1], theirs),
    ):
        assert kernel_distance(mine, other, Gaussian.by_median(other)).value == pytest.approx(plain, rel=1e-6)


def test_polynomial_distance_does_not_depend_on_how_features_are_turned():
    ours, theirs, turn = normal(0, 80, mean=0.3), normal(1, 80), np.linalg.qr(normal(2, 4))[0]
    turned = kernel_distance(ours @ turn, theirs @ turn, Polynomial()).value
    assert turned == pytest.approx(kernel_distance(ours, theirs, Polynomial()).value, rel=1e-9)


def test_bandwidth_is_the_median_distance_and_rows_that_are_mostly_alike_have_none():
    assert Gaussian.by_median(np.array([[0.0], [1.0], [4.0]])).bandwidth == pytest.approx(3.0)
    with pytest.raises(ValueError, match="half of the pairs of real rows are alike"):
        Gaussian.by_median(np.array([[0.0], [0.0], [0.0], [0.0], [1.0]]))
