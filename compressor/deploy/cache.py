"""States that are positions in one growing place of a runtime, so that a call adds to it and copies nothing."""

from __future__ import annotations

from typing import Generic, TypeVar
from weakref import WeakSet

from compressor.contracts import Feed, Growth

Held = TypeVar("Held")


class Line(Generic[Held]):
    """What a runtime keeps of one sequence of calls, and the states that are positions in it."""

    def __init__(self, held: Held) -> None:
        self.held = held
        self.written = 0
        """How far the place was written by the last call; what lies beyond a position is of a later one."""
        self._positions: WeakSet[Position[Held]] = WeakSet()

    def wrote(self, length: int) -> Position[Held]:
        """The state after a call that wrote up to a length."""
        self.written = length
        return self.at(length)

    def at(self, length: int) -> Position[Held]:
        """What the line holds up to a length, as a state."""
        made = Position(self, length)
        self._positions.add(made)
        return made

    def free_from(self, length: int) -> bool:
        """Whether what lies beyond a length may be written over: nobody holds a state that needs it."""
        return all(each.length <= length for each in self._positions)


class Position(Generic[Held]):
    """A state of a session: what a line holds up to a length. It is a value: the line is written beyond it only while nobody minds."""

    def __init__(self, line: Line[Held], length: int) -> None:
        self.line = line
        self.length = length

    def cut(self, length: int) -> Position[Held]:
        """The state as it was when it was so long.

        Raises:
            ValueError: it never was.
        """
        if not 0 < length <= self.length:
            raise ValueError(f"a state of {self.length} cannot be cut to {length}")
        return self.line.at(length)


def grown(growth: Growth, feed: Feed, state: Position[Held] | None) -> int:
    """How long a state is after a call.

    Raises:
        ValueError: the feed says that more or fewer tokens came before than the state holds.
    """
    before, after = growth.lengths(feed)
    held = state.length if state else 0
    if before != held:
        raise ValueError(f"{growth.whole[0]} of {after} tokens, {after - before} of them new, does not fit a state of {held}")
    return after


def first(growth: Growth, length: int) -> tuple[slice, ...]:
    """Which part of each value of a state is as old as a length."""
    return (slice(None),) * growth.axis + (slice(length),)
