"""Layers that compute with weights and inputs on grids, in place of the layers that they were: names, shapes and attributes stay."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from compressor.model.quantization.grids import InputGrid, WeightGrid
from compressor.model.quantization.rounding import (
    Integers,
    Rounded,
    integers,
    number_of_steps,
    rounded_rows,
    rounded_weights,
    started,
)

DOMAIN = "compressor"
WEIGHTS, INPUTS = "QuantizedWeights", "QuantizedInputs"
"""Operators that stand in an exported graph where a quantiser is, until they are written as a target has them."""
SCALE_BYTES = 4


def packed_bytes(shape: tuple[int, int], grid: WeightGrid) -> int:
    """Bytes of a packed matrix `[outputs, inputs]` with its steps and zero points; groups that a row cuts short are stored whole."""
    steps, (outputs, inputs) = number_of_steps(shape, grid), shape
    stored = outputs * (inputs + (-inputs % grid.group if grid.group else 0))
    return -(-stored * grid.stored_bits // 8) + (SCALE_BYTES + (not grid.symmetric)) * steps


class Quantizer(nn.Module):
    """What puts a tensor on its grid."""

    exported: bool
    """Whether it leaves an operator of `DOMAIN` in the graph that is traced, in place of what it computes."""
    _rounded: Any
    """What was read last, which state of it, and that rounded."""

    def __init__(self) -> None:
        super().__init__()
        self.exported = False
        self.on = True

    def __getstate__(self) -> dict[str, Any]:
        """Without what is only read now."""
        return {**vars(self), "_rounded": None}

    def _marked(self, kind: str, grid: WeightGrid | InputGrid, x: torch.Tensor, *beside: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = torch.onnx.ops.symbolic(
            f"{DOMAIN}::{kind}",
            [x, *beside],
            {"grid": grid.model_dump_json(), "beside": len(beside)},
            dtype=x.dtype,
            shape=x.shape,
            version=1,
        )
        return found


class WeightQuantizer(Quantizer):
    """Puts a weight matrix, or the weights of a convolution, on their grid; `log_step` `[steps]` where steps are learned."""

    log_step: torch.Tensor | None

    def __init__(self, grid: WeightGrid, weight: torch.Tensor, *, turned: bool = False) -> None:
        """`turned` is a matrix `[inputs, outputs]`."""
        super().__init__()
        self.grid, self.turned = grid, turned
        self._rounded: tuple[torch.Tensor, tuple[int, ...], torch.Tensor] | None = None
        """Weights that were read without gradients, which state of them and of their steps, and those rounded."""
        if grid.steps == "learned":
            count = number_of_steps(self._shape(weight), grid)
            self.log_step = nn.Parameter(torch.zeros(count, device=weight.device))
        else:
            self.log_step = None

    def start(self, weight: torch.Tensor) -> None:
        """Learned steps by the weights as they are."""
        if self.log_step is not None:
            with torch.no_grad():
                self.log_step.copy_(started(self._upright(weight), self.grid))

    def integers(self, weight: torch.Tensor) -> Integers:
        """Whole numbers `[outputs, inputs]` and steps."""
        return integers(self._upright(weight), self.grid, self.log_step)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """The weights on their grid, in float32."""
        if not self.on:
            return weight
        if self.exported:
            return self._marked(WEIGHTS, self.grid, weight, *(() if self.log_step is None else (self.log_step,)))
        learned = [each for each in (weight, self.log_step) if each is not None]
        if torch.is_grad_enabled() or any(each.grad is not None for each in learned):
            self._rounded = None  # an optimiser is about to change them, and fused ones count no version
            return self._on_grid(weight)
        now = tuple(number for each in learned for number in (each._version, each.data_ptr()))
        if self._rounded is None or self._rounded[0] is not weight or self._rounded[1] != now:
            self._rounded = weight, now, self._on_grid(weight)  # rows are scored one by one, and these weights rounded once
        return self._rounded[2]

    def _on_grid(self, weight: torch.Tensor) -> torch.Tensor:
        found = rounded_weights(self._upright(weight), self.grid, self.log_step)
        return found.t() if self.turned else found.reshape(weight.shape)

    def _upright(self, weight: torch.Tensor) -> torch.Tensor:
        return weight.t() if self.turned else weight.flatten(1)

    def _shape(self, weight: torch.Tensor) -> tuple[int, int]:
        return cast(tuple[int, int], tuple(self._upright(weight).shape))

    def stored_bytes(self, weight: torch.Tensor) -> int:
        """Bytes of the packed weights with their steps and zero points."""
        return packed_bytes(self._shape(weight), self.grid)


class InputQuantizer(Quantizer):
    """Puts what layers read on its grid. A static one has `log_step` `[]`, and `zero` `[]` where 0 may be another whole number."""

    log_step: torch.Tensor
    zero: torch.Tensor | None

    def __init__(self, grid: InputGrid, device: torch.device, *, readers: int = 1, axis: int = -1) -> None:
        """`readers` is how many layers read what it rounds: each tensor is rounded for the first of them. `axis` is that of its features."""
        super().__init__()
        self.grid, self.readers, self.axis = grid, readers, axis
        self._rounded: tuple[torch.Tensor, tuple[int, bool], torch.Tensor] | None = None
        """What the layers read now, which version of it and whether with gradients, and that rounded; gone with the last reader."""
        self._left = 0
        if grid.ranges == "static":
            step = torch.zeros((), device=device)
            if grid.learned:
                self.log_step = nn.Parameter(step)
            else:
                self.register_buffer("log_step", step)
            self.register_buffer("zero", None if grid.symmetric else torch.zeros((), device=device))

    def start(self, least: float, most: float, mean: float) -> None:
        """A static step by the least and greatest value, and the mean magnitude, of what passes by."""
        if self.grid.ranges == "dynamic":
            return
        low, high = self.grid.bounds
        least, most = min(least, 0.0), max(most, 0.0)
        step = max(-least, most) / high
        if self.grid.bits < 8 and self.grid.learned:
            step = 2 * mean / math.sqrt(high)  # as LSQ starts: with few values the greatest is not worth one
        if not self.grid.symmetric:
            step = (most - least) / (high - low)
        step = step if step > 0 else 1.0
        with torch.no_grad():
            self.log_step.fill_(math.log(step))
            if self.zero is not None:
                self.zero.fill_(min(max(round(low - least / step), low), high))

    def reach(self) -> torch.Tensor:
        """The greatest value of a static grid, `[]`: where it cuts."""
        return self.log_step.exp() * self.grid.bounds[1]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """A tensor on the grid, in float32 (float64 where it is)."""
        if not self.on:
            return x
        static = self.grid.ranges == "static"
        if self.exported:
            beside = ((self.log_step,) if self.zero is None else (self.log_step, self.zero)) if static else ()
            return self._marked(INPUTS, self.grid, x, *beside)
        if self.readers == 1:
            return self._on_grid(x)
        now = (x._version, torch.is_grad_enabled())
        if self._rounded is None or self._rounded[0] is not x or self._rounded[1] != now:
            self._rounded, self._left = (x, now, self._on_grid(x)), self.readers
        found, self._left = self._rounded[2], self._left - 1
        if not self._left:
            self._rounded = None
        return found

    def _on_grid(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(x.device.type, enabled=False):
            exact = x if x.dtype == torch.float64 else x.float()
            if self.grid.ranges == "dynamic":
                return rounded_rows(exact, self.grid)
            low, high = self.grid.bounds
            ends = self.grid.by == "pact"
            share = 1.0 if ends else 1 / math.sqrt(x.shape[self.axis] * high)
            found: torch.Tensor = Rounded.apply(exact, self.log_step.exp(), self.zero, low, high, share, ends)  # type: ignore[no-untyped-call]
            return found


class _Quantized:
    """What all quantised layers have."""

    weight: torch.Tensor
    weight_quantizer: WeightQuantizer
    input_quantizer: nn.Module
    borrows: bool
    """Whether another layer keeps the weights: of a head that is tied to a table."""

    def stored_bytes(self) -> int:
        """Bytes as deployed: packed weights, steps, and the bias in float."""
        bias = getattr(self, "bias", None)
        rest = 0 if bias is None else bias.numel() * bias.element_size()
        return rest + (0 if self.borrows else self.weight_quantizer.stored_bytes(self.weight))


class QuantizedLinear(_Quantized, nn.Linear):
    """A linear layer on grids."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - torch's own
        return functional.linear(self.input_quantizer(input), self.weight_quantizer(self.weight), self.bias)


class QuantizedConv1D(_Quantized, Conv1D):  # type: ignore[misc]
    """GPT-2's linear layer on grids; it keeps weights as `[inputs, outputs]`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        product: torch.Tensor = self.input_quantizer(x) @ self.weight_quantizer(self.weight) + self.bias
        return product


class QuantizedEmbedding(_Quantized, nn.Embedding):
    """A table on a grid."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - torch's own
        quantizer = self.weight_quantizer
        if quantizer.exported or quantizer.grid.granularity == "tensor":
            return functional.embedding(input, quantizer(self.weight), self.padding_idx)
        rows = functional.embedding(input, self.weight, self.padding_idx)  # each has steps of its own: no other one is rounded
        learned = quantizer.log_step
        steps = None if learned is None else learned.reshape(len(self.weight), -1)[input].reshape(-1)
        found = rounded_weights(rows.reshape(-1, rows.shape[-1]), quantizer.grid, steps) if quantizer.on else rows
        return found.reshape(rows.shape)


class _QuantizedConvolution(_Quantized):
    """What convolutions on grids have: outside of what they read there are zeros, which are on every grid."""

    bias: torch.Tensor | None

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - torch's own
        made: torch.Tensor = cast(Any, self)._conv_forward(
            self.input_quantizer(input), self.weight_quantizer(self.weight), self.bias
        )
        return made


class QuantizedConv1d(_QuantizedConvolution, nn.Conv1d):
    """A convolution along one axis on grids."""


class QuantizedConv2d(_QuantizedConvolution, nn.Conv2d):
    """A convolution along two axes on grids."""


QUANTIZED: dict[type[nn.Module], type[Any]] = {
    nn.Linear: QuantizedLinear,
    Conv1D: QuantizedConv1D,
    nn.Embedding: QuantizedEmbedding,
    nn.Conv1d: QuantizedConv1d,
    nn.Conv2d: QuantizedConv2d,
}
"""What a layer becomes, by exactly its class."""


def put_in(layer: Any, weights: WeightQuantizer, inputs: InputQuantizer | None, *, borrows: bool) -> None:
    """Turn a layer into its quantised form, in place."""
    layer.__class__ = QUANTIZED[type(layer)]
    layer.weight_quantizer = weights
    layer.input_quantizer = nn.Identity() if inputs is None else inputs
    layer.borrows = borrows


def feature_axis(layer: nn.Module) -> int:
    """The axis of features in what a layer reads."""
    return 1 if isinstance(layer, (nn.Conv1d, nn.Conv2d)) else -1


def operands(layer: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What a linear layer multiplies, its input and its weight, each on its grid where it has one: for whoever multiplies them itself."""
    if isinstance(layer, _Quantized):
        return layer.input_quantizer(x), layer.weight_quantizer(layer.weight)
    return x, cast(torch.Tensor, layer.weight)


def quantized_layers(module: nn.Module) -> dict[str, Any]:
    """Quantised layers by path."""
    return {path: part for path, part in module.named_modules() if isinstance(part, _Quantized)}


@contextmanager
def in_float(layer: Any) -> Iterator[None]:
    """A quantised layer as the layer that it was meanwhile; what it shares with others goes on rounding for those."""
    plain = next(kind for kind, quantized in QUANTIZED.items() if type(layer) is quantized)
    quantized, layer.__class__ = type(layer), plain
    try:
        yield
    finally:
        layer.__class__ = quantized


def quantizers(module: nn.Module) -> Iterator[Quantizer]:
    """All quantisers, each once."""
    return (part for part in module.modules() if isinstance(part, Quantizer))
