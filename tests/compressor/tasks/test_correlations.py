import numpy as np
import pytest
from scipy import stats

from compressor.contracts.statistics import draws_of
from compressor.tasks.correlations import GROUPS, gained_interval, pearson, spearman


@pytest.mark.parametrize("seed", range(5))
def test_correlations_of_draws_are_those_of_the_rows_that_they_hold(seed: int) -> None:
    random = np.random.default_rng(seed)
    n = int(random.integers(5, 40))
    told = random.integers(0, 8, n) * 1.0
    true = (told + random.normal(size=n)).round(1)
    rows = random.integers(0, n, (4, n))
    draws = np.stack([np.bincount(each, minlength=n) for each in rows])
    np.testing.assert_allclose(pearson(told, true, draws), [stats.pearsonr(told[each], true[each]).statistic for each in rows])
    np.testing.assert_allclose(spearman(told, true, draws), [stats.spearmanr(told[each], true[each]).statistic for each in rows])


def test_what_does_not_vary_correlates_with_nothing() -> None:
    draws = np.asarray([[1, 1, 1], [3, 0, 0]])
    assert pearson(np.ones(3), np.arange(3.0), draws).tolist() == [0.0, 0.0]
    assert spearman(np.arange(3.0), np.arange(3.0), draws).tolist() == pytest.approx([1.0, 0.0])


def test_numbers_whose_squares_are_huge_correlate_as_small_ones_do() -> None:
    numbers, draws = np.asarray([1.0, 2.0, 4.0]), np.ones((1, 3), np.int64)
    assert pearson(1e15 * numbers, numbers, draws)[0] == pytest.approx(1.0)


@pytest.mark.parametrize("figure", [pearson, spearman])
@pytest.mark.parametrize("rows", [30, GROUPS + 50])
def test_an_interval_of_a_difference_holds_it_and_narrows_with_rows(figure, rows) -> None:
    random = np.random.default_rng(rows)
    true = random.normal(size=4 * rows)
    mine, theirs = (true + spread * random.normal(size=4 * rows) for spread in (0.4, 0.8))

    def interval(n: int) -> tuple[float, float]:
        return gained_interval(figure, mine[:n], theirs[:n], true[:n], seed=0)

    one = np.ones((1, rows), np.int64)
    low, high = interval(rows)
    assert low < figure(mine[:rows], true[:rows], one)[0] - figure(theirs[:rows], true[:rows], one)[0] < high
    wide, narrow = (high - low for low, high in (interval(rows), interval(4 * rows)))
    assert 1.3 < wide / narrow < 3.0


def test_equal_models_differ_by_nothing() -> None:
    random = np.random.default_rng(0)
    true, told = random.normal(size=(2, 50))
    assert gained_interval(spearman, told, told, true, seed=0) == (0.0, 0.0)


@pytest.mark.parametrize("rows", [12, GROUPS + 50])
@pytest.mark.parametrize("seed", [0, 3])
def test_ends_are_the_wider_ones_of_a_jackknife_and_a_bootstrap(rows, seed) -> None:
    random = np.random.default_rng(rows + seed)
    true = random.exponential(size=rows)
    mine, theirs = (true + spread * random.normal(size=rows) for spread in (0.3, 0.9))

    def gained(kept) -> float:
        one, other = (stats.pearsonr(each[kept], true[kept]).statistic for each in (mine, theirs))
        return float(one - other)

    groups = min(rows, GROUPS)
    of = np.random.default_rng(seed).permutation(rows) % groups
    left_out = np.asarray([gained(of != group) for group in range(groups)])
    error = np.sqrt((groups - 1) * left_out.var())
    centre, spread = gained(slice(None)), stats.t.ppf(0.975, groups - 1) * error
    drawn = np.concatenate([pearson(mine, true, each) - pearson(theirs, true, each) for each in draws_of(rows, seed)])
    low, high = np.quantile(drawn, (0.025, 0.975))
    expected = min(low, centre - spread), max(high, centre + spread)
    assert gained_interval(pearson, mine, theirs, true, seed=seed) == pytest.approx(expected, rel=1e-9)


def test_small_numbers_correlate_as_large_ones_do() -> None:
    numbers, draws = np.asarray([1.0, 2.0, 4.0]), np.ones((1, 3), np.int64)
    assert pearson(1e-6 * numbers, 1e-6 * numbers, draws)[0] == pytest.approx(1.0)
