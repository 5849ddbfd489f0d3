"""Batches of rows of like lengths: every row once, little padding, another order and other company in each epoch."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from compressor.tasks.batches import alike, grouped

LENGTHS = np.random.default_rng(0).lognormal(3.2, 0.6, 1000).astype(int).tolist()


def groups(seed, *, size=16, spread=8.0):
    return alike(LENGTHS, size, np.random.default_rng(seed), spread=spread)


def padded(found):
    """Cells of all batches, each as long as its longest row."""
    return sum(len(group) * max(LENGTHS[number] for number in group) for group in found)


def test_every_row_is_in_one_group_and_all_groups_are_full_but_one():
    found = groups(0)
    assert sorted(number for group in found for number in group) == list(range(1000))
    assert sorted(map(len, found)) == [8] + [16] * 62


def test_padding_is_less_than_a_third_of_that_of_rows_in_any_order():
    cells, some_order = sum(LENGTHS), grouped(np.random.default_rng(1).permutation(1000).tolist(), 16)
    assert padded(groups(0)) - cells < (padded(some_order) - cells) / 3


def test_groups_come_in_another_order_and_of_other_rows_for_each_seed():
    one, again, other = groups(0), groups(0), groups(1)
    assert one == again
    assert one != other
    means = [np.mean([LENGTHS[number] for number in group]) for group in one]
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.4, "batches come sorted by length"
    pairs = [{pair for group in each for pair in combinations(sorted(group), 2)} for each in (one, other)]
    assert len(pairs[0] & pairs[1]) < 0.2 * len(pairs[0]), "the same rows meet in every epoch"
