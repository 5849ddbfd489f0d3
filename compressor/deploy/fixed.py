"""Sessions on graphs whose axes have fixed sizes: rows are taken in turns, shorter texts filled up, longer ones refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from compressor.errors import UnsupportedModel

if TYPE_CHECKING:
    from compressor.contracts import Feed, Graph, Port, Session


def told(sizes: Mapping[str, int]) -> str:
    """`batch 1, length 128`."""
    return ", ".join(f"{axis} {size}" for axis, size in sizes.items())


def why_not(graphs: Sequence[Graph], sizes: Mapping[str, int]) -> str:
    """Why files of these graphs cannot have the sizes: no input has such an axis, there are several graphs, something is kept between calls, or
    what inputs and outputs begin with are not rows. Empty where they can."""
    if any(graph.state for graph in graphs):
        return "the model keeps something between calls, whose size changes: leave `sizes` out"
    if len(graphs) > 1:
        return f"the model is {len(graphs)} graphs, which share their weights: leave `sizes` out"
    ports = [port for graph in graphs for port in (*graph.inputs, *graph.outputs)]
    known = {axis for graph in graphs for port in graph.inputs for axis in port.axes if isinstance(axis, str)}
    if unknown := sizes.keys() - known:
        return f"sizes: no input has an axis '{min(unknown)}'; its inputs have {', '.join(sorted(known))}"
    if len({port.axes[:1] for port in ports}) > 1 or not isinstance(next(iter(ports[0].axes), None), str):
        return (
            "sizes: inputs and outputs do not all begin with one axis of rows, which could be taken in turns: leave `sizes` out"
        )
    return ""


class FixedSession:
    """A session on such a graph that takes what one on a dynamic graph takes, as long as it fits.

    Rows are filled up where every input that has the axis says with what (`Port.fill`). Of sounds that would be heard.
    """

    def __init__(self, session: Session, graph: Graph, sizes: Mapping[str, int]) -> None:
        self._session, self._graph, self._sizes = session, graph, dict(sizes)

    def run(self, feed: Feed, *, graph: str = "model", state: object | None = None) -> tuple[Feed, object | None]:
        """Outputs of all rows at the sizes of the feed.

        Raises:
            UnsupportedModel: an input is longer than the graph takes, or shorter and cannot be filled up.
        """
        import numpy as np

        given = [port for port in self._graph.fed if port.name in feed]
        found = self._found(given, feed)
        if all(size == self._sizes.get(axis, size) for axis, size in found.items()):
            return self._session.run(feed, graph=graph, state=state)
        self._check(given, found)
        rows = found[str(given[0].axes[0])]
        turn = self._sizes.get(str(given[0].axes[0]), max(1, rows))
        whole = {port.name: self._filled(feed[port.name], port) for port in given}
        parts = [
            self._session.run({name: _rows(array, first, turn) for name, array in whole.items()}, graph=graph)[0]
            for first in range(0, max(1, rows), turn)
        ]
        outputs = self._graph.given
        return {port.name: np.concatenate([part[port.name] for part in parts])[_held(port.axes, found)] for port in outputs}, None

    def cut(self, state: Any, length: int, *, graph: str = "model") -> object:
        """There is no state."""
        return self._session.cut(state, length, graph=graph)

    def facts(self) -> dict[str, str]:
        """Those of the session, and the sizes."""
        return {**self._session.facts(), "sizes": told(self._sizes)}

    @staticmethod
    def _found(given: Iterable[Port], feed: Feed) -> dict[str, int]:
        """Sizes of the feed's axes.

        Raises:
            UnsupportedModel: inputs do not agree in one.
        """
        found = dict[str, int]()
        for port in given:
            for axis, size in zip(port.axes, feed[port.name].shape, strict=True):
                if isinstance(axis, str) and found.setdefault(axis, size) != size:
                    raise UnsupportedModel(f"{port.name} has {axis} {size}, others have {found[axis]}")
        return found

    def _check(self, given: Sequence[Port], found: Mapping[str, int]) -> None:
        for axis, size in found.items():
            takes = self._sizes.get(axis, size)
            having = [port for port in given if axis in port.axes[1:]]
            if size == takes or not having:
                continue
            if size > takes or any(port.fill is None for port in having):
                why = "" if size > takes else ", and nothing is known that shorter ones could be filled up with unseen"
                raise UnsupportedModel(f"the file takes {axis} {takes}, found {size}{why}")

    def _filled(self, array: Any, port: Port) -> Any:
        import numpy as np

        missing = [
            (0, self._sizes.get(str(axis), size) - size if at else 0)
            for at, (axis, size) in enumerate(zip(port.axes, array.shape, strict=True))
        ]
        return np.pad(array, missing, constant_values=port.fill or 0)


def _rows(array: Any, first: int, count: int) -> Any:
    """So many rows from one on, zeros where there are no more."""
    import numpy as np

    part = array[first : first + count]
    return np.ascontiguousarray(np.pad(part, [(0, count - len(part)), *[(0, 0)] * (part.ndim - 1)]))


def _held(axes: Sequence[int | str], found: Mapping[str, int]) -> tuple[slice, ...]:
    return tuple(slice(found.get(str(axis))) for axis in axes)
