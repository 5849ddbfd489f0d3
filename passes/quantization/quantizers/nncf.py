"""NNCF's quantisers on OpenVINO's representation."""

from __future__ import annotations

import io
import logging
from collections.abc import Collection, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressor.contracts import Feed
from compressor.deploy.openvino import save_representation
from passes.quantization.quantizers.layers import by_layer
from passes.quantization.quantizers.weight_layers import require_named

FILE = "model.xml"
WEIGHTED = ("MatMul", "Gather", "Convolution", "GroupConvolution", "ConvolutionBackpropData")
"""Operations with weights, as `exclude` finds them."""


@dataclass(frozen=True)
class QuantizedIr:
    """An int8 representation beside the float one it was made from, so that single layers can be put back."""

    exact: Any
    int8: Any
    nodes: Mapping[str, tuple[str, ...]]
    """Names of the quantised nodes by layer, in the graph's order."""

    @property
    def layers(self) -> tuple[str, ...]:
        """Layers by the path of their module."""
        return tuple(self.nodes)

    def write(self, folder: Path, left_in_float: Collection[str] = ()) -> None:
        """Write `model.xml` and `model.bin`, in int8 but for some layers."""
        names = {name for layer in left_in_float for name in self.nodes[layer]}
        save_representation(put_back(self.int8, self.exact, names) if names else self.int8, folder / FILE)


def quantize_static(path: Path, feeds: Sequence[Feed], *, bits: int = 8, exclude: Sequence[str] = ()) -> QuantizedIr:
    """Post-training quantisation of weights, embeddings and activations, calibrated on `feeds`.

    Weights of 7 bits keep the sums of neighbouring products within 16 bits on processors without VNNI.

    Raises:
        UnsupportedModel: `exclude` names a layer that is not there.
    """
    import nncf
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, OverflowFix

    exact = read_model(path)
    names = {name for port in exact.inputs for name in port.get_names()}
    rows = [{name: array for name, array in feed.items() if name in names} for feed in feeds]
    fix = OverflowFix.ENABLE if bits == 7 else OverflowFix.DISABLE
    with redirect_stdout(io.StringIO()):  # bars of its own
        int8 = nncf.quantize(
            exact,
            nncf.Dataset(rows),
            subset_size=len(rows),
            model_type=nncf.ModelType.TRANSFORMER,
            ignored_scope=_ignored(exact, exclude),
            advanced_parameters=AdvancedQuantizationParameters(overflow_fix=fix),
        )
    quantised = [op.get_friendly_name() for op in int8.get_ordered_ops() if any(map(_is_quantised, _read_by(op)))]
    return QuantizedIr(exact, int8, by_layer(quantised, ()))


def compress_weights(path: Path, out: Path, exclude: Sequence[str] = ()) -> None:
    """Weights in int8; activations stay in float.

    Raises:
        UnsupportedModel: `exclude` names a layer that is not there.
    """
    import nncf

    exact, eight = read_model(path), nncf.CompressWeightsMode.INT8_ASYM
    with redirect_stdout(io.StringIO()):  # bars of its own
        compressed = nncf.compress_weights(exact, mode=eight, ignored_scope=_ignored(exact, exclude))
    save_representation(compressed, out)


def put_back(int8: Any, exact: Any, names: Collection[str]) -> Any:
    """A copy of `int8` in which the named products and look-ups read exact values; both graphs call them the same.

    What NNCF's smoothing moved from activations into weights stays there: the exact weights are scaled as it scaled them.
    """
    from openvino import opset13

    originals = {op.get_friendly_name(): op for op in exact.get_ordered_ops()}
    made = int8.clone()
    for op in [op for op in made.get_ordered_ops() if op.get_friendly_name() in names]:
        smoothed = None
        for number, value in enumerate(_read_by(op)):
            kind = value.get_node().get_type_name()
            if kind == "FakeQuantize":
                exact_value = value.get_node().input_value(0)
                smoothed = _smoothing(exact_value) if number == 0 else smoothed
                op.input(number).replace_source_output(exact_value)
            elif _is_quantised(value):
                weight = originals[op.get_friendly_name()].input_value(number).get_node().data
                weight = weight if smoothed is None else weight / _along_inner(smoothed, op)
                op.input(number).replace_source_output(opset13.constant(weight).output(0))
    return made


def _read_by(op: Any) -> list[Any]:
    """What a product or a look-up reads that may be quantised; empty for other operations."""
    count = {"MatMul": 2, "Gather": 1}.get(op.get_type_name(), 0)
    return list(op.input_values()[:count])


def _is_quantised(value: Any) -> bool:
    """Whether it comes from a `FakeQuantize`, or from an int8 constant that is scaled back."""
    node = value.get_node()
    if node.get_type_name() == "Multiply":
        node = node.input_value(0).get_node()
        return bool(node.get_type_name() == "Convert" and node.input_value(0).get_element_type().size == 1)
    return bool(node.get_type_name() == "FakeQuantize")


def _smoothing(value: Any) -> Any:
    """The factors by which NNCF's SmoothQuant scales a tensor, by channel; None where it does not."""
    node = value.get_node()
    if node.get_type_name() == "Multiply" and node.get_friendly_name().endswith("nncf_smooth_quant"):
        return node.input_value(1).get_node().data.reshape(-1)
    return None


def _along_inner(factors: Any, product: Any) -> Any:
    """The factors laid along the weight's axis that is summed over."""
    return factors if product.get_attributes()["transpose_b"] else factors[:, None]


def _ignored(model: Any, exclude: Sequence[str]) -> Any:
    import nncf

    names = [op.get_friendly_name() for op in model.get_ordered_ops() if op.get_type_name() in WEIGHTED]
    require_named(exclude, by_layer(names, ()))
    kept = {name for found in by_layer(names, exclude).values() for name in found}
    left = [name for name in names if name not in kept]
    return nncf.IgnoredScope(names=left) if left else None


def read_model(path: Path) -> Any:
    """OpenVINO's representation in a file, NNCF told to be quiet."""
    from compressor.deploy.telemetry import silence

    silence()
    import nncf
    import openvino

    nncf.set_log_level(logging.ERROR)
    return openvino.Core().read_model(str(path))
