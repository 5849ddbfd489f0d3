"""ONNX Runtime's own quantisers, and the clean-up of the graphs they write."""

from __future__ import annotations

import copy
import shutil
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.contracts import Feed
from compressor.deploy.patterns import drop_unused
from passes.quantization.quantizers.layers import by_layer
from passes.quantization.quantizers.onnx_graph import exact_inputs_elsewhere, fold_gemms, keep_shapes, put_back
from passes.quantization.quantizers.onnx_rows import even_rows
from passes.quantization.quantizers.onnx_tables import embedding_layers, quantize_embeddings
from passes.quantization.quantizers.onnx_tied import tie, untie
from passes.quantization.quantizers.weight_layers import require_named

if TYPE_CHECKING:
    import onnx

OPERATORS = ("MatMul", "Gemm")
_FLOAT = 1
_OPTIONS = {"DefaultTensorType": _FLOAT}


@dataclass(frozen=True)
class QuantizedOnnx:
    """An int8 graph beside the float graph it was made from, so that single layers can be put back."""

    exact: onnx.ModelProto
    int8: onnx.ModelProto
    nodes: Mapping[str, tuple[str, ...]]
    """Names of the quantised nodes by layer, in the graph's order."""

    @property
    def layers(self) -> tuple[str, ...]:
        """Layers by the path of their module."""
        return tuple(self.nodes)

    def graph(self, left_in_float: Collection[str] = ()) -> onnx.ModelProto:
        """The graph in int8 but for some layers."""
        names = {name for layer in left_in_float for name in self.nodes[layer]}
        return put_back(self.int8, self.exact, names) if names else self.int8

    def write(self, folder: Path, left_in_float: Collection[str] = ()) -> None:
        """Write `model.onnx`."""
        from compressor.deploy.onnx import save

        save(self.graph(left_in_float), folder)


def quantize_static(
    path: Path,
    feeds: Sequence[Feed],
    *,
    bits: int = 8,
    per_channel: bool = True,
    embeddings: bool = True,
    exclude: Sequence[str] = (),
    signed: bool = False,
    symmetric: bool = False,
) -> QuantizedOnnx:
    """Q/DQ pairs before every matrix product with a constant weight; what it gives stays in float, as does what adds to it.

    ONNX Runtime makes `MatMulIntegerToFloat` of such a product: one rounding less than with int8 results, and faster.
    Weights of 7 bits keep the sums of neighbouring products within 16 bits on processors without VNNI.

    Raises:
        UnsupportedModel: `exclude` names a layer that is not there.
    """
    import onnx
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    exact = onnx.load(path)
    tied = untie(exact)
    _require_layers(exact, exclude)
    layers = weighted_layers(exact, exclude)
    names = [name for each in layers.values() for name in each]
    int8 = copy.deepcopy(exact)
    if names:
        options = {
            **_OPTIONS,
            "ActivationSymmetric": symmetric,
            "QuantizeBias": False,
            "OpTypesToExcludeOutputQuantization": list(OPERATORS),
        }
        activations = QuantType.QInt8 if signed else QuantType.QUInt8
        ranges = calibrate(path, feeds)
        quantizer = QDQQuantizer(
            int8, per_channel, bits == 7, QuantType.QInt8, activations, ranges, names, [], list(OPERATORS), options
        )
        int8 = _run(quantizer)
        exact_inputs_elsewhere(int8, set(names))
    return _finished(exact, int8, layers, tied, embeddings, exclude)


def quantize_dynamic(
    path: Path,
    *,
    bits: int = 8,
    per_channel: bool = True,
    embeddings: bool = True,
    exclude: Sequence[str] = (),
    by_row: bool = False,
) -> QuantizedOnnx:
    """Weights in int8; activations are quantised at run time, with a range of their own for every call.

    `by_row` has rows of activations of one magnitude before they are quantised: none is lost beside a larger one.

    Raises:
        UnsupportedModel: `exclude` names a layer that is not there.
    """
    import onnx
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.onnx_quantizer import ONNXQuantizer
    from onnxruntime.quantization.quant_utils import QuantizationMode

    exact = onnx.load(path)
    tied = untie(exact)
    _require_layers(exact, exclude)
    if by_row:
        fold_gemms(exact)
        even_rows(exact, {name for each in weighted_layers(exact, exclude).values() for name in each})
    int8 = copy.deepcopy(exact)
    fold_gemms(int8)
    layers = weighted_layers(int8, exclude)
    names = [name for each in layers.values() for name in each]
    if names:
        mode, kinds = QuantizationMode.IntegerOps, (QuantType.QInt8, QuantType.QUInt8)
        quantizer = ONNXQuantizer(int8, per_channel, bits == 7, mode, False, *kinds, None, names, [], list(OPERATORS), _OPTIONS)
        int8 = _run(quantizer)
    return _finished(exact, int8, layers, tied, embeddings, exclude)


def calibrate(path: Path, feeds: Sequence[Feed]) -> Any:
    """Smallest and greatest value of each tensor around a matrix product, over all rows of `feeds`."""
    from onnxruntime.quantization.calibrate import CalibrationMethod, create_calibrator

    with tempfile.TemporaryDirectory(prefix="compressor-calibrate-") as folder:
        for file in path.parent.glob(f"{path.name}*"):  # the calibrator writes beside the graph that it reads
            shutil.copyfile(file, Path(folder) / file.name)
        calibrator = create_calibrator(
            Path(folder) / path.name,
            list(OPERATORS),
            augmented_model_path=str(Path(folder) / "augmented.onnx"),
            calibrate_method=CalibrationMethod.MinMax,
        )
        known = {each.name for each in calibrator.model.graph.input}
        calibrator.collect_data(_reader([{name: array for name, array in feed.items() if name in known} for feed in feeds]))
        return calibrator.compute_data()


def weighted_layers(graph: onnx.ModelProto, exclude: Sequence[str] = ()) -> dict[str, tuple[str, ...]]:
    """Matrix products with a constant weight, by the module they belong to."""
    weights = {each.name for each in graph.graph.initializer}
    found = [node for node in graph.graph.node if node.op_type in OPERATORS and set(node.input[:2]) & weights]
    return by_layer((node.name for node in found), exclude)


def _require_layers(graph: onnx.ModelProto, exclude: Sequence[str]) -> None:
    """What is to stay in float is there: as a product or as a table, whether or not tables are quantised."""
    require_named(exclude, (*weighted_layers(graph), *by_layer(embedding_layers(graph), ())))


def _run(quantizer: Any) -> onnx.ModelProto:
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    graph: onnx.ModelProto = quantizer.model.model
    return graph


def _finished(
    exact: onnx.ModelProto,
    int8: onnx.ModelProto,
    layers: dict[str, tuple[str, ...]],
    tied: Mapping[str, str],
    embeddings: bool,
    exclude: Sequence[str],
) -> QuantizedOnnx:
    tables = by_layer(embedding_layers(exact), exclude) if embeddings else {}
    quantize_embeddings(int8, {name for names in tables.values() for name in names})
    tie(int8, tied)
    keep_shapes(int8, exact)
    drop_unused(int8)
    return QuantizedOnnx(exact, int8, {**tables, **layers})


def _reader(feeds: Sequence[Feed]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Rows(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter(feeds)

        def get_next(self) -> Feed | None:
            return next(self._left, None)

    return Rows()
