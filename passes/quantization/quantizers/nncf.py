"""NNCF's quantisers on OpenVINO's representation."""

from __future__ import annotations

import io
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.contracts import Feed
from compressor.deploy.openvino import core, in_thread, save_representation
from passes.quantization.quantizers.layers import by_layer
from passes.quantization.quantizers.weight_layers import require_named

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

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

    def write(self, folder: Path, left_in_float: Collection[str] = (), *, name: str = "model") -> None:
        """Write `model.xml` and `model.bin`, or under another `name`, in int8 but for some layers."""
        names = {name for layer in left_in_float for name in self.nodes[layer]}
        save_representation(put_back(self.int8, self.exact, names) if names else self.int8, folder / f"{name}.xml")

    def ranges(self, feeds: Sequence[Feed]) -> dict[str, NDArray[np.float64]]:
        """By layer the least and greatest value that its products read in float, of each feed: `[feeds, 2]`."""
        import numpy as np

        watched = self.exact.clone()
        products = {op.get_friendly_name(): op for op in watched.get_ordered_ops() if op.get_type_name() == "MatMul"}
        layers = {
            layer: [products[name].input_value(0) for name in names if name in products] for layer, names in self.nodes.items()
        }
        spans = {layer: list[tuple[float, float]]() for layer, values in layers.items() if values}
        watched.add_outputs([value for values in layers.values() for value in values])
        places = {_value(each.get_node().input_value(0)): place for place, each in enumerate(watched.outputs)}
        for found in _answers(watched, feeds):
            for layer in spans:  # several may read one value, which then is one output
                read = [found[places[_value(value)]] for value in layers[layer]]
                spans[layer].append((min(float(each.min()) for each in read), max(float(each.max()) for each in read)))
        return {layer: np.array(each) for layer, each in spans.items()}

    def outputs(self, feeds: Sequence[Feed], *, exact: bool = False) -> NDArray[np.float32]:
        """The first output for each feed of one row, `[feeds, ...]`; of the float graph where it is to be `exact`."""
        import numpy as np

        return np.concatenate([found[0] for found in _answers(self.exact if exact else self.int8, feeds)])


def _value(output: Any) -> tuple[str, int]:
    """What tells an output of an operation from others of its model."""
    return output.get_node().get_name(), output.get_index()


def _answers(model: Any, feeds: Sequence[Feed]) -> Iterator[list[Any]]:
    """All outputs for each feed, in float32 where they are not quantised."""
    compiled = core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    known = {name for port in compiled.inputs for name in port.get_names()}
    request = compiled.create_infer_request()
    for feed in feeds:
        request.infer({name: array for name, array in feed.items() if name in known})
        yield [request.get_output_tensor(place).data.copy() for place in range(len(compiled.outputs))]


def quantize_static(
    path: Path,
    feeds: Sequence[Feed],
    *,
    bits: int = 8,
    exclude: Sequence[str] = (),
    one_of_several: bool = False,
    named: bool = True,
) -> QuantizedIr:
    """Post-training quantisation of weights, embeddings and activations, calibrated on `feeds`.

    Weights of 7 bits keep the sums of neighbouring products within 16 bits on processors without VNNI. Of `one_of_several` graphs that share
    weights these are not smoothed, which goes by activations: each graph would have other ones.

    Raises:
        UnsupportedModel: `exclude` names a layer that is not there, and all are to be there that are `named`.
    """
    import nncf
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, AdvancedSmoothQuantParameters, OverflowFix

    exact = read_model(path)
    names = {name for port in exact.inputs for name in port.get_names()}
    rows = [{name: array for name, array in feed.items() if name in names} for feed in feeds]
    unsmoothed = {"smooth_quant_alphas": AdvancedSmoothQuantParameters(convolution=-1, matmul=-1)} if one_of_several else {}
    fix = OverflowFix.ENABLE if bits == 7 else OverflowFix.DISABLE
    given = {
        "subset_size": len(rows),
        "model_type": nncf.ModelType.TRANSFORMER,
        "ignored_scope": _ignored(exact, exclude, named=named),
        "advanced_parameters": AdvancedQuantizationParameters(overflow_fix=fix, **unsmoothed),
    }
    with redirect_stdout(io.StringIO()):  # bars of its own
        int8 = in_thread(lambda: nncf.quantize(exact, nncf.Dataset(rows), **given))
    quantised = [op.get_friendly_name() for op in int8.get_ordered_ops() if any(map(_is_quantised, _read_by(op)))]
    return QuantizedIr(exact, int8, by_layer(quantised, ()))


def compress_weights(path: Path, out: Path, exclude: Sequence[str] = (), *, named: bool = True) -> None:
    """Weights in int8; activations stay in float.

    Raises:
        UnsupportedModel: `exclude` names a layer that is not there, and all are to be there that are `named`.
    """
    import nncf

    exact, eight = read_model(path), nncf.CompressWeightsMode.INT8_ASYM
    ignored = _ignored(exact, exclude, named=named)
    with redirect_stdout(io.StringIO()):  # bars of its own
        compressed = in_thread(lambda: nncf.compress_weights(exact, mode=eight, ignored_scope=ignored))
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


def _ignored(model: Any, exclude: Sequence[str], *, named: bool) -> Any:
    import nncf

    names = [op.get_friendly_name() for op in model.get_ordered_ops() if op.get_type_name() in WEIGHTED]
    if named:
        require_named(exclude, by_layer(names, ()))
    kept = {name for found in by_layer(names, exclude).values() for name in found}
    left = [name for name in names if name not in kept]
    return nncf.IgnoredScope(names=left) if left else None


def read_model(path: Path) -> Any:
    """OpenVINO's representation in a file, NNCF told to be quiet."""
    found = core().read_model(str(path))
    import nncf

    nncf.set_log_level(logging.ERROR)
    return found
