"""Forms of a quantised graph that `benchmarks.studies.operators` times beside one another, each a target of its own: a rewrite left out, an
operator of a library used that is not used otherwise, an option set."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, get_args

from compressor.contracts import Artifact, Dialect, Graph, Target, registry
from compressor.contracts.target import Rewrite
from compressor.deploy.openvino import core
from compressor.deploy.patterns import drop_unused

if TYPE_CHECKING:
    import onnx

OnnxRuntime: Any = registry.load("target", "onnxruntime")
OpenVino: Any = registry.load("target", "openvino")
ALL: tuple[Rewrite, ...] = tuple(each for each in get_args(Rewrite) if each != "fused operators")
"""But a runtime's own operators, which every deployed file in ONNX Runtime has: what a fusion of attention gains is no matter of this study."""
DOMAIN = "com.microsoft"


def _but(*done: Rewrite) -> tuple[Rewrite, ...]:
    return tuple(each for each in ALL if each not in done)


class Before(OnnxRuntime):  # type: ignore[misc] # found by its entry point
    """No rewrite."""

    dialect: ClassVar[Dialect] = replace(OnnxRuntime.dialect, leaves=ALL)


class RowsAlone(OnnxRuntime):  # type: ignore[misc] # found by its entry point
    """Unread rows are not computed; nothing else."""

    dialect: ClassVar[Dialect] = replace(OnnxRuntime.dialect, leaves=_but("unread rows"))


class RowsAndKeys(OnnxRuntime):  # type: ignore[misc] # found by its entry point
    """Attention takes keys of padding too."""

    dialect: ClassVar[Dialect] = replace(OnnxRuntime.dialect, leaves=_but("unread rows", "keys of padding"))


class Now(OnnxRuntime):  # type: ignore[misc] # found by its entry point
    """As deployed."""


class NoWindows(OnnxRuntime):  # type: ignore[misc] # found by its entry point
    """Convolutions stay."""

    dialect: ClassVar[Dialect] = replace(OnnxRuntime.dialect, leaves=("windows as products",))


class NoScales(OnnxRuntime):  # type: ignore[misc] # found by its entry point
    """Layer scales stay."""

    dialect: ClassVar[Dialect] = replace(OnnxRuntime.dialect, leaves=("folded scales",))


class NoMasks(OnnxRuntime):  # type: ignore[misc] # found by its entry point
    """Masks that mask nothing stay."""

    dialect: ClassVar[Dialect] = replace(OnnxRuntime.dialect, leaves=("empty masks",))


class NoBiases(OnnxRuntime):  # type: ignore[misc] # found by its entry point
    """Products leave biases to whoever reads them."""

    dialect: ClassVar[Dialect] = replace(OnnxRuntime.dialect, leaves=("joined biases",))


class BeforeInOpenVino(OpenVino):  # type: ignore[misc] # found by its entry point
    """No rewrite."""

    dialect: ClassVar[Dialect] = replace(OpenVino.dialect, leaves=ALL)


class NoWindowsInOpenVino(OpenVino):  # type: ignore[misc] # found by its entry point
    """Convolutions as they are, in int8 too."""

    dialect: ClassVar[Dialect] = replace(OpenVino.dialect, leaves=("windows as products",))


class NowInOpenVino(OpenVino):  # type: ignore[misc] # found by its entry point
    """As deployed."""


# ------------------------------------------------------------------ tried, on top of what is deployed


class Rewritten(OnnxRuntime):  # type: ignore[misc] # found by its entry point
    """What is deployed, with one more rewrite."""

    def build(self, source: Artifact, out: Path, *, graphs: tuple[Graph, ...] = (Graph(),), **_: object) -> None:
        """Build, and rewrite the file."""
        import onnx

        super().build(source, out, graphs=graphs)
        graph = onnx.load(out / self.file)
        self.rewrite(graph)
        onnx.save(graph, out / self.file)

    @staticmethod
    @abstractmethod
    def rewrite(graph: onnx.ModelProto) -> None:
        """In place."""


class SkipNorms(Rewritten):
    """A residual sum and the norm behind it as one `SkipLayerNormalization`."""

    @staticmethod
    def rewrite(graph: onnx.ModelProto) -> None:
        """Of sums of two tensors that one norm reads."""
        made = {node.output[0]: node for node in graph.graph.node}
        for node in graph.graph.node:
            summed = made.get(node.input[0]) if node.op_type == "LayerNormalization" else None
            if summed is None or summed.op_type not in ("Add", "Sum") or len(summed.input) != 2:
                continue
            epsilon = next(each.f for each in node.attribute if each.name == "epsilon")
            rewire(node, "SkipLayerNormalization", [*summed.input, *node.input[1:]], {"epsilon": epsilon})
        drop_unused(graph)


class FastGelu(Rewritten):
    """GELU by tanh, `FastGelu`: other numbers."""

    @staticmethod
    def rewrite(graph: onnx.ModelProto) -> None:
        """Of every GELU that has taken no bias."""
        for node in graph.graph.node:
            if node.op_type == "Gelu":
                rewire(node, "FastGelu", list(node.input), {})


class OneProduct(Rewritten):
    """Queries, keys and values by one product, split behind it."""

    @staticmethod
    def rewrite(graph: onnx.ModelProto) -> None:
        """Of products that read the same tensor and give to one attention."""
        made = {node.output[0]: node for node in graph.graph.node}
        nodes = list[Any]()
        for node in graph.graph.node:
            if node.op_type == "MultiHeadAttention":
                for name, group in by_input([made[each] for each in node.input[:3]]).items():
                    nodes += joined(graph, f"{node.name}_{name}", group) if len(group) > 1 else []
            nodes.append(node)
        apart = {name for node in nodes if node.op_type == "Split" for name in node.output}
        kept = [node for node in nodes if node.op_type == "Split" or not apart.intersection(node.output)]
        del graph.graph.node[:]
        graph.graph.node.extend(kept)
        drop_unused(graph)


class QuantisedAttention(Rewritten):
    """Attention with its products as one `QAttention`, where queries, keys and values read the same."""

    @staticmethod
    def rewrite(graph: onnx.ModelProto) -> None:
        """Of attention that takes keys of padding."""
        made = {node.output[0]: node for node in graph.graph.node}
        for node in [each for each in graph.graph.node if each.op_type == "MultiHeadAttention"]:
            products = [made[each] for each in node.input[:3]]
            if len(by_input(products)) != 1 or len(node.input) < 5:
                continue
            weights, scales, zeros, biases = (constant(graph, f"{node.name}_{at}", products, at) for at in (1, 3, 5, 6))
            first = products[0].input
            inputs = [first[0], weights, biases, first[2], scales, node.input[4], first[4], zeros]
            heads = next(each.i for each in node.attribute if each.name == "num_heads")
            rewire(node, "QAttention", inputs, {"num_heads": heads})
        drop_unused(graph)


class BlocksOfTables(Rewritten):
    """Rows of embeddings looked up and scaled back by one `GatherBlockQuantized`."""

    @staticmethod
    def rewrite(graph: onnx.ModelProto) -> None:
        """Of tables of bytes with a scale for each row."""
        import numpy as np
        from onnx import numpy_helper

        held = {each.name: each for each in graph.graph.initializer}
        made = {node.output[0]: node for node in graph.graph.node}
        for node in [each for each in graph.graph.node if each.op_type == "Mul" and each.name.endswith("_scaled")]:
            scales, cast = made[node.input[1]], made[node.input[0]]
            rows = made[cast.input[0]]
            table = numpy_helper.to_array(held[rows.input[0]]).astype(np.int16) + 128
            blocks = -(-table.shape[1] // 128)
            scale = np.repeat(numpy_helper.to_array(held[scales.input[0]]), blocks, axis=1)
            names = [f"{node.name}_{what}" for what in ("table", "scales", "zeros")]
            for name, values in zip(names, (table.astype(np.uint8), scale, np.full_like(scale, 128, np.uint8)), strict=True):
                graph.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
            inputs = [names[0], rows.input[1], names[1], names[2]]
            rewire(node, "GatherBlockQuantized", inputs, {"bits": 8, "block_size": 128, "gather_axis": 0, "quantize_axis": 1})
        drop_unused(graph)


class OptimizerOfTransformers(Rewritten):
    """What `onnxruntime.transformers.optimizer` makes of the deployed graph."""

    @staticmethod
    def rewrite(graph: onnx.ModelProto) -> None:
        """By its fusions for BERT."""
        from onnxruntime.transformers.fusion_options import FusionOptions
        from onnxruntime.transformers.onnx_model_bert import BertOnnxModel

        model = BertOnnxModel(graph)
        model.optimize(FusionOptions("bert"))


class OpenVinoWith(OpenVino):  # type: ignore[misc] # found by its entry point
    """What is deployed, compiled with further options."""

    options: ClassVar[Mapping[str, Any]] = {}

    def _compiled(self, built: Path, graph: Graph, *, watched: bool = False) -> Any:
        options: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1", "INFERENCE_NUM_THREADS": self.threads, "ENABLE_CPU_PINNING": False,
            "INFERENCE_PRECISION_HINT": "f32", **({"PERF_COUNT": True} if watched else {}), **self.options,
        }  # fmt: skip
        return core().compile_model(self._read(built, graph), "CPU", options)


class Bf16(OpenVinoWith):
    """What is not int8 in bf16."""

    options: ClassVar[Mapping[str, Any]] = {"INFERENCE_PRECISION_HINT": "bf16"}


class Pinned(OpenVinoWith):
    """Threads kept to processors."""

    options: ClassVar[Mapping[str, Any]] = {"ENABLE_CPU_PINNING": True}


class ForThroughput(OpenVinoWith):
    """The hint for throughput, one stream."""

    options: ClassVar[Mapping[str, Any]] = {"PERFORMANCE_HINT": "THROUGHPUT"}


class Fixed(Rewritten):
    """Batch and length fixed in the graph."""

    sizes: ClassVar[tuple[int, ...]] = (1, 128)

    @classmethod
    def rewrite(cls, graph: onnx.ModelProto) -> None:
        """Of all inputs; sizes between follow from them when the graph is loaded."""
        for each in graph.graph.input:
            for axis, size in zip(each.type.tensor_type.shape.dim, cls.sizes, strict=False):
                axis.dim_value = size
        del graph.graph.value_info[:]


class FixedInOpenVino(OpenVino):  # type: ignore[misc] # found by its entry point
    """`sizes: {batch: 1, length: 128}`."""

    sizes: dict[str, int] = {"batch": 1, "length": 128}  # noqa: RUF012 - a parameter


class FixedSound(Fixed):
    """Batch and length fixed in the graph."""

    sizes: ClassVar[tuple[int, ...]] = (1, 80, 100)


class FixedSoundInOpenVino(OpenVino):  # type: ignore[misc] # found by its entry point
    """`sizes: {batch: 1, frames: 100}`."""

    sizes: dict[str, int] = {"batch": 1, "frames": 100}  # noqa: RUF012 - a parameter


class FixedPicture(Fixed):
    """The batch fixed in the graph."""

    sizes: ClassVar[tuple[int, ...]] = (1, 3, 112, 112)


class FixedPictureInOpenVino(OpenVino):  # type: ignore[misc] # found by its entry point
    """`sizes: {batch: 1}`."""

    sizes: dict[str, int] = {"batch": 1}  # noqa: RUF012 - a parameter


TRIED: tuple[type[Target], ...] = (
    SkipNorms, FastGelu, OneProduct, QuantisedAttention, BlocksOfTables, OptimizerOfTransformers, Bf16, Pinned, ForThroughput,
)  # fmt: skip
"""On a text model."""
ELSEWHERE: tuple[type[Target], ...] = (NoWindowsInOpenVino,)
"""On other models."""
FIXED: tuple[type[Target], ...] = (Fixed, FixedInOpenVino, FixedSound, FixedSoundInOpenVino, FixedPicture, FixedPictureInOpenVino)


# ------------------------------------------------------------------ rewiring


def rewire(node: onnx.NodeProto, kind: str, inputs: Sequence[str], settings: Mapping[str, Any]) -> None:
    """Make another operator of a node, of ONNX Runtime's own."""
    from onnx import helper

    node.op_type, node.domain = kind, DOMAIN
    del node.input[:], node.attribute[:]
    node.input.extend(inputs)
    node.attribute.extend(helper.make_attribute(name, value) for name, value in settings.items())


def by_input(products: Sequence[onnx.NodeProto]) -> dict[str, list[onnx.NodeProto]]:
    """Products of integers by the tensor that they read."""
    found: dict[str, list[Any]] = {}
    for each in products:
        found.setdefault(each.input[0], []).append(each)
    return found


def constant(graph: onnx.ModelProto, name: str, products: Sequence[onnx.NodeProto], at: int) -> str:
    """A constant of all products side by side, by the place of the input."""
    import numpy as np
    from onnx import numpy_helper

    held = {each.name: each for each in graph.graph.initializer}
    parts = [
        numpy_helper.to_array(held[each.input[at]]) if len(each.input) > at else np.zeros(held[each.input[1]].dims[1], np.float32)
        for each in products
    ]
    values = np.concatenate(parts, axis=-1)
    graph.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
    return name


def joined(graph: onnx.ModelProto, name: str, products: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """One product for several, and the split that gives what each gave."""
    import numpy as np
    from onnx import helper, numpy_helper

    weights, scales, zeros, biases = (constant(graph, f"{name}_{at}", products, at) for at in (1, 3, 5, 6))
    held = {each.name: each for each in graph.graph.initializer}
    sizes = numpy_helper.from_array(np.array([held[each.input[1]].dims[1] for each in products], np.int64), f"{name}_sizes")
    graph.graph.initializer.append(sizes)
    first = products[0].input
    product = helper.make_node(
        "MatMulIntegerToFloat",
        [first[0], weights, first[2], scales, first[4], zeros, biases],
        [f"{name}_all"],
        name=f"{name}_all",
        domain=DOMAIN,
    )
    gives = [each.output[0] for each in products]
    return [product, helper.make_node("Split", [f"{name}_all", sizes.name], gives, name=f"{name}_split", axis=2)]
