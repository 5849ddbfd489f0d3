"""Latency by the number of units left: what a table says, for numbers and for tensors, and what gates learn by."""

from __future__ import annotations

import pytest
import torch

from passes.pruning.latency_budget import LatencyFormula, LatencyTable
from passes.pruning.ranking import ladder

TABLE = LatencyTable(10.0, {"heads": ((0.0, 6.0), (8.0, 10.0), (12.0, 10.0)), "neurons": ((0.0, 4.0), (32.0, 7.0), (64.0, 10.0))})
FORMULA = LatencyFormula(TABLE, (("heads", 12), ("neurons", 64), ("heads", 12), ("neurons", 64)))


@pytest.mark.parametrize(
    ("counts", "ms"),
    [
        ((12, 64, 12, 64), 10),
        ((0, 64, 12, 64), 8),
        ((0, 64, 0, 64), 6),
        ((12, 32, 12, 64), 8.5),
        ((8, 64, 12, 64), 10),
        ((4, 16, 12, 64), 6.75),
    ],
)
def test_latency_is_read_off_straight_lines_blocks_taken_as_alike(counts, ms):
    assert FORMULA.of([float(count) for count in counts]) == pytest.approx(ms, abs=1e-3)
    assert FORMULA.whole == 10


def test_of_two_that_take_as_long_the_smaller_one_costs_less():
    assert FORMULA.of([8.0, 64.0, 12.0, 64.0]) < FORMULA.of([10.0, 64.0, 12.0, 64.0])


def test_hull_pushes_gates_off_a_flat_stretch():
    counts = torch.tensor([11.0, 40.0, 12.0, 64.0], requires_grad=True)
    (flat,) = torch.autograd.grad(FORMULA.of(list(counts)), counts)
    (pushed,) = torch.autograd.grad(FORMULA.hull().of(list(counts)), counts)
    assert abs(float(flat[0])) < 1e-4
    assert float(pushed[0]) == pytest.approx(4 / 12 / 2, rel=1e-3)
    assert float(pushed[1]) == pytest.approx(float(flat[1]), rel=1e-3)


def test_hull_lies_below_and_meets_the_ends():
    hull = FORMULA.hull()
    for heads in range(13):
        assert hull.of([heads, 64.0, 12.0, 64.0]) <= FORMULA.of([heads, 64.0, 12.0, 64.0]) + 1e-9
    for counts in ([0.0] * 4, [12.0, 64.0, 12.0, 64.0]):
        assert hull.of(counts) == pytest.approx(FORMULA.of(counts))


UNEQUAL = (("neurons", 1000), ("neurons", 100))
WIDE = LatencyTable(12.0, {"neurons": ((0.0, 1.0), (275.0, 6.5), (550.0, 12.0))})
"""1 ms, and a hundredth of one for each neuron, measured as both blocks keep like shares."""


@pytest.mark.parametrize(("counts", "ms"), [((1000, 100), 12), ((0, 0), 1), ((600, 100), 8), ((1000, 0), 11), ((300, 50), 4.5)])
def test_blocks_of_other_widths_count_by_their_units(counts, ms):
    formula = LatencyFormula(WIDE, UNEQUAL)
    assert formula.of([float(count) for count in counts]) == pytest.approx(ms, abs=1e-3)
    ladders = [ladder("neurons", str(units), [0.0] * units, least=0) for _, units in UNEQUAL]
    cost = WIDE.cost(ladders)
    assert 1 + sum(cost(each, count) for each, count in zip(ladders, counts, strict=True)) == pytest.approx(ms)


def test_every_unit_of_a_wide_block_is_seen_to_cost_time():
    counts = torch.tensor([900.0, 100.0], requires_grad=True)
    (slope,) = torch.autograd.grad(LatencyFormula(WIDE, UNEQUAL).of(list(counts)), counts)
    assert slope.tolist() == pytest.approx([0.01, 0.01], rel=1e-2)
