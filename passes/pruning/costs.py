"""What heads, neurons and layers cost in parameters and multiply-accumulates, and what is left when they go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compressor.contracts import Context, Edit
from compressor.contracts.anatomy import Anatomy, UnitKind
from compressor.model.costs import cost_of
from compressor.model.edits import KeepBlocks, KeepHeads, KeepNeurons
from passes.pruning.ranking import Cost, Ladder, total

if TYPE_CHECKING:
    from torch import nn

    from compressor.contracts import Model


def weights_cost(module: nn.Module, anatomy: Anatomy) -> Cost:
    """Parameters; those of a layer are all that its block holds."""
    units = {(each.kind, each.where): cost_of(module, each).parameters for each in anatomy.units(("heads", "neurons"))}
    layers = tuple(sum(each.numel() for each in module.get_submodule(block.id).parameters()) for block in anatomy.blocks)
    return _constant(units, layers)


def macs_cost(module: nn.Module, anatomy: Anatomy, *, tokens: int) -> Cost:
    """Multiply-accumulates of the blocks for one row of so many tokens: projections, and scores and sums of attention."""
    units = {(each.kind, each.where): cost_of(module, each).macs(tokens) for each in anatomy.units(("heads", "neurons"))}
    layers = dict.fromkeys((block.id for block in anatomy.blocks), 0.0)
    for each in anatomy.units(("attention", "feed-forward")):
        layers[each.where] += cost_of(module, each).macs(tokens)
    return _constant(units, tuple(layers.values()))


def _constant(units: Mapping[tuple[UnitKind, str], float], layers: Sequence[float]) -> Cost:
    def cost(ladder: Ladder, count: int) -> float:
        if ladder.kind == "layers":
            return sum(layers[index] for index in ladder.kept(ladder.units - count))
        return units[ladder.kind, ladder.block] * count

    return cost


# ------------------------------------------------------------------ removal


@dataclass(frozen=True)
class Site:
    """What one round of pruning works on."""

    model: Model
    anatomy: Anatomy
    ladders: tuple[Ladder, ...]
    ctx: Context

    def pruned(self, taken: Sequence[int]) -> Model:
        """A copy of the model without what so many rungs of each ladder take."""
        model = self.model.copy()
        for ladder, rungs in zip(self.ladders, taken, strict=True):
            if rungs:
                model.apply(self._edit(ladder, ladder.kept(rungs)))
        return model

    def _edit(self, ladder: Ladder, kept: tuple[int, ...]) -> Edit:
        if ladder.kind == "heads":
            return KeepHeads(block=ladder.block, heads=kept)
        if ladder.kind == "neurons":
            return KeepNeurons(block=ladder.block, neurons=kept)
        return KeepBlocks(blocks=tuple(self.anatomy.blocks[index].id for index in kept))


def saved(ladders: Sequence[Ladder], cost: Cost, taken: Sequence[int]) -> float:
    """What taking so many rungs of each ladder saves."""
    return total(ladders, cost, [0] * len(ladders)) - total(ladders, cost, taken)
