"""Masks of padding stay what they come as: which keys of a row count.

Models of transformers make a mask for each pair of a query and a key of it, by looking up every key's place, and add that to the scores of
each head of each layer. Where it says the same for all queries, ONNX Runtime's operator takes the keys alone, and plain operators add one row
for all queries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

KIND = "MultiHeadAttention"
KEYS, ADDED = 4, 5
"""Inputs of the operator: keys that count, `[batch, keys]` in int32; what is added to scores, `[batch, heads, queries, keys]`."""
FAR = -1e4
"""What is added for a key that does not count is less than this."""


def give_keys(model: ir.Model) -> None:
    """Have each attention that is given a mask of padding for pairs take it for keys, in place; what is no such mask stays."""
    import onnx_ir as ir

    given: dict[str, ir.Value] = {}
    for node in [each for each in model.graph if each.op_type == KIND and len(each.inputs) > ADDED]:
        added = node.inputs[ADDED]
        found = _padding(added) if added is not None and node.inputs[KEYS] is None else None
        if found is None:
            continue
        mask, low = found
        assert mask.name is not None
        if mask.name not in given:
            cast = ir.node("Cast", [mask], {"to": ir.DataType.INT32}, name=f"{mask.name}_keys")
            cast.outputs[0].name = f"{mask.name}_keys"
            model.graph.insert_before(node, cast)
            given[mask.name] = cast.outputs[0]
        node.replace_input_with(KEYS, given[mask.name])
        node.replace_input_with(ADDED, None)
        node.attributes["mask_filter_value"] = ir.AttrFloat32("mask_filter_value", low)


def once_for_all_queries(model: ir.Model) -> bool:
    """Have masks of padding that are added to scores say once for all queries what they say for each, in place; whether there was one."""
    import numpy as np
    import onnx_ir as ir

    found = False
    for node in [each for each in model.graph if each.op_type == "Where" and _broadcasts(each.outputs[0])]:
        padding = _padding(node.outputs[0])
        if padding is None:
            continue
        axes = ir.Value(name=f"{node.name}_axes", const_value=ir.tensor(np.array([1, 2], np.int64)))
        model.graph.register_initializer(axes)
        keys = ir.node("Unsqueeze", [padding[0], axes], name=f"{node.name}_keys")
        keys.outputs[0].name = f"{node.name}_keys"
        model.graph.insert_before(node, keys)
        node.replace_input_with(0, keys.outputs[0])
        node.outputs[0].shape = None
        found = True
    return found


def _broadcasts(mask: ir.Value) -> bool:
    """Whether all that reads a mask of pairs takes one row for all queries too: sums with scores, and a look-up of the first or last query."""
    for reader, place in mask.uses():
        looked = reader.op_type == "Gather" and reader.attributes.get_int("axis", 0) == 2 and _number(reader.inputs[1]) in (0, -1)
        scores = reader.inputs[1 - place].producer() if reader.op_type == "Add" else None  # type: ignore[union-attr] # both are there
        if not looked and (scores is None or scores.op_type not in ("MatMul", "Mul", "Div")):
            return False
    return not mask.is_graph_output()


def _padding(added: ir.Value) -> tuple[ir.Value, float] | None:
    """The mask `[batch, keys]` that decides what is added to the scores of every query, and what is added for keys that do not count."""
    node = added.producer()
    if node is None:
        return None
    if node.op_type == "Gather" and node.attributes.get_int("axis", 0) == 2 and node.inputs[0] is not None:
        return _padding(node.inputs[0])  # a part of the queries
    if node.op_type != "Where" or node.inputs[0] is None:
        return None
    counts, otherwise = _number(node.inputs[1]), _number(node.inputs[2])
    mask = _keys(node.inputs[0])
    return (mask, otherwise) if mask is not None and counts == 0 and otherwise is not None and otherwise < FAR else None


def _keys(pairs: ir.Value) -> ir.Value | None:
    """The mask of keys that one of pairs is made of; None where that asks the query too, or nobody knows."""
    node = pairs.producer()
    if node is None:
        return None
    if node.op_type == "And":
        left, right = node.inputs
        assert left is not None
        assert right is not None
        return _keys(right) if _always(left) else _keys(left) if _always(right) else None
    if node.op_type != "GatherND" or node.attributes.get_int("batch_dims", 0) != 0 or None in node.inputs:
        return None
    mask, places = node.inputs
    joined = places.producer() if places is not None else None
    if mask is None or joined is None or joined.op_type != "Concat" or len(joined.inputs) != 2:
        return None
    of_batch, of_keys = (_counted_along(each) for each in joined.inputs)
    each = mask.shape is not None and pairs.shape is not None and len(mask.shape) == 2 and mask.shape[1] == pairs.shape[-1]
    return mask if each and (of_batch, of_keys) == (0, 3) else None


def _counted_along(value: ir.Value | None) -> int | None:
    """Of places 0, 1, 2, ... of pairs `[batch, 1, queries, keys]`: the axis that they count along."""
    node = value.producer() if value is not None else None
    while node is not None and node.op_type in ("Unsqueeze", "Expand"):
        value, last = node.inputs[0], node
        node = value.producer() if value is not None else None
        if last.op_type == "Expand":
            break
    else:
        return None
    if value is None or value.shape is None or len(value.shape) != 4 or not _counts_from_zero(value):
        return None
    along = [axis for axis, size in enumerate(value.shape) if size != 1]
    return along[0] if len(along) == 1 else None


def _counts_from_zero(value: ir.Value) -> bool:
    node = value.producer()
    while node is not None and node.op_type == "Unsqueeze":
        node = node.inputs[0].producer() if node.inputs[0] is not None else None
    return node is not None and node.op_type == "Range" and (_number(node.inputs[0]), _number(node.inputs[2])) == (0, 1)


def _always(value: ir.Value) -> bool:
    """Whether it is true whatever is given: a constant, or places held against 0."""
    if value.const_value is not None:
        return bool(value.const_value.numpy().all())
    node = value.producer()
    if node is not None and node.op_type == "And":
        return all(each is not None and _always(each) for each in node.inputs)
    if node is None or node.op_type != "GreaterOrEqual" or node.inputs[0] is None:
        return False
    return _counts_from_zero(node.inputs[0]) and _number(node.inputs[1]) == 0


def _number(value: ir.Value | None) -> float | None:
    """Of a constant that is one number."""
    if value is None or value.const_value is None or value.const_value.size != 1:
        return None
    return float(value.const_value.numpy().reshape(()))
