"""Compiled graphs of OpenVINO as they are called: those that keep nothing, and those whose requests keep a state themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from weakref import finalize

from compressor.contracts import Feed, Graph, Growth
from compressor.deploy.cache import Line, Position, first, grown
from compressor.deploy.stateful import BEAMS

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Compiled:
    """One compiled graph. The tensors of a state go from one request into the next and never through numpy."""

    def __init__(self, compiled: Any, graph: Graph) -> None:
        self.compiled = compiled
        self._graph = graph
        self.request = compiled.create_infer_request()
        self._inputs = {name for port in compiled.inputs for name in port.get_names()}
        self._outputs = {name: place for place, port in enumerate(compiled.outputs) for name in port.get_names()}
        kept = {name for name, _ in graph.state}
        self._given = [port.get_any_name() for port in compiled.outputs if not kept & port.get_names()]

    def run(self, feed: Feed, state: Mapping[str, Any] | None) -> tuple[Feed, Mapping[str, Any] | None]:
        given: dict[str, Any] = {name: array for name, array in feed.items() if name in self._inputs}
        kept = self._graph.first_state(feed) if state is None else state
        after = {becomes: self._fresh(output) for output, becomes in self._graph.state}
        self.request.infer({**given, **kept}, share_inputs=True)
        return {name: self.request.get_output_tensor(self._outputs[name]).data.copy() for name in self._given}, after or None

    def cut(self, state: Mapping[str, Any], length: int) -> Mapping[str, Any]:
        """The first part of each tensor.

        Raises:
            ValueError: the state does not grow.
        """
        if self._graph.growth is None:
            raise ValueError(f"graph '{self._graph.name}' has no state that grows")
        held = first(self._graph.growth, length)
        return {name: copied(tensor.data[held]) for name, tensor in state.items()}

    def _fresh(self, output: str) -> Any:
        """A new tensor for an output to be written into, at its own size: the last state stays as it is."""
        import openvino

        port = self.compiled.outputs[self._outputs[output]]
        shape = [axis.get_length() if axis.is_static else 0 for axis in port.get_partial_shape()]
        tensor = openvino.Tensor(port.get_element_type(), openvino.Shape(shape))
        self.request.set_output_tensor(self._outputs[output], tensor)
        return tensor


def loaded(compiled: Any, graph: Graph) -> Compiled | Stateful:
    """A compiled graph, by whether it keeps its state itself."""
    names = {name for port in compiled.inputs for name in port.get_names()}
    return Stateful(compiled, graph) if graph.growth and BEAMS in names else Compiled(compiled, graph)


class Stateful:
    """A compiled graph whose requests keep the state themselves: a state is a position in what a request keeps.

    A call goes on in the request of its state. What lies beyond the state is cut off; where a later state of it is still held, the
    call goes on in another request, with a copy.
    """

    def __init__(self, compiled: Any, graph: Graph) -> None:
        self.compiled = compiled
        self._graph = graph
        self._idle: list[Any] = []

    def run(self, feed: Feed, state: Position[Any] | None) -> tuple[Feed, object | None]:
        import numpy as np

        growth = self._graph.growth
        assert growth is not None
        after = grown(growth, feed, state)
        line = self._line(state, growth)
        given: dict[str, Any] = dict(self._graph.completed(feed))
        given[BEAMS] = np.arange(len(feed[growth.added[0]]), dtype=np.int32)
        line.held.infer(given, share_inputs=True)
        return {port.name: line.held.get_tensor(port.name).data.copy() for port in self._graph.given}, line.wrote(after)

    def cut(self, state: Position[Any], length: int) -> object:
        return state.cut(length)

    def held_in(self) -> set[str]:
        """Types of the state, by OpenVINO's names."""
        states = self._begun().held.query_state()
        return {str(each.state.get_element_type().get_type_name()) for each in states}

    def _line(self, state: Position[Any] | None, growth: Growth) -> Line[Any]:
        """The request that a call goes on in, which holds what the state says and no more."""
        if state is None:
            return self._begun()
        if state.line.written == state.length:
            return state.line
        line = state.line if state.line.free_from(state.length) else self._begun()
        held = first(growth, state.length)
        for old, new in zip(state.line.held.query_state(), line.held.query_state(), strict=True):
            new.state = copied(old.state.data[held])
        return line

    def _begun(self) -> Line[Any]:
        """A request that holds nothing; it is used again when nobody holds a state of it."""
        request = self._idle.pop() if self._idle else self.compiled.create_infer_request()
        request.reset_state()
        line: Line[Any] = Line(request)
        finalize(line, self._idle.append, request)
        return line


def copied(array: NDArray[Any]) -> Any:
    """An array as a tensor of its own."""
    import numpy as np
    import openvino

    return openvino.Tensor(np.ascontiguousarray(array))
