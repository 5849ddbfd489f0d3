"""What ONNX Runtime's profiler writes, as operators with what they take and compute."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.contracts import Family, OperatorTime, Profile
from compressor.deploy.profiling import CountedSession, blocks, family_of
from targets.onnx_files import NBITS

if TYPE_CHECKING:
    import onnx

FAMILIES: dict[Family, tuple[str, ...]] = {
    "product": (
        "MatMul", "Gemm", "FusedMatMul", "FusedGemm", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QLinearMatMul",
        "QGemm", NBITS, "Conv", "FusedConv", "NhwcFusedConv", "QLinearConv", "ConvInteger", "ConvTranspose", "Einsum",
    ),
    "attention": ("Attention", "MultiHeadAttention", "GroupQueryAttention", "QAttention", "Softmax"),
    "norm": (
        "LayerNormalization", "SimplifiedLayerNormalization", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization",
        "InstanceNormalization", "GroupNorm", "BatchNormalization", "RMSNormalization", "EmbedLayerNormalization",
    ),
    "activation": ("Gelu", "BiasGelu", "FastGelu", "QuickGelu", "Erf", "Tanh", "Relu", "Sigmoid", "Swish", "HardSwish"),
    "sum": ("Sum", "Add", "Sub", "Mul", "Div"),
    "conversion": ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Cast"),
    "look-up": ("Gather", "GatherND", "GatherBlockQuantized", "GatherElements"),
    "layout": (
        "Transpose", "Reshape", "Unsqueeze", "Squeeze", "Concat", "Split", "Slice", "Expand", "Flatten", "Pad", "ReorderInput", "ReorderOutput",
    ),
}  # fmt: skip
INTEGERS = ("int8", "uint8")
UNTOLD = ("ConvTranspose", "Einsum")
"""Products whose number of operations the shapes of what they take and give do not tell."""
CONVOLUTIONS = ("Conv", "FusedConv", "NhwcFusedConv", "QLinearConv", "ConvInteger")
ENDS = "_kernel_time"
Shape = tuple[str, tuple[int, ...]]
"""Type and sizes of an input or output."""


def profile_of(
    said: Mapping[str, Path], files: Mapping[str, Path], before: Mapping[str, int], session: CountedSession, *, calls: int
) -> Profile:
    """What calls took, by graph what the profiler wrote of it.

    Args:
        said: files that the profiler wrote.
        files: of the graphs.
        before: runs of each graph that do not count.
        session: what ran.
        calls: that count.
    """
    import onnx

    made, total = list[OperatorTime](), 0
    for name, path in said.items():
        runs = (session.runs[name] - before.get(name, 0)) / calls
        if not runs:
            continue
        weights = convolutions(onnx.load(files[name], load_external_data=False).graph)
        events = json.loads(path.read_text(encoding="utf-8"))
        made += operators(events, weights, first=before.get(name, 0), calls=calls)
        rows = max((prod(shape[:2]) for shape in session.shapes[name].values()), default=1)
        total += round(runs * read_bytes(files[name], rows))
    return Profile(by="ONNX Runtime's profiler", operators=tuple(made), bytes=total)


def operators(
    events: Sequence[Mapping[str, Any]], weights: Mapping[str, tuple[int, ...]], *, first: int, calls: int
) -> list[OperatorTime]:
    """Operators of one graph, in the order they ran, with the median of what each took times its runs in a call.

    Args:
        events: what the profiler wrote.
        weights: sizes of the weights of convolutions, by operator: profiles leave out what was packed when the graph was loaded.
        first: run of the graph from which on calls count.
        calls: that were made from there on.
    """
    starts = sorted(each["ts"] for each in events if each["name"] == "model_run")
    since = starts[first] if len(starts) > first else float("inf")
    found, said = defaultdict[str, list[float]](list), dict[str, Mapping[str, Any]]()
    watched = [each for each in events if each.get("cat") == "Node" and each["name"].endswith(ENDS) and each["ts"] >= since]
    for each in sorted(watched, key=lambda each: each["ts"]):
        name = each["name"].removesuffix(ENDS)
        found[name].append(each["dur"] / 1e3)
        said.setdefault(name, each["args"])
    made = []
    for (name, taken), block in zip(found.items(), blocks(found), strict=True):
        runs, kind = len(taken) / calls, said[name]["op_name"]
        count, numbers = work(kind, said[name], weights.get(name, ()))
        family = family_of(kind, FAMILIES)
        ms = runs * statistics.median(taken)
        made.append(
            OperatorTime(name=name, kind=kind, family=family, block=block, ms=ms, operations=runs * count, numbers=numbers)
        )
    return made


def work(kind: str, said: Mapping[str, Any], weight: tuple[int, ...] = ()) -> tuple[float, str]:
    """Multiplications and additions of one run of an operator, and in which numbers; none where shapes do not tell."""
    takes, gives = _shapes(said.get("input_type_shape", ())), _shapes(said.get("output_type_shape", ()))
    if not takes or not gives:
        return 0.0, "fp32"
    (type_, taken), given = takes[0], gives[0][1]
    numbers = (
        "int8" if type_ in INTEGERS or kind in ("DynamicQuantizeMatMul", NBITS) else "fp16" if type_ == "float16" else "fp32"
    )
    if kind in CONVOLUTIONS:
        return 2.0 * prod(given) * prod(weight[1:]) if weight else 0.0, numbers
    if kind in FAMILIES["product"] and kind not in UNTOLD and taken:
        return 2.0 * prod(given) * taken[-1], numbers
    if kind == "QAttention":
        products = 2.0 * prod(taken) * 3 * given[-1]
        return products + 4.0 * prod(given) * taken[-2], numbers  # scores and sums are in float, and a smaller part
    if kind in ("MultiHeadAttention", "Attention") and len(takes) > 1 and len(taken) == 3:
        return 4.0 * prod(given) * takes[1][1][1], numbers
    return 0.0, numbers


def _shapes(listed: Sequence[Mapping[str, Sequence[int]]]) -> list[Shape]:
    return [(type_, tuple(sizes)) for each in listed for type_, sizes in each.items()]


def convolutions(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    """Sizes of the weights of each convolution that has them as a constant."""
    sizes = {each.name: tuple(each.dims) for each in graph.initializer}
    at = {"QLinearConv": 3}
    return {
        node.name: sizes[node.input[at.get(node.op_type, 1)]]
        for node in graph.node
        if node.op_type in CONVOLUTIONS and node.input[at.get(node.op_type, 1)] in sizes
    }


def read_bytes(path: Path, looked_up: int) -> int:
    """Bytes of a graph's constants that a call reads: of tables only so many rows."""
    import onnx
    from onnx.helper import tensor_dtype_to_np_dtype

    graph = onnx.load(path, load_external_data=False).graph
    tables = {node.input[0] for node in graph.node if _looks_rows_up(node)}
    total = 0
    for each in graph.initializer:
        rows = min(each.dims[0], looked_up) / each.dims[0] if each.name in tables and len(each.dims) > 1 and each.dims[0] else 1
        total += int(rows * prod(each.dims) * tensor_dtype_to_np_dtype(each.data_type).itemsize)
    return total


def _looks_rows_up(node: onnx.NodeProto) -> bool:
    axis = next((each.i for each in node.attribute if each.name in ("axis", "gather_axis")), 0)
    return node.op_type in FAMILIES["look-up"] and axis == 0
