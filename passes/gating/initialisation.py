"""Where gates start: nearly all open, as DPHuBERT's recipe has them, or by how much each unit matters to the model as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch

from compressor.contracts import Context
from compressor.contracts.anatomy import UnitKind, Units
from passes.gating.gating import DROPS
from passes.pruning.importance import data_scores, some_batches

if TYPE_CHECKING:
    from compressor.contracts import Model
    from passes.gating.expected_size import Formula
    from passes.gating.gating import Gating

OPEN: Mapping[UnitKind, float] = dict.fromkeys(DROPS, 0.01)
CENTRE, SPREAD = 2.5, 1.5
"""Mean and standard deviation of log alpha by importance: nearly all are on, and what matters least is the first to go."""
LEAST = 1e-30
ROWS, BATCH = 512, 16
RANKED: tuple[Literal["heads", "neurons"], ...] = ("heads", "neurons")


def start_by_importance(gating: Gating, student: Model, formula: Formula, ctx: Context) -> None:
    """Set the gates of heads and neurons by what each unit adds to the residual stream for what it costs.

    What it adds is a norm, a mean over some training rows, as structured pruning by `activation` has it. In each kind it is scaled
    to sum to what the kind costs, so that kinds compare. log alpha is normally distributed over the cost, by rank: neither units that do
    nothing nor outliers take a gate out of reach. Gates of other kinds stay as they are.
    """
    places = [place for place in gating.places if place.kind in RANKED]
    if not places:
        return
    values = _importance(places, gating, student, ctx)
    cost = {place: _unit_cost(place, gating.places, formula) for place in places}
    worth: dict[Units, torch.Tensor] = {}
    for kind in RANKED:
        mine = [place for place in places if place.kind == kind]
        per_cost = sum(float(values[place].sum()) for place in mine) / max(
            sum(cost[place] * place.count for place in mine), LEAST
        )
        worth |= {place: values[place] / (max(per_cost, LEAST) * cost[place]) for place in mine}
    below = _share_below(
        torch.cat([worth[place] for place in places]), torch.tensor([c for p in places for c in [cost[p]] * p.count])
    )
    starts = CENTRE + SPREAD * torch.special.ndtri(below)
    with torch.no_grad():
        for place, start in zip(places, starts.split([place.count for place in places]), strict=True):
            gating.gate(place).log_alpha.copy_(start)


def _share_below(values: torch.Tensor, costs: torch.Tensor) -> torch.Tensor:
    """For each unit the share in (0, 1) of all cost that matters less, half of its own included."""
    order = torch.argsort(values, stable=True)
    ranked = costs[order].double()
    shares = torch.empty_like(ranked)
    shares[order] = (ranked.cumsum(0) - ranked / 2) / ranked.sum()
    return shares


def _unit_cost(place: Units, places: Sequence[Units], formula: Formula) -> float:
    """What one unit of a place saves where it is the only one to go."""
    fewer = [float(each.count - (each == place)) for each in places]
    return max(formula.of([float(each.count) for each in places]) - formula.of(fewer), 1e-12)


def _importance(places: Sequence[Units], gating: Gating, student: Model, ctx: Context) -> dict[Units, torch.Tensor]:
    kinds = tuple(kind for kind in RANKED if any(place.kind == kind for place in places))
    module: Any = student.copy().module
    module.to(ctx.device).eval()
    batches = some_batches(student, ctx, rows=ROWS, batch_size=BATCH)
    found = data_scores(module, gating.anatomy, kinds, importance="activation", task=ctx.task, batches=batches)
    return {place: torch.tensor(found[place]) for place in places}
