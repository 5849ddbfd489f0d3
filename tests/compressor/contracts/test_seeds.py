"""Seeds are derived, not added: what is drawn apart meets nowhere."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import numpy as np
import pytest
import torch

from compressor.contracts import derived_seed


def test_seeds_of_one_use_are_equal_when_all_words_are():
    assert derived_seed(3, "rows", 0, 7) == derived_seed(3, "rows", 0, 7)


def test_seeds_and_numbers_do_not_add_up():
    found = Counter(derived_seed(seed, "rows", number) for seed, number in itertools.product(range(40), range(40)))

    assert max(found.values()) == 1


def test_a_use_differs_from_its_seed_and_from_a_use_of_a_number_more():
    found = [derived_seed(0), derived_seed(0, 0), derived_seed(0, 0, 0), derived_seed(0, "rows"), derived_seed(0, "rows", 0)]

    assert len({*found, 0}) == 6


def test_every_librarys_generator_takes_a_derived_seed():
    seeds = [derived_seed(seed, "rows", 2**40) for seed in (0, 2**63)]

    for seed in seeds:
        np.random.RandomState(seed)
        np.random.default_rng(seed)
        torch.Generator().manual_seed(seed)
        random.Random(seed)
        assert 0 <= seed < 2**32


def test_a_negative_number_is_refused():
    with pytest.raises(ValueError, match="non-negative"):
        derived_seed(0, "rows", -1)
