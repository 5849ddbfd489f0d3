"""Hard-concrete gates: their closed forms against sampling, and what they become after training."""

from __future__ import annotations

import math

import pytest
import torch

from passes.gating.gates import HIGH, LOW, SHIFT, TEMPERATURE, Gate

DRAWS = 20_000


@pytest.fixture
def gate():
    torch.manual_seed(0)
    made = Gate(9, drop=0.5)
    made.log_alpha.data = torch.linspace(-6, 6, 9)
    return made


def number(tensor):
    return float(tensor.detach())


def test_probability_of_being_on_is_that_of_sampled_masks(gate):
    with torch.no_grad():
        found = torch.stack([gate.sample() > 0 for _ in range(DRAWS)]).float().mean(0)
    on = gate.on().detach()
    error = (on * (1 - on) / DRAWS).sqrt()
    assert ((found - on).abs() < 4 * error + 1e-4).all()
    assert number(gate.expected()) == pytest.approx(number(gate.on().sum()))


def test_constants_are_those_of_the_stretched_concrete_distribution():
    assert pytest.approx(-1.5986, abs=1e-4) == SHIFT
    fresh = Gate(20_000, drop=0.5)
    assert number(fresh.on().mean()) == pytest.approx(0.832, abs=1e-3)
    assert number(Gate(20_000, drop=0.01).on().mean()) == pytest.approx(0.998, abs=1e-3)
    assert number(fresh.log_alpha.std()) == pytest.approx(0.01, rel=0.05)


def test_masks_lie_between_0_and_1_and_reach_both(gate):
    with torch.no_grad():
        masks = torch.stack([gate.sample() for _ in range(2000)])
    assert (float(masks.min()), float(masks.max())) == (0.0, 1.0)
    assert ((masks > 0) & (masks < 1)).any()


def test_mask_is_differentiable_where_it_is_not_cut(gate):
    gate.log_alpha.data.zero_()
    mask = gate.sample()
    mask.sum().backward()
    inside = (mask > 0) & (mask < 1)
    concrete = (mask - LOW) / (HIGH - LOW)
    expected = torch.where(inside, (HIGH - LOW) * concrete * (1 - concrete) / TEMPERATURE, torch.zeros(9))
    torch.testing.assert_close(gate.log_alpha.grad, expected)


def test_as_many_units_stay_as_are_expected_with_their_soft_values(gate):
    gate.eval()
    mask, count = gate(), round(number(gate.expected()))
    assert int((mask > 0).sum()) == count
    soft = 1 / (1 + math.exp(-0.8 * 6 / TEMPERATURE))
    assert float(mask[-1]) == pytest.approx(soft)
    assert mask[: 9 - count].eq(0).all()
    assert torch.equal(mask, gate())


@pytest.mark.parametrize("units", [(), (0, 4), tuple(range(9))])
def test_units_that_were_chosen_stay_whatever_was_learned(gate, units):
    gate.keep(torch.tensor(units, dtype=torch.long))
    assert tuple(gate.eval()().nonzero().flatten().tolist()) == units


def test_no_unit_stays_where_none_is_expected_to(gate):
    gate.log_alpha.data.fill_(-20)
    assert gate.eval()().eq(0).all()


def test_unit_that_is_kept_though_it_is_probably_off_counts_as_one_that_is_as_probably_on():
    even = Gate(3, drop=0.5)
    even.log_alpha.data = torch.tensor([SHIFT, -6.0, 6.0])
    even.keep(torch.tensor([0, 1]))
    assert number(even.on()[0]) == pytest.approx(0.5)
    soft = 1 / (1 + math.exp(-0.8 * SHIFT / TEMPERATURE))
    assert even.eval()().tolist() == pytest.approx([soft, soft, 0.0])
