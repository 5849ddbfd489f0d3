"""AWQ on ONNX graphs: channels that carry large activations are scaled up before rounding, and what makes them is scaled down."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from passes.quantization.quantizers.grids import Grid, rounded
from passes.quantization.quantizers.onnx_blocks import Product

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

POWERS = 10
"""Powers of the activations' size that are tried, evenly between 0 and 1."""
NORMS = {"SimplifiedLayerNormalization": (1,), "LayerNormalization": (1, 2)}
"""Inputs of a norm that scale what it gives: its weight, and its bias."""
LEAST = 1e-4
"""A factor is no smaller, through its largest."""


def scale_up(
    graph: onnx.ModelProto,
    products: Sequence[Product],
    grids: Mapping[str, Grid],
    moments: Callable[[str], NDArray[np.float64]],
    tell: Callable[[int, int], None],
) -> list[str]:
    """Change weights in place so that rounding them changes the outputs less; the graph computes what it did.

    Lin et al., AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration, 2023, arXiv:2306.00978. The factors of products that
    read the same go into the norm before them, or into the product that makes one side of a gate. The layers that have none before them that
    could take the factors stay, and their paths come back.

    Args:
        graph: in float32.
        products: in the graph's order.
        grids: what weights will be rounded to, by name.
        moments: of what a product reads, by its name: `[width, width]`, the sum of `x x^T`.
        tell: is told how many groups of products are done, of how many.
    """
    folding = _Folding(graph, products)
    together: dict[str, list[Product]] = defaultdict(list)
    for each in products:
        if each.weight in grids:
            together[each.read].append(each)
    left = list[str]()
    for done, (read, group) in enumerate(together.items(), start=1):
        place = folding.before(read, group)
        if place is None:
            left += [each.layer for each in group]
        else:
            matrices = [folding.values(each.weight).T for each in group]
            found = factors(matrices, moments(read), grids[group[0].weight])
            for each, matrix in zip(group, matrices, strict=True):
                folding.put(each.weight, (matrix * found).T)
            for name in place:
                folding.put(name, folding.values(name) / found)
        tell(done, len(together))
    return left


def factors(matrices: Sequence[NDArray[np.float32]], moments: NDArray[np.float64], grid: Grid) -> NDArray[np.float32]:
    """For each input channel what weights are multiplied by, `[width]`: a power of the activations' size, that which changes outputs least.

    Args:
        matrices: `[rows, width]` each, which read the same.
        moments: `[width, width]`.
        grid: what they will be rounded to.
    """
    import numpy as np

    size = np.sqrt(np.maximum(np.diag(moments), 0))
    size = np.maximum(size / max(float(size.max()), 1e-30), LEAST)
    best, found = np.inf, np.ones(len(size), np.float32)
    for number in range(POWERS):
        tried = (size ** (number / POWERS)).astype(np.float32)
        tried /= np.sqrt(tried.max() * tried.min())
        lost = 0.0
        for matrix in matrices:
            error = rounded(matrix * tried, grid).values() / tried - matrix
            lost += float(((error @ moments) * error).sum())
        if lost < best:
            best, found = lost, tried
    return found


class _Folding:
    """Where factors of what is read can go."""

    def __init__(self, graph: onnx.ModelProto, products: Sequence[Product]) -> None:
        self._stored = {each.name: each for each in graph.graph.initializer}
        self._made = {output: node for node in graph.graph.node for output in node.output}
        self._readers: dict[str, list[Any]] = defaultdict(list)
        for node in graph.graph.node:
            for name in node.input:
                self._readers[name].append(node)
        self._ends = {each.name for each in graph.graph.output}
        self._products = {each.node: each for each in products}

    def before(self, read: str, group: Sequence[Product]) -> list[str] | None:
        """Constants whose last axis scales what a group of products reads; None where there are none."""
        alone = {each.node for each in group} == {node.name for node in self._readers[read]}
        node = self._made.get(read)
        if node is None or not alone or read in self._ends or any(len(self._readers[each.weight]) > 1 for each in group):
            return None
        if node.op_type in NORMS:
            names = [node.input[at] for at in NORMS[node.op_type] if at < len(node.input) and node.input[at]]
            return names if all(map(self._own, names)) else None
        if node.op_type == "Mul":
            makers = [self._made.get(name) for name in node.input]
            for name, maker in zip(node.input, makers, strict=True):
                product = self._products.get(maker.name) if maker is not None else None
                if product is not None and len(self._readers[name]) == 1 and self._own(product.weight):
                    return [product.weight]
        return None

    def _own(self, name: str) -> bool:
        return name in self._stored and len(self._readers[name]) == 1

    def values(self, name: str) -> NDArray[np.float32]:
        from onnx import numpy_helper

        found: NDArray[np.float32] = numpy_helper.to_array(self._stored[name])
        return found

    def put(self, name: str, values: NDArray[np.float32]) -> None:
        import numpy as np
        from onnx import numpy_helper

        self._stored[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values, np.float32), name))
