"""Embedding tables in int8, one scale a row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

SMALLEST_TABLE = 256
"""Rows from which on an embedding table is worth quantising."""


def embedding_layers(graph: onnx.ModelProto) -> tuple[str, ...]:
    """Names of the nodes that gather rows of a large constant table, and are alone in reading it."""
    tables = {each.name: each for each in graph.graph.initializer}
    readers = Counter(name for node in graph.graph.node for name in node.input)
    return tuple(
        node.name
        for node in graph.graph.node
        if node.op_type == "Gather"
        and (table := tables.get(node.input[0])) is not None
        and len(table.dims) == 2
        and table.dims[0] >= SMALLEST_TABLE
        and table.data_type == 1  # float32
        and readers[table.name] == 1
        and not any(each.name == "axis" and each.i != 0 for each in node.attribute)
    )


def quantize_embeddings(graph: onnx.ModelProto, names: Collection[str]) -> None:
    """Turn the tables of the named nodes into int8.

    Only the gathered rows are scaled back, so no call reads more of a table than it needs.
    """
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    tables = {each.name: each for each in graph.graph.initializer}
    nodes = []
    for node in graph.graph.node:
        if node.name not in names:
            nodes.append(node)
            continue
        table, result = tables[node.input[0]], node.output[0]
        values = numpy_helper.to_array(table)
        scale = np.maximum(np.abs(values).max(axis=1, keepdims=True) / 127.0, 1e-12).astype(np.float32)
        rounded = np.clip(np.rint(values / scale), -127, 127).astype(np.int8)
        graph.graph.initializer.remove(table)
        graph.graph.initializer.append(numpy_helper.from_array(rounded, f"{table.name}_int8"))
        graph.graph.initializer.append(numpy_helper.from_array(scale, f"{table.name}_scale"))
        rows, floats, scales = (
            f"{result}_{what}" for what in ("rows", "rows_float", "row_scales")
        )  # `_scale` is the quantiser's
        nodes += [
            helper.make_node("Gather", [f"{table.name}_int8", node.input[1]], [rows], name=f"{node.name}_rows"),
            helper.make_node("Cast", [rows], [floats], name=f"{node.name}_cast", to=TensorProto.FLOAT),
            helper.make_node("Gather", [f"{table.name}_scale", node.input[1]], [scales], name=f"{node.name}_scales"),
            helper.make_node("Mul", [floats, scales], [result], name=f"{node.name}_scaled"),
        ]
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
