"""What a training on a CPU computes by other ways than torch's own."""

from __future__ import annotations

from typing import Any

from torch.nn import functional
from torch.overrides import TorchFunctionMode

from compressor.training.dropout import dropout
from compressor.training.tables import looked_up


class Cheap(TorchFunctionMode):
    """Dropout by random bits, and gradients of embedding tables as rows where they are not sent to other processes."""

    def __init__(self, *, rows: bool) -> None:
        super().__init__()
        self._own: dict[Any, Any] = {functional.dropout: dropout}
        if rows:
            self._own[functional.embedding] = looked_up

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._own.get(function, function)(*args, **(kwargs or {}))
