"""The rungs below torch and how a model gets down to each from the one above."""

from __future__ import annotations

import ast
import logging
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from compressor.contracts import Artifact, Dialect, Rung, Task

if TYPE_CHECKING:
    import onnx
    import torch

TRACED_BATCH, TRACED_LENGTH = 2, 16
MOST_BYTES_IN_ONE_FILE = 1_800_000_000


class Onnx(Rung):
    """An ONNX graph of standard operators, exported by `torch.onnx.export` with dynamic axes."""

    name: ClassVar[str] = "onnx"
    above: ClassVar[str] = "torch"
    version: ClassVar[int] = 2
    requires: ClassVar[tuple[str, ...]] = ("torch", "onnx", "onnxscript")

    def lower(self, artifact: Artifact, out: Path, *, task: Task, dialect: Dialect) -> None:
        """Export the task's inputs and outputs; equal models give equal bytes."""
        import torch

        from compressor.model.model import Model

        module: Any = Model.load(artifact.path).module.train(False)
        _as_plain_graph(module)
        feed = task.example(artifact.path, batch=TRACED_BATCH, length=TRACED_LENGTH)
        inputs = {name: torch.as_tensor(array) for name, array in feed.items()}
        ports = {port.name: port for port in task.inputs(artifact.path)}
        outputs = [port.name for port in task.outputs()]
        shapes = {name: {i: axis for i, axis in enumerate(ports[name].axes) if isinstance(axis, str)} for name in inputs}
        # it warns at every export of torchvision operators, which nothing here has
        logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
        logging.getLogger("onnxscript.optimizer").setLevel(logging.ERROR)  # it tells what it leaves alone
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # the exporter warns of itself
            program = torch.onnx.export(
                _Named(module, tuple(inputs), task),
                tuple(inputs.values()),
                input_names=list(inputs),
                output_names=outputs,
                dynamic_shapes=(tuple(shapes.values()),),
                dynamo=True,
                opset_version=dialect.opset,
                optimize=True,
                verbose=False,
            )
        assert program is not None
        graph = program.model_proto
        name_by_scope(graph)
        strip(graph)
        save(graph, out)


class OnnxRuntimeGraph(Rung):
    """An ONNX graph with ONNX Runtime's own operators for transformers."""

    name: ClassVar[str] = "onnxruntime"
    above: ClassVar[str] = "onnx"
    requires: ClassVar[tuple[str, ...]] = ("onnx", "onnxscript", "onnx-ir")

    def lower(self, artifact: Artifact, out: Path, *, task: Task, dialect: Dialect) -> None:  # noqa: ARG002 - one form for all rungs
        """Fuse whatever matches."""
        import onnx

        from compressor.deploy.fusion import fuse

        graph = fuse(onnx.load(artifact.path / "model.onnx"))
        strip(graph)
        save(graph, out)


def _as_plain_graph(module: Any) -> None:
    """Have a module compute by operators that all runtimes know and that rewrites of the graph expect."""
    from transformers.pytorch_utils import Conv1D

    from compressor.model.pretrained import quiet

    if hasattr(module, "set_attn_implementation"):
        with quiet():  # it warns of towers that a model has left out
            module.set_attn_implementation("eager")  # the plainest graph, and its masks are finite
    for layer in (part for part in module.modules() if isinstance(part, Conv1D)):
        # GPT-2 flattens rows and tokens for it, and the rewrites of attention then give a wrong shape
        vars(layer)["forward"] = partial(_product, layer)


def _product(layer: Any, states: torch.Tensor) -> torch.Tensor:
    product: torch.Tensor = states @ layer.weight + layer.bias
    return product


def save(graph: onnx.ModelProto, folder: Path) -> None:
    """Write `model.onnx`, with `model.onnx.data` beside it where one file would be too large for the format."""
    import onnx

    if graph.ByteSize() < MOST_BYTES_IN_ONE_FILE:
        onnx.save(graph, folder / "model.onnx")
    else:
        onnx.save(graph, folder / "model.onnx", save_as_external_data=True, location="model.onnx.data")


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


def _Named(module: Any, names: tuple[str, ...], task: Task) -> Any:  # noqa: N802 - makes a module class, which needs torch
    """The module with its inputs in a fixed order and the task's answer as the only output."""
    import torch

    class Named(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
            return task.answer(self.module, dict(zip(names, inputs, strict=True)))

    return Named()
