"""What a model is and how it is changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compressor.model.model import Model

__all__ = ["Model"]


def __getattr__(name: str) -> Any:
    """`Model`, imported when it is asked for: the rest of this package is used without torch."""
    if name != "Model":
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    from compressor.model.model import Model

    return Model
