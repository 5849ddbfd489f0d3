"""Products of quantised tensors as ONNX Runtime's operator for them, which adds a bias as it writes what it gives.

ONNX Runtime makes the same operator of pairs of Q and DQ when it loads a graph, but leaves the bias to whoever reads it: a pass over all
activations more for each product. Of a `Gemm` that gives floats it makes none, and brings the weights back to float at each call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from compressor.deploy.patterns import Reads, drop_unused

if TYPE_CHECKING:
    import onnx

DOMAIN = "com.microsoft"
KIND = "MatMulIntegerToFloat"
INT8, UINT8 = 3, 2
ATTENTION_BIAS = 3
"""Which input of `MultiHeadAttention` has the biases of queries, keys and values, one after the other."""


class Quantised(NamedTuple):
    """A tensor of bytes: its name, scale, and zero point (empty for 0)."""

    bytes: str
    scale: str
    zero: str


def join_biases(graph: onnx.ModelProto) -> int:
    """Make the operator of every product whose inputs are quantised, with the bias that is added next, in place. How many there are."""
    found = _Products(graph)
    for node in list(graph.graph.node):
        if (operands := found.operands(node)) is not None:
            found.make_product(node, *operands)
    found.take_biases_of_attention()
    return found.finish()


class _Products(Reads):
    """A graph whose products are made the operator, one by one."""

    def __init__(self, graph: onnx.ModelProto) -> None:
        super().__init__(graph)
        self.model = graph
        self.products: list[onnx.NodeProto] = []
        self._turned = dict[str, str]()
        """By weights `[outputs, inputs]`: the same the other way round."""

    # ---------------------------------------------------------- what can be made

    def operands(self, node: onnx.NodeProto) -> tuple[Quantised, Quantised, str] | None:
        """Activations, weights `[inputs, outputs]` and bias of a product of quantised tensors; None of anything else."""
        settings = {each.name: each for each in node.attribute}
        gemm = node.op_type == "Gemm"
        if gemm and (settings["transA"].i if "transA" in settings else 0):
            return None
        if gemm and any(name in settings and settings[name].f != 1 for name in ("alpha", "beta")):
            return None
        if not gemm and node.op_type != "MatMul":
            return None
        turned = gemm and "transB" in settings and settings["transB"].i == 1
        bias = node.input[2] if gemm and len(node.input) > 2 else ""
        left, right = self._dequantised(node.input[0]), self._dequantised(node.input[1])
        if left is None or right is None:
            return None
        activations, weights = self._activations(left), self._weights(right, turned=turned)
        if activations is None or weights is None or (bias and not self._is_bias(bias, self._outputs(weights.bytes))):
            return None
        return activations, weights, bias

    def _dequantised(self, name: str) -> onnx.NodeProto | None:
        node = self.made.get(name)
        return node if node is not None and node.op_type == "DequantizeLinear" else None

    def _activations(self, node: onnx.NodeProto) -> Quantised | None:
        """Bytes with one scale."""
        found = _quantised(node)
        return found if self._one(found.scale) and found.bytes not in self.constants else None

    def _weights(self, node: onnx.NodeProto, *, turned: bool) -> Quantised | None:
        """Constant bytes with a scale for each output, or one."""
        from onnx import numpy_helper

        found = _quantised(node)
        weight = self.constants.get(found.bytes)
        if weight is None or len(weight.dims) != 2 or weight.data_type not in (INT8, UINT8) or found.scale not in self.constants:
            return None
        axis = next((each.i for each in node.attribute if each.name == "axis"), 1) % 2
        blocks = any(each.name == "block_size" and each.i for each in node.attribute)
        if blocks or not (self._one(found.scale) or axis == (0 if turned else 1)):
            return None
        if not turned:
            return found
        if found.bytes not in self._turned:
            self._turned[found.bytes] = self.add(f"{found.bytes}_turned", numpy_helper.to_array(weight).T)
        return found._replace(bytes=self._turned[found.bytes])

    def _one(self, name: str) -> bool:
        return name in self.constants and not self.constants[name].dims

    def _outputs(self, weights: str) -> int:
        return int(self.constants[weights].dims[1])

    # ---------------------------------------------------------- making it

    def make_product(self, node: onnx.NodeProto, activations: Quantised, weights: Quantised, bias: str) -> None:
        """Turn a node into the operator; where it has no bias of its own it takes that of the only one that reads it."""
        bias = bias or self._taken(node, outputs=self._outputs(weights.bytes))
        del node.attribute[:]
        node.op_type, node.domain = KIND, DOMAIN
        pairs = zip(activations, weights, strict=True)
        del node.input[:]
        node.input.extend([name for pair in pairs for name in pair])
        if bias:
            node.input.append(bias)
        self.products.append(node)

    def _taken(self, node: onnx.NodeProto, *, outputs: int) -> str:
        """The bias that the only reader of a product adds, which then no longer does."""
        given, readers = node.output[0], self.readers[node.output[0]]
        if len(readers) != 1 or given in self.given:
            return ""
        (reader,) = readers
        biases: list[str] = [name for name in reader.input if self._is_bias(name, outputs)]
        if not biases or list(reader.input).count(given) != 1:
            return ""
        if reader.op_type == "BiasGelu":
            reader.op_type = "Gelu"
        elif reader.op_type not in ("Add", "Sum"):
            return ""
        elif len(reader.input) == 2:
            reader.op_type = "Identity"  # a sum of two stays one: of an addition and a norm ONNX Runtime makes a slower operator
        reader.input.remove(biases[0])
        return biases[0]

    def _is_bias(self, name: str, outputs: int) -> bool:
        return name in self.constants and list(self.constants[name].dims) == [outputs]

    def take_biases_of_attention(self) -> None:
        """Products that an attention reads take their parts of its bias."""
        from onnx import numpy_helper

        for node in [each for each in self.graph.node if each.op_type == "MultiHeadAttention"]:
            bias = node.input[ATTENTION_BIAS] if len(node.input) > ATTENTION_BIAS else ""
            products = [self.made.get(name) for name in node.input[:ATTENTION_BIAS]]
            if bias not in self.constants or not all(self._waits(product, node) for product in products):
                continue
            values, start = numpy_helper.to_array(self.constants[bias]), 0
            if len(values) != sum(self._outputs(product.input[1]) for product in products if product):
                continue
            for product in filter(None, products):
                width = self._outputs(product.input[1])
                product.input.append(self.add(f"{product.output[0]}_bias", values[start : start + width]))
                start += width
            node.input[ATTENTION_BIAS] = ""

    def _waits(self, product: onnx.NodeProto | None, reader: onnx.NodeProto) -> bool:
        """Whether a product has no bias yet, and only this reader."""
        if product is None or product.op_type != KIND or len(product.input) > 6:
            return False
        readers = self.readers[product.output[0]]
        return len(readers) == 1 and readers[0].output[0] == reader.output[0] and product.output[0] not in self.given

    def finish(self) -> int:
        """Leave out what nobody reads any more, and name the domain."""
        from onnx import helper

        if self.products and DOMAIN not in {each.domain for each in self.model.opset_import}:
            self.model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
        drop_unused(self.model)
        return len(self.products)


def _quantised(node: onnx.NodeProto) -> Quantised:
    return Quantised(node.input[0], node.input[1], node.input[2] if len(node.input) > 2 else "")
