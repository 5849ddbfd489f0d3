"""Convolutions of quantised tensors as products of bytes, for ONNX Runtime.

It has an integer kernel for a convolution whose output is rounded at once, and none that is any good for one that gives floats: of pairs of Q and
DQ around such a one it makes a float convolution, and `ConvInteger` takes three times as long as that. A product of bytes gives floats: so the taps
are laid side by side while they are bytes, a copy of a quarter of the size, and multiplied. Whisper's second convolution (384 channels, 3 taps, 100
frames) takes 0.14 ms so, 0.57 ms in float, and 0.14 ms by the kernel that rounds (one thread, AVX-512 VNNI).
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

from compressor.deploy.patterns import Reads, drop_unused

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

MOST_TAPS = 25
"""Of what is laid side by side tap by tap."""
LAST = 2**31 - 1
INT8, UINT8 = 3, 2


class Window(NamedTuple):
    """How a convolution goes over its axes, a number for each."""

    taps: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    """Before the first of each axis, then after the last of each."""

    @property
    def tiles(self) -> bool:
        """Whether every number that is read is read once."""
        return self.taps == self.strides and set(self.dilations) == {1} and not any(self.pads)

    @property
    def unfolds(self) -> bool:
        """Whether it is worth while."""
        return self.tiles or prod(self.taps) <= MOST_TAPS


class Convolution(NamedTuple):
    """One that reads bytes, by constant bytes."""

    node: onnx.NodeProto
    read: onnx.NodeProto
    """What brings the bytes that it reads back to float."""
    weight: onnx.NodeProto
    """The same of its weights."""
    window: Window


def unfold(graph: onnx.ModelProto) -> int:
    """Make products of convolutions of bytes that give floats, in place. How many there are."""
    found = Reads(graph)
    made = {id(each.node): each for node in graph.graph.node if (each := _convolution(node, found))}
    nodes: list[onnx.NodeProto] = []
    for node in graph.graph.node:
        nodes += _Unfolding(made[id(node)], found).nodes() if id(node) in made else [node]
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
    if made:
        drop_unused(graph)
    return len(made)


def _convolution(node: onnx.NodeProto, found: Reads) -> Convolution | None:
    if node.op_type != "Conv" or node.domain:
        return None
    read, weight = (found.made.get(name) for name in node.input[:2])
    window = _window(node)
    if not read or not weight or window is None or not window.unfolds or not _gives_floats(node, found):
        return None
    if {read.op_type, weight.op_type} != {"DequantizeLinear"} or not (_one(read, found) and _of_outputs(weight, found)):
        return None
    numbers = found.constants[weight.input[0]]
    if numbers.data_type not in (INT8, UINT8) or len(numbers.dims) != len(window.taps) + 2:
        return None
    if window.tiles and _pixels(read, found, window) is None and prod(window.taps) > MOST_TAPS:
        return None
    return Convolution(node, read, weight, window)


def _window(node: onnx.NodeProto) -> Window | None:
    """None of one in groups, or whose edges are found at run time."""
    from onnx import helper

    given = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    if given.get("group", 1) != 1 or given.get("auto_pad", b"NOTSET") != b"NOTSET" or "kernel_shape" not in given:
        return None
    taps = tuple(given["kernel_shape"])
    ones = (1,) * len(taps)
    return Window(
        taps, tuple(given.get("strides", ones)), tuple(given.get("dilations", ones)), tuple(given.get("pads", (0, 0) * len(taps)))
    )


def _gives_floats(node: onnx.NodeProto, found: Reads) -> bool:
    """Whether anything but rounding reads it: else there is a kernel."""
    readers = found.readers[node.output[0]]
    return node.output[0] in found.given or any(each.op_type != "QuantizeLinear" for each in readers)


def _one(read: onnx.NodeProto, found: Reads) -> bool:
    """Whether a tensor that is computed has one step, and a zero point that is known."""
    known = all(name in found.constants and not found.constants[name].dims for name in read.input[1:])
    return known and read.input[0] not in found.constants


def _of_outputs(weight: onnx.NodeProto, found: Reads) -> bool:
    """Whether constant bytes have a step for each output, or one."""
    axis = next((each.i for each in weight.attribute if each.name == "axis"), 1)
    blocks = any(each.name == "block_size" and each.i for each in weight.attribute)
    if blocks or not all(name in found.constants for name in weight.input):
        return False
    return axis == 0 or not found.constants[weight.input[1]].dims


def _pixels(read: onnx.NodeProto, found: Reads, window: Window) -> tuple[int, ...] | None:
    """How long the axes are that a convolution goes over; None where they are not known."""
    quantised = found.made.get(read.input[0])
    names = [read.input[0], *(quantised.input[:1] if quantised is not None and quantised.op_type == "QuantizeLinear" else ())]
    for name in names:
        axes = found.sizes.get(name, ())[2:]
        if len(axes) == len(window.taps) and all(isinstance(axis, int) and axis > 0 for axis in axes):
            return tuple(int(axis) for axis in axes)
    return None


class _Unfolding:
    """One convolution, as nodes."""

    def __init__(self, convolution: Convolution, found: Reads) -> None:
        self.node, self.read, self.weight, self.window = convolution
        self.found, self.made = found, list["onnx.NodeProto"]()
        self.axes = len(self.window.taps)

    def nodes(self) -> list[onnx.NodeProto]:
        """Bytes with channels last, taps side by side, their product with the weights, channels first again."""
        tiles = self.window.tiles and (pixels := _pixels(self.read, self.found, self.window)) is not None
        bytes_ = self._tiled(pixels) if tiles else self._side_by_side()  # type: ignore[arg-type]
        floats = self._add("DequantizeLinear", "read", bytes_, *self.read.input[1:])
        product = self._add("MatMul", "product", floats, self._weights(taps_last=bool(tiles)))
        if len(self.node.input) > 2 and self.node.input[2]:
            product = self._add("Add", "biased", product, self.node.input[2])
        last = self.axes + 1
        self._add("Transpose", "", product, perm=[0, last, *range(1, last)])
        return self.made

    def _side_by_side(self) -> str:
        """`[rows, positions, taps * channels]`: a slice of the padded bytes for each tap."""
        import itertools

        window, last = self.window, self.axes + 1
        rows = self._add("Transpose", "channels_last", self.read.input[0], perm=[0, *range(2, last + 1), 1])
        if any(window.pads):
            before, after = window.pads[: self.axes], window.pads[self.axes :]
            edges = self.found.add(f"{self._name}_edges", [0, *before, 0, 0, *after, 0])
            rows = self._add("Pad", "padded", rows, edges, self._zero())
        axes = self.found.add(f"{self._name}_axes", list(range(1, last)))
        strides = self.found.add(f"{self._name}_strides", list(window.strides))
        slices = []
        for at, tap in enumerate(itertools.product(*map(range, window.taps))):
            starts = [here * step for here, step in zip(tap, window.dilations, strict=True)]
            beyond = [(size - 1 - here) * step for here, size, step in zip(tap, window.taps, window.dilations, strict=True)]
            begin = self.found.add(f"{self._name}_begin_{at}", starts)
            end = self.found.add(f"{self._name}_end_{at}", [-each if each else LAST for each in beyond])
            slices.append(self._add("Slice", f"tap_{at}", rows, begin, end, axes, strides))
        return self._add("Concat", "taps", *slices, axis=last)

    def _tiled(self, pixels: tuple[int, ...]) -> str:
        """`[rows, positions, channels * taps]`: nothing is read twice, so that axes are cut up and brought into another order."""
        taps, last = self.window.taps, self.axes + 1
        whole = [size // tap for size, tap in zip(pixels, taps, strict=True)]
        rows, channels = self.read.input[0], self.found.constants[self.weight.input[0]].dims[1]
        if any(size % tap for size, tap in zip(pixels, taps, strict=True)):
            ends = [size * tap for size, tap in zip(whole, taps, strict=True)]
            edges = [
                self.found.add(f"{self._name}_{part}", values) for part, values in (("begin", [0] * self.axes), ("end", ends))
            ]
            rows = self._add("Slice", "whole", rows, *edges, self.found.add(f"{self._name}_axes", list(range(2, last + 1))))
        cut = [each for pair in zip(whole, taps, strict=True) for each in pair]
        parts = self._add("Reshape", "cut", rows, self.found.add(f"{self._name}_cut", [-1, channels, *cut]))
        order = [0, *(2 + 2 * axis for axis in range(self.axes)), 1, *(3 + 2 * axis for axis in range(self.axes))]
        tiles = self._add("Transpose", "tiles", parts, perm=order)
        shape = self.found.add(f"{self._name}_shape", [-1, *whole, channels * prod(taps)])
        return self._add("Reshape", "taps", tiles, shape)

    def _weights(self, *, taps_last: bool) -> str:
        """The same bytes as `[inputs, outputs]`, brought back to float."""
        from onnx import numpy_helper

        numbers: NDArray[np.integer] = numpy_helper.to_array(self.found.constants[self.weight.input[0]])
        ordered = numbers if taps_last else numbers.transpose(0, *range(2, numbers.ndim), 1)
        matrix = self.found.add(f"{self._name}_weight", ordered.reshape(len(numbers), -1).T)
        return self._add("DequantizeLinear", "weight", matrix, *self.weight.input[1:], axis=1)

    def _zero(self) -> str:
        """What stands for 0 among the bytes."""
        import numpy as np

        return self.read.input[2] if len(self.read.input) > 2 else self.found.add(f"{self._name}_zero", np.array(0, np.uint8))

    @property
    def _name(self) -> str:
        return self.node.name or self.node.output[0]

    def _add(self, kind: str, part: str, *inputs: str, **settings: Any) -> str:
        """A node of the convolution's name; without a part it gives what the convolution gave."""
        from onnx import helper

        output = self.found.fresh(f"{self._name}_{part}") if part else self.node.output[0]
        self.made.append(
            helper.make_node(kind, list(inputs), [output], name=f"{self._name}/{part or 'channels_first'}", **settings)
        )
        return output
