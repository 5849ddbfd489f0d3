"""Gradients of large embedding tables as the rows that a batch has: torch's dense ones are zeros but for those.

To make, measure and free a table of zeros in every step is a twentieth to a tenth of the time of a small model. The gradient is torch's
own sparse one here; the optimiser, which moves every row by its moments, sees it in a table that stays, cleared row by row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

LARGE = 1 << 20
"""Numbers of a table from which on this pays."""


def looked_up(ids: torch.Tensor, weight: torch.Tensor, **options: Any) -> torch.Tensor:
    """`torch.nn.functional.embedding`; a large table on a CPU gets a sparse gradient."""
    usual = options.get("max_norm") is not None or options.get("scale_grad_by_freq") or not weight.is_leaf
    if not (usual or weight.device.type != "cpu" or weight.numel() < LARGE):
        options["sparse"] = True
    return torch.nn.functional.embedding(ids, weight, **options)


def measured(parameters: Sequence[torch.nn.Parameter]) -> list[torch.Tensor]:
    """What the length of the gradients is taken of; each row of a sparse one is there once afterwards."""
    found = []
    for parameter in parameters:
        if parameter.grad is not None and parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()
            found.append(parameter.grad.values())
        elif parameter.grad is not None:
            found.append(parameter.grad)
    return found


class Tables:
    """Dense gradients of tables among these parameters, zeros between the steps."""

    def __init__(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        self._parameters = parameters
        self._kept: dict[int, torch.Tensor] = {}

    @contextmanager
    def filled(self) -> Iterator[None]:
        """Have dense gradients in place of sparse ones meanwhile, and none of those afterwards."""
        rows: dict[int, torch.Tensor] = {}
        for at, parameter in enumerate(self._parameters):
            if (gradient := parameter.grad) is not None and gradient.is_sparse:
                rows[at] = gradient.indices()[0]
                table = self._kept[at] if at in self._kept else self._kept.setdefault(at, torch.zeros_like(parameter))
                parameter.grad = table.index_copy_(0, rows[at], gradient.values())
        yield
        for at, chosen in rows.items():
            self._parameters[at].grad = None
            self._kept[at].index_fill_(0, chosen, 0.0)
