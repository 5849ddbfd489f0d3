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
        self._read: tuple[torch.Tensor, int, torch.Tensor] | None = None
        """What the last layer read, which version of it, and its copy."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._own.get(function, function)(*args, **(kwargs or {}))

    def _linear(self, given: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """`torch.nn.functional.linear`: autocast would copy the same states for queries, keys and values, and each gradient back."""
        if given.dtype == torch.float32 and torch.is_autocast_enabled("cpu"):
            if self._read is None or self._read[0] is not given or self._read[1] != given._version:
                self._read = (given, given._version, given.to(torch.get_autocast_dtype("cpu")))
            given = self._read[2]
        return functional.linear(given, weight, bias)
