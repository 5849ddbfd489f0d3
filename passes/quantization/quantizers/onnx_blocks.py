"""Products and look-ups of an ONNX graph with weights of few bits: ONNX Runtime's `MatMulNBits` and `GatherBlockQuantized`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from compressor.deploy.joined_products import DOMAIN, PRODUCT, join_products
from compressor.deploy.patterns import drop_unused
from passes.quantization.quantizers.grids import Blocks, Grid, rounded
from passes.quantization.quantizers.onnx_tables import SMALLEST_TABLE
from passes.quantization.quantizers.weight_layers import Chosen

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

LOOK_UP = "GatherBlockQuantized"
INTEGERS = 4
"""`accuracy_level` of products in integers: activations are brought to 8 bits, a scale for each group of a row. Others run scalar code."""
FLOAT = 1


Numbers: TypeAlias = "Callable[[str, NDArray[np.float32], Grid], Blocks]"
"""What chooses the numbers of a product's weight, by its name, from its values `[rows, width]`."""


def _nearest(_: str, values: NDArray[np.float32], grid: Grid) -> Blocks:
    return rounded(values, grid)


@dataclass(frozen=True)
class Product:
    """A matrix product by a constant weight."""

    node: str
    """Its name, `MODULE/KIND_NUMBER`."""
    read: str
    """What it reads."""
    weight: str
    rows: int
    """Outputs."""
    width: int
    """Inputs."""

    @property
    def layer(self) -> str:
        """Path of the module."""
        return self.node.rpartition("/")[0] or self.node


@dataclass(frozen=True)
class Table:
    """A constant whose rows are looked up."""

    nodes: tuple[str, ...]
    weight: str
    rows: int
    width: int
    head: str = ""
    """Name of the weight of the product that reads the table the other way round; empty where none does."""

    @property
    def layer(self) -> str:
        """Path of the module."""
        return self.nodes[0].rpartition("/")[0] or self.nodes[0]


def products_of(graph: onnx.ModelProto) -> tuple[Product, ...]:
    """Products by a constant matrix in float32, in the graph's order."""
    stored = {each.name: each for each in graph.graph.initializer}
    found = []
    for node in graph.graph.node:
        weight = stored.get(node.input[1]) if node.op_type == "MatMul" else None
        if weight is not None and len(weight.dims) == 2 and weight.data_type == FLOAT:
            found.append(Product(node.name, node.input[0], weight.name, int(weight.dims[1]), int(weight.dims[0])))
    return tuple(found)


def tables_of(graph: onnx.ModelProto, tied: Mapping[str, str]) -> tuple[Table, ...]:
    """Large constants in float32 that are looked up row by row and read by nothing else; `tied` has the weight of a head by its table.

    Look-ups by ids whose number of axes the graph does not say are left out.
    """
    stored, known = {each.name: each for each in graph.graph.initializer}, ranks_of(graph)
    readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in graph.graph.node:
        for name in node.input:
            if name in stored:
                readers[name].append(node)
    found = []
    for name, nodes in readers.items():
        table, rows = (
            stored[name],
            all(
                each.op_type == "Gather" and each.input[0] == name and _first_axis(each) and each.input[1] in known
                for each in nodes
            ),
        )
        if rows and table.data_type == FLOAT and len(table.dims) == 2 and table.dims[0] >= SMALLEST_TABLE:
            names = tuple(each.name for each in nodes)
            found.append(Table(names, name, int(table.dims[0]), int(table.dims[1]), tied.get(name, "")))
    return tuple(found)


def ranks_of(graph: onnx.ModelProto) -> dict[str, int]:
    """Numbers of axes by name, of inputs, constants and what the graph gives a shape for."""
    found = {each.name: len(each.dims) for each in graph.graph.initializer}
    for value in (*graph.graph.input, *graph.graph.value_info, *graph.graph.output):
        if value.type.tensor_type.HasField("shape"):
            found[value.name] = len(value.type.tensor_type.shape.dim)
    return found


def _first_axis(node: onnx.NodeProto) -> bool:
    return not any(each.name == "axis" and each.i != 0 for each in node.attribute)


def rewrite(
    graph: onnx.ModelProto,
    products: Mapping[str, Grid],
    tables: Mapping[str, Grid],
    tied: Mapping[str, str],
    *,
    blocks: Numbers | None = None,
) -> list[Chosen]:
    """Put products and look-ups on their grids, in place, and join products that read the same; say what each became.

    Args:
        graph: a table and its head apart, as `untie` leaves them.
        products: grids by the weight's name.
        tables: grids by the table's name; where its head has the same grid, one constant serves both.
        tied: the weight of a head by its table.
        blocks: what chooses the numbers of products; rounding where it is None.
    """
    made = _Rewrite(graph, blocks or _nearest)
    for table in tables_of(graph, tied):
        if table.weight in tables:
            made.look_up(table, tables[table.weight], shared=products.get(table.head) == tables[table.weight])
    for product in products_of(graph):
        if product.weight in products:
            made.multiply(product, products[product.weight])
    made.finish()
    return made.chosen


class _Rewrite:
    """Nodes that take the place of others, and the constants that they read."""

    def __init__(self, graph: onnx.ModelProto, blocks: Numbers) -> None:
        self._graph, self._blocks = graph, blocks
        self._stored = {each.name: each for each in graph.graph.initializer}
        self._nodes = {node.name: node for node in graph.graph.node}
        self._ranks = ranks_of(graph)
        self._instead: dict[str, list[onnx.NodeProto]] = {}
        self._shared: dict[str, tuple[Blocks, list[str]]] = {}
        self.chosen: list[Chosen] = []

    def look_up(self, table: Table, grid: Grid, *, shared: bool) -> None:
        """Rows of a table, scaled back after they are looked up; a head on the same grid reads the same numbers."""
        import numpy as np
        from onnx import helper

        made = rounded(self._array(table.weight), grid)
        names = self._store(table.weight, made)
        if shared:
            self._shared[table.head] = made, names
        wide, groups = f"{table.weight}_wide_scales", made.scales.shape[1]
        shape = self._constant(f"{wide}_shape", np.array([table.rows, groups, 1], np.int64))
        settings: dict[str, Any] = {"bits": grid.bits, "block_size": grid.group, "gather_axis": 0, "quantize_axis": 2}
        for number, name in enumerate(table.nodes):
            node, rows = self._nodes[name], f"{name}/rows"
            rank = self._ranks[node.input[1]]
            sizes = self._constant(f"{table.weight}_row_{rank}", np.array([0] * rank + [table.width], np.int64))
            scale = [helper.make_node("Reshape", [names[1], shape], [wide], name=f"{name}/scales")] if number == 0 else []
            inputs, kind = [names[0], node.input[1], wide], _renamed(node, LOOK_UP)
            looked = helper.make_node(LOOK_UP, inputs, [rows], name=kind, domain=DOMAIN, **settings)
            flat = helper.make_node("Reshape", [rows, sizes], [node.output[0]], name=f"{name}/flat")
            self._instead[name] = [*scale, looked, flat]
        self.chosen.append(Chosen(table.layer, grid.bits, grid.group, grid.symmetric, table.rows * table.width, made.nbytes))

    def multiply(self, product: Product, grid: Grid) -> None:
        """A product by packed weights; a head that is on its table's grid reads the numbers of that."""
        from onnx import helper

        node, shared = self._nodes[product.node], self._shared.get(product.weight)
        made = shared[0] if shared else self._blocks(product.weight, self._array(product.weight).T, grid)
        names = shared[1] if shared else self._store(product.weight, made)
        settings: dict[str, Any] = {"K": product.width, "N": product.rows, "bits": grid.bits, "block_size": grid.group}
        settings |= {"name": _renamed(node, PRODUCT), "domain": DOMAIN, "accuracy_level": INTEGERS}
        self._instead[product.node] = [helper.make_node(PRODUCT, [product.read, *names], [node.output[0]], **settings)]
        what = grid.bits, grid.group, grid.symmetric, product.rows * product.width, 0 if shared else made.nbytes
        self.chosen.append(Chosen(product.layer, *what, bool(shared)))

    def finish(self) -> None:
        """Put the nodes in their places."""
        nodes = [new for node in self._graph.graph.node for new in self._instead.get(node.name, [node])]
        del self._graph.graph.node[:]
        self._graph.graph.node.extend(nodes)
        if not any(each.domain == DOMAIN for each in self._graph.opset_import):
            self._graph.opset_import.add(domain=DOMAIN, version=1)
        drop_unused(self._graph)
        join_products(self._graph)

    def _array(self, name: str) -> NDArray[np.float32]:
        from onnx import numpy_helper

        found: NDArray[np.float32] = numpy_helper.to_array(self._stored[name])
        return found

    def _store(self, label: str, made: Blocks) -> list[str]:
        arrays: list[NDArray[Any]] = [made.packed, made.scales, *([made.zeros] if made.zeros is not None else [])]
        return [self._constant(name, array) for name, array in zip(_parts_of(label), arrays, strict=False)]

    def _constant(self, name: str, array: NDArray[Any]) -> str:
        from onnx import numpy_helper

        if name not in self._stored:
            self._stored[name] = numpy_helper.from_array(array, name)
            self._graph.graph.initializer.append(self._stored[name])
        return name


def _parts_of(label: str) -> tuple[str, str, str]:
    """Names of the constants of a matrix."""
    return f"{label}_numbers", f"{label}_scales", f"{label}_zeros"


def _renamed(node: onnx.NodeProto, kind: str) -> str:
    """The name of a node of another kind from the same module."""
    path, _, number = node.name.rpartition("/")
    return f"{path}/{kind}_{number.rpartition('_')[2]}"
