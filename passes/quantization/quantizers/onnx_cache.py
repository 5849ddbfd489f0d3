"""A cache of keys and values in 8 bits, in plain operators: what is added is rounded, what is read is scaled back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.contracts import Feed, Graph, Port
from compressor.contracts.graph import GRAPHS, graph_from
from compressor.errors import UnsupportedModel
from passes.quantization.quantizers.onnx_graph import session_on

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

MOST = 127
"""The largest number; keys and values are on both sides of 0."""
LEAST = 1e-8
"""A scale is no smaller."""


def graph_beside(folder: Path) -> Graph | None:
    """The graph of a model whose state grows, as it is described beside it; None where there is none."""
    file = folder / GRAPHS
    found = graph_from(json.loads(file.read_text(encoding="utf-8"))[0]) if file.is_file() else None
    return found if found is not None and found.growth else None


def scales_of(graph: onnx.ModelProto, wires: Graph, feeds: Sequence[Feed]) -> dict[str, NDArray[np.float32]]:
    """By input of the state the scale of each channel of each head, `[1, heads, 1, size]`: its largest value over all rows through 127."""
    import numpy as np

    session = session_on(graph)
    taken, outputs = {each.name for each in session.get_inputs()}, [output for output, _ in wires.state]
    found: dict[str, NDArray[np.float32]] = {}
    for feed in feeds:
        given = session.run(outputs, {name: array for name, array in feed.items() if name in taken})
        for (_, becomes), array in zip(wires.state, given, strict=True):
            largest = np.abs(array).max(axis=(0, 2), keepdims=True)
            found[becomes] = np.maximum(found.get(becomes, largest), largest)
    return {name: np.maximum(largest / MOST, LEAST).astype(np.float32) for name, largest in found.items()}


def in_eight_bits(graph: onnx.ModelProto, wires: Graph, scales: Mapping[str, NDArray[np.float32]], folder: Path) -> None:
    """Change a graph in place, and the description of it in `folder`: its state is of int8.

    Raises:
        UnsupportedModel: what is added to a state is not simply put behind it.
    """
    from onnx import TensorProto

    made = _Rewrite(graph)
    for output, becomes in wires.state:
        made.quantise(output, becomes, scales[becomes])
    kept = {name for pair in wires.state for name in pair}
    for value in (*graph.graph.input, *graph.graph.output, *graph.graph.value_info):
        if value.name in kept:
            value.type.tensor_type.elem_type = TensorProto.INT8

    def small(ports: tuple[Port, ...]) -> tuple[Port, ...]:
        return tuple(replace(port, dtype="int8") if port.name in kept else port for port in ports)

    described = replace(wires, inputs=small(wires.inputs), outputs=small(wires.outputs))
    (folder / GRAPHS).write_text(json.dumps([asdict(described)], indent=1) + "\n", encoding="utf-8")


def require_appended(graph: onnx.ModelProto, wires: Graph) -> None:
    """What a call adds is put behind each state and nothing else is done to it, as `in_eight_bits` needs it.

    Raises:
        UnsupportedModel: it is not.
    """
    for output, becomes in wires.state:
        _joined(graph, output, becomes)


def _joined(graph: onnx.ModelProto, output: str, becomes: str) -> tuple[int, onnx.NodeProto]:
    """The node that puts what is added behind a state, and its place."""
    for place, node in enumerate(graph.graph.node):
        if output in node.output and node.op_type == "Concat" and list(node.input[:1]) == [becomes] and len(node.input) == 2:
            return place, node
    raise UnsupportedModel(f"state '{becomes}' is not simply put before what a call adds to it: leave `cache` out")


def bytes_of_token(wires: Graph) -> int:
    """Of keys and values of one token."""
    import numpy as np

    kept, sizes = {name for _, name in wires.state}, 0
    for port in (port for port in wires.inputs if port.name in kept):
        _, heads, _, size = port.axes
        sizes += int(heads) * int(size) * np.dtype(port.dtype).itemsize
    return sizes


class _Rewrite:
    def __init__(self, graph: onnx.ModelProto) -> None:
        from onnx import numpy_helper

        self._graph = graph
        limits = {"cache_least": -float(MOST), "cache_most": float(MOST)}
        self._limits = list(limits)
        import numpy as np

        stored = [numpy_helper.from_array(np.array(value, np.float32), name) for name, value in limits.items()]
        graph.graph.initializer.extend(stored)

    def quantise(self, output: str, becomes: str, scale: NDArray[Any]) -> None:
        """`concat(past, new)` becomes `concat(past, round(new / scale))`, and whoever read it reads it times the scale."""
        from onnx import TensorProto, helper, numpy_helper

        nodes = self._graph.graph.node
        place, joined = _joined(self._graph, output, becomes)
        new, label, name = joined.input[1], f"{becomes}_scale", joined.name
        self._graph.graph.initializer.append(numpy_helper.from_array(scale, label))
        for node in nodes:
            node.input[:] = [f"{output}_float" if each == output else each for each in node.input]
        steps = {"Div": [new, label], "Round": [f"{new}_in_steps"], "Clip": [f"{new}_rounded", *self._limits]}
        results = (f"{new}_in_steps", f"{new}_rounded", f"{new}_clipped")
        before = [
            helper.make_node(kind, inputs, [result], name=f"{name}/{kind}")
            for (kind, inputs), result in zip(steps.items(), results, strict=True)
        ]
        before.append(helper.make_node("Cast", [results[-1]], [f"{new}_int8"], name=f"{name}/Cast", to=TensorProto.INT8))
        joined.input[1] = f"{new}_int8"
        wide = helper.make_node("Cast", [output], [f"{output}_wide"], name=f"{name}/wide", to=TensorProto.FLOAT)
        after = [wide, helper.make_node("Mul", [f"{output}_wide", label], [f"{output}_float"], name=f"{name}/scaled")]
        changed = [*nodes[:place], *before, joined, *after, *nodes[place + 1 :]]
        del nodes[:]
        nodes.extend(changed)
