"""Output layers that read the embedding table the other way round: quantised like other layers, and stored once with the table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


def untie(graph: onnx.ModelProto) -> dict[str, str]:
    """Give products that read the transpose of a table a weight of their own, in place; the weight's name by that of the table."""
    import numpy as np
    from onnx import helper, numpy_helper

    tables = {each.name: each for each in graph.graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in graph.graph.node:
        for name in node.input:
            readers[name].append(node)
    found: dict[str, str] = {}
    for node in list(graph.graph.node):
        turned = node.op_type == "Transpose" and node.input[0] in tables and len(readers[node.input[0]]) > 1
        order = next((helper.get_attribute_value(each) for each in node.attribute if each.name == "perm"), [1, 0])
        if not turned or list(order) != [1, 0]:
            continue
        products = readers[node.output[0]]
        if not all(each.op_type == "MatMul" and each.input[1] == node.output[0] for each in products):
            continue
        table = tables[node.input[0]]
        found[table.name] = weight = f"{table.name}_turned"
        values = np.ascontiguousarray(numpy_helper.to_array(table).T)
        graph.graph.initializer.append(numpy_helper.from_array(values, weight))
        for each in products:
            each.input[1] = weight
        graph.graph.node.remove(node)
    return found


def turn(graph: onnx.ModelProto, tied: Mapping[str, str]) -> None:
    """Have products read the transpose of their table again, in place, where neither was quantised: a table in float is stored once."""
    from onnx import helper

    stored = {each.name: each for each in graph.graph.initializer}
    for table, weight in tied.items():
        graph.graph.initializer.remove(stored[weight])
        graph.graph.node.insert(0, helper.make_node("Transpose", [table], [weight], name=f"{weight}_turned", perm=[1, 0]))


def tie(graph: onnx.ModelProto, tied: Mapping[str, str]) -> None:
    """Store one matrix where a table and the weight that was taken from it are both in int8, in place: the weight's numbers serve both."""
    import numpy as np
    from onnx import helper, numpy_helper

    stored = {each.name: each for each in graph.graph.initializer}
    for table, weight in tied.items():
        names = (f"{table}_int8", f"{table}_scale", f"{weight}_quantized", f"{weight}_scale")
        if not all(name in stored for name in names):
            continue
        rows, scales, columns, scale = (stored[name] for name in names)
        if list(scale.dims) != [rows.dims[0]]:
            continue  # one scale for all words is too coarse for a table
        rows.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(numpy_helper.to_array(columns).T), rows.name))
        scales.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale)[:, None], scales.name))
        graph.graph.initializer.remove(columns)
        turned = helper.make_node("Transpose", [rows.name], [names[2]], name=f"{weight}_quantized_turned", perm=[1, 0])
        graph.graph.node.insert(0, turned)
