"""Weights of an ONNX graph in few bits for ONNX Runtime: which products and tables, on which grids, by which algorithm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.contracts import Event, Feed, Graph, Progress
from compressor.deploy.joined_products import PRODUCT
from passes.quantization.quantizers.awq import scale_up
from passes.quantization.quantizers.grids import SMALLEST_GROUP, Blocks, Grid
from passes.quantization.quantizers.onnx_blocks import LOOK_UP, Numbers, Product, Table, products_of, rewrite, tables_of
from passes.quantization.quantizers.onnx_cache import in_eight_bits, require_appended, scales_of
from passes.quantization.quantizers.onnx_graph import fold_gemms, keep_shapes, session_on
from passes.quantization.quantizers.onnx_others import others_of
from passes.quantization.quantizers.onnx_tied import turn, untie
from passes.quantization.quantizers.weight_layers import (
    Chosen,
    Left,
    Wanted,
    require_float,
    require_named,
    require_rows,
    unnumbered,
)

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

TABLE_GROUP = 64
"""Weights of a table or head that share a scale."""
LEAST = 16
"""Inputs from which on a product is worth it."""
EXCLUDED, FLOAT, NO_GROUP = "excluded", "embeddings: float", f"no group of {SMALLEST_GROUP} or more divides its rows"
"""Why a layer stays in float."""
LEAST_SIZE = 1e-12
"""Of what a product reads: zeros stay zeros."""
QUANTISED = (
    PRODUCT, LOOK_UP, "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "DynamicQuantizeMatMul", "MatMulInteger",
    "MatMulIntegerToFloat", "ConvInteger", "QLinearMatMul", "QLinearConv",
)  # fmt: skip
"""Operators of graphs that are quantised."""
MOMENTS_BYTES = 1 << 29
"""Of second moments that are kept at a time."""


def quantize(
    path: Path,
    out: Path,
    wanted: Wanted,
    *,
    feeds: Sequence[Feed] = (),
    tell: Callable[[Event], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
    cache: Graph | None = None,
) -> tuple[list[Chosen], list[Left]]:
    """Write `model.onnx` with products by `MatMulNBits` and look-ups by `GatherBlockQuantized`; say what became of each layer.

    A table that is head too is stored once, and read as one matrix by both. Products that read the same become one. Of a graph that is given
    as `cache` the state that grows is of 8 bits afterwards.
    """
    import onnx

    from compressor.deploy.onnx import save

    exact = onnx.load(path)
    require_float(node.op_type for node in exact.graph.node if node.op_type in QUANTISED)
    require_rows(wanted, feeds)
    if cache is not None:
        require_appended(exact, cache)
    fold_gemms(exact)
    tied = untie(exact)
    made = onnx.ModelProto()
    made.CopyFrom(exact)
    products, tables = products_of(exact), tables_of(exact, tied)
    others = others_of(exact, {*(each.weight for each in products), *(each.weight for each in tables)})
    layers = (each.layer for found in (products, tables, others) for each in found)
    require_named(wanted.exclude, layers)
    grids, rows, left = _grids(products, tables, wanted)
    left += [each._replace(why=EXCLUDED) if wanted.leaves(each.layer) else each for each in others]
    alone = {table: head for table, head in tied.items() if table not in rows and head not in grids}
    turn(made, alone)
    few = [each for each in products if each.weight in grids and grids[each.weight].bits < 8 and each.weight not in tied.values()]
    numbers = _calibrated(exact, few, feeds, tell) if wanted.algorithm == "gptq" else None
    if wanted.algorithm == "awq":
        moments = Moments(exact, few, feeds).of
        same = scale_up(made, few, grids, moments, lambda done, total: tell(Progress("awq", done, total, "products")))
        say(unscaled(same, len(few)))
    chosen = rewrite(made, grids, rows, tied, blocks=numbers)
    keep_shapes(made, exact)
    if cache is not None:
        in_eight_bits(made, cache, scales_of(exact, cache, feeds), out)
    save(made, out)
    return chosen, left


def unscaled(layers: Sequence[str], count: int) -> str:
    """What AWQ did not do."""
    if not layers:
        return f"AWQ scaled the channels of all {count} layers."
    names = ", ".join(dict.fromkeys(unnumbered(each) for each in layers))
    some = f"AWQ scaled no channels of {len(layers)} of {count} layers, which are rounded as they are"
    return f"{some}: nothing before them takes the factors ({names})."


def _grids(
    products: Sequence[Product], tables: Sequence[Table], wanted: Wanted
) -> tuple[dict[str, Grid], dict[str, Grid], list[Left]]:
    """Grids of products and tables by the weight's name, and what stays in float."""
    assert wanted.group is not None, "its products have groups"
    own = Grid(wanted.bits, wanted.group, wanted.symmetric)
    outer = Grid(wanted.embeddings, TABLE_GROUP) if wanted.embeddings else None
    grids, rows, left = dict[str, Grid](), dict[str, Grid](), list[Left]()
    for table in tables:
        grid = outer.dividing(table.width) if outer else None
        if grid is None or wanted.leaves(table.layer):
            why = EXCLUDED if wanted.leaves(table.layer) else NO_GROUP if outer else FLOAT
            left.append(Left(table.layer, table.rows * table.width, why))
        else:
            rows[table.weight] = grid
    heads = {table.head: table.weight for table in tables if table.head}
    for product in products:
        last = product is products[-1] or product.weight in heads
        grid = (rows.get(heads.get(product.weight, "")) or (outer.within(product.width) if outer else None)) if last else own
        why = _why_left(product, grid, wanted)
        if grid is None or why:
            left.append(Left(product.layer, product.rows * product.width, why))
        else:
            grids[product.weight] = grid.within(product.width)
    return grids, rows, left


def _why_left(product: Product, grid: Grid | None, wanted: Wanted) -> str:
    if wanted.leaves(product.layer):
        return EXCLUDED
    if grid is None:
        return FLOAT
    return "" if product.width >= LEAST else f"fewer than {LEAST} inputs"


def _calibrated(
    exact: onnx.ModelProto, products: Sequence[Product], feeds: Sequence[Feed], tell: Callable[[Event], None]
) -> Numbers:
    """Numbers by GPTQ, from what each product reads in the graph in float."""
    from passes.quantization.quantizers.gptq import gptq
    from passes.quantization.quantizers.grids import rounded

    read = {each.weight: each for each in products}
    moments = Moments(exact, products, feeds)
    done = count(1)

    def numbers(weight: str, values: NDArray[np.float32], grid: Grid) -> Blocks:
        if weight not in read:
            return rounded(values, grid)
        tell(Progress("gptq", next(done), len(read), "layers"))
        return gptq(values, moments.of(read[weight].read), grid)

    return numbers


class Moments:
    """Second moments of what products read, over calibration rows: as many at a time as there is room for, in the products' order.

    Each token counts alike, whatever its magnitude: a language model's first one has activations a thousand times as large as others' in a few
    layers, is brought to one size by the next norm, and would decide for all others.
    """

    def __init__(self, graph: onnx.ModelProto, products: Sequence[Product], feeds: Sequence[Feed]) -> None:
        self._graph, self._feeds = graph, feeds
        self._widths = {each.read: each.width for each in products}
        self._found: dict[str, NDArray[np.float64]] = {}

    def of(self, name: str) -> NDArray[np.float64]:
        """`[width, width]`: the sum of `x x^T` over all rows `x` of all calls, each of mean square 1."""
        if name not in self._found:
            self._found = self._measured(self._next(name))
        return self._found[name]

    def _next(self, name: str) -> list[str]:
        names, room = list(self._widths), MOMENTS_BYTES
        chosen = list[str]()
        for each in names[names.index(name) :]:
            room -= 8 * self._widths[each] ** 2
            if room < 0 and chosen:
                break
            chosen.append(each)
        return chosen

    def _measured(self, names: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        import numpy as np

        session = _watched(self._graph, names)
        taken = {each.name for each in session.get_inputs()}
        found = {name: np.zeros((self._widths[name],) * 2) for name in names}
        for feed in self._feeds:
            given = session.run(list(names), {key: array for key, array in feed.items() if key in taken})
            for name, array in zip(names, given, strict=True):
                rows = array.reshape(-1, self._widths[name])
                rows = rows / np.maximum(np.sqrt(np.square(rows).mean(1, keepdims=True)), LEAST_SIZE)
                found[name] += rows.T @ rows
        return found


def _watched(graph: onnx.ModelProto, names: Sequence[str]) -> Any:
    """A session on a graph that gives what lies inside."""
    import onnx

    made = onnx.ModelProto()
    made.CopyFrom(graph)
    known = {each.name for each in made.graph.output}
    made.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names if name not in known)
    return session_on(made)
