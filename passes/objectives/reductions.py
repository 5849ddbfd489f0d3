"""The one convention of every objective's mean: over the valid tokens of the batch, then over pairs of layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def mean_over_valid(values: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Mean of `values` `[B, T]` over the tokens that `mask` `[B, T]` marks with nonzero; over all of them without a mask.

    Each valid token of the batch weighs the same, so adding padding changes nothing.
    """
    if mask is None:
        return values.mean()
    valid = mask.bool()
    return values.masked_fill(~valid, 0.0).sum() / valid.sum().clamp(min=1)


def pooled(states: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Mean of `states` `[B, T, D]` over each row's valid tokens: `[B, D]`."""
    if mask is None:
        return states.mean(dim=1)
    valid = mask.bool().unsqueeze(-1)
    return states.masked_fill(~valid, 0.0).sum(dim=1) / valid.sum(dim=1).clamp(min=1)
