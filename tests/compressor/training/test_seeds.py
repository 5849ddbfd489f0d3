"""What a training draws by: orders of rows by seed, stage and epoch, and generators by process."""

from __future__ import annotations

import itertools
import random

import numpy as np
import torch
from tensor_rows import Context, bert

from compressor.training.group import Group
from compressor.training.settings import TrainingSettings


def order(tmp_path, seed, epoch, stage=0):
    batches = TrainingSettings(batch_size=4).batches(bert(), Context(tmp_path, {}, seed=seed), stage=stage)
    return tuple(row for batch in batches(epoch) for row in batch["row"].tolist())


def test_orders_are_equal_when_seed_stage_and_epoch_are(tmp_path):
    assert order(tmp_path, 5, 2, 1) == order(tmp_path, 5, 2, 1)
    assert sorted(order(tmp_path, 5, 2)) == list(range(36))


def test_no_epoch_of_a_seed_stage_and_epoch_has_the_order_of_another(tmp_path):
    found = [order(tmp_path, *each) for each in itertools.product(range(4), range(4), range(3))]

    assert order(tmp_path, 0, 1) != order(tmp_path, 1, 0)
    assert len(set(found)) == len(found) == 48


def test_batches_are_read_by_what_lies_beside_the_model(tmp_path):
    order(tmp_path, 0, 0)

    assert (tmp_path / "files" / "tokenizer.json").is_file()


def drawn(seed, rank, stage=0):
    """What each of the three generators draws first in that process."""
    group = Group()
    group.rank = rank
    group.seed(seed, stage)
    return torch.rand(1).item(), float(np.random.rand()), random.random()


def test_processes_draw_apart_from_each_other_and_from_those_of_other_seeds_and_stages():
    found = [drawn(*each) for each in itertools.product(range(4), range(4), range(3))]

    assert all(len(set(of_one)) == 48 for of_one in zip(*found, strict=True))
    assert drawn(0, 1) != drawn(1, 0)
    assert drawn(2, 3) == drawn(2, 3)
