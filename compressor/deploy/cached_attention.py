"""Attention over a cache of keys and values as the one operator that ONNX Runtime has for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compressor.deploy.patterns import made_by

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

    from compressor.contracts import Graph, Growth

DOMAIN = "com.microsoft"
INT32 = 6
KERNEL = "GroupQueryAttention"
SHARED = "buffer"
"""Name of the axis along which a state grows in a graph whose state may be read and written in one place."""


def grouped(model: onnx.ModelProto, graph: Graph) -> onnx.ModelProto | None:
    """The graph with `GroupQueryAttention` for each attention that reads and extends the state; None where one has another form.

    The operator takes keys and values as they are cached: none is repeated for its group of queries, and where past and present
    share a buffer none is copied. A buffer is longer than what it holds, so lengths are read from what is fed. Which token looks
    at which stays what the model made of its mask. The length of the state is called `SHARED` in the graph's inputs and outputs.
    """
    import onnx_ir as ir
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    made = ir.from_proto(model)
    found = _attentions(made, graph)
    if not found or graph.growth is None:
        return None
    lengths = _Lengths(made.graph, graph.growth)
    for each in found:
        for past in (each.past_key, each.past_value):
            lengths.measure(past)
        _replace(each, lengths)
    for value in (*made.graph.inputs, *made.graph.outputs):
        if value.name in {name for pair in graph.state for name in pair}:
            value.shape = ir.Shape([SHARED if axis == graph.growth.axis else size for axis, size in enumerate(value.shape or ())])
    made.graph.opset_imports[DOMAIN] = 1
    RemoveUnusedNodesPass()(made)
    fused: onnx.ModelProto = ir.to_proto(made)
    return fused


def cached(model: ir.Model, graph: Graph) -> bool:
    """Whether all of a state is read and extended by attention of the form that `grouped` knows."""
    return bool(_attentions(model, graph))


def _attentions(model: ir.Model, graph: Graph) -> list[_Attention]:
    """All that read and extend the state; none where one of them has another form."""
    if graph.growth is None:
        return []
    found = [each for node in model.graph if node.op_type == "Softmax" and (each := _attention(node))]
    return found if _whole(found, graph) else []


def _whole(found: list[_Attention], graph: Graph) -> bool:
    """Whether all of the state is read and extended by these attentions, and nothing else looks at it."""
    kept = {(each.present_key.name, each.past_key.name) for each in found}
    kept |= {(each.present_value.name, each.past_value.name) for each in found}
    values = [value for each in found for value in (each.present_key, each.present_value)]
    return kept == set(graph.state) and all(len(value.uses()) == 1 for value in values)


# ---------------------------------------------------------------------- finding it


@dataclass(frozen=True)
class _Attention:
    """The values of one attention."""

    query: ir.Value
    """`[batch, heads, length, size]`, new keys and values alike with fewer heads."""
    key: ir.Value
    value: ir.Value
    past_key: ir.Value
    past_value: ir.Value
    present_key: ir.Value
    present_value: ir.Value
    mask: ir.Value
    """Added to the scores: `[batch, 1, length, total]`."""
    scale: float
    heads: int
    groups: int
    size: int
    output: ir.Value
    """`[batch, length, heads x size]`."""
    key_scale: ir.Value | None = None
    """`[1, groups, 1, size]` where keys are kept in 8 bits."""
    value_scale: ir.Value | None = None


def _attention(softmax: ir.Node) -> _Attention | None:
    """What a softmax is the middle of: `softmax(query x keys^T x scale + mask) x values`."""
    masked = made_by(softmax.inputs[0], "Add")
    scaled = masked and made_by(masked.inputs[0], "Mul")
    scores = scaled and made_by(scaled.inputs[0], "MatMul")
    turned = scores and made_by(scores.inputs[1], "Transpose")
    weighed = _taken_by(softmax.outputs[0], "MatMul")
    back = weighed and _taken_by(weighed.outputs[0], "Transpose")
    flat = back and _taken_by(back.outputs[0], "Reshape")
    if not (masked and scaled and scores and turned and weighed and flat):
        return None
    keys, values = _extended(turned.inputs[0]), _extended(weighed.inputs[1])
    scale, query, mask = _number(scaled.inputs[1]), scores.inputs[0], masked.inputs[1]
    if not (keys and values) or scale is None or query is None or mask is None:
        return None
    (past_key, key, present_key, key_scale), (past_value, value, present_value, value_scale) = keys, values
    groups, size = _size(past_key, 1), _size(past_key, 3)
    heads = _size(query, 1) or _repeated(turned.inputs[0]) or groups
    if not heads or not groups or not size or size != _size(past_value, 3):
        return None
    if (key_scale is None) != (value_scale is None):
        return None
    made = (query, key, value, past_key, past_value, present_key, present_value, mask)
    output = flat.outputs[0]
    return _Attention(
        *made, scale=scale, heads=heads, groups=groups, size=size, output=output, key_scale=key_scale, value_scale=value_scale
    )


def _extended(value: ir.Value | None) -> tuple[ir.Value, ir.Value, ir.Value, ir.Value | None] | None:
    """Past, new and all keys of a value that is all of them, repeated for their groups or not; the scale of those in 8 bits."""
    if (flat := made_by(value, "Reshape")) and (wide := made_by(flat.inputs[0], "Expand")):
        inner = made_by(wide.inputs[0], "Unsqueeze")
        value = inner.inputs[0] if inner else None
    wide = made_by(value, "Mul")
    cast, scale = (made_by(wide.inputs[0], "Cast"), wide.inputs[1]) if wide else (None, None)
    joined = made_by(cast.inputs[0] if cast else value, "Concat")
    if joined is None or len(joined.inputs) != 2 or joined.attributes["axis"].as_int() not in (2, -2):
        return None
    past, new = joined.inputs
    if scale is not None:
        new = _before_rounding(new, scale)
    if past is None or new is None or not past.is_graph_input():
        return None
    return past, new, joined.outputs[0], scale


def _before_rounding(value: ir.Value | None, scale: ir.Value) -> ir.Value | None:
    """What `cast(clip(round(x / scale)))` was made of."""
    for kind in ("Cast", "Clip", "Round"):
        node = made_by(value, kind)
        value = node.inputs[0] if node else None
    divided = made_by(value, "Div")
    return divided.inputs[0] if divided and divided.inputs[1] is scale else None


def _repeated(value: ir.Value | None) -> int | None:
    """How many heads keys are repeated for, where the shape that they are brought to says it: a quantiser drops shapes of values."""
    flat = made_by(value, "Reshape")
    shape = made_by(flat.inputs[1], "Concat") if flat else None
    count = _number(shape.inputs[1]) if shape and len(shape.inputs) == 4 else None
    return int(count) if count else None


def _taken_by(value: ir.Value, kind: str) -> ir.Node | None:
    nodes = [use.node for use in value.uses()]
    return nodes[0] if len(nodes) == 1 and nodes[0].op_type == kind else None


def _number(value: ir.Value | None) -> float | None:
    constant = value.const_value if value is not None else None
    return float(constant.numpy().reshape(-1)[0]) if constant is not None and constant.size == 1 else None


# ---------------------------------------------------------------------- putting the operator there


class _Lengths:
    """How long a state is before and after a call, as values of the graph that all its attentions share."""

    def __init__(self, graph: ir.Graph, growth: Growth) -> None:
        self._graph, self._first = graph, next(iter(graph))
        inputs = {value.name: value for value in graph.inputs}
        total, length = (self.add("Shape", inputs[name], start=axis, end=axis + 1) for name, axis in (growth.whole, growth.added))
        self._past = self.add("Sub", total, length)
        self._tables: dict[ir.Value, ir.Value] = {}
        self.flat = self.constant([0, 0, -1])
        self.total = self.add("Squeeze", self.add("Cast", total, to=INT32))
        self._shape = self.add("Concat", self.add("Shape", inputs[growth.whole[0]], start=0, end=1), length, axis=0)
        batch = self.add("Shape", inputs[growth.whole[0]], start=0, end=1)
        self.last = self.add("Expand", self.add("Sub", self.total, self.constant(1, "int32")), batch)
        self.added = self.add("Expand", self.add("Cast", length, to=INT32), batch)
        """Of each row, without which the operator takes no several tokens of several rows behind a cache."""
        rows = self.add("ReduceProd", self._shape, keepdims=0)
        numbers = self.add("Range", self.constant(0), rows, self.constant(1))
        self.places = self.add("Reshape", numbers, self._shape)
        """Of each token of a call its row in a table: `[batch, length]`."""

    def measure(self, state: ir.Value) -> None:
        """Read the length of a state from where it is known: the state itself may be a buffer."""
        for node in [use.node for use in state.uses() if use.node.op_type == "Shape"]:
            start, end = (node.attributes[each].as_int() if each in node.attributes else None for each in ("start", "end"))
            parts = [self.add("Shape", state, start=0, end=2), self._past, self.add("Shape", state, start=3, end=4)]
            shape = self.add("Concat", *parts, axis=0)
            bounds = (self.constant([0 if start is None else start]), self.constant([4 if end is None else end]))
            node.outputs[0].replace_all_uses_with(self.add("Slice", shape, *bounds))

    def table(self, angles: ir.Value, size: int) -> ir.Value:
        """Cosines or sines `[batch or 1, length, size]` as the table that the operator reads: `[batch x length, size / 2]`."""
        if angles not in self._tables:
            half = size // 2
            bounds = [self.constant(each) for each in ([0], [half], [-1])]
            after = next(use.node for use in angles.uses())
            cut = _before(after, "Slice", angles, *bounds)
            wide = _before(after, "Expand", cut, self.add("Concat", self._shape, self.constant([1]), axis=0))
            self._tables[angles] = _before(after, "Reshape", wide, self.constant([-1, half]))
        return self._tables[angles]

    def add(self, kind: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        return _before(self._first, kind, *inputs, **attributes)

    def constant(self, value: object, kind: str = "int64") -> ir.Value:
        import numpy as np
        import onnx_ir as ir

        return self.add("Constant", value=ir.tensor(np.array(value, kind)))


def _replace(found: _Attention, lengths: _Lengths) -> None:
    """The operator in front of what the attention ended with; what led there has no reader left and goes."""
    import onnx_ir as ir

    place = found.output.producer()
    assert place is not None
    assert place.graph is not None
    sizes = ((found.query, found.heads), (found.key, found.groups), (found.value, found.groups))
    given = [_given(each, heads, found.size, place, lengths) for each, heads in sizes]
    inputs = [
        *given,
        found.past_key,
        found.past_value,
        lengths.last,
        lengths.total,
        *[None] * 3,
        found.mask,
        None,
        found.key_scale,
        found.value_scale,
        *[None] * 2,
        lengths.added,
    ]
    settings: dict[str, Any] = {"num_heads": found.heads, "kv_num_heads": found.groups, "scale": found.scale}
    if found.key_scale is not None:
        settings |= {"k_quant_type": "PER_CHANNEL", "v_quant_type": "PER_CHANNEL", "kv_cache_bit_width": 8}
    node = ir.node(KERNEL, inputs, settings, domain=DOMAIN, num_outputs=3, name=f"{place.name}/grouped")
    place.graph.insert_before(place, node)
    old = (found.output, found.present_key, found.present_value)
    for before, after in zip(old, node.outputs, strict=True):
        after.name, after.type, after.shape = before.name, before.type, before.shape
        ir.convenience.replace_all_uses_with(before, after, replace_graph_outputs=True)


def _given(value: ir.Value, heads: int, size: int, place: ir.Node, lengths: _Lengths) -> ir.Value:
    """`[batch, heads, length, size]` as `[batch, length, heads x size]`, turned by its position if it was."""
    turned = _turned(value)
    if turned is None:
        return _flat(value, place, lengths)
    plain, cosine, sine = turned
    tables = [lengths.table(each, size) for each in (cosine, sine)]
    settings = {"num_heads": heads, "rotary_embedding_dim": 0}
    return _before(place, "RotaryEmbedding", _flat(plain, place, lengths), lengths.places, *tables, domain=DOMAIN, **settings)


def _flat(value: ir.Value, place: ir.Node, lengths: _Lengths) -> ir.Value:
    turned = made_by(value, "Transpose")
    split = made_by(turned.inputs[0], "Reshape") if turned and list(turned.attributes["perm"].as_ints()) == [0, 2, 1, 3] else None
    before = split.inputs[0] if split else None
    if before is not None and before.shape is not None and len(before.shape) == 3:  # as a projection made it
        return before
    return _before(place, "Reshape", _before(place, "Transpose", value, perm=[0, 2, 1, 3]), lengths.flat)


def _turned(value: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value] | None:
    """What a value was before it was turned by its position, with the cosines and sines: `x cos + (-x2, x1) sin`."""
    added = made_by(value, "Add")
    straight, across = (made_by(each, "Mul") for each in added.inputs) if added else (None, None)
    halves = made_by(across.inputs[0], "Concat") if across else None
    if not (straight and across and halves and len(halves.inputs) == 2):
        return None
    negated, first = made_by(halves.inputs[0], "Neg"), made_by(halves.inputs[1], "Slice")
    second = made_by(negated.inputs[0], "Slice") if negated else None
    plain, cosine, sine = straight.inputs[0], _doubled(straight.inputs[1], "Cos"), _doubled(across.inputs[1], "Sin")
    if not (first and second and plain is first.inputs[0] and plain is second.inputs[0]):
        return None
    return (plain, cosine, sine) if plain is not None and cosine is not None and sine is not None else None


def _doubled(value: ir.Value | None, kind: str) -> ir.Value | None:
    """A function of angles that stand there twice, side by side: `[batch, length, size]`, before an axis for heads."""
    spread = made_by(value, "Unsqueeze")
    found = spread.inputs[0] if spread else None
    scaled = made_by(found, "Mul")
    made = made_by(scaled.inputs[0] if scaled else found, kind)
    angles = made_by(made.inputs[0], "Concat") if made else None
    return found if angles and len(angles.inputs) == 2 and angles.inputs[0] is angles.inputs[1] else None


def _size(value: ir.Value, axis: int) -> int | None:
    """Of an axis that has one size for all calls."""
    size = value.shape[axis] if value.shape is not None else None
    return size if isinstance(size, int) else None


def _before(place: ir.Node, kind: str, *inputs: ir.Value | None, domain: str = "", **attributes: Any) -> ir.Value:
    import onnx_ir as ir

    graph = place.graph
    assert graph is not None
    node = ir.node(kind, inputs, attributes, domain=domain, name=f"{place.name}/{kind}_{len(graph)}")
    graph.insert_before(place, node)
    return node.outputs[0]
