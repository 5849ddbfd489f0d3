import numpy as np
import pytest

from compressor.tasks.generated import pairs
from compressor.tasks.generated.memorisation import memorisation


def normal(seed, n, d=6):
    return np.random.default_rng(seed).normal(size=(n, d))


def test_distances_are_those_of_the_nearest_training_row():
    ours, seen, held_out = normal(0, 30), normal(1, 80), normal(2, 100)
    found = memorisation(ours, seen, held_out)
    every = np.linalg.norm(ours[:, None] - seen[None], axis=-1)
    np.testing.assert_allclose(found.generated, every.min(1))
    np.testing.assert_array_equal(found.nearest, every.argmin(1))
    assert found.limit == pytest.approx(np.sqrt(np.quantile(np.square(found.held_out), 0.05)))
    assert found.share == np.mean(found.generated <= found.limit)
    assert found.copies == 0


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_copies_are_counted_and_lie_nearer_than_anything_held_out(offset):
    seen = normal(1, 200) + offset
    ours = np.concatenate([normal(0, 30) + offset, seen[[5, 7, 7]]])
    found = memorisation(ours, seen, normal(2, 200) + offset)
    assert found.copies == 3
    assert found.nearest[-3:].tolist() == [5, 7, 7]
    assert memorisation(seen, seen, normal(2, 200) + offset).share == 1.0


@pytest.mark.parametrize("copied", [0.0, 0.3])
def test_intervals_hold_the_mean_of_draws_and_a_model_of_new_rows_has_the_quantile(copied):
    found = []
    for seed in range(100):
        draw, seen = np.random.default_rng(seed + 1000), normal(seed, 300)
        ours = draw.normal(size=(200, 6))
        chosen = draw.random(200) < copied
        ours[chosen] = seen[draw.integers(0, 300, int(chosen.sum()))] + 0.2 * draw.normal(size=(int(chosen.sum()), 6))
        found.append(memorisation(ours, seen, draw.normal(size=(250, 6))))
    truth = np.mean([each.share for each in found])
    assert np.mean([each.interval.low <= truth <= each.interval.high for each in found]) >= 0.88
    assert (truth == pytest.approx(0.05, abs=0.01)) if not copied else truth > 0.25


def test_blocks_of_any_size_give_the_same(monkeypatch):
    sets = normal(0, 41), normal(1, 57), normal(2, 120)
    whole = memorisation(*sets)
    monkeypatch.setattr(pairs, "CELLS", 57 * 3 + 5)
    part = memorisation(*sets)
    np.testing.assert_allclose(part.generated, whole.generated)
    assert (part.share, part.interval) == (whole.share, whole.interval)


def test_too_few_held_out_rows_and_odd_quantiles_are_refused():
    with pytest.raises(ValueError, match=r"99 held-out rows say nothing of their quantile 0\.05: 100 do"):
        memorisation(normal(0, 5), normal(1, 5), normal(2, 99))
    with pytest.raises(ValueError, match=r"quantile 1\.0: it lies between 0 and 1"):
        memorisation(normal(0, 5), normal(1, 5), normal(2, 99), quantile=1.0)
