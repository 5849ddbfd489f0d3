"""What a training on a CPU computes by other ways than torch's own."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from compressor.training.dropout import dropout
from compressor.training.tables import looked_up


class Cheap(TorchFunctionMode):
    """Dropout by random bits; one low-precision copy of what several layers read; gradients of embedding tables as rows.

    Args:
        rows: whether gradients of tables may be rows: not where they are sent to other processes.
    """

    def __init__(self, *, rows: bool) -> None:
        super().__init__()
        self._own: dict[Any, Any] = {functional.dropout: dropout, functional.linear: self._linear}
        if rows:
            self._own[functional.embedding] = looked_up
        self._read: tuple[torch.Tensor, tuple[int, bool], torch.Tensor] | None = None
        """What the last layer read, which version of it and whether with gradients, and its copy."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._own.get(function, function)(*args, **(kwargs or {}))

    def _linear(self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:  # noqa: A002 - torch's own
        """`torch.nn.functional.linear`: autocast would copy the same states for queries, keys and values, and each gradient back."""
        if input.dtype != torch.float32 or not torch.is_autocast_enabled("cpu"):
            return functional.linear(input, weight, bias)
        now = (input._version, torch.is_grad_enabled())
        if self._read is None or self._read[0] is not input or self._read[1] != now:
            self._read = (input, now, input.to(torch.get_autocast_dtype("cpu")))
        return functional.linear(self._read[2], weight, bias)
