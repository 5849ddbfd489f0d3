"""Dropout by bits: the distribution of torch's own, in values and gradients, reproducible from torch's generator."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, chisquare

from compressor.training.cheap import Cheap
from compressor.training.dropout import LEVELS, SMALLEST

SHAPE = (64, 256, 40)


def dropped(values, p=0.1, **options):
    with Cheap(rows=False):
        return torch.nn.functional.dropout(values, p, training=True, **options)


@pytest.mark.parametrize("p", [0.05, 0.1, 0.5, 0.9])
def test_share_of_zeros_and_scale_are_those_that_were_asked_for(p):
    torch.manual_seed(0)
    made = dropped(torch.ones(SHAPE), p)
    zeros, scale = int((made == 0).sum()), made.max().item()
    assert binomtest(zeros, made.numel(), p).pvalue > 1e-3
    assert abs(scale * (1 - p) - 1) < 1 / LEVELS / (1 - p)
    assert set(made.unique().tolist()) == {0.0, scale}


def test_elements_are_dropped_independently_of_their_neighbours_and_of_one_draw_after_another():
    torch.manual_seed(0)
    first, second = ((dropped(torch.ones(SHAPE), 0.5) == 0).flatten().numpy() for _ in range(2))
    for one, two in ((first, second), (first[:-1], first[1:]), (first[:-4], first[4:]), (first[:-256], first[256:])):
        counts = np.bincount(2 * one + two, minlength=4)
        assert chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_values_and_gradients_are_those_of_torch_for_equal_masks(dtype):
    torch.manual_seed(0)
    values = torch.randn(SHAPE).to(dtype).requires_grad_()
    made = dropped(values)
    made.sum().backward()
    stays = made != 0
    usual = torch.ones((), dtype=dtype).div(1 - 0.1)  # how torch scales a mask
    assert made.dtype == dtype
    torch.testing.assert_close(made[stays], (values * usual)[stays], rtol=2e-5 if dtype == torch.float32 else 0, atol=0)
    torch.testing.assert_close(values.grad, stays * usual, rtol=2e-5 if dtype == torch.float32 else 0, atol=0)


def test_equal_seeds_give_equal_masks_and_every_draw_is_another():
    made = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        made += [dropped(torch.ones(SHAPE)), dropped(torch.ones(SHAPE))]
    assert torch.equal(made[0], made[2])
    assert torch.equal(made[1], made[3])
    assert not any(torch.equal(made[0], other) for other in (made[1], made[4], made[5]))


def test_modules_are_reached_and_evaluation_is_left_alone():
    module, values = torch.nn.Dropout(0.5), torch.ones(SHAPE)
    torch.manual_seed(0)
    with Cheap(rows=False):
        torch.manual_seed(0)
        inside = module(values)
        assert torch.equal(module.eval()(values), values)
    torch.manual_seed(0)
    assert torch.equal(inside, dropped(values, 0.5))
    assert not torch.equal(inside, torch.nn.functional.dropout(values, 0.5, training=True))


@pytest.mark.parametrize(
    ("values", "p"), [(torch.ones(SMALLEST - 1), 0.5), (torch.ones(SHAPE, dtype=torch.float64), 0.5), (torch.ones(SHAPE), 1.0)]
)
def test_what_does_not_fit_is_left_to_torch(values, p):
    torch.manual_seed(0)
    made = dropped(values, p)
    torch.manual_seed(0)
    assert torch.equal(made, torch.nn.functional.dropout(values, p, training=True))
