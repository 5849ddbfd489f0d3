"""What a model is exported as: graphs with named inputs and outputs, and state that goes round between calls; and a session on them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    from numpy.typing import NDArray


NAME = r"[A-Za-z0-9_.:/-]+"
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

    @property
    def fed(self) -> tuple[Port, ...]:
        """Inputs that a caller gives."""
        kept = {name for _, name in self.state}
        return tuple(port for port in self.inputs if port.name not in kept)

    @property
    def given(self) -> tuple[Port, ...]:
        """Outputs that a caller gets."""
        kept = {name for name, _ in self.state}
        return tuple(port for port in self.outputs if port.name not in kept)

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
    return Graph(
        name=str(values.get("name", Graph.name)),
        component=values.get("component"),
        inputs=tuple(map(_port, values["inputs"])),
        outputs=tuple(map(_port, values["outputs"])),
        state=tuple((str(output), str(kept)) for output, kept in values.get("state", ())),
    )


def _port(values: Mapping[str, Any]) -> Port:
    if not re.fullmatch(NAME, str(values["name"])):  # names end up in a script, and the file may not be ours
        raise ValueError(f"{str(values['name'])[:40]!r} is no name of an input or output")
    return Port(str(values["name"]), str(values["dtype"]), tuple(values["axes"]))


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

    def facts(self) -> dict[str, str]:
        """What really runs: at least `precision`, `device` and `threads`, asked of the runtime and not of the plan."""
        ...
