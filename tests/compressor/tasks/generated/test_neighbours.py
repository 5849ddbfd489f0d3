import numpy as np
import pytest

from compressor.tasks.generated import pairs
from compressor.tasks.generated.neighbours import neighbourhood, share_interval

FIGURES = ("precision", "recall", "density", "coverage")


def normal(seed, n, d=4, *, mean=0.0, scale=1.0):
    return np.random.default_rng(seed).normal(size=(n, d)) * scale + mean


def by_definition(ours, theirs, k):
    def distances(left, right):
        return np.linalg.norm(left[:, None] - right[None], axis=-1)

    def radii(rows):
        return np.sort(distances(rows, rows), axis=1)[:, k]  # the row itself comes first

    inside, back = distances(ours, theirs) <= radii(theirs), distances(theirs, ours) <= radii(ours)
    return inside.any(1).mean(), back.any(1).mean(), inside.sum() / (k * len(ours)), inside.any(0).mean()


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize(("n", "m", "mean"), [(40, 60, 0.0), (60, 30, 0.8)])
def test_figures_are_those_of_the_definitions(n, m, mean, k):
    ours, theirs = normal(0, n, mean=mean), normal(1, m)
    found = neighbourhood(ours, theirs, nearest=k)
    assert [getattr(found, name).value for name in FIGURES] == pytest.approx(by_definition(ours, theirs, k))
    assert found.inside.mean() == found.precision.value
    assert found.balls.mean() / k == pytest.approx(found.density.value)


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_a_set_lies_in_itself_where_neighbours_tie_and_rows_repeat(offset):
    grid = np.stack(np.meshgrid(*[np.arange(4.0)] * 3), axis=-1).reshape(-1, 3) * 0.1 + offset
    found = neighbourhood(grid, grid, nearest=3)
    assert [getattr(found, name).value for name in ("precision", "recall", "coverage")] == [1.0, 1.0, 1.0]
    assert found.density.value >= 4 / 3  # the row itself, its 3 nearest, and what lies as near
    doubled = np.repeat(normal(0, 30, 16), 3, axis=0)
    assert neighbourhood(doubled, doubled, nearest=2).precision.value == 1.0  # radii are 0
    assert neighbourhood(doubled, doubled, nearest=2).density.value == pytest.approx(1.5)


def test_what_lies_far_off_is_in_nothing_and_a_collapsed_model_covers_little():
    theirs = normal(0, 100)
    far = neighbourhood(normal(1, 100, mean=50), theirs)
    assert [getattr(far, name).value for name in FIGURES] == [0.0] * 4
    assert far.precision.interval.low == 0.0 < far.precision.interval.high < 0.06
    one = neighbourhood(np.repeat(theirs[:1], 100, axis=0), theirs)
    assert one.precision.value == 1.0
    assert one.recall.value == 0.01
    assert one.coverage.value < 0.15


@pytest.mark.parametrize(("mean", "scale"), [(0.0, 1.0), (0.7, 0.9)])
def test_intervals_hold_the_mean_of_draws_of_as_many_rows(mean, scale):
    found = [neighbourhood(normal(2 * s, 150, mean=mean, scale=scale), normal(2 * s + 1, 150)) for s in range(100)]
    for name in FIGURES:
        each = [getattr(one, name) for one in found]
        truth = np.mean([one.value for one in each])
        held = np.mean([one.interval.low <= truth <= one.interval.high for one in each])
        assert held >= 0.88, name


def test_blocks_of_any_size_give_the_same(monkeypatch):
    ours, theirs = normal(0, 41, mean=0.4), normal(1, 57)
    whole = neighbourhood(ours, theirs, nearest=2)
    monkeypatch.setattr(pairs, "CELLS", 57 * 3 + 5)
    part = neighbourhood(ours, theirs, nearest=2)
    for name in FIGURES:
        assert getattr(part, name) == getattr(whole, name)


def test_figures_do_not_depend_on_where_and_how_features_lie_nor_on_their_unit():
    ours, theirs = normal(0, 60, mean=0.4), normal(1, 60)
    plain = [getattr(neighbourhood(ours, theirs), name).value for name in FIGURES]
    turn = np.linalg.qr(normal(2, 4))[0]
    for mine, other in (
        (ours + 1e3, theirs + 1e3),
        (ours @ turn, theirs @ turn),
        (1e3 * ours, 1e3 * theirs),
        (ours[::-1], theirs[::-1]),
    ):
        assert [getattr(neighbourhood(mine, other), name).value for name in FIGURES] == pytest.approx(plain)


@pytest.mark.parametrize("nearest", [0, 20])
def test_neighbours_that_there_are_not_are_refused(nearest):
    with pytest.raises(ValueError, match=rf"{nearest} nearest neighbours in 20 generated and 30 real rows: from 1 to 19"):
        neighbourhood(normal(0, 20), normal(1, 30), nearest=nearest)


def test_a_share_without_an_error_has_wilsons_interval():
    found = share_interval(1.0, 0.0, 50)
    assert (found.low, found.high) == (pytest.approx(0.92865, abs=1e-5), 1.0)
