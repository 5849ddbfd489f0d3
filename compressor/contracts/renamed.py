"""Old names of what plug-ins are written against: they go on working, each with a notice that names the new one."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, TypeVar

Class = TypeVar("Class", bound=type)


def notice(old: str, new: str, *, depth: int = 2) -> None:
    """Warn that something has another name now; Python shows it once for each place that uses the old one."""
    warnings.warn(f"{old} is called {new} now; the old name goes on working for a while", FutureWarning, stacklevel=depth + 1)


def old_names(module: str, names: Mapping[str, str], found: Mapping[str, Any]) -> Callable[[str], Any]:
    """A `__getattr__` for a module in which some things were called otherwise."""

    def look(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module '{module}' has no attribute '{name}'")
        notice(f"{module}.{name}", names[name])
        return found[names[name]]

    return look


def formerly(**names: str) -> Callable[[Class], Class]:
    """For a dataclass: old names of its fields, by keyword, that calls and attributes may go on using."""

    def renamed(cls: Class) -> Class:
        made = cls.__init__  # type: ignore[misc]

        @wraps(made)
        def init(self: Any, *args: Any, **values: Any) -> None:
            for old in names.keys() & values.keys():
                notice(f"{cls.__name__}({old}=...)", names[old])
                values[names[old]] = values.pop(old)
            made(self, *args, **values)

        cls.__init__ = init  # type: ignore[misc]
        for old, new in names.items():
            setattr(cls, old, property(_of(cls.__name__, old, new)))
        return cls

    return renamed


def _of(owner: str, old: str, new: str) -> Callable[[Any], Any]:
    def read(self: Any) -> Any:
        notice(f"{owner}.{old}", new)
        return getattr(self, new)

    return read
