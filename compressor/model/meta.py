"""Building modules without memory for their parameters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

BUILDING_ERRORS = (TypeError, ValueError, AttributeError, LookupError, ArithmeticError, RuntimeError)
"""What a class raises that is given a configuration which is not its own."""


@contextmanager
def on_meta() -> Iterator[None]:
    """Modules made inside have their parameters on meta, tied ones still tied, and their buffers in memory; random states stay."""
    import torch
    from torch import nn

    register = nn.Module.register_parameter

    def registered(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if param is not None and not param.is_meta:
            param = nn.Parameter(param.detach().to("meta"), requires_grad=param.requires_grad)
        register(self, name, param)

    nn.Module.register_parameter = registered  # type: ignore[method-assign]
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]
