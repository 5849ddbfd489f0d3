"""Which units go: ladders of removals, ranked by importance, descended until a cost is shed. Knows no model, only numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar

if TYPE_CHECKING:
    import torch

Number = TypeVar("Number", float, "torch.Tensor")
"""A number of units that are left: counted, or expected and then with a gradient."""

Kind: TypeAlias = Literal["heads", "neurons", "layers"]


@dataclass(frozen=True)
class Ladder:
    """Units of one kind in one block (or the blocks of the model), in the order they go: the least important first."""

    kind: Kind
    block: str
    """Id of the block; path of the stack for the ladder of whole layers."""
    units: int
    rungs: tuple[tuple[int, ...], ...]
    """Indices of the units that each rung removes."""
    importance: tuple[float, ...]
    """Importance of each rung: the sum over its units."""

    def count(self, rungs: int) -> int:
        """Units left after so many rungs."""
        return self.units - sum(len(rung) for rung in self.rungs[:rungs])

    def kept(self, rungs: int) -> tuple[int, ...]:
        """Indices of the units left after so many rungs, ascending."""
        gone = {unit for rung in self.rungs[:rungs] for unit in rung}
        return tuple(unit for unit in range(self.units) if unit not in gone)

    def nearest(self, count: float) -> int:
        """Number of rungs that leaves nearest to `count` units; the larger count where two are as near."""
        return min(range(len(self.rungs) + 1), key=lambda rungs: abs(self.count(rungs) - count))


Cost: TypeAlias = Callable[[Ladder, int], float]
"""What a ladder costs with so many units left, in parameters, multiply-accumulates or milliseconds."""


def ladder(kind: Kind, block: str, scores: Sequence[float], *, round_to: int = 1, least: int = 1) -> Ladder:
    """Rank units by `scores`; every count on the ladder below the full one is a multiple of `round_to` and at least `least`."""
    order = sorted(range(len(scores)), key=lambda unit: (scores[unit], unit))
    rungs: list[tuple[int, ...]] = []
    at, size = 0, len(scores) % round_to or round_to
    while at + size <= len(scores) - least:
        rungs.append(tuple(order[at : at + size]))
        at, size = at + size, round_to
    return Ladder(kind, block, len(scores), tuple(rungs), tuple(sum(scores[unit] for unit in rung) for rung in rungs))


@dataclass(frozen=True)
class _Run:
    """Rungs of one ladder worth taking together."""

    rungs: int
    saved: float
    price: float
    """Importance lost for each unit of cost saved."""


def shed(ladders: Sequence[Ladder], cost: Cost, excess: float, *, nearest: bool = False) -> tuple[int, ...]:
    """Rungs to take of each ladder so that at least `excess` of the cost goes, or as near to it as can be with `nearest`.

    Greedy: the next run of rungs is the one that loses the least importance for the cost it saves. A run is longer than one
    rung only where a cost has flat stretches, as measured latency has. Kinds are made comparable beforehand: in each, the
    importance of all that can go sums to the cost that can be saved. Takes all there is when `excess` cannot be reached.
    """
    scale = _scales(ladders, cost)
    taken = [0] * len(ladders)
    runs = [_best_run(each, 0, cost, scale[each.kind]) for each in ladders]
    left = excess
    while left > 1e-9 * excess:
        price, at = min(((run.price, at) for at, run in enumerate(runs) if run), default=(math.inf, -1))
        run = runs[at] if price < math.inf else None
        if run is None or (nearest and run.saved > 2 * left):
            break
        taken[at] += run.rungs
        left -= run.saved
        runs[at] = _best_run(ladders[at], taken[at], cost, scale[ladders[at].kind])
    return tuple(taken)


def uniform(ladders: Sequence[Ladder], cost: Cost, excess: float, *, steps: int = 1000) -> tuple[int, ...]:
    """Rungs to take so that every ladder keeps the same share: the largest that sheds `excess`, or all rungs there are."""
    full = total(ladders, cost, [0] * len(ladders))
    taken: tuple[int, ...] = ()
    for step in range(steps, -1, -1):
        taken = share(ladders, step / steps)
        if full - total(ladders, cost, taken) >= excess * (1 - 1e-9):
            break
    return taken


def share(ladders: Sequence[Ladder], kept: float) -> tuple[int, ...]:
    """Rungs to take of each ladder so that nearest to the share `kept` of its units stays."""
    return tuple(each.nearest(kept * each.units) for each in ladders)


def total(ladders: Sequence[Ladder], cost: Cost, taken: Sequence[int]) -> float:
    """What all ladders cost together after taking so many rungs of each."""
    return sum(cost(each, each.count(rungs)) for each, rungs in zip(ladders, taken, strict=True))


def _scales(ladders: Sequence[Ladder], cost: Cost) -> Mapping[Kind, float]:
    scales: dict[Kind, float] = {}
    for kind in {each.kind for each in ladders}:
        mine = [each for each in ladders if each.kind == kind]
        importance = sum(sum(each.importance) for each in mine)
        savings = sum(cost(each, each.units) - cost(each, each.count(len(each.rungs))) for each in mine)
        scales[kind] = savings / importance if importance > 0 and savings > 0 else 1.0
    return scales


def _best_run(each: Ladder, taken: int, cost: Cost, scale: float) -> _Run | None:
    """The run of the next rungs with the lowest price; None where nothing that is left saves anything."""
    before, count = cost(each, each.count(taken)), each.count(taken)
    lost, best = 0.0, None
    for rung in range(taken, len(each.rungs)):
        count -= len(each.rungs[rung])
        lost += each.importance[rung] * scale
        saved = before - cost(each, count)
        if saved > 0 and (best is None or lost / saved < best.price * (1 - 1e-9)):
            best = _Run(rung + 1 - taken, saved, lost / saved)
    return best
