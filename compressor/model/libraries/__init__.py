"""The libraries that models are built by, found by their entry points."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from compressor.contracts import Library, registry
from compressor.errors import SourceError, UnsupportedModel, did_you_mean


def library(name: str) -> Library:
    """The library of that name.

    Raises:
        SourceError: none of that name is installed.
        PluginError: it cannot be imported.
    """
    if name not in registry.names("library"):
        known = registry.names("library")
        raise SourceError(f"no library '{name}' is installed that models are built by{did_you_mean(name, known)}")
    found: type[Library] = registry.load("library", name)
    return found()


def _ready() -> Iterator[tuple[str, Library]]:
    """All libraries by name, but those that cannot be imported: `list libraries` tells them."""
    return ((name, found()) for name, found in registry.loaded("library") if isinstance(found, type))


def library_of(module: Any) -> tuple[str, Library]:
    """The library whose own class a module is of, with its name.

    Raises:
        UnsupportedModel: there is none.
    """
    for name, found in _ready():
        if found.name_of(module) is not None:
            return name, found
    raise UnsupportedModel(
        f"{type(module).__module__}.{type(module).__qualname__} is a model class of none of {', '.join(registry.names('library'))}: "
        "it could be saved but not loaded again; a class of your own is an entry point of 'compressor.network'"
    )


def reader_of(folder: Path) -> Library:
    """The library in whose own layout a folder is.

    Raises:
        SourceError: it is in none that is known.
    """
    for _, found in _ready():
        if found.reads(folder):
            return found
    raise SourceError(f"{folder} is in the layout of none of {', '.join(registry.names('library'))}")
