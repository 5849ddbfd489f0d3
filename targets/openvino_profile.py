"""What OpenVINO's performance counters say, as operators with what they take and compute."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

from compressor.contracts import Family, OperatorTime, Profile
from compressor.deploy.profiling import CountedSession, blocks, family_of

FAMILIES: dict[Family, tuple[str, ...]] = {
    "product": ("FullyConnected", "FullyConnectedQuantized", "FullyConnectedQuantizedLegacy", "MatMul", "Convolution", "Gemm"),
    "attention": ("Subgraph", "ScaledDotProductAttention", "ScaledDotProductAttentionWithKVCache", "Softmax"),
    "norm": ("MVN", "RMS", "NormalizeL2"),
    "activation": ("Gelu", "Tanh", "Erf", "Swish", "Relu"),
    "sum": ("Add", "Subtract", "Multiply", "MulAdd", "Eltwise", "Divide"),
    "conversion": ("FakeQuantize", "Convert", "Quantize", "Dequantize"),
    "look-up": ("Gather", "GatherND", "GatherElements", "EmbeddingBagPacked"),
    "layout": (
        "Transpose",
        "Reshape",
        "Reorder",
        "Concat",
        "Split",
        "StridedSlice",
        "Slice",
        "Broadcast",
        "Unsqueeze",
        "Squeeze",
    ),
}
"""A `Subgraph` is what OpenVINO compiles of several operators: of a transformer its attention."""
PRODUCTS = ("MatMul", "Convolution", "GroupConvolution")
WINDOW = {"Convolution": 1, "GroupConvolution": 2}
"""Axes of the weights of a convolution before those that one number of what it gives is a sum over."""
ATTENTION = "ScaledDotProductAttention"
SCALED = "/DequantizationMultiply"
"""In the names of products that bring their results back to float themselves, behind that of the product in the file."""
IDLE = "NOT_RUN"


class Counted(NamedTuple):
    """One layer as the counters know it, over all runs so far."""

    name: str
    kind: str
    how: str
    """The kernel that ran, `brgemm_avx512_I8`."""
    seconds: float


def profile_of(
    counted: CountedSession, requests: Mapping[str, Any], models: Mapping[str, Any], call: Callable[[], None], *, calls: int
) -> Profile:
    """What calls take of graphs that keep nothing.

    Args:
        counted: the session, opened with performance counters.
        requests: of the session, by graph.
        models: of the files, by graph; their shapes are fixed here.
        call: makes one, on that session.
        calls: that count.
    """
    call()
    before = {name: (counted.runs[name], counters(request, counted.runs[name])) for name, request in requests.items()}
    for _ in range(calls):
        call()
    made, total, rest = list[OperatorTime](), 0, counted.facts()["precision"].rpartition("+")[2].strip()
    for name, (ran, first) in before.items():
        if counted.runs[name] == ran:
            continue
        runs, model = (counted.runs[name] - ran) / calls, models[name]
        _fix_shapes(model, counted.shapes[name])
        order = [node.get_friendly_name() for node in model.get_ordered_ops()]
        products = {each: runs * count for each, count in products_of(model).items()}
        made += operators(first, counters(requests[name], counted.runs[name]), products, order, calls=calls, rest=rest)
        total += round(runs * read_bytes(model))
    return Profile(by="OpenVINO's performance counters", operators=tuple(made), bytes=total)


def _fix_shapes(model: Any, shapes: Mapping[str, Sequence[int]]) -> None:
    import openvino

    names = {name: port for port in model.inputs for name in port.get_names()}
    model.reshape({names[name]: openvino.PartialShape(list(shape)) for name, shape in shapes.items() if name in names})


def counters(request: Any, runs: int) -> list[Counted]:
    """Seconds of each layer over all runs of a request so far: the counters themselves are means."""
    return [
        Counted(each.node_name, each.node_type, each.exec_type, runs * each.real_time.total_seconds())
        for each in (request.get_profiling_info() if runs else ())
        if each.status.name != IDLE
    ]


def operators(
    before: Sequence[Counted],
    after: Sequence[Counted],
    products: Mapping[str, float],
    order: Sequence[str],
    *,
    calls: int,
    rest: str,
) -> list[OperatorTime]:
    """What each layer took in a call, in the order they run.

    Args:
        before: the counters before the calls that count.
        after: and after them.
        products: multiplications and additions of a call, by the name of the operator in the model's file.
        order: names of all operators of the model's file, in order: a product that is a part of another layer belongs to the next that multiplies.
        calls: that count.
        rest: what computes in no integers computes in this.
    """
    spent = {(each.name, each.kind): each.seconds for each in before}
    layers = [each._replace(seconds=max(0.0, each.seconds - spent.get((each.name, each.kind), 0.0)) / calls) for each in after]
    layers = [each for each in layers if each.seconds > 0]
    computing = {_in_file(each) for each in layers if family_of(each.kind, FAMILIES) in ("product", "attention")}
    counted = _handed_on(products, order, computing)
    return [
        OperatorTime(
            name=each.name,
            kind=each.kind,
            family=family_of(each.kind, FAMILIES),
            block=block,
            ms=1e3 * each.seconds,
            operations=counted[_in_file(each)],
            numbers=_numbers(each, rest),
        )
        for each, block in zip(layers, blocks(each.name for each in layers), strict=True)
    ]


def _in_file(layer: Counted) -> str:
    """What the operator of a layer is called in the model's file."""
    return layer.name.removesuffix(SCALED) if family_of(layer.kind, FAMILIES) == "product" else layer.name


def _handed_on(products: Mapping[str, float], order: Sequence[str], ran: set[str]) -> dict[str, float]:
    found, waiting, last = defaultdict[str, float](float), 0.0, ""
    for name in order:
        waiting += products.get(name, 0.0)
        if name in ran and waiting:
            found[name] += waiting
            waiting, last = 0.0, name
    if last:
        found[last] += waiting
    return found


def _numbers(layer: Counted, rest: str) -> str:
    """A layer that attends is told by a mask of bytes, and computes in float."""
    ending = layer.how.rpartition("_")[2].lower()
    if ending in ("i8", "u8", "i4", "u4") and family_of(layer.kind, FAMILIES) != "attention":
        return "int8"
    return {"bf16": "bf16", "f16": "fp16"}.get(ending, rest)


def products_of(model: Any) -> dict[str, float]:
    """Multiplications and additions by operator of a model whose shapes are all fixed."""
    found = dict[str, float]()
    for node in model.get_ordered_ops():
        kind, name = node.get_type_name(), node.get_friendly_name()
        if kind in PRODUCTS:
            takes, gives = [list(each.get_shape()) for each in node.inputs()], list(node.get_output_shape(0))
            across = takes[0][-2 if kind == "MatMul" and node.get_attributes().get("transpose_a") else -1]
            found[name] = 2.0 * prod(gives) * (across if kind == "MatMul" else prod(takes[1][WINDOW[kind] :]))
        elif kind == ATTENTION:
            query, key = (list(each.get_shape()) for each in node.inputs()[:2])
            found[name] = 4.0 * prod(query) * key[-2]
    return found


def read_bytes(model: Any) -> int:
    """Bytes of the constants that a call of a model of fixed shapes reads: of tables only the rows that are looked up."""
    total = 0.0
    for node in model.get_ordered_ops():
        if node.get_type_name() == "Constant":
            whole = prod(node.get_output_shape(0)) * node.get_output_element_type(0).bitwidth / 8
            total += whole * _share_read(node)
    return round(total)


def _share_read(constant: Any) -> float:
    node, table = constant, list(constant.get_output_shape(0))
    while len(table) > 1 and (uses := list(node.output(0).get_target_inputs())) and len(uses) == 1:
        node, port = uses[0].get_node(), uses[0].get_index()
        if node.get_type_name() == "Gather":
            rows = prod(node.inputs()[1].get_shape())
            return min(1.0, rows / table[0]) if port == 0 and table[0] else 1.0
        if node.get_type_name() not in ("Convert", "Multiply", "Subtract", "FakeQuantize"):
            break
    return 1.0
