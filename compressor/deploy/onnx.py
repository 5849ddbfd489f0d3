"""The formats below torch and how a model gets down to each from the one above."""

from __future__ import annotations

import ast
import gc
import hashlib
import json
import logging
import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from compressor.contracts import Artifact, Dialect, Feed, Format, Graph, Task
from compressor.contracts.graph import GRAPHS
from compressor.contracts.target import Rewrite
from compressor.deploy.quantized import written
from compressor.deploy.scales import drop_empty_masks, fold_scales
from compressor.deploy.traced import Traced
from compressor.deploy.unread import skip_unread_rows
from compressor.deploy.windows import windows_as_products

if TYPE_CHECKING:
    import onnx
    import torch
    from torch.onnx import ONNXProgram

TRACED_BATCH, TRACED_LENGTH = 2, 16
MOST_BYTES_IN_ONE_FILE = 1_800_000_000
SHARED = "weights.onnx.data"
"""Holds the weights of several graphs."""
LEAST_SHARED, ALIGNED = 1024, 64
"""Bytes of a weight that is worth it, and a multiple of which each begins at."""
TRACED = Traced()
REWRITES: Mapping[Rewrite, Callable[[onnx.ModelProto], None]] = {
    "unread rows": skip_unread_rows,
    "empty masks": drop_empty_masks,
    "folded scales": fold_scales,
    "windows as products": windows_as_products,
}
"""In the order they are done, on graphs of all targets."""


class Onnx(Format):
    """An ONNX graph of standard operators, exported by `torch.onnx.export` with dynamic axes."""

    name: ClassVar[str] = "onnx"
    above: ClassVar[str] = "torch"
    version: ClassVar[int] = 9
    requires: ClassVar[tuple[str, ...]] = ("torch", "onnx", "onnxscript", "onnx-ir")
    reads: ClassVar[tuple[str, ...]] = ("opset", "activations", "symmetric_activations", "leaves")
    writes_quantizers: ClassVar[bool] = True

    def lower(self, artifact: Artifact, out: Path, *, task: Task, dialect: Dialect) -> None:
        """Export the task's graphs, each into a file of its name; equal models give equal bytes. Simulated quantisers are written out."""
        from compressor.model.model import Model

        model = Model.load(artifact.path)
        graphs = task.graphs(artifact.path)
        if any(graph.state for graph in graphs):
            (out / GRAPHS).write_text(json.dumps([asdict(graph) for graph in graphs], indent=1) + "\n", encoding="utf-8")
        for graph in graphs:
            module: Any = model.component(graph.component).module.train(False)
            _as_plain_graph(module)
            feed = task.example(artifact.path, graph, batch=TRACED_BATCH, length=TRACED_LENGTH)
            made = written(self._exported(module, task, graph, feed, dialect.opset), dialect)
            for name, rewrite in REWRITES.items():
                if name not in dialect.leaves:
                    rewrite(made)
            save(made, out, graph.name)

    @staticmethod
    def _exported(module: Any, task: Task, graph: Graph, feed: Feed, opset: int) -> onnx.ModelProto:
        import torch

        ports = [port for port in graph.inputs if port.name in feed]
        inputs = tuple(torch.as_tensor(feed[port.name]) for port in ports)
        shapes = tuple({i: axis for i, axis in enumerate(port.axes) if isinstance(axis, str)} for port in ports)
        names = tuple(port.name for port in ports)
        # it warns at every export of torchvision operators, which nothing here has
        logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
        logging.getLogger("onnxscript.optimizer").setLevel(logging.ERROR)  # it tells what it leaves alone
        wired = _Wired(module, names, task, graph)
        trace = partial(_traced, wired, inputs, shapes, names, graph, opset)
        with warnings.catch_warnings(), torch.no_grad(), _cheaply():
            warnings.simplefilter("ignore")  # the exporter warns of itself
            made = TRACED.graph(wired, module, _how(task, graph, feed, opset), trace)
        name_by_scope(made)
        strip(made)
        return made


def _traced(
    wired: torch.nn.Module,
    inputs: tuple[torch.Tensor, ...],
    shapes: tuple[dict[int, str], ...],
    names: tuple[str, ...],
    graph: Graph,
    opset: int,
) -> ONNXProgram:
    import torch

    program = torch.onnx.export(
        wired,
        inputs,
        input_names=list(names),
        output_names=[port.name for port in graph.outputs],
        dynamic_shapes=(shapes,),
        dynamo=True,
        opset_version=opset,
        optimize=False,
        verbose=False,
    )
    assert program is not None
    return program


def _how(task: Task, graph: Graph, feed: Feed, opset: int) -> Hashable:
    """What a graph depends on beside its module."""
    example = hashlib.sha256()
    for name, array in feed.items():
        example.update(f"{name} {array.dtype} {array.shape} ".encode() + array.tobytes())
    return (type(task), type(task).answer, task.model_dump_json(), repr(graph), example.hexdigest(), opset)


class OnnxRuntimeGraph(Format):
    """An ONNX graph with ONNX Runtime's own operators for transformers."""

    name: ClassVar[str] = "onnxruntime"
    version: ClassVar[int] = 4
    above: ClassVar[str] = "onnx"
    requires: ClassVar[tuple[str, ...]] = ("onnx", "onnxscript", "onnx-ir")
    reads: ClassVar[tuple[str, ...]] = ("opset", "leaves")

    def lower(self, artifact: Artifact, out: Path, *, task: Task, dialect: Dialect) -> None:
        """Fuse whatever matches, and join products that read the same; nothing for a dialect that leaves it."""
        import onnx

        from compressor.deploy.fusion import fuse
        from compressor.deploy.joined_products import join_products

        wires = {graph.name: graph for graph in task.graphs(artifact.path)}
        for path in sorted(artifact.path.glob("*.onnx")):
            graph = onnx.load(path)
            if "fused operators" not in dialect.leaves:
                graph = fuse(graph, wires.get(path.stem, Graph()), leaves=dialect.leaves)
                join_products(graph)
            strip(graph)
            save(graph, out, path.stem)


@contextmanager
def _cheaply() -> Iterator[None]:
    """Spare the exporter what takes up to a third of its time and changes no byte of a graph.

    It makes a million small objects, and each search for cycles among them walks over those that stay. It parses the source of
    500 operators for every graph.
    """
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    collects, kept = gc.isenabled(), vars(ONNXRegistry)["from_torchlib"]
    gc.disable()
    ONNXRegistry.from_torchlib = staticmethod(partial(_operators, ONNXRegistry.from_torchlib))  # type: ignore[method-assign]
    try:
        yield
    finally:
        ONNXRegistry.from_torchlib = kept  # type: ignore[method-assign]
        if collects:
            gc.enable()


@cache
def _operators(parse: Callable[..., Any], opset_version: int) -> Any:
    return parse(opset_version=opset_version)


def _as_plain_graph(module: Any) -> None:
    """Have a module compute by operators that all runtimes know and that rewrites of the graph expect."""
    from transformers.pytorch_utils import Conv1D

    from compressor.model.pretrained import quiet
    from compressor.model.quantization.layers import quantizers

    if hasattr(module, "set_attn_implementation"):
        with quiet():  # it warns of towers that a model has left out
            module.set_attn_implementation("eager")  # the plainest graph, and its masks are finite
    for quantizer in quantizers(module):
        quantizer.exported = True
    for layer in (part for part in module.modules() if type(part) is Conv1D):
        # GPT-2 flattens rows and tokens for it, and the rewrites of attention then give a wrong shape
        vars(layer)["forward"] = partial(_product, layer)


def _product(layer: Any, states: torch.Tensor) -> torch.Tensor:
    product: torch.Tensor = states @ layer.weight + layer.bias
    return product


def save(graph: onnx.ModelProto, folder: Path, name: str = "model", *, beside: bool = False) -> None:
    """Write `NAME.onnx`, with weights in `NAME.onnx.data` beside it, or where one file would be too large for the format."""
    import onnx

    path = folder / f"{name}.onnx"
    if not beside and graph.ByteSize() < MOST_BYTES_IN_ONE_FILE:
        onnx.save(graph, path)
    else:
        onnx.save(graph, path, save_as_external_data=True, location=f"{path.name}.data")


def save_together(graphs: Mapping[str, onnx.ModelProto], folder: Path) -> None:
    """Write `NAME.onnx` of each, with weights in one file beside them: those of equal bytes once, whatever graphs they are of."""
    from onnx.external_data_helper import set_external_data

    places: dict[bytes, int] = {}
    with (folder / SHARED).open("wb") as kept:
        for name, graph in graphs.items():
            for weight in graph.graph.initializer:
                content = weight.raw_data
                if len(content) < LEAST_SHARED:
                    continue
                key = hashlib.sha256(content).digest()
                if key not in places:
                    places[key] = kept.tell()
                    kept.write(content + bytes(-len(content) % ALIGNED))
                set_external_data(weight, SHARED, places[key], len(content))
                weight.ClearField("raw_data")
            (folder / f"{name}.onnx").write_bytes(graph.SerializeToString(deterministic=True))


def name_by_scope(graph: onnx.ModelProto) -> None:
    """Name nodes by the path of the module they were traced from."""
    for number, node in enumerate(graph.graph.node):
        node.name = f"{_scope(node) or node.name.rpartition('/')[0] or 'graph'}/{node.op_type}_{number}"


def strip(graph: onnx.ModelProto) -> None:
    """Remove what varies by place and time : metadata with paths, and doc strings."""
    graph.doc_string = ""
    del graph.metadata_props[:]
    for part in (graph.graph, *graph.functions):
        del part.metadata_props[:]
        part.doc_string = ""
        for each in (*part.node, *part.value_info, *(getattr(part, "initializer", ()))):
            del each.metadata_props[:]
            each.doc_string = ""


def _scope(node: onnx.NodeProto) -> str:
    """Path of the torch module that a node was traced from, as the exporter notes it."""
    noted = next((each.value for each in node.metadata_props if each.key == "pkg.torch.onnx.name_scopes"), "[]")
    try:
        scopes = [scope for scope in ast.literal_eval(noted) if scope]
    except (SyntaxError, ValueError):
        return ""
    modules = [scope for scope in scopes[:-1] if scope.startswith("module")]
    return modules[-1].removeprefix("module").strip(".") if modules else ""


def _Wired(module: Any, names: tuple[str, ...], task: Task, graph: Graph) -> Any:  # noqa: N802 - makes a module class, which needs torch
    """The module with its inputs in a fixed order and the task's answer, in the order of the graph's outputs."""
    import torch

    from compressor.deploy.session import named

    class Wired(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
            found = named(task.answer(self.module, graph, dict(zip(names, inputs, strict=True))), graph)
            return tuple(found[port.name] for port in graph.outputs)

    return Wired()
