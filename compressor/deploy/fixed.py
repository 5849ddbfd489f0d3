"""Sessions on graphs whose axes have fixed sizes: rows are taken in turns, shorter texts padded, longer ones refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from compressor.errors import UnsupportedModel

if TYPE_CHECKING:
    from compressor.contracts import Feed, Graph, Session

MASK = "attention_mask"


def told(sizes: Mapping[str, int]) -> str:
    """`batch 1, length 128`."""
    return ", ".join(f"{axis} {size}" for axis, size in sizes.items())


def require_axes(graphs: Sequence[Graph], sizes: Mapping[str, int]) -> None:
    """Refuse sizes of axes that no input has, several graphs, and what keeps something between calls.

    Raises:
        UnsupportedModel: there are such.
    """
    if any(graph.state for graph in graphs):
        raise UnsupportedModel("the model keeps something between calls, whose size changes: leave `sizes` out")
    if len(graphs) > 1:
        raise UnsupportedModel(f"the model is {len(graphs)} graphs, which share their weights: leave `sizes` out")
    known = {axis for graph in graphs for port in graph.inputs for axis in port.axes if isinstance(axis, str)}
    if unknown := sizes.keys() - known:
        raise UnsupportedModel(f"sizes: no input has an axis '{min(unknown)}'; its inputs have {', '.join(sorted(known))}")


class FixedSession:
    """A session on such graphs that takes what one on dynamic graphs takes, as long as it fits.

    Rows are padded where all that has the axis is whole numbers (ids) and a mask says what counts. Of sounds the padding would be heard.
    """

    def __init__(self, session: Session, graphs: Sequence[Graph], sizes: Mapping[str, int]) -> None:
        self._session, self._graphs, self._sizes = session, {graph.name: graph for graph in graphs}, dict(sizes)

    def run(self, feed: Feed, *, graph: str = "model", state: object | None = None) -> tuple[Feed, object | None]:
        """Outputs of all rows at the sizes of the feed.

        Raises:
            UnsupportedModel: an input is longer than the graph takes, or shorter and cannot be padded.
        """
        import numpy as np

        wires = self._graphs[graph]
        given = {port.name: port for port in wires.fed if port.name in feed}
        found = self._found(given, feed)
        if all(size == self._sizes.get(axis, size) for axis, size in found.items()):
            return self._session.run(feed, graph=graph, state=state)
        self._check(given, found)
        rows = {port.axes[0] for port in given.values()}.pop()
        turn = self._sizes.get(str(rows), found[str(rows)])
        padded = {name: self._padded(feed[name], port.axes) for name, port in given.items()}
        parts = [
            self._session.run({name: _rows(array, first, turn) for name, array in padded.items()}, graph=graph)[0]
            for first in range(0, found[str(rows)], turn)
        ]
        made = {port.name: np.concatenate([part[port.name] for part in parts]) for port in wires.given}
        return {port.name: made[port.name][_held(port.axes, found)] for port in wires.given}, None

    def cut(self, state: Any, length: int, *, graph: str = "model") -> object:
        """There is no state."""
        return self._session.cut(state, length, graph=graph)

    def facts(self) -> dict[str, str]:
        """Those of the session, and the sizes."""
        return {**self._session.facts(), "sizes": told(self._sizes)}

    @staticmethod
    def _found(given: Mapping[str, Any], feed: Feed) -> dict[str, int]:
        pairs = (zip(port.axes, feed[name].shape, strict=True) for name, port in given.items())
        return {axis: size for each in pairs for axis, size in each if isinstance(axis, str)}

    def _check(self, given: Mapping[str, Any], found: Mapping[str, int]) -> None:
        for axis, size in found.items():
            takes = self._sizes.get(axis, size)
            having = [port for port in given.values() if axis in port.axes[1:]]
            if size == takes or not having:
                continue
            padding = MASK in {port.name for port in having} and all("int" in port.dtype for port in having)
            if size > takes or not padding:
                why = "" if size > takes else ", and what is shorter cannot be padded without being heard"
                raise UnsupportedModel(f"the file takes {axis} {takes}, found {size}{why}")

    def _padded(self, array: Any, axes: Sequence[int | str]) -> Any:
        import numpy as np

        missing = [
            (0, self._sizes.get(str(axis), size) - size if at else 0)
            for at, (axis, size) in enumerate(zip(axes, array.shape, strict=True))
        ]
        return np.pad(array, missing)


def _rows(array: Any, first: int, count: int) -> Any:
    """So many rows from one on, zeros where there are no more."""
    import numpy as np

    part = array[first : first + count]
    return np.ascontiguousarray(np.pad(part, [(0, count - len(part)), *[(0, 0)] * (part.ndim - 1)]))


def _held(axes: Sequence[int | str], found: Mapping[str, int]) -> tuple[slice, ...]:
    return tuple(slice(found.get(str(axis))) for axis in axes)
