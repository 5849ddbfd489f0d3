"""A size that a training has to end with: an augmented Lagrangian whose multipliers are learned by ascent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import nn

from compressor.contracts.anatomy import Units
from passes.gating.expected_size import Formula
from passes.gating.gating import Gating


class SizeConstraint(nn.Module):
    """`l1 (s - t) + l2 (s - t)^2` of the expected sparsity `s` and a target `t` that rises from 0 in the first `ramp` of a training.

    `l1` and `l2` start at 0 and are to be maximised, weights and gates to minimise (Wang, Wohlwend and Lei, Structured Pruning of
    Large Language Models, 2020, arXiv:1910.04732; as in DPHuBERT).
    """

    def __init__(self, gating: Gating, formula: Formula, *, sparsity: float, ramp: float) -> None:
        super().__init__()
        self.linear, self.quadratic = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))
        self._gating, self._formula, self._sparsity, self._ramp = [gating], formula, sparsity, ramp  # a list hides a module

    def target(self, done: float) -> float:
        """The sparsity that is asked for when this share of the training is done."""
        return self._sparsity * min(1.0, done / self._ramp) if self._ramp else self._sparsity

    def sparsity(self) -> torch.Tensor:
        """The expected sparsity: the share of the size that is expected to go."""
        return 1 - self._formula.of(self._gating[0].expected()) / self._formula.whole

    def loss(self, done: float) -> torch.Tensor:
        """The term of the Lagrangian."""
        missed = self.sparsity() - self.target(done)
        return self.linear * missed + self.quadratic * missed**2

    def watched(self) -> Mapping[str, float]:
        """Numbers worth a curve."""
        with torch.no_grad():
            found = {
                "expected sparsity": float(self.sparsity()),
                "linear multiplier": float(self.linear),
                "quadratic multiplier": float(self.quadratic),
            }
            return found | dict(_shares(self._gating[0]))


def _shares(gating: Gating) -> Iterator[tuple[str, float]]:
    for place, expected in zip(gating.places, gating.expected(), strict=True):
        yield str(place), float(expected) / place.count


# ------------------------------------------------------------------ widths


def choose(
    gating: Gating, formula: Formula, *, sparsity: float, multiples: Mapping[str, int], least: Mapping[str, int]
) -> dict[Units, tuple[int, ...]]:
    """Which units stay at each place: widths that are multiples by kind, as near below the allowed size as they come.

    Widths start from what is expected at each place, rounded down, but to one step where half of one is expected or more: rounding
    empties no place that is on. What this leaves of the budget goes to the units that are most probably on, wherever they are;
    where too much would stay, the least probable go first, and a place may become empty by that.
    """
    order = [torch.argsort(gating.gate(place).log_alpha.detach(), descending=True).tolist() for place in gating.places]
    on = [gating.gate(place).on().detach().double().tolist() for place in gating.places]
    steps = [multiples.get(place.kind, 1) for place in gating.places]
    lows = [min(place.count, least.get(place.kind, 0)) for place in gating.places]
    expected = [round(float(count.detach())) for count in gating.expected()]
    counts = [
        max(low, _start(count, step, place.count))
        for place, count, step, low in zip(gating.places, expected, steps, lows, strict=True)
    ]
    allowed = (1 - sparsity) * formula.whole
    size = _Size(formula, counts)
    while size.total > allowed and (cut := size.cheapest_cut(order, on, steps, lows)):
        size.change(*cut)
    while more := size.best_addition(order, on, steps, [place.count for place in gating.places], allowed):
        size.change(*more)
    return {place: tuple(sorted(order[at][: size.counts[at]])) for at, place in enumerate(gating.places)}


def _start(count: int, step: int, units: int) -> int:
    if count == units:
        return count
    return min(step, units) if step <= 2 * count < 2 * step else count // step * step


class _Size:
    """Counts, and what changing them saves or costs."""

    def __init__(self, formula: Formula, counts: Sequence[int]) -> None:
        self._formula, self.counts = formula, list(counts)

    @property
    def total(self) -> float:
        return self._formula.of([float(count) for count in self.counts])

    def change(self, at: int, count: int) -> None:
        self.counts[at] = count

    def _with(self, at: int, count: int) -> float:
        return self._formula.of([float(count if number == at else each) for number, each in enumerate(self.counts)])

    def cheapest_cut(
        self, order: Sequence[list[int]], on: Sequence[list[float]], steps: Sequence[int], lows: Sequence[int]
    ) -> tuple[int, int] | None:
        """The place and its new count whose units are least probably on; of equals the one that saves most."""
        found = []
        for at, count in enumerate(self.counts):
            fewer = max(lows[at], (count - 1) // steps[at] * steps[at]) if count else 0
            if fewer < count and (saved := self.total - self._with(at, fewer)) > 0:
                found.append((_mean(on[at], order[at][fewer:count]), -saved, at, fewer))
        return min(found)[2:] if found else None

    def best_addition(
        self, order: Sequence[list[int]], on: Sequence[list[float]], steps: Sequence[int], most: Sequence[int], allowed: float
    ) -> tuple[int, int] | None:
        """The place and its new count, within what is allowed, whose units are most probably on; of equals the cheapest."""
        found = []
        for at, count in enumerate(self.counts):
            more = min(most[at], (count // steps[at] + 1) * steps[at])
            cost = self._with(at, more) - self.total if more > count else 0.0
            if cost > 0 and self.total + cost <= allowed:
                found.append((_mean(on[at], order[at][count:more]), -cost, at, more))
        return max(found)[2:] if found else None


def _mean(on: Sequence[float], units: Sequence[int]) -> float:
    return sum(on[unit] for unit in units) / len(units)
