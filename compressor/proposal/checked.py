"""Parts of a plan made of what a user says or of what lies there, which may be nothing that a plan can hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from compressor.contracts import Recipe, registry
from compressor.errors import CompressorError, PluginError, SourceError
from compressor.foreign import one_line, told

Part = TypeVar("Part", bound=BaseModel)


def checked(kind: type[Part], values: Mapping[str, Any], what: str) -> Part:
    """A part of a plan, as the plan will have it.

    Args:
        what: it is, for messages.

    Raises:
        SourceError: a plan cannot say so; it tells the first reason.
    """
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"]))
        why = first["msg"].removeprefix("Value error, ")
        raise SourceError(one_line(f"{what}: {f'{where}: ' if where else ''}{why}")) from error


def offered(kind: str, name: str, recipe: Callable[[], Recipe | None]) -> Recipe | None:
    """What a plug-in has written of itself.

    Raises:
        PluginError: what it is made by raises something, which a third party may have written.
        CompressorError: it refuses, as a task does where several columns could be meant.
    """
    try:
        return recipe()
    except CompressorError:
        raise
    except Exception as error:
        owner = registry.distribution(kind, name)
        raise PluginError(
            f"the recipe of {kind} '{name}' fails: {told(error, kind=True)}; repair or uninstall {owner}"
        ) from error
