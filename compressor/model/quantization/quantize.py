"""The edit that has layers compute with weights and inputs on grids."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from compressor.contracts import Edit
from compressor.errors import UnsupportedModel
from compressor.model.quantization.grids import InputGrid, WeightGrid

if TYPE_CHECKING:
    import torch
    from torch import nn

    from compressor.model.quantization.layers import InputQuantizer, WeightQuantizer

Alike = Annotated[tuple[str, ...], Field(min_length=1)]


class Quantize(Edit):
    """Simulate layers as quantised: their weights stay in float and are learned on, and every use rounds them to their grid.

    Layers that read one tensor share what rounds it. A head that is tied to a table shares the table's grid.
    """

    kind: ClassVar[str] = "quantize"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {
            "layers": (("bert.encoder.layer.0.intermediate.dense",), ("bert.encoder.layer.0.output.dense",)),
            "weights": {"bits": 8},
            "inputs": {"bits": 8},
        },
        {
            "layers": (("bert.encoder.layer.1.intermediate.dense",),),
            "weights": {"bits": 2, "granularity": "group", "group": 16, "steps": "learned"},
            "inputs": {"bits": 8, "ranges": "dynamic", "block": 16},
        },
    )

    layers: Annotated[tuple[Alike, ...], Field(min_length=1)]
    """Paths of linear layers, convolutions or tables; those that read one tensor stand together."""
    weights: WeightGrid
    inputs: InputGrid | None = None
    """None leaves activations in float."""

    def apply(self, module: nn.Module) -> None:
        from compressor.model.quantization.layers import InputQuantizer, feature_axis, put_in, quantized_layers

        found = {path: _layer(module, path) for alike in self.layers for path in alike}
        if len(found) < sum(map(len, self.layers)):
            raise UnsupportedModel("a layer is named twice by one edit")
        if self.inputs is not None and (tables := [path for path, layer in found.items() if hasattr(layer, "num_embeddings")]):
            raise UnsupportedModel(f"'{tables[0]}' is a table, which reads no activations: leave inputs out")
        rows = self.inputs is not None and self.inputs.ranges == "dynamic"
        if rows and (convs := [path for path, layer in found.items() if hasattr(layer, "kernel_size")]):
            raise UnsupportedModel(
                f"'{convs[0]}' is a convolution, which reads no rows that could have a step each: static ranges"
            )
        made = {id(each.weight): each.weight_quantizer for each in quantized_layers(module).values()}
        for alike in self.layers:
            device = found[alike[0]].weight.device
            inputs: InputQuantizer | None = None
            if self.inputs is not None:
                inputs = InputQuantizer(self.inputs, device, readers=len(alike), axis=feature_axis(found[alike[0]]))
            for path in alike:
                layer = found[path]
                borrows = id(layer.weight) in made
                quantizer = made.setdefault(id(layer.weight), self._weights(layer))
                put_in(layer, quantizer, inputs, borrows=borrows)

    def _weights(self, layer: Any) -> WeightQuantizer:
        from compressor.model.quantization.layers import WeightQuantizer

        return WeightQuantizer(self.weights, layer.weight, turned=hasattr(layer, "nf"))

    def describe(self) -> str:
        count = sum(map(len, self.layers))
        inputs = self.inputs.told() if self.inputs else "activations float"
        return f"{count} layer{'s' if count > 1 else ''}: {self.weights.told()}; {inputs}"


def _layer(module: nn.Module, path: str) -> Any:
    """The layer at a path.

    Raises:
        UnsupportedModel: it is not there, or of a class that has no quantised form.
    """
    from compressor.model.quantization.layers import QUANTIZED

    try:
        layer: torch.nn.Module = module.get_submodule(path)
    except AttributeError:
        raise UnsupportedModel(f"there is no layer '{path}' to quantise") from None
    if type(layer) not in QUANTIZED:
        done = "is quantised already" if type(layer) in QUANTIZED.values() else f"is {type(layer).__name__}"
        raise UnsupportedModel(
            f"'{path}' {done}: linear layers, convolutions along one or two axes, and tables can be quantised, once"
        )
    return layer
