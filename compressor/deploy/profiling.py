"""What profiles of runtimes share: a session that counts its runs, blocks by the names of operators, families by their kinds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from compressor.contracts import Family, Feed, Session
from compressor.deploy.parts import part_of, scope_of

FUSED = "fused "
"""Begins what ONNX Runtime calls an operator that it made of several."""


class CountedSession:
    """A session that knows how often each graph ran, and on inputs of which shapes last."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.runs = Counter[str]()
        self.shapes: dict[str, Mapping[str, Sequence[int]]] = {}
        """Of the inputs, by graph."""

    def run(self, feed: Feed, *, graph: str = "model", state: object | None = None) -> tuple[Feed, object | None]:
        """Hand the call on."""
        self.runs[graph] += 1
        self.shapes[graph] = {name: array.shape for name, array in feed.items()}
        return self._session.run(feed, graph=graph, state=state)

    def cut(self, state: object, length: int, *, graph: str = "model") -> object:
        """Hand the call on."""
        return self._session.cut(state, length, graph=graph)

    def facts(self) -> dict[str, str]:
        """Of the session itself."""
        return self._session.facts()


def blocks(names: Iterable[str]) -> list[str]:
    """The part of the model of each operator, in the order they run.

    An operator that was traced from a module has its path before the last stroke of its name. What a fusion or a quantiser put between such
    belongs to the next one that has a path, else to the last.
    """
    near, behind = "", list[str]()
    for name in reversed([*names]):
        near = scope_of(name.removeprefix(FUSED)) or near
        behind.append(near)
    found = list[str]()
    for path in reversed(behind):
        near = path or near
        found.append(part_of(near))
    return found


def family_of(kind: str, table: Mapping[Family, Sequence[str]]) -> Family:
    """The family that lists a kind; `other` where none does."""
    return next((family for family, kinds in table.items() if kind in kinds), "other")
