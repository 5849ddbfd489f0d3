"""A linear layer as the product of two."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import PositiveInt

from compressor.contracts import Edit
from compressor.errors import UnsupportedModel


class FactorLinear(Edit):
    """Replace one linear layer by two with `rank` values between them: the nearest matrix of that rank."""

    kind: ClassVar[str] = "factor-linear"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({"path": "bert.encoder.layer.0.intermediate.dense", "rank": 8},)

    path: str
    rank: PositiveInt

    def apply(self, module: Any) -> None:
        """Factor by singular values; on meta, where there are no values, give the two layers their shapes."""
        import torch

        linear = dict(module.named_modules()).get(self.path)
        if not isinstance(linear, torch.nn.Linear) or self.rank > min(linear.weight.shape):
            raise UnsupportedModel(f"factor-linear: {self.path} is no linear layer of rank {self.rank} or more")
        weight, bias = linear.weight.detach(), linear.bias
        pair = torch.nn.Sequential(
            torch.nn.utils.skip_init(torch.nn.Linear, linear.in_features, self.rank, bias=False, device=weight.device),
            torch.nn.utils.skip_init(
                torch.nn.Linear, self.rank, linear.out_features, bias=bias is not None, device=weight.device
            ),
        ).train(linear.training)
        if not weight.is_meta:
            left, values, right = torch.linalg.svd(weight.double(), full_matrices=False)
            scale = values[: self.rank].sqrt()
            with torch.no_grad():
                pair[0].weight.copy_(scale[:, None] * right[: self.rank])
                pair[1].weight.copy_(left[:, : self.rank] * scale)
                if bias is not None:
                    pair[1].bias.copy_(bias)
        module.set_submodule(self.path, pair)

    def describe(self) -> str:
        """One line for the report."""
        return f"{self.path}: two matrices of rank {self.rank}"
