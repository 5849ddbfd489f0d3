"""What a check looks at, and how it says what is wrong with it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias
from unittest import SkipTest

from compressor.contracts import registry
from compressor.errors import CompressorError, PluginError

AS_THEY_ARE = ("anatomy", "format", "library", "network")
"""Kinds of plug-ins without parameters of a plan: a row, or a class."""


class Nonconformity(AssertionError):
    """A plug-in does not keep its contract; the message says which plug-in, what it does, and what it should do."""


class Unchecked(SkipTest):
    """This cannot be checked here, and why: a test runner shows it as skipped."""


@dataclass(frozen=True)
class Subject:
    """A plug-in made ready to be looked at."""

    kind: str
    name: str
    plugin: Any
    """An instance with its parameters; of the kinds in `AS_THEY_ARE` what the entry point names."""

    @classmethod
    def of(cls, kind: str, plugin: Any) -> Subject:
        """A plug-in under the name that its entry point gives it.

        Raises:
            Nonconformity: no entry point names it.
        """
        looked_for = plugin if kind in AS_THEY_ARE else type(plugin)
        for name in registry.names(kind):
            try:
                found = registry.load(kind, name)
            except PluginError:  # somebody else's
                continue
            if found is looked_for:
                return cls(kind, name, plugin)
        spelled = getattr(looked_for, "__qualname__", repr(looked_for))
        raise Nonconformity(
            f"{kind} {spelled} stands in no entry point of 'compressor.{kind}': install the distribution it is in"
        )

    def __str__(self) -> str:
        return f"{self.kind} '{self.name}'"

    def require(self, kept: bool, fault: str) -> None:
        """Say what is wrong unless it is kept.

        Raises:
            Nonconformity: it is not kept.
        """
        if not kept:
            raise Nonconformity(f"{self}: {fault}")

    @contextmanager
    def during(self, what: str) -> Iterator[None]:
        """Turn any error of the plug-in while it does `what` into a nonconformity."""
        try:
            yield
        except (Nonconformity, SkipTest):
            raise
        except Exception as error:  # what a third party wrote can raise anything
            raise Nonconformity(f"{self}: {what} raises {type(error).__name__}: {error}") from error

    @contextmanager
    def refusing(self, what: str, *, naming: tuple[str, ...]) -> Iterator[None]:
        """Allow only errors of the project's own, and only with a message that names the fault."""
        try:
            yield
        except CompressorError as error:
            named = any(name.casefold() in str(error).casefold() for name in naming)
            self.require(named, f"{what} is refused without naming {' or '.join(naming)}: {error}")
        except (Nonconformity, SkipTest):
            raise
        except Exception as error:
            raise Nonconformity(
                f"{self}: {what} raises {type(error).__name__}: {error}; refuse it with an error of compressor.errors"
            ) from error


CheckFunction: TypeAlias = Callable[[Subject], None]


def documented(function: CheckFunction) -> str:
    """The first sentence of a check's docstring: what it demands."""
    return (inspect.getdoc(function) or "").partition("\n")[0]
