"""What a model is exported as: graphs with named inputs and outputs, and state that goes round between calls; and a session on them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

if TYPE_CHECKING:
    from numpy.typing import NDArray


NAME = r"[A-Za-z0-9_.:/-]+"
GRAPH_NAME = r"[A-Za-z0-9_-]+"
"""It is a file's too."""
GRAPHS = "graphs.json"
"""Lies beside exported graphs that have a state: what they take and give, which a model's configuration does not say once it was cut."""
Feed: TypeAlias = "dict[str, NDArray[Any]]"
"""Named input or output arrays of one call."""


@dataclass(frozen=True)
class Port:
    """An input or output of an exported model; named axes are dynamic."""

    name: str
    dtype: str
    axes: tuple[str | int, ...]
    default: tuple[int, ...] = ()
    """What an input of one axis is where a caller leaves it out; empty where it must be given."""
    fill: int | None = None
    """What rows of an input that are too short may be filled up with at their end, so that a mask leaves it out; None where nothing can be."""


class Growth(NamedTuple):
    """How a state grows, by inputs that a caller gives and their axes."""

    axis: int
    """Of every input of the state: its length, which a call adds to."""
    whole: tuple[str, int]
    """As long as the state is after the call: an attention mask."""
    added: tuple[str, int]
    """As long as what the call adds: ids."""

    def lengths(self, feed: Feed) -> tuple[int, int]:
        """Of the state before and after a call with `feed`."""
        whole, added = (feed[name].shape[axis] for name, axis in (self.whole, self.added))
        return whole - added, whole


@dataclass(frozen=True)
class Graph:
    """One exported graph of a model; it lies in a file of its name."""

    name: str = "model"
    component: str | None = None
    """The component of the model that it is made from; None for the main one."""
    inputs: tuple[Port, ...] = ()
    """All inputs, those of the state included, in the order of the exported graph."""
    outputs: tuple[Port, ...] = ()
    state: tuple[tuple[str, str], ...] = ()
    """Pairs of an output and the input that it becomes in the next call: a cache of keys and values. They never leave the device."""

    @cached_property
    def fed(self) -> tuple[Port, ...]:
        """Inputs that a caller gives."""
        kept = {name for _, name in self.state}
        return tuple(port for port in self.inputs if port.name not in kept)

    @cached_property
    def given(self) -> tuple[Port, ...]:
        """Outputs that a caller gets."""
        kept = {name for name, _ in self.state}
        return tuple(port for port in self.outputs if port.name not in kept)

    @cached_property
    def growth(self) -> Growth | None:
        """How the state grows; None where it does not, or where no input has an axis of the name that it has after a call."""
        ports = {port.name: port for port in (*self.inputs, *self.outputs)}
        pairs = [zip(ports[output].axes, ports[becomes].axes, strict=True) for output, becomes in self.state]
        grown = {(axis, after) for pair in pairs for axis, (after, before) in enumerate(pair) if after != before}
        if len(grown) != 1:
            return None
        ((axis, name),) = grown
        fed = [(port.name, place, each) for port in self.fed for place, each in enumerate(port.axes)]
        whole = next(((port, place) for port, place, each in fed if each == name), None)
        added = next(((port, place) for port, place, each in fed if place == 1 and isinstance(each, str) and each != name), None)
        return Growth(axis, whole, added) if whole and added else None

    def completed(self, feed: Feed) -> Feed:
        """What the graph takes of a feed, with defaults where it lacks something."""
        import numpy as np

        defaults = {port.name: np.array(port.default, port.dtype) for port in self.fed if port.default}
        return defaults | {port.name: feed[port.name] for port in self.fed if port.name in feed}

    def first_state(self, feed: Feed) -> Feed:
        """The state before the first call, by input: named axes as long as in `feed`, 0 where it has none of that name.

        An axis of a fixed length has it, filled with zeros.
        """
        import numpy as np

        found = {
            axis: size
            for port in self.fed
            if port.name in feed
            for axis, size in zip(port.axes, feed[port.name].shape, strict=True)
            if isinstance(axis, str)
        }
        kept = {name for _, name in self.state}
        return {
            port.name: np.zeros([axis if isinstance(axis, int) else found.get(axis, 0) for axis in port.axes], port.dtype)
            for port in self.inputs
            if port.name in kept
        }


def graph_from(values: Mapping[str, Any]) -> Graph:
    """A graph from the JSON values that `dataclasses.asdict` makes of one.

    Raises:
        KeyError, TypeError, ValueError: they are malformed.
    """
    name = str(values.get("name", Graph.name))
    if not re.fullmatch(GRAPH_NAME, name):
        raise ValueError(f"{name[:40]!r} is no name of a graph")
    return Graph(
        name=name,
        component=values.get("component"),
        inputs=tuple(map(_port, values["inputs"])),
        outputs=tuple(map(_port, values["outputs"])),
        state=tuple((str(output), str(kept)) for output, kept in values.get("state", ())),
    )


def _port(values: Mapping[str, Any]) -> Port:
    if not re.fullmatch(NAME, str(values["name"])):  # names end up in a script, and the file may not be ours
        raise ValueError(f"{str(values['name'])[:40]!r} is no name of an input or output")
    fill = values.get("fill")
    return Port(
        name=str(values["name"]),
        dtype=str(values["dtype"]),
        axes=tuple(values["axes"]),
        default=tuple(map(int, values.get("default") or ())),
        fill=None if fill is None else int(fill),
    )


class Session(Protocol):
    """A model ready to be called. `run` returns when the outputs are there, so that timing stays honest."""

    def run(self, feed: Feed, *, graph: str = "model", state: object | None = None) -> tuple[Feed, object | None]:
        """Outputs by name without those of the state, and the state for the next call.

        Args:
            feed: inputs by name; what the graph has no input for is ignored.
            graph: which graph of the model.
            state: what an earlier call gave back; None for an empty one. It stays as it is, so it may be used again.
        """
        ...

    def cut(self, state: Any, length: int, *, graph: str = "model") -> object:
        """A growing state as it was when it was so long: what a call after it added is forgotten. `state` stays as it is."""
        ...

    def facts(self) -> dict[str, str]:
        """What really runs: at least `precision`, `device` and `threads`, asked of the runtime and not of the plan."""
        ...
