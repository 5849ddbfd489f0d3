"""ONNX Runtime's own quantisers, and the clean-up of the graphs they write."""

from __future__ import annotations

import copy
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
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
    import numpy as np
    import onnx
    from numpy.typing import NDArray

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

    def write(self, folder: Path, left_in_float: Collection[str] = (), *, name: str = "model") -> None:
        """Write `model.onnx`, or under another `name`."""
        from compressor.deploy.onnx import save

        save(self.graph(left_in_float), folder, name)

    def ranges(self, feeds: Sequence[Feed]) -> dict[str, NDArray[np.float64]]:
        """By layer the least and greatest value that its products read in float, of each feed: `[feeds, 2]`."""
        import numpy as np
        import onnx

        weights = {each.name for each in self.exact.graph.initializer}
        read = {
            node.name: [name for name in node.input[:2] if name not in weights]
            for node in self.exact.graph.node
            if node.op_type in OPERATORS
        }
        wanted = {layer: [name for node in names for name in read.get(node, ())] for layer, names in self.nodes.items()}
        watched = onnx.ModelProto()
        watched.CopyFrom(self.exact)
        given = {each.name for each in (*watched.graph.output, *watched.graph.input)}
        names = sorted({name for each in wanted.values() for name in each})
        watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in given)
        found = {name: list[tuple[float, float]]() for name in names}
        for feed, values in zip(feeds, _answers(watched, feeds), strict=True):
            for name in names:
                value = values[name] if name in values else feed[name]
                found[name].append((float(value.min()), float(value.max())))
        spans = {name: np.array(each) for name, each in found.items()}
        return {
            layer: np.stack(
                [np.min([spans[name][:, 0] for name in each], axis=0), np.max([spans[name][:, 1] for name in each], axis=0)],
                axis=1,
            )
            for layer, each in wanted.items()
            if each
        }

    def outputs(self, feeds: Sequence[Feed], *, exact: bool = False) -> NDArray[np.float32]:
        """The first output for each feed of one row, `[feeds, ...]`; of the float graph where it is to be `exact`."""
        import numpy as np

        graph = self.exact if exact else self.graph()
        first = graph.graph.output[0].name
        return np.concatenate([values[first] for values in _answers(graph, feeds)])


def _answers(graph: onnx.ModelProto, feeds: Sequence[Feed]) -> Iterator[Feed]:
    """All outputs for each feed."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    known, names = {each.name for each in session.get_inputs()}, [each.name for each in session.get_outputs()]
    for feed in feeds:
        values = session.run(names, {name: array for name, array in feed.items() if name in known})
        yield dict(zip(names, values, strict=True))


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
    named: bool = True,
) -> QuantizedOnnx:
    """Q/DQ pairs before every matrix product with a constant weight; what it gives stays in float, as does what adds to it.

    ONNX Runtime makes `MatMulIntegerToFloat` of such a product: one rounding less than with int8 results, and faster.
    Weights of 7 bits keep the sums of neighbouring products within 16 bits on processors without VNNI.

    Raises:
        UnsupportedModel: `exclude` names a layer that is not there, and all are to be there that are `named`.
    """
    import onnx
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    exact = onnx.load(path)
    tied = untie(exact)
    if named:
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
    named: bool = True,
) -> QuantizedOnnx:
    """Weights in int8; activations are quantised at run time, with a range of their own for every call.

    `by_row` has rows of activations of one magnitude before they are quantised: none is lost beside a larger one.

    Raises:
        UnsupportedModel: `exclude` names a layer that is not there, and all are to be there that are `named`.
    """
    import onnx
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.onnx_quantizer import ONNXQuantizer
    from onnxruntime.quantization.quant_utils import QuantizationMode

    exact = onnx.load(path)
    tied = untie(exact)
    if named:
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
