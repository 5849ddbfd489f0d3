"""Times of calls at many sizes, interleaved in one process: lengths of a text, widths of products in int8."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compressor.contracts import Candidate
from compressor.deploy.openvino import core
from compressor.report.markdown import table

if TYPE_CHECKING:
    import onnx

ROUNDS, ROUND_SECONDS = 15, 0.02
LENGTHS = (120, 122, 124, 126, 127, 128, 129, 130, 132, 134, 136)
WIDTHS = tuple(range(352, 417, 4))
ROWS, HIDDEN, PAIRS = 128, 384, 4
"""Tokens, channels, and products there and back in one graph."""

Times = Mapping[str, Sequence[float]]
"""By size, milliseconds of each round."""


def interleaved(calls: Mapping[str, Callable[[], object]], seed: int = 0) -> dict[str, list[float]]:
    """Median milliseconds of a call in each round, rounds in an order drawn anew."""
    rng, found = np.random.default_rng(seed), dict[str, list[float]]()
    counts = dict[str, int]()
    for name, call in calls.items():
        call()
        began = time.perf_counter()
        call()
        counts[name] = max(3, int(ROUND_SECONDS / (time.perf_counter() - began)))
    for _ in range(ROUNDS):
        for name in rng.permutation(list(calls)):
            taken = []
            for _ in range(counts[name]):
                began = time.perf_counter()
                calls[name]()
                taken.append(1e3 * (time.perf_counter() - began))
            found.setdefault(str(name), []).append(statistics.median(taken))
    return {name: found[name] for name in calls}


def by_length(candidates: Mapping[str, Candidate]) -> dict[str, dict[str, list[float]]]:
    """By runtime and length, one text a call."""
    return {runtime: interleaved(dict(_texts(each))) for runtime, each in candidates.items()}


def _texts(candidate: Candidate) -> Iterator[tuple[str, Callable[[], object]]]:
    session = candidate.runtime.open(candidate.built)
    for length in LENGTHS:
        ids = 1000 + np.arange(length, dtype=np.int64)[None]
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        yield str(length), lambda feed=feed: session.run(feed)  # type: ignore[misc]


def by_width(work: Path) -> dict[str, dict[str, list[float]]]:
    """By runtime and width, products from the hidden state to that width and back."""
    import onnx

    work.mkdir(parents=True, exist_ok=True)
    made = {}
    for width in WIDTHS:
        made[width] = work / f"{width}.onnx"
        onnx.save(_products(width), made[width])
    return {"onnxruntime": interleaved(dict(_in_onnxruntime(made))), "openvino": interleaved(dict(_in_openvino(made)))}


def _in_onnxruntime(files: Mapping[int, Path]) -> Iterator[tuple[str, Callable[[], object]]]:
    import onnx
    import onnxruntime

    from compressor.deploy.integer_products import join_biases

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    x = np.random.default_rng(0).normal(size=(ROWS, HIDDEN)).astype(np.float32)
    for width, path in files.items():
        graph = onnx.load(path)
        join_biases(graph)
        session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
        yield str(width), lambda session=session: session.run(None, {"x": x})  # type: ignore[misc]


def _in_openvino(files: Mapping[int, Path]) -> Iterator[tuple[str, Callable[[], object]]]:
    from compressor.deploy.telemetry import silence

    silence()
    x = np.random.default_rng(0).normal(size=(ROWS, HIDDEN)).astype(np.float32)
    options = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": "1", "INFERENCE_PRECISION_HINT": "f32"}
    for width, path in files.items():
        request = core().compile_model(str(path), "CPU", options).create_infer_request()
        yield str(width), lambda request=request: request.infer({"x": x}, share_inputs=True)  # type: ignore[misc]


def _products(width: int) -> onnx.ModelProto:
    """Pairs of Q and DQ around products with random weights, and biases."""
    from onnx import TensorProto, helper, numpy_helper

    rng, nodes, constants = np.random.default_rng(width), list[Any](), list[Any]()

    def constant(name: str, values: Any) -> str:
        constants.append(numpy_helper.from_array(values, name))
        return name

    step, zero = constant("step", np.float32(0.05)), constant("zero", np.uint8(128))
    value = "x"
    for at, (inner, outer) in enumerate(((HIDDEN, width), (width, HIDDEN)) * PAIRS):
        weight = constant(f"w{at}", rng.integers(-127, 128, (inner, outer)).astype(np.int8))
        steps = constant(f"s{at}", np.full(outer, 0.0005, np.float32))
        zeros = constant(f"z{at}", np.zeros(outer, np.int8))
        nodes += [
            helper.make_node("QuantizeLinear", [value, step, zero], [f"q{at}"]),
            helper.make_node("DequantizeLinear", [f"q{at}", step, zero], [f"d{at}"]),
            helper.make_node("DequantizeLinear", [weight, steps, zeros], [f"m{at}"], axis=1),
            helper.make_node("MatMul", [f"d{at}", f"m{at}"], [f"p{at}"]),
            helper.make_node("Add", [f"p{at}", constant(f"b{at}", rng.normal(size=outer).astype(np.float32))], [f"y{at}"]),
        ]
        value = f"y{at}"
    x, y = ([helper.make_tensor_value_info(name, TensorProto.FLOAT, (ROWS, HIDDEN))] for name in ("x", value))
    graph = helper.make_graph(nodes, "products", x, y, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


# ------------------------------------------------------------------ on the page


def lengths_of(found: Mapping[str, Times]) -> Iterator[str]:
    """What is measured, and the table."""
    yield "The quickstart's deployed student, one text a call, lengths in turn in one process: medians of 15 rounds, and their middle half."
    ratios = (
        f"{runtime} {statistics.median(each['128']) / statistics.median(each['127']):.2f} times as long"
        for runtime, each in found.items()
    )
    yield f"A text of 127 tokens that is padded to 128 takes {', '.join(ratios)}: a multiple of 16 that is worth a pad where that is well below 1."
    yield ""
    yield from lengths_table(found)


def widths_of(found: Mapping[str, Times]) -> Iterator[str]:
    """What is measured, and the tables."""
    yield f"int8 products of {ROWS} rows, {HIDDEN} to the width and back, {PAIRS} times in one graph, widths in turn in one process."
    ratios = (f"{_sixteenths(each):.3f} in {runtime}" for runtime, each in found.items())
    yield f"A column of widths that are multiples of 16 takes {', '.join(ratios)} of what a column of others takes. Pruning rounds neurons to"
    yield "multiples of 16 unless it is told otherwise (`round_to`)."
    yield ""
    yield from by_multiple(found)
    yield from widths_table(found)


def lengths_table(found: Mapping[str, Times]) -> Iterator[str]:
    """Medians, and microseconds a token."""
    rows = [
        (length, *(cell for each in found.values() for cell in (spread(each[str(length)]), _per(each[str(length)], length))))
        for length in LENGTHS
    ]
    heads = [head for runtime in found for head in (f"{runtime}, ms", "µs a token")]
    yield from table(("tokens", *heads), rows, numbers=range(1, 1 + len(heads)))


def widths_table(found: Mapping[str, Times]) -> Iterator[str]:
    """Medians, and what a product of the width takes for each of its columns against the mean of all widths."""
    means = {
        runtime: statistics.mean(statistics.median(each[str(width)]) / width for width in WIDTHS)
        for runtime, each in found.items()
    }
    rows = []
    for width in WIDTHS:
        cells = []
        for runtime, each in found.items():
            over = statistics.median(each[str(width)]) / width / means[runtime]
            cells += [spread(each[str(width)]), f"{over:.3f}"]
        rows.append((width, *cells))
    heads = [head for runtime in found for head in (f"{runtime}, ms", "a column, over the mean")]
    yield from table(("width", *heads), rows, numbers=range(1, 1 + len(heads)))


def by_multiple(found: Mapping[str, Times]) -> Iterator[str]:
    """Mean time a column of widths by the largest power of two up to 32 that divides them."""
    groups = {
        power: [width for width in WIDTHS if width % power == 0 and (power == 32 or width % (2 * power))]
        for power in (4, 8, 16, 32)
    }
    rows = []
    for power, widths in groups.items():
        cells = []
        for each in found.values():
            costs = {width: statistics.median(each[str(width)]) / width for width in WIDTHS}
            cells.append(f"{statistics.mean(costs[width] for width in widths) / statistics.mean(costs.values()):.3f}")
        rows.append((power, ", ".join(map(str, widths)), *cells))
    yield from table(
        ("multiples of", "widths", *(f"{runtime}, a column over the mean" for runtime in found)),
        rows,
        numbers=range(2, 2 + len(found)),
    )


def _sixteenths(times: Times) -> float:
    costs = {width: statistics.median(times[str(width)]) / width for width in WIDTHS}
    even, others = ([cost for width, cost in costs.items() if bool(width % 16) == other] for other in (False, True))
    return statistics.mean(even) / statistics.mean(others)


def spread(rounds: Sequence[float]) -> str:
    """Median, and the middle half of the rounds."""
    low, middle, high = np.quantile(rounds, (0.25, 0.5, 0.75))
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def _per(rounds: Sequence[float], count: int) -> str:
    return f"{1e3 * statistics.median(rounds) / count:.2f}"
