"""Convolutions as products of their windows, which quantisers and kernels of products then take.

The front end of an encoder of speech and the patches of a picture are convolutions; ONNX Runtime's quantiser leaves them in float, and its int8
convolutions want their results in bytes too. Here each window of the input becomes a row, channels last, and the convolution one product by a matrix.
What comes behind, up to the transposition that brings channels to the end anyway, is computed on rows as well. Where a model is rounded already it
is bytes that are laid side by side.

A sequence that is shorter than a window, which a convolution refuses, gives no rows here.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

from compressor.deploy.patterns import Reads, drop_unused

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx

    from compressor.deploy.patterns import Sizes

BENDS = ("Gelu", "Relu", "Tanh", "Sigmoid", "Erf", "HardSwish")
ROUNDS = ("QuantizeLinear", "DequantizeLinear")
FEWEST = 32
"""Numbers of a window below which a product gains nothing. The first convolution over samples of a sound has so few, and 8 bits are no sound."""
END = 2**63 - 1


class Window(NamedTuple):
    """What a convolution reads of its input at a time."""

    sizes: tuple[int, ...]
    """Along each axis behind channels."""
    step: int
    pads: tuple[int, int]
    """Zeros before and behind, of sequences."""


class Bytes(NamedTuple):
    """A tensor that is rounded: what is brought back to float, and by what."""

    name: str
    steps: tuple[str, ...]
    """Names of its step, or steps along the outputs of a weight, and of its zero point."""


class Operand(NamedTuple):
    """What a convolution reads."""

    name: str
    """In float; before it was rounded where it is."""
    rounded: Bytes | None

    @property
    def laid(self) -> str:
        """What is laid side by side."""
        return self.rounded.name if self.rounded else self.name


def windows_as_products(graph: onnx.ModelProto) -> None:
    """Rewrite convolutions over sequences, and over patches of pictures that do not overlap, in place; others stay."""
    made = _Rows(graph)
    for node in list(graph.graph.node):
        made.take(node)
    made.finish()


def is_product(channels: int, sizes: Sequence[int], steps: Sequence[int], *, padded: bool) -> bool:
    """Whether a convolution without groups and gaps is a product of windows: over sequences, and over patches that do not overlap.

    Args:
        channels: that it reads.
        sizes: of a window, along each axis behind channels.
        steps: from one window to the next, along the same.
        padded: whether zeros are put around what it reads.
    """
    if channels * prod(sizes) < FEWEST:
        return False
    apart = tuple(steps) == tuple(sizes) != (1, 1) and not padded  # of one pixel channels would go back and forth
    return len(sizes) == 1 or (len(sizes) == 2 and apart)


class _Rows:
    """The graph anew, values whose channels are last beside those whose channels come second; what nobody reads goes in the end."""

    def __init__(self, graph: onnx.ModelProto) -> None:
        self.model, self.reads = graph, Reads(graph)
        self.nodes = list["onnx.NodeProto"]()
        self.last = dict[str, str]()
        """By value with channels second: the same with channels last."""
        self.instead = dict[str, str]()
        self.made = 0

    def take(self, node: onnx.NodeProto) -> None:
        """Add a node of the graph, and what gives the same with channels last."""
        for at, name in enumerate(node.input):
            node.input[at] = self.instead.get(name, name)
        window = self._window(node) if node.op_type == "Conv" and not node.domain else None
        if window is not None:
            self._product(node, window)
            return
        self.nodes.append(node)
        value = self.last.get(node.input[0]) if node.input else None
        if value is None or node.domain:
            return
        own, settings = node.output[0], {each.name: each for each in node.attribute}
        sizes = self.reads.sizes.get(own, ())
        if node.op_type in ROUNDS:
            if all(name in self.reads.constants and not self.reads.sizes[name] for name in node.input[1:]):
                self.last[own] = self.add(node.op_type, [value, *node.input[1:]], f"{own}_last", "", **_values(node))
        elif node.op_type in BENDS:
            self.last[own] = self.add(node.op_type, [value], f"{own}_last", own, **_values(node))
        elif node.op_type == "Reshape" and self._flattens(node, sizes):
            shape = self.reads.add(f"{own}_rows", [0, int(sizes[2]), int(sizes[1])])
            self.last[own] = self.add("Reshape", [value, shape], f"{own}_last", own)
        elif node.op_type == "Transpose" and own not in self.reads.given and "perm" in settings:
            order = list(settings["perm"].ints)
            if order == [0, *range(2, len(order)), 1]:
                self.instead[own] = value

    def finish(self) -> None:
        """Write the nodes, without those that nobody reads."""
        if self.made:
            del self.reads.graph.node[:]
            self.reads.graph.node.extend(self.nodes)
            drop_unused(self.model)

    # ---------------------------------------------------------- what can be made

    def _window(self, node: onnx.NodeProto) -> Window | None:
        """None of a convolution that is no product of windows: of groups, with gaps, over pictures with patches that overlap; nor of one that is
        not in float32."""
        read, kept = (self._read(name) for name in node.input[:2])
        weight, given = self.reads.constants.get(kept.laid), self.reads.sizes.get(read.name, ())
        told = weight is not None and len(given) == len(weight.dims) and node.output[0] in self.reads.sizes
        if weight is None or not told or given[1] != weight.dims[1] or (kept.rounded is None) != (read.rounded is None):
            return None
        floats = self.reads.constants[kept.rounded.steps[0]] if kept.rounded else weight
        if floats.data_type != floats.FLOAT:
            return None
        ints = {each.name: tuple(each.ints) for each in node.attribute if each.ints}
        sizes, settings = tuple(weight.dims[2:]), _values(node)
        ones = (1,) * len(sizes)
        steps, pads = ints.get("strides", ones), ints.get("pads", (0,) * 2 * len(sizes))
        alone = settings.get("group", 1) == 1 and ints.get("dilations", ones) == ones
        if not alone or settings.get("auto_pad", b"NOTSET") not in (b"NOTSET", "NOTSET"):
            return None
        if not is_product(weight.dims[1], sizes, steps, padded=any(pads)):
            return None
        if len(sizes) == 1:
            return Window(sizes, steps[0], (pads[0], pads[1]))
        known = all(isinstance(size, int) and size >= patch for size, patch in zip(given[2:], sizes, strict=True))
        return Window(sizes, 0, (0, 0)) if known else None

    def _read(self, name: str) -> Operand:
        """A constant, or what is computed; with the bytes that it becomes where it has one step, of a weight one for each output."""
        back = self.reads.made.get(name)
        if back is None or back.op_type != "DequantizeLinear" or not all(each in self.reads.constants for each in back.input[1:]):
            return Operand(name, None)
        steps, settings = tuple(back.input[1:]), _values(back)
        alone, found = not self.reads.sizes[steps[0]], Bytes(back.input[0], steps)
        if found.name in self.reads.constants:
            return Operand(name, found if alone or (settings.get("axis", 1) == 0 and not settings.get("block_size")) else None)
        rounds = self.reads.made.get(found.name)
        if rounds is None or rounds.op_type != "QuantizeLinear" or not alone:
            return Operand(name, None)
        return Operand(rounds.input[0], found)

    def _flattens(self, reshape: onnx.NodeProto, sizes: Sizes) -> bool:
        """Whether a `Reshape` makes one axis of all behind channels."""
        given = self.reads.sizes.get(reshape.input[0], ())
        behind = [each for each in given[2:] if isinstance(each, int) and each > 0]
        whole = len(sizes) == 3 and len(given) > 3 and len(behind) == len(given) - 2
        return whole and sizes[:2] == given[:2] and isinstance(sizes[1], int) and sizes[1] > 0 and sizes[2] == prod(behind)

    # ---------------------------------------------------------- making it

    def _product(self, node: onnx.NodeProto, window: Window) -> None:
        """Rows of windows times a matrix, the bias added; channels are brought back for whoever wants them second."""
        own, read, kept = node.output[0], self._read(node.input[0]), self._read(node.input[1])
        weight = self.reads.array(kept.laid)
        assert weight is not None
        axes = len(weight.shape)
        # of one place nothing lies side by side: rounded behind, as OpenVINO does not know a pair that a mere transposition parts
        alone = window.sizes == (1,)
        laid = Operand(read.name, None) if alone else read
        rows = self._patches(node, window, laid) if axes == 4 else self._steps(node, window, laid)
        order = (1, 2, 3, 0) if axes == 4 else (2, 1, 0)  # as windows lie in a row
        matrix = self.reads.add(f"{own}_matrix", weight.transpose(order).reshape(-1, weight.shape[0]))
        if read.rounded and kept.rounded:
            along = {"axis": 1} if self.reads.sizes[kept.rounded.steps[0]] else {}
            if alone:
                rounds = self.reads.made[read.rounded.name]
                rows = self.add("QuantizeLinear", [rows, *rounds.input[1:]], f"{own}_bytes", "", node, **_values(rounds))
            rows = self.add("DequantizeLinear", [rows, *read.rounded.steps], f"{own}_floats", "", node)
            matrix = self.add("DequantizeLinear", [matrix, *kept.rounded.steps], f"{own}_weights", "", node, **along)
        found = self.add("MatMul", [rows, matrix], f"{own}_product", own, node)
        if len(node.input) > 2 and node.input[2]:
            found = self.add("Add", [found, node.input[2]], f"{own}_last", own, node)
        self.last[own] = found
        self.nodes.append(self._node("Transpose", [found], own, node, perm=[0, axes - 1, *range(1, axes - 1)]))
        self.made += 1

    def _steps(self, node: onnx.NodeProto, window: Window, read: Operand) -> str:
        """Of a sequence: the input once for each place of the window, moved by it, side by side."""
        own, value = node.output[0], self._channels_last(read.laid, node, 3)
        if any(window.pads):
            pads = self.reads.add(f"{own}_pads", [0, window.pads[0], 0, 0, window.pads[1], 0])
            zero = read.rounded.steps[1:] if read.rounded else ()
            value = self.add("Pad", [value, pads, *zero], f"{own}_padded", "", node)
        width, parts = window.sizes[0], []
        axis, step = self.reads.add(f"{own}_axis", [1]), self.reads.add(f"{own}_step", [window.step])
        for at in range(width):
            begin = self.reads.add(f"{own}_from_{at}", [at])
            end = self.reads.add(f"{own}_to_{at}", [at + 1 - width or END])
            parts.append(self.add("Slice", [value, begin, end, axis, step], f"{own}_part_{at}", "", node))
        return self.add("Concat", parts, f"{own}_windows", "", node, axis=2) if width > 1 else parts[0]

    def _patches(self, node: onnx.NodeProto, window: Window, read: Operand) -> str:
        """Of a picture: `[batch, rows, columns, channels x height x width]`; what is left below and to the right goes."""
        own, value, (high, wide) = node.output[0], read.laid, window.sizes
        channels, *edges = map(int, self.reads.sizes[read.name][1:])
        rows, columns = edges[0] // high, edges[1] // wide
        if (whole := [rows * high, columns * wide]) != edges:
            bounds = [self.reads.add(f"{own}_{name}", each) for name, each in (("from", [0, 0]), ("to", whole), ("axes", [2, 3]))]
            value = self.add("Slice", [value, *bounds], f"{own}_whole", "", node)
        parted = self.reads.add(f"{own}_parted", [0, channels, rows, high, columns, wide])
        value = self.add("Reshape", [value, parted], f"{own}_patches", "", node)
        value = self.add("Transpose", [value], f"{own}_turned", "", node, perm=[0, 2, 4, 1, 3, 5])
        flat = self.reads.add(f"{own}_flat", [0, rows, columns, channels * high * wide])
        return self.add("Reshape", [value, flat], f"{own}_windows", "", node)

    def _channels_last(self, given: str, node: onnx.NodeProto, axes: int) -> str:
        if given not in self.last:
            perm = [0, *range(2, axes), 1]
            self.last[given] = self.add("Transpose", [given], f"{given}_last", "", node, perm=perm)
        return self.last[given]

    def add(self, kind: str, inputs: list[str], output: str, like: str, of: onnx.NodeProto | None = None, **settings: Any) -> str:
        """A further node; where it gives what a value has with channels last, its sizes are known from that."""
        from onnx import TensorProto, helper

        output = self.reads.fresh(output)
        self.nodes.append(self._node(kind, inputs, output, of, **settings))
        sizes = self.reads.sizes.get(like, ())
        if sizes:
            turned = [each or None for each in (sizes[0], *sizes[2:], sizes[1])]
            self.reads.graph.value_info.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, turned))
        return output

    def _node(self, kind: str, inputs: list[str], output: str, of: onnx.NodeProto | None, **settings: Any) -> onnx.NodeProto:
        from onnx import helper

        scope = of.name.rpartition("/")[0] if of is not None else ""
        return helper.make_node(kind, inputs, [output], name=f"{scope or 'graph'}/{kind}_{output}", **settings)


def _values(node: onnx.NodeProto) -> dict[str, Any]:
    from onnx import helper

    return {each.name: helper.get_attribute_value(each) for each in node.attribute}
