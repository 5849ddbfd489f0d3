import warnings

import numpy as np
import pytest
from scipy import linalg

from compressor.tasks.generated.frechet import GROUPS, ROWS_PER_FEATURE, frechet, frechet_difference


def normal(seed, n, d, *, mean=0.0, scale=1.0):
    return np.random.default_rng(seed).normal(size=(n, d)) * scale + mean


def by_roots_of_matrices(ours, theirs):
    """The formula as it is written, by scipy."""
    one, other = np.cov(ours, rowvar=False), np.cov(theirs, rowvar=False)
    root = linalg.sqrtm(one @ other)
    return np.square(ours.mean(0) - theirs.mean(0)).sum() + np.trace(one + other - 2 * root.real)


@pytest.mark.parametrize(("n", "m", "d"), [(300, 200, 5), (90, 500, 24)])
def test_plain_distance_equals_scipys_root_of_matrices(n, m, d):
    mixed = np.random.default_rng(9).normal(size=(d, d))
    ours, theirs = normal(0, n, d, mean=0.3) @ mixed, normal(1, m, d, scale=1.4)
    assert frechet(ours, theirs).plain == pytest.approx(by_roots_of_matrices(ours, theirs), rel=1e-9)


@pytest.mark.parametrize(("n", "d"), [(400, 8), (20, 64), (2, 3), (400, 80)])
def test_a_set_is_at_no_distance_from_itself_however_few_rows_it_has(n, d):
    rows = normal(0, n, d, mean=5.0)
    assert abs(frechet(rows, rows).plain) <= 1e-9 * np.square(rows - rows.mean(0)).sum()
    assert abs(frechet(rows, rows[::-1]).plain) <= 1e-9 * np.square(rows - rows.mean(0)).sum()


def test_means_that_lie_apart_count_squared_and_deviations_by_their_difference():
    rows = normal(0, 500, 6)
    whitened = (rows - rows.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(rows, rowvar=False)).T)
    moved = whitened * np.arange(1.0, 7.0) + np.array([3.0, 0, 0, 0, 0, 4.0])
    assert frechet(moved, whitened).plain == pytest.approx(25 + np.square(np.arange(6)).sum(), rel=1e-9)


@pytest.mark.parametrize("mean", [0.0, 0.4])
@pytest.mark.parametrize("scale", [1.0, 0.7])
def test_intervals_hold_the_distance_of_the_distributions_that_is_known_in_closed_form(mean, scale):
    d, truth = 8, 8 * (mean**2 + (scale - 1) ** 2)
    found = [
        frechet(normal(2 * seed, 300, d, mean=mean, scale=scale), normal(2 * seed + 1, 300, d), seed=seed) for seed in range(60)
    ]
    assert np.mean([each.interval.low <= truth <= each.interval.high for each in found]) >= 0.88
    error = np.std([each.value for each in found]) / np.sqrt(len(found))
    assert abs(np.mean([each.value for each in found]) - truth) < 4 * error + 0.01
    assert np.mean([each.plain for each in found]) - truth > 2 * error > 0  # what the jackknife takes off is real


def test_the_bias_is_about_a_constant_over_n():
    few, many = (np.mean([frechet(normal(s, n, 10), normal(s + 99, n, 10)).bias for s in range(8)]) for n in (200, 800))
    assert few / many == pytest.approx(4, rel=0.15)


def test_paired_intervals_hold_the_known_difference_and_are_narrower_than_of_other_noise():
    d, truth, held, widths = 8, 8 * (0.25**2 - 0.2**2), 0, []
    for seed in range(60):
        noise, real = normal(seed, 300, d), normal(seed + 500, 300, d)
        paired = frechet_difference(noise + 0.25, noise + 0.2, real, seed=seed)
        apart = frechet_difference(noise + 0.25, normal(seed + 900, 300, d) + 0.2, real, seed=seed)
        held += paired.interval.low <= truth <= paired.interval.high
        widths.append((paired.interval.high - paired.interval.low) / (apart.interval.high - apart.interval.low))
    assert held >= 53
    assert np.mean(widths) < 0.4


def test_equal_models_do_not_differ():
    rows, real = normal(0, 200, 4), normal(1, 200, 4)
    found = frechet_difference(rows, rows, real)
    assert (found.value, found.interval.low, found.interval.high) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("change", ["moved", "turned", "shuffled", "single precision"])
def test_distance_does_not_depend_on_where_and_how_features_lie(change):
    ours, theirs = normal(0, 300, 6, mean=0.5), normal(1, 250, 6)
    turn = np.linalg.qr(normal(2, 6, 6))[0]
    changed = {
        "moved": (ours + 1e5, theirs + 1e5),
        "turned": (ours @ turn, theirs @ turn),
        "shuffled": (ours[::-1], theirs[::-1]),
        "single precision": (ours.astype(np.float32), theirs.astype(np.float32)),
    }[change]
    assert frechet(*changed).plain == pytest.approx(frechet(ours, theirs).plain, rel=1e-5)


def test_distance_grows_with_the_square_of_the_unit():
    ours, theirs = normal(0, 200, 5, mean=0.5), normal(1, 200, 5)
    one, thousand = frechet(ours, theirs), frechet(1000 * ours, 1000 * theirs)
    assert thousand.value == pytest.approx(1e6 * one.value)
    assert thousand.interval.low == pytest.approx(1e6 * one.interval.low)


def test_too_few_rows_for_the_jackknife_give_the_plain_figure_without_an_interval():
    d = 32
    found = frechet(normal(0, ROWS_PER_FEATURE * d - 1, d), normal(1, 500, d))
    assert (found.interval, found.bias) == (None, None)
    assert found.plain == found.value > 1
    assert frechet(normal(0, 2 * GROUPS - 1, 2), normal(1, 500, 2)).interval is None
    assert frechet(normal(0, ROWS_PER_FEATURE * d, d), normal(1, 500, d)).interval is not None


def test_a_feature_that_never_varies_changes_nothing_and_rows_of_one_picture_are_far():
    ours, theirs = normal(0, 300, 5, mean=0.2), normal(1, 300, 5)
    still = np.full((300, 1), 7.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with_still = frechet(np.hstack([ours, still]), np.hstack([theirs, still]))
        collapsed = frechet(np.repeat(ours[:1], 300, axis=0), theirs)
    assert with_still.plain == pytest.approx(frechet(ours, theirs).plain, rel=1e-9)
    assert collapsed.plain == pytest.approx(np.square(ours[0] - theirs.mean(0)).sum() + np.trace(np.cov(theirs, rowvar=False)))
