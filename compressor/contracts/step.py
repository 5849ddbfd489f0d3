"""A step of a plan: its parameters, its version, and what it adds to a key; and the events that long work tells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import version
from typing import Any, ClassVar, Self, TypeAlias

from pydantic import BaseModel, ConfigDict

from compressor.contracts.described import Described


class Step(Described):
    """Anything a plan names: its fields are its parameters and nothing else; it keeps no run state."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())

    version: ClassVar[int] = 1
    """Raised whenever equal parameters give other results."""
    requires: ClassVar[tuple[str, ...]] = ()
    """Distributions whose versions can change the result: they belong into the key."""
    made_with: ClassVar[tuple[str, ...]] = ()
    """Modules that it shares with others and that make a part of its results: the `VERSION` of each belongs into the key."""
    paper: ClassVar[str] = ""
    """Where the method comes from, for `compressor explain`."""
    renamed: ClassVar[Mapping[str, str]] = {}
    """Old names of parameters that plans may go on using, with a notice, by what they are called now."""
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({},)
    """Parameters that `compressor.testing` tries it with, on a tiny model and a few rows; needed where defaults do not do."""

    @classmethod
    def written(cls, parameters: Mapping[str, Any]) -> Self:
        """A step by the parameters that a report or a built model holds, which an earlier version may have written.

        Raises:
            ValueError: it does not take them.
        """
        known = renamings(cls)
        return cls.model_validate({known.get(name, name): value for name, value in parameters.items()})


def renamings(model: type[BaseModel]) -> dict[str, str]:
    """Old names of parameters that go on working, and what they are called now: all `renamed` of a class and those it derives from."""
    return {old: new for each in reversed(model.__mro__) for old, new in vars(each).get("renamed", {}).items()}


@dataclass(frozen=True)
class Progress:
    """How far a long piece of work has come."""

    work: str
    done: int
    total: int
    unit: str = "steps"
    values: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Message:
    """One line worth telling."""

    text: str


Event: TypeAlias = Progress | Message


def step_parts(name: str, step: Step) -> dict[str, Any]:
    """What a step alone adds to a key: its name, version and parameters, and the versions of what it requires."""
    return {"step": name, "parameters": step.model_dump(mode="json"), **code_parts(type(step))}


def code_parts(plugin: Any) -> dict[str, Any]:
    """What the code of a plug-in adds to a key: its version, those of what it requires, and those of modules that it is made with."""
    made_with = {name: import_module(name).VERSION for name in getattr(plugin, "made_with", ())}
    return {
        "version": plugin.version,
        "requires": versions_of(getattr(plugin, "requires", ())),
        **({"made_with": made_with} if made_with else {}),
    }


def versions_of(distributions: Iterable[str]) -> dict[str, str]:
    """Installed versions by name of distribution."""
    return {name: version(name) for name in distributions}
