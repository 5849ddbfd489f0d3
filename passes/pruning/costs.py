"""What heads, neurons and layers cost in parameters and multiply-accumulates, and what is left when they go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compressor.contracts import Context, Edit
from compressor.contracts.anatomy import Anatomy, Block
from compressor.model.edits import KeepBlocks, KeepHeads, KeepNeurons
from passes.pruning.importance import Place
from passes.pruning.ranking import Cost, Kind, Ladder, total

if TYPE_CHECKING:
    from torch import nn

    from compressor.contracts import Model


def weights_cost(module: nn.Module, anatomy: Anatomy) -> Cost:
    """Parameters; those of a layer are all that its block holds."""
    units: dict[Place, float] = {}
    for block in anatomy.blocks:
        for kind, count, projections in _parts(block):
            *written, read = (module.get_submodule(path) for path in projections)
            weights = sum(each.numel() for part in written for each in part.parameters()) + read.get_parameter("weight").numel()
            units[kind, block.id] = weights / count
    layers = tuple(sum(each.numel() for each in module.get_submodule(block.id).parameters()) for block in anatomy.blocks)
    return _constant(units, layers)


def macs_cost(module: nn.Module, anatomy: Anatomy, *, tokens: int) -> Cost:
    """Multiply-accumulates of the blocks for one row of so many tokens: projections, and scores and sums of attention."""
    units: dict[Place, float] = {}
    layers = []
    for block in anatomy.blocks:
        whole = 0.0
        for kind, count, projections in _parts(block):
            macs = float(tokens * sum(module.get_submodule(path).get_parameter("weight").numel() for path in projections))
            if kind == "heads" and block.attention:
                macs += 2 * tokens**2 * block.attention.heads * block.attention.head_size
            units[kind, block.id] = macs / count
            whole += macs
        layers.append(whole)
    return _constant(units, tuple(layers))


def _parts(block: Block) -> list[tuple[Kind, int, tuple[str, ...]]]:
    """Kind, number of units and projections of what the block has; the projection that reads the units comes last."""
    parts: list[tuple[Kind, int, tuple[str, ...]]] = []
    if block.attention:
        attention = block.attention
        parts.append(("heads", attention.heads, (attention.query, attention.key, attention.value, attention.output)))
    if block.feed_forward:
        inner = block.feed_forward
        parts.append(("neurons", inner.width, (inner.up, *([inner.gate] if inner.gate else []), inner.down)))
    return parts


def _constant(units: Mapping[Place, float], layers: Sequence[float]) -> Cost:
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
