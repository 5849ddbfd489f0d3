"""Hard-concrete gates: random masks in [0, 1] that are exactly 0 with a probability that can be learned, and their closed forms.

Louizos et al., Learning Sparse Neural Networks through L0 Regularization, 2018, arXiv:1712.01312; temperature, stretch, starts and
the masks after training as in DPHuBERT (Peng et al., 2023, arXiv:2305.17651).
"""

from __future__ import annotations

import math

import torch
from torch import nn

TEMPERATURE = 2 / 3
LOW, HIGH = -0.1, 1.1
"""The interval that a concrete variable in (0, 1) is stretched to before it is cut to [0, 1]."""
SHIFT = TEMPERATURE * math.log(-LOW / HIGH)
"""P(mask != 0) = sigmoid(log alpha - SHIFT)."""
SHARPNESS = 0.8
"""Of the soft value that a kept unit has after training: sigmoid(SHARPNESS * log alpha / TEMPERATURE)."""
UNDECIDED = 1 / (1 + math.exp(-SHARPNESS * SHIFT / TEMPERATURE))
"""The soft value of a unit that is as probably on as off: what is kept although it is more probably off counts as this."""
LEAST = 1e-6
"""Distance of the uniform draw from 0 and 1."""
SPREAD = 0.01
"""Standard deviation of log alpha at the start."""


class Gate(nn.Module):
    """One gate a unit: `log_alpha` `[units]` is learned. Random in training mode; in eval mode the mask of what stays."""

    kept: torch.Tensor

    def __init__(self, units: int, *, drop: float) -> None:
        """`drop`, in (0, 1), is where `1 - sigmoid(log alpha)` starts; drawn from torch's generator."""
        super().__init__()
        start = math.log((1 - drop) / drop)
        self.log_alpha = nn.Parameter(start + SPREAD * torch.randn(units))
        self.register_buffer("kept", torch.full((units,), -1.0))

    @property
    def units(self) -> int:
        """Number of units."""
        return self.log_alpha.shape[0]

    def on(self) -> torch.Tensor:
        """Probability of each unit that its mask is not 0: `[units]`."""
        return torch.sigmoid(self.log_alpha.float() - SHIFT)

    def expected(self) -> torch.Tensor:
        """Expected number of units whose mask is not 0."""
        return self.on().sum()

    def sample(self) -> torch.Tensor:
        """A random mask `[units]` in [0, 1], differentiable in `log_alpha`."""
        uniform = torch.empty_like(self.log_alpha, dtype=torch.float32).uniform_(LEAST, 1 - LEAST)
        concrete = torch.sigmoid((uniform.log() - (1 - uniform).log() + self.log_alpha.float()) / TEMPERATURE)
        return (concrete * (HIGH - LOW) + LOW).clamp(0, 1)

    def soft(self) -> torch.Tensor:
        """What each unit is multiplied with if it stays: `[units]` in (0, 1)."""
        return torch.sigmoid(SHARPNESS * self.log_alpha.detach().float() / TEMPERATURE)

    def keep(self, units: torch.Tensor) -> None:
        """From now on the mask in eval mode is that of these units, whatever is learned."""
        self.kept.zero_()
        self.kept[units] = 1.0

    def mask(self) -> torch.Tensor:
        """The mask after training `[units]`: the soft value of what stays, 0 for the rest.

        Without a choice made by `keep`, as many units stay as are expected to, those of the largest soft values.
        """
        soft = self.soft()
        if bool((self.kept >= 0).all()):
            return soft.clamp(min=UNDECIDED) * self.kept
        count = round(float(self.expected().detach()))
        mask = torch.zeros_like(soft)
        best = torch.topk(soft, count).indices if count else torch.empty(0, dtype=torch.long, device=soft.device)
        mask[best] = soft[best]
        return mask

    def forward(self) -> torch.Tensor:
        """A random mask in training mode, else the mask after training."""
        return self.sample() if self.training else self.mask()
