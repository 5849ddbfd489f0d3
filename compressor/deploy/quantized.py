"""Simulated quantisers in an exported graph become what runtimes have integer kernels for.

Weights and activations of 8 bits become pairs of `QuantizeLinear` and `DequantizeLinear`; activations whose range is found for each row are
multiplied by `MatMulInteger`; weights with a step for a group of inputs become ONNX Runtime's `MatMulNBits`, which OpenVINO reads too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from compressor.deploy.packing import packed, packed_zeros
from compressor.deploy.patterns import made_by
from compressor.errors import UnsupportedModel
from compressor.model.quantization.grids import InputGrid, WeightGrid

if TYPE_CHECKING:
    import numpy as np
    import onnx
    import onnx_ir as ir
    from numpy.typing import NDArray

    from compressor.contracts import Dialect

INT8_COMPUTE = 4
"""`accuracy_level` of `MatMulNBits`: activations become int8 block by block. With less it computes in float, of 2 and 8 bits very slowly."""
BYTE = 128
"""What is added to a signed byte to make it an unsigned one."""
TINY = 1e-30
ROOM = 2**30
"""The greatest whole number of a bias in int32: the other half is for the sums that it is added to."""


class Read(NamedTuple):
    """A weight that a product reads."""

    marker: ir.Node
    grid: WeightGrid
    turned: bool
    """Whether the product reads it as `[outputs, inputs]`."""


def written(graph: onnx.ModelProto, dialect: Dialect) -> onnx.ModelProto:
    """The graph with every quantiser written out; one that has none as it is.

    Raises:
        UnsupportedModel: a grid that no kernel has, or that the dialect refuses.
    """
    from compressor.model.quantization.layers import DOMAIN

    if not any(node.domain == DOMAIN for node in graph.graph.node):
        return graph
    import onnx_ir as ir
    from onnx_ir.passes.common import RemoveUnusedNodesPass, TopologicalSortPass

    model = ir.from_proto(graph)
    _Writing(model, dialect).all()
    RemoveUnusedNodesPass()(model)
    TopologicalSortPass()(model)
    if left := [node.name for node in model.graph if node.domain == DOMAIN]:
        raise UnsupportedModel(
            f"{left[0]}: what reads these weights is neither a product nor a look-up, and has no quantised form"
        )
    for domain in {DOMAIN} & set(model.graph.opset_imports):
        del model.graph.opset_imports[domain]
    made: onnx.ModelProto = ir.to_proto(model)
    return made


@dataclass
class _Writing:
    """One graph under work."""

    model: ir.Model
    dialect: Dialect
    known: dict[tuple[Any, ...], ir.Value] = field(default_factory=dict)
    """Values that were made, by what they were made of: a tensor that several layers read is quantised once."""

    def all(self) -> None:
        """Products and look-ups with their weights; then quantisers whose values nothing else took in."""
        for node in list(self.model.graph):
            if node.op_type == "Gather" and (read := self._read(node, 0)):
                self._look_up(node, read)
            elif node.op_type in ("MatMul", "Gemm") and (read := self._read(node, 1)):
                self._product(node, read)
            elif node.op_type == "Conv" and (read := self._read(node, 1)):
                self._convolution(node, read._replace(turned=True))
        for node in list(self.model.graph):
            if self._is(node, "QuantizedInputs") and node.outputs[0].uses():
                self._instead(node, self._rounded(node, str(node.name)))

    # -------------------------------------------------------------- what is read

    @staticmethod
    def _is(node: ir.Node | None, kind: str) -> bool:
        from compressor.model.quantization.layers import DOMAIN

        return node is not None and (node.domain, node.op_type) == (DOMAIN, kind)

    def _read(self, node: ir.Node, at: int) -> Read | None:
        """The quantised weight that a node reads, perhaps turned on the way."""
        value = node.inputs[at]
        turn = made_by(value, "Transpose")
        marker = (turn.inputs[0] if turn else value).producer() if value is not None else None  # type: ignore[union-attr]
        if not self._is(marker, "QuantizedWeights"):
            return None
        assert marker is not None
        flipped = "transB" in node.attributes and bool(node.attributes["transB"].as_int())
        return Read(marker, WeightGrid.model_validate_json(marker.attributes["grid"].as_string()), flipped != bool(turn))

    def _integers(self, read: Read) -> tuple[str, NDArray[np.int8], NDArray[np.float32], NDArray[np.float32] | None]:
        """Name, whole numbers `[outputs, inputs]`, steps and zero points `[outputs, groups]` of a weight."""
        import torch

        from compressor.model.quantization.rounding import integers

        weight, *learned = (_constant(each) for each in read.marker.inputs)
        matrix = torch.from_numpy(weight.copy())
        upright = matrix.flatten(1) if read.turned else matrix.t()
        found = integers(upright, read.grid, torch.from_numpy(learned[0].copy()) if learned else None)
        zero = None if found.zero is None else found.zero.numpy()
        name = read.marker.inputs[0].name  # type: ignore[union-attr]
        return str(name), found.whole.numpy(), found.step.float().numpy(), zero

    # -------------------------------------------------------------- look-ups

    def _look_up(self, node: ir.Node, read: Read) -> None:
        """Only the rows that are looked up are scaled back."""
        import numpy as np
        import onnx_ir as ir

        name, whole, step, zero = self._integers(read._replace(turned=True))
        if zero is not None:
            raise UnsupportedModel(f"{name}: tables are quantised without zero points")
        ids = node.inputs[1]
        if read.grid.group:
            self._instead(node, self._rows_of_blocks(node, read, ids))
            return
        steps = step if len(step) == len(whole) else np.repeat(step, len(whole), axis=0)
        rows = self._node("Gather", [self._kept(f"{name}_rows_int8", whole), ids], f"{node.name}_rows")
        floats = self._node("Cast", [rows], f"{node.name}_float", to=ir.DataType.FLOAT)
        scales = self._node("Gather", [self._kept(f"{name}_rows_scale", steps), ids], f"{node.name}_scales")
        self._instead(node, self._node("Mul", [floats, scales], node.name))

    def _rows_of_blocks(self, node: ir.Node, read: Read, ids: ir.Value | None) -> ir.Value:
        """Rows out of what a product of the same matrix reads: bytes above `BYTE`, a step for each run of a row."""
        import numpy as np
        import onnx_ir as ir

        name, whole, step, _ = self._integers(read._replace(turned=True))
        group, base = int(read.grid.group or 0), node.name
        if read.grid.stored_bits != 8 or whole.shape[1] % group:
            raise UnsupportedModel(f"{name}: tables have 8 bits, and rows that groups of {group} divide")
        rows = self._node("Gather", [self._kept(f"{name}_int8", packed(whole, 8, group)), ids], f"{base}_rows")
        floats = self._node("Cast", [rows], f"{base}_float", to=ir.DataType.FLOAT)
        signed = self._node("Sub", [floats, self._kept("quantized_byte", np.array(BYTE, np.float32))], f"{base}_signed")
        flat = self._kept(f"{name}_scale", step.reshape(-1))
        shape = self._kept(f"{name}_scale_shape", np.array([*step.shape, 1], np.int64))
        scales = self._node("Gather", [self._node("Reshape", [flat, shape], f"{base}_steps"), ids], f"{base}_scales")
        blocks = self._node("Mul", [signed, scales], f"{base}_blocks")
        row = self._kept("quantized_row", np.array([0, 0, -1], np.int64))
        return self._node("Reshape", [blocks, row], node.name)

    # -------------------------------------------------------------- convolutions

    def _convolution(self, node: ir.Node, read: Read) -> None:
        """Pairs around what is read and around the weights; its bias stays in float."""
        given, grid = node.inputs[0], read.grid
        marker = given.producer() if given is not None else None
        if marker is None or not self._is(marker, "QuantizedInputs") or grid.stored_bits != 8 or grid.group or not grid.symmetric:
            raise UnsupportedModel(
                f"{node.name}: convolutions have kernels with symmetric weights of 8 bits, a step for each output or one of all, and activations "
                "of 8 bits"
            )
        name, whole, step, _ = self._integers(read)
        shape = tuple(_constant(read.marker.inputs[0]).shape)
        node.replace_input_with(0, self._rounded(marker, f"{node.name}_input"))
        node.replace_input_with(1, self._pair(f"{node.name}_weight", name, whole.reshape(shape), step, None, axis=0))

    # -------------------------------------------------------------- products

    def _product(self, node: ir.Node, read: Read) -> None:
        given = node.inputs[0]
        marker = given.producer() if given is not None else None
        inputs = None
        if self._is(marker, "QuantizedInputs"):
            assert marker is not None
            inputs = InputGrid.model_validate_json(marker.attributes["grid"].as_string())
            given = marker.inputs[0]
        if inputs is not None and inputs.ranges == "dynamic":
            if inputs.bits != 8:
                raise UnsupportedModel(f"{node.name}: no kernel has dynamic activations of {inputs.bits} bits")
            product = self._of_blocks(node, read, given, inputs) if read.grid.group else self._of_rows(node, read, given, inputs)
        elif read.grid.group:
            raise UnsupportedModel(
                f"{node.name}: kernels of weights with a step for a group take dynamic activations in the same groups"
            )
        else:
            even = given if inputs is None else self._rounded(marker, f"{node.name}_input")  # type: ignore[arg-type]
            if node.op_type == "Gemm" and inputs is not None and (whole := self._gemm(node, read, even, marker)):  # type: ignore[arg-type]
                self._instead(node, whole)
                return
            product = self._node("MatMul", [even, self._dequantised(node, read)], f"{node.name}")
        if len(node.inputs) > 2 and node.inputs[2] is not None:  # of a Gemm
            product = self._node("Add", [product, node.inputs[2]], f"{node.name}_bias")
        self._instead(node, product)

    def _gemm(self, node: ir.Node, read: Read, even: ir.Value | None, marker: ir.Node) -> ir.Value | None:
        """Rows that are no sequences: ONNX Runtime makes one float product of `MatMul` and `Add`, and an integer one of `Gemm` with a bias in
        int32, whose step is that of the sums. None where that has not the bias: rows of zeros have any step, and large ones no room."""
        import numpy as np

        beside = node.inputs[2] if len(node.inputs) > 2 else None
        if not read.grid.symmetric or beside is None or beside.const_value is None:
            return None
        _, whole, step, _ = self._integers(read)
        scale = np.asarray(_exp(_constant(marker.inputs[1])) * (step[:, 0] if len(step) > 1 else step[0, 0]), np.float32)
        bias = whole_bias(_constant(beside), scale, np.abs(whole).max(axis=1) > 0)
        if bias is None:
            return None
        name = f"{node.name}_bias"  # of the product: what reads one weight may have other inputs and another bias
        constants = (
            self._kept(f"{name}_int32", bias),
            self._kept(f"{name}_scale", scale),
            self._kept(f"{name}_zero_point", np.zeros_like(scale, np.int32)),
        )
        axis: dict[str, Any] = {"axis": 0} if np.ndim(scale) else {}
        given = self._node("DequantizeLinear", constants, name, **axis)
        return self._node("Gemm", [even, self._dequantised(node, read), given], node.name)

    def _dequantised(self, node: ir.Node, read: Read) -> ir.Value:
        """The weight as float, from int8: `[inputs, outputs]`."""
        import numpy as np

        if read.grid.stored_bits != 8:
            raise UnsupportedModel(
                f"{node.name}: weights of {read.grid.stored_bits} bits have kernels with a step for a group of inputs only"
            )
        name, whole, step, zero = self._integers(read)
        return self._pair(f"{node.name}_weight", name, np.ascontiguousarray(whole.T), step, zero, axis=1)

    def _pair(self, label: str, name: str, whole: Any, step: Any, zero: Any, *, axis: int) -> ir.Value:
        """Whole numbers as a constant that is brought back to float, with a step for each output along `axis`, or one of all."""
        import numpy as np

        steps = np.asarray(step[:, 0] if len(step) > 1 else step[0, 0], np.float32)
        zeros = np.zeros_like(steps, np.int8) if zero is None else zero.astype(np.int8).reshape(steps.shape)
        numbers = {"int8": whole, "scale": steps, "zero_point": np.asarray(zeros, np.int8)}
        constants = [self._kept(f"{name}_{part}", values) for part, values in numbers.items()]
        along: dict[str, Any] = {"axis": axis} if np.ndim(steps) else {}
        return self._node("DequantizeLinear", constants, label, **along)

    def _rounded(self, marker: ir.Node, name: str) -> ir.Value:
        """A static pair around what is read."""
        import numpy as np

        grid = InputGrid.model_validate_json(marker.attributes["grid"].as_string())
        if grid.ranges == "dynamic" or grid.bits != 8:
            raise UnsupportedModel(f"{name}: no kernel has {grid.told()} here")
        x, log_step, *zeros = marker.inputs
        zero = int(_constant(zeros[0])) if zeros else 0
        if zero and self.dialect.symmetric_activations:
            raise UnsupportedModel(
                f"{name}: this target takes activations without a zero point only: say symmetric_activations: true"
            )
        key = (x, log_step)
        if key not in self.known:
            unsigned = self.dialect.activations == "unsigned"
            point = np.array(zero + BYTE, np.uint8) if unsigned else np.array(zero, np.int8)
            of = str(log_step.name).rpartition(".")[0]  # type: ignore[union-attr]
            constants = (self._kept(f"{of}.scale", _exp(_constant(log_step))), self._kept(f"{of}.zero_point", point))
            even = self._node("QuantizeLinear", [x, *constants], f"{name}_quantized")
            self.known[key] = self._node("DequantizeLinear", [even, *constants], f"{name}_dequantized")
        return self.known[key]

    def _of_rows(self, node: ir.Node, read: Read, given: ir.Value | None, inputs: InputGrid) -> ir.Value:
        """`MatMulInteger` of rows in bytes, each with the step that its greatest magnitude asks for."""
        import numpy as np
        import onnx_ir as ir

        if read.grid.stored_bits != 8 or not read.grid.symmetric or inputs.block is not None:
            raise UnsupportedModel(f"{node.name}: rows with a step each have kernels for symmetric weights of 8 bits only")
        name, whole, step, _ = self._integers(read)
        key = (given, "rows")
        if key not in self.known:
            base = f"{node.name}_rows"
            size = self._node("Abs", [given], f"{base}_size")
            most = self._node(
                "ReduceMax", [size, self._kept("quantized_axis", np.array([-1], np.int64))], f"{base}_most", keepdims=1
            )
            some = self._node("Max", [most, self._kept("quantized_least", np.array(TINY, np.float32))], f"{base}_some")
            scale = self._node(
                "Div", [some, self._kept("quantized_top", np.array(inputs.bounds[1], np.float32))], f"{base}_scale"
            )
            even = self._node("Round", [self._node("Div", [given, scale], f"{base}_scaled")], f"{base}_rounded")
            above = self._node("Add", [even, self._kept("quantized_byte", np.array(BYTE, np.float32))], f"{base}_above")
            self.known[key] = self._node("Cast", [above], f"{base}_bytes", to=ir.DataType.UINT8)
            self.known[given, "scale"] = scale
        weight = self._kept(f"{name}_int8", np.ascontiguousarray(whole.T))
        zero = self._kept("quantized_zero", np.array(BYTE, np.uint8))
        sums = self._node("MatMulInteger", [self.known[key], weight, zero], node.name)
        floats = self._node("Cast", [sums], f"{node.name}_float", to=ir.DataType.FLOAT)
        steps = np.asarray(step[:, 0] if len(step) > 1 else step[0, 0], np.float32)
        # one after the other: ONNX Runtime takes a product of both for one step of all rows, and computes something else
        outputs = self._node("Mul", [floats, self._kept(f"{name}_scale", steps)], f"{node.name}_outputs")
        return self._node("Mul", [outputs, self.known[given, "scale"]], f"{node.name}_scaled")

    def _of_blocks(self, node: ir.Node, read: Read, given: ir.Value | None, inputs: InputGrid) -> ir.Value:
        """`MatMulNBits`: it makes int8 of activations block by block itself."""
        if inputs.block != read.grid.group:
            raise UnsupportedModel(
                f"{node.name}: blocks of {inputs.block} activations against groups of {read.grid.group} weights"
            )
        name, whole, step, zero = self._integers(read)
        bits, group = read.grid.stored_bits, int(read.grid.group or 0)
        constants = [
            self._kept(f"{name}_int{bits}", packed(whole, bits, group)),
            self._kept(f"{name}_scale", step.reshape(-1)),
        ]
        if zero is not None:
            constants.append(self._kept(f"{name}_zero_point", packed_zeros(zero, bits)))
        sizes = {"K": whole.shape[1], "N": whole.shape[0], "bits": bits, "block_size": group, "accuracy_level": INT8_COMPUTE}
        self.model.graph.opset_imports["com.microsoft"] = 1
        return self._node("MatMulNBits", [given, *constants], node.name, domain="com.microsoft", **sizes)

    # -------------------------------------------------------------- the graph

    def _node(self, kind: str, inputs: Any, name: str | None, *, domain: str = "", **attributes: Any) -> ir.Value:
        import onnx_ir as ir

        made = ir.node(kind, list(inputs), attributes, domain=domain, name=name)
        made.outputs[0].name = f"{name}_out"
        if kind not in ("Cast", "QuantizeLinear", "MatMulInteger") and not str(name).endswith("_rows"):
            made.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        self.model.graph.append(made)
        return made.outputs[0]

    def _kept(self, name: str, array: Any) -> ir.Value:
        """A constant of the graph, each once."""
        import numpy as np
        import onnx_ir as ir

        if (known := self.model.graph.initializers.get(name)) is not None:
            held = _constant(known)
            if (held.dtype, held.shape) != (array.dtype, array.shape) or not np.array_equal(held, array):
                raise UnsupportedModel(
                    f"{name}: two constants of this name differ: a weight is read in two ways that have no common form"
                )
        else:
            value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
            value.type, value.shape = ir.TensorType(value.const_value.dtype), ir.Shape(array.shape)  # type: ignore[union-attr]
            self.model.graph.register_initializer(value)
        return self.model.graph.initializers[name]

    def _instead(self, node: ir.Node, value: ir.Value) -> None:
        """A value in place of what a node gave, under its name."""
        import onnx_ir as ir

        old = node.outputs[0]
        if old.type is not None:
            value.type, value.shape = old.type, old.shape
        name, old.name = old.name, f"{old.name}_before"
        value.name = name
        ir.convenience.replace_all_uses_with(old, value, replace_graph_outputs=True)
        self.model.graph.remove(node, safe=True)


def whole_bias(bias: NDArray[np.float32], scale: NDArray[np.float32], live: NDArray[np.bool_]) -> NDArray[np.int32] | None:
    """A bias `[outputs]` as whole numbers of steps, None where that is not the same bias.

    Args:
        bias: what is added to the sums.
        scale: `[outputs]`, or one of all: the step of the sums.
        live: `[outputs]`, which rows of the matrix are not all 0. Only the steps of these are small for a reason: no bias may be off by more
            than the greatest of them.
    """
    import numpy as np

    exact, steps = bias.astype(np.float64), np.broadcast_to(scale.astype(np.float64), bias.shape)
    found = np.rint(exact / steps).clip(-ROOM, ROOM)
    allowed = steps[live].max(initial=0.0)
    return None if (np.abs(found * steps - exact) > allowed).any() else found.astype(np.int32)


def _constant(value: ir.Value | None) -> NDArray[Any]:
    assert value is not None, "quantisers take constants"
    assert value.const_value is not None, "quantisers take constants"
    found: NDArray[Any] = value.const_value.numpy()
    return found


def _exp(value: NDArray[Any]) -> NDArray[np.float32]:
    """As torch computes it in the model that is simulated."""
    import torch

    found: NDArray[np.float32] = torch.from_numpy(value.copy()).exp().float().numpy()
    return found
