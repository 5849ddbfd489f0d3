"""What ONNX Runtime's profiler writes, as operators with what they take and compute."""

from __future__ import annotations

import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.contracts import Family, OperatorTime, Prepare, Profile, Session
from compressor.deploy.profiling import CountedSession, blocks, family_of
from compressor.errors import CompressorError
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
RUN, ENDS = "model_run", "_kernel_time"
KEPT = 900_000
"""Events that a profiler keeps surely: ONNX Runtime passes over all behind a million, and warns once."""
Shape = tuple[str, tuple[int, ...]]
"""Type and sizes of an input or output."""


def profile_of(
    session: Session, watched: Mapping[str, Any], files: Mapping[str, Path], prepare: Prepare, *, calls: int
) -> Profile:
    """What calls took, by what the profiler wrote of each graph.

    Args:
        session: what is called.
        watched: ONNX Runtime's own sessions that it calls, by graph, each with its profiler.
        files: of the graphs.
        prepare: makes what makes one call.
        calls: that count, fewer where the profiler would not keep so many events.

    Raises:
        CompressorError: the profiler did not keep all events.
    """
    import onnx

    counted, models = CountedSession(session), {name: onnx.load(path, load_external_data=False) for name, path in files.items()}
    call = prepare(counted)
    prepared = Counter(counted.runs)
    call()
    before = Counter(counted.runs)
    a_call = {name: counted.runs[name] - prepared[name] for name in models if counted.runs[name] > prepared[name]}
    calls = min([calls, *(held(models[name], before[name], runs) for name, runs in a_call.items())])
    for _ in range(calls):
        call()
    made, total = list[OperatorTime](), 0
    for name, each in watched.items():
        events = json.loads(Path(each.end_profiling()).read_text(encoding="utf-8"))
        if not (runs := (counted.runs[name] - before[name]) / calls):
            continue
        if len([event for event in events if event["name"] == RUN]) < counted.runs[name]:
            raise CompressorError(f"ONNX Runtime's profiler keeps about {KEPT:,} events, and calls of graph '{name}' had more")
        made += operators(events, convolutions(models[name].graph), first=before[name], calls=calls)
        rows = max((prod(shape[:2]) for shape in counted.shapes[name].values()), default=1)
        total += round(runs * read_bytes(models[name].graph, rows))
    return Profile(by="ONNX Runtime's profiler", operators=tuple(made), bytes=total, calls=calls)


def held(model: onnx.ModelProto, before: int, runs: int) -> int:
    """How many calls of so many runs of a graph the profiler keeps, behind runs that were `before`; one at least.

    An operator gives an event, a run two more; what a session makes of a file has hardly more operators.
    """
    events = 2 + len(model.graph.node)
    return max(1, (KEPT - before * events) // (runs * events))


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
    starts = sorted(each["ts"] for each in events if each["name"] == RUN)
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


def read_bytes(graph: onnx.GraphProto, looked_up: int) -> int:
    """Bytes of a graph's constants that a call reads: of tables only so many rows."""
    from onnx.helper import tensor_dtype_to_np_dtype

    tables = {node.input[0] for node in graph.node if _looks_rows_up(node)}
    total = 0
    for each in graph.initializer:
        rows = min(each.dims[0], looked_up) / each.dims[0] if each.name in tables and len(each.dims) > 1 and each.dims[0] else 1
        total += int(rows * prod(each.dims) * tensor_dtype_to_np_dtype(each.data_type).itemsize)
    return total


def _looks_rows_up(node: onnx.NodeProto) -> bool:
    axis = next((each.i for each in node.attribute if each.name in ("axis", "gather_axis")), 0)
    return node.op_type in FAMILIES["look-up"] and axis == 0
