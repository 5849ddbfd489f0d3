"""What stands in for a sub-layer that has lost all its heads or neurons: it adds its bias and computes nothing."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Constant(nn.Module):
    """In place of a projection `[..., any] -> [..., features]` without inputs: its bias everywhere, zeros where it has none."""

    def __init__(self, features: int, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.features = features
        self.bias = bias

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        shape = (*hidden_states.shape[:-1], self.features)
        return hidden_states.new_zeros(shape) if self.bias is None else self.bias.expand(shape)


class Narrow(nn.Module):
    """In place of a projection without outputs: one channel of its input, as runtimes stumble over empty tensors.

    Two of them where the projection is two in one.
    """

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states[..., : self.channels]


class ScaledNorm(nn.Module):
    """In place of a norm over channels: each channel is scaled before it. What was learned as a scale cannot be folded into a norm."""

    def __init__(self, norm: nn.Module, channels: int) -> None:
        super().__init__()
        device = next(norm.parameters()).device
        self.scale = nn.Parameter(torch.ones(channels, device=device))
        self.norm = norm

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        normed: torch.Tensor = self.norm(hidden_states * self.scale)
        return normed


class NoHeads(nn.Module):
    """In place of an attention module: what its output projection makes of nothing, and no attention map.

    `output` is the name and the module of that projection where it lies inside; BERT has it outside.
    """

    def __init__(self, output: tuple[str, Constant] | None = None) -> None:
        super().__init__()
        self.output_name = None
        if output is not None:
            self.output_name = output[0]
            self.add_module(*output)

    def forward(self, hidden_states: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, None]:
        if self.output_name is None:
            return hidden_states, None
        return self.get_submodule(self.output_name)(hidden_states), None
