"""The rows that are cut off a split are those that scikit-learn takes, and figures are those of scikit-learn and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import precision_recall_fscore_support
from sklearn.model_selection import train_test_split

from compressor.tasks.metrics import by_class, wilson
from compressor.tasks.split import cut


def labels_of(seed):
    """Labels of 2 to 6 classes of unlike sizes; rare ones, and one in four sets with classes of one size."""
    draw = np.random.default_rng(seed)
    classes = int(draw.integers(2, 7))
    weights = np.ones(classes) if seed % 4 == 0 else draw.dirichlet(np.full(classes, 0.7))
    return draw.choice(classes, size=int(draw.integers(8, 200)), p=weights / weights.sum()).tolist()


@pytest.mark.parametrize("seed", range(60))
def test_rows_are_those_that_scikit_learn_takes(seed):
    labels = labels_of(seed)
    for count in {1, 2, len(labels) // 3, len(labels) // 2, len(labels) - 2}:
        counts = np.unique(labels, return_counts=True)[1]
        rare = counts.min() < 2 or min(count, len(labels) - count) < len(counts)
        kept, taken = train_test_split(range(len(labels)), test_size=count, random_state=seed, stratify=None if rare else labels)
        assert cut(labels, count, seed=seed) == (sorted(kept), sorted(taken)), (labels, count)


@pytest.mark.parametrize("seed", range(20))
def test_figures_by_class_are_those_of_scikit_learn(seed):
    draw = np.random.default_rng(seed)
    classes = int(draw.integers(2, 8))
    labels, predicted = draw.integers(0, classes, 30), draw.integers(0, max(1, classes - seed % 3), 30)
    found = by_class(predicted, labels, classes)
    expected = precision_recall_fscore_support(labels, predicted, labels=list(range(classes)), zero_division=0.0)
    for ours, theirs in zip((found.precision, found.recall, found.f1, found.n), expected, strict=True):
        assert ours.tolist() == theirs.tolist()


@pytest.mark.parametrize(("right", "n"), [(0, 1), (1, 1), (0, 40), (40, 40), (1, 40), (39, 40), (333, 1000), (12345, 54321)])
def test_interval_of_a_share_is_that_of_scipy(right, n):
    expected, found = binomtest(right, n).proportion_ci(method="wilson"), wilson(right, n)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert 0 <= found.low <= right / n <= found.high <= 1
