"""Settings that are read again from what is written of them, though some refuse to be said beside others."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, SerializerFunctionWrapHandler, model_serializer


class ReadAgain(BaseModel):
    """Settings of which nothing is written that their other values leave unheeded: said in a plan beside those, it is refused."""

    def unheeded(self) -> tuple[str, ...]:
        """Names of parameters that nothing heeds as others are set; those of inner settings as `OUTER.NAME`."""
        return ()

    @model_serializer(mode="wrap")
    def _without_unheeded(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found: dict[str, Any] = write(self)
        for path in self.unheeded():
            *outer, name = path.split(".")
            inner = found
            for each in outer:
                inner = inner.get(each) or {}
            inner.pop(name, None)
        return found
