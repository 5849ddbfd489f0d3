"""What the units of a model cost, read off the shapes of the module itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from compressor.contracts.anatomy import Units

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class UnitCost:
    """What one unit of a block costs: its share of the projections that write it and of the one that reads it."""

    parameters: float
    """With the biases of what writes it; the reader's bias stays when all units go."""
    weights: float
    """Entries of weight matrices: multiply-accumulates per token."""
    attended: int
    """Features whose attention scores and sums are computed."""

    def macs(self, tokens: int) -> float:
        """Multiply-accumulates for one row of so many tokens: projections, and scores and sums of attention."""
        return float(tokens * self.weights + 2 * tokens**2 * self.attended)


def matrix(layer: nn.Module) -> torch.Tensor:
    """The weight of a linear layer as `[outputs, inputs]`; GPT-2 keeps it the other way round."""
    weight = layer.get_parameter("weight")
    return weight.t() if hasattr(layer, "nf") else weight


def cost_of(module: nn.Module, units: Units) -> UnitCost:
    """The cost of one head (or group of those that share a key and a value), one neuron, or of a whole sub-layer."""
    writers = [module.get_submodule(path) for path in units.writers]
    read = module.get_submodule(units.reader).get_parameter("weight").numel()
    parameters = sum(each.numel() for writer in writers for each in writer.parameters())
    weights = sum(writer.get_parameter("weight").numel() for writer in writers)
    attended = units.size if units.kind in ("heads", "attention") else 0
    return UnitCost((parameters + read) / units.count, (weights + read) / units.count, attended)
