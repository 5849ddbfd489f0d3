"""Which units stay within a size: small cases whose answer is seen by hand."""

from __future__ import annotations

import math

import pytest
import torch

from compressor.contracts.anatomy import Units
from passes.gating.constraint import SizeConstraint, choose
from passes.gating.expected_size import SizeFormula, Term
from passes.gating.gates import SHIFT, Gate


class Laid:
    """Gates of one place each, whose units are on with the given probabilities."""

    def __init__(self, *probabilities, kinds=None):
        kinds = kinds or ("neurons",) * len(probabilities)
        pairs = zip(kinds, probabilities, strict=True)
        self.places = tuple(Units(kind, f"block {at}", len(on), 1, (), "") for at, (kind, on) in enumerate(pairs))
        self.gates = {place: Gate(place.count, drop=0.5) for place in self.places}
        for gate, on in zip(self.gates.values(), probabilities, strict=True):
            gate.log_alpha.data = torch.tensor([math.log(each / (1 - each)) for each in on], dtype=torch.float64) + SHIFT

    def gate(self, place):
        return self.gates[place]

    def expected(self):
        return tuple(gate.expected() for gate in self.gates.values())


def linear(*costs, counts, fixed=0.0):
    """So much for each unit of each place."""
    terms = tuple(Term(float(cost), (at,)) for at, cost in enumerate(costs))
    return SizeFormula(fixed + sum(cost * count for cost, count in zip(costs, counts, strict=True)), fixed, terms)


def chosen(laid, formula, allowed, *, multiples=None, least=None):
    """The units that stay, by place, where so much may be left of the size."""
    found = choose(laid, formula, sparsity=1 - allowed / formula.whole, multiples=multiples or {}, least=least or {})
    assert list(found) == list(laid.places)
    return list(found.values())


ONE = (0.8, 0.01, 0.9, 0.7)


@pytest.mark.parametrize(
    ("allowed", "stay"),
    [(41, (0, 1, 2, 3)), (40, (0, 1, 2, 3)), (39, (0, 2, 3)), (30, (0, 2, 3)), (29, (0, 2)), (10, (2,)), (9, ())],
)
def test_those_that_are_most_probably_on_stay_within_the_size(allowed, stay):
    assert chosen(Laid(ONE), linear(10, counts=[4]), allowed + 1e-6) == [stay]


def test_size_that_cannot_be_reached_is_gone_down_to_as_far_as_it_goes():
    assert chosen(Laid(ONE), linear(10, counts=[4], fixed=50), 40) == [()]
    assert chosen(Laid(ONE), linear(10, counts=[4], fixed=50), 40, least={"neurons": 2}) == [(0, 2)]


@pytest.mark.parametrize(
    ("on", "step", "units", "start"),
    [
        (12, 16, 64, 16),
        (7, 16, 64, 0),
        (8, 16, 64, 16),
        (15, 16, 64, 16),
        (16, 16, 64, 16),
        (28, 16, 64, 16),
        (64, 16, 64, 64),
        (5, 2, 5, 5),
        (3, 8, 5, 0),
        (4, 8, 5, 5),
        (3, 1, 5, 3),
        (0, 4, 8, 0),
    ],
)
def test_widths_start_from_what_is_expected_rounded_down_but_to_one_step(on, step, units, start):
    laid = Laid([0.9999] * on + [0.0001] * (units - on))
    formula = linear(1, counts=[units])
    assert len(chosen(laid, formula, start + 1e-9, multiples={"neurons": step})[0]) == start


@pytest.mark.parametrize(("allowed", "left"), [(5, 5), (4.9, 4), (3.9, 2), (1.9, 0)])
def test_widths_go_and_come_by_steps(allowed, left):
    on, off = Laid([0.99] * 5), Laid([0.01] * 5)
    for laid in (on, off):
        (units,) = chosen(laid, linear(1, counts=[5]), allowed + 1e-6, multiples={"neurons": 2, "heads": 3})
        assert len(units) == left


def test_multiples_and_least_numbers_are_by_kind():
    laid = Laid([0.99] * 4, [0.99] * 4, kinds=("neurons", "heads"))
    formula = linear(1, 1, counts=[4, 4])
    assert [len(units) for units in chosen(laid, formula, 0, least={"heads": 3})] == [0, 3]
    assert [len(units) for units in chosen(laid, formula, 0, least={"heads": 9})] == [0, 4]
    assert [len(units) for units in chosen(laid, formula, 5, multiples={"neurons": 4})] in ([4, 1], [0, 4])


def test_least_number_stands_though_less_is_expected():
    assert chosen(Laid([0.01, 0.02, 0.03, 0.04]), linear(1, counts=[4]), 1, least={"neurons": 2}) == [(2, 3)]


def test_what_is_least_probably_on_goes_first_wherever_it_is():
    laid, formula = Laid((0.9, 0.6), (0.8, 0.7)), linear(10, 1, counts=[2, 2])
    assert chosen(laid, formula, 12) == [(0,), (0, 1)]
    assert chosen(laid, formula, 11) == [(0,), (0,)]
    assert chosen(laid, formula, 10) == [(0,), ()]
    assert chosen(laid, formula, 9) == [(), (0, 1)], "what is left of the size is filled again"


def test_probability_of_a_step_is_the_mean_of_its_units():
    laid, formula = Laid((0.95, 0.55), (0.8, 0.8)), linear(1, 1, counts=[2, 2])
    assert chosen(laid, formula, 2, multiples={"neurons": 2}) == [(), (0, 1)]


def test_of_units_that_are_equally_on_the_one_that_saves_most_goes():
    assert chosen(Laid((0.9,), (0.9,)), linear(1, 5, counts=[1, 1]), 5.5) == [(0,), ()]
    assert chosen(Laid((0.9,), (0.9,)), linear(5, 1, counts=[1, 1]), 5.5) == [(), (0,)]


def test_of_units_that_are_equally_off_the_cheapest_comes():
    off = (0.1,)
    assert chosen(Laid(off, off), linear(1, 5, counts=[1, 1]), 5.5) == [(0,), ()]
    assert chosen(Laid(off, off), linear(5, 1, counts=[1, 1]), 5.5) == [(), (0,)]


def test_what_is_left_of_the_size_goes_to_the_most_probable_that_fits():
    laid = Laid((0.3,), (0.2,), (0.1,))
    assert chosen(laid, linear(9, 5, 2, counts=[1, 1, 1]), 8) == [(), (0,), (0,)]
    assert chosen(laid, linear(9, 5, 2, counts=[1, 1, 1]), 9) == [(0,), (), ()]


def test_units_that_cost_nothing_neither_go_nor_come():
    assert chosen(Laid((0.9,), (0.95,)), linear(0, 1, counts=[1, 1]), 0) == [(0,), ()]
    assert chosen(Laid((0.1,), (0.1,)), linear(0, 1, counts=[1, 1]), 0.5) == [(), ()]


def test_units_of_two_places_that_meet_are_counted_by_their_product():
    formula = SizeFormula(4.0, 0.0, (Term(1.0, (0, 1)),))
    assert chosen(Laid((0.9, 0.6), (0.8, 0.7)), formula, 2) == [(0,), (0, 1)]
    assert chosen(Laid((0.9, 0.7), (0.8, 0.6)), formula, 2) == [(0, 1), (0,)]


# ------------------------------------------------------------------ the constraint


@pytest.fixture
def held():
    """Of 3 expected units of 4, of which the first cost 2 and the others 1, beside a fixed size of 2."""
    laid = Laid((0.5, 0.5), (0.75, 0.25))
    return SizeConstraint(laid, linear(2, 1, counts=[2, 2], fixed=2), sparsity=0.5, ramp=0.25)


def test_sparsity_is_the_share_of_the_size_that_is_expected_to_go(held):
    assert float(held.sparsity().detach()) == pytest.approx(1 - (2 + 2 * 1 + 1 * 1) / 8, abs=1e-6)


@pytest.mark.parametrize(("done", "target"), [(0, 0), (0.125, 0.25), (0.25, 0.5), (1, 0.5)])
def test_target_rises_in_the_ramp(held, done, target):
    assert held.target(done) == target
    assert SizeConstraint(Laid((0.5,)), linear(1, counts=[1]), sparsity=0.5, ramp=0.0).target(done) == 0.5


def test_loss_is_linear_and_quadratic_in_what_is_missed(held):
    assert float(held.loss(0.25).detach()) == 0
    held.linear.data.fill_(3)
    held.quadratic.data.fill_(5)
    missed = 0.375 - 0.5
    assert float(held.loss(0.25).detach()) == pytest.approx(3 * missed + 5 * missed**2, abs=1e-6)
    assert float(held.loss(0).detach()) == pytest.approx(3 * 0.375 + 5 * 0.375**2, abs=1e-6)


def test_watched_are_sparsity_multipliers_and_the_share_that_stays_of_each_place(held):
    held.linear.data.fill_(3)
    held.quadratic.data.fill_(5)
    watched = held.watched()
    assert list(watched) == [
        "expected sparsity",
        "linear multiplier",
        "quadratic multiplier",
        "neurons of block 0",
        "neurons of block 1",
    ]
    assert list(watched.values()) == pytest.approx([0.375, 3, 5, 0.5, 0.5], abs=1e-6)
