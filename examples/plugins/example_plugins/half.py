"""ONNX with its weights in half precision, and the target that takes it: half the file, computed in float32."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from compressor.contracts import Artifact, Dialect, Format, Session, Task
from example_plugins.onnxruntime_ahead import AheadSession, OnnxRuntimeAhead

if TYPE_CHECKING:
    import onnx

SMALL = 1024
"""Constants of fewer numbers stay as they are: shapes, scales, biases of small models."""


class HalfOnnx(Format):
    """Every large float32 constant as float16, with a conversion behind it."""

    name: ClassVar[str] = "onnx-half"
    above: ClassVar[str] = "onnx"
    requires: ClassVar[tuple[str, ...]] = ("onnx",)

    def lower(self, artifact: Artifact, out: Path, *, task: Task, dialect: Dialect) -> None:  # noqa: ARG002 - one form for all
        """Each graph, under its name."""
        import onnx

        from compressor.deploy.onnx import save

        for path in sorted(artifact.path.glob("*.onnx")):
            save(_halved(onnx.load(path)), out, path.stem)


def _halved(model: onnx.ModelProto) -> onnx.ModelProto:
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    graph, casts = model.graph, []
    for constant in graph.initializer:
        if constant.data_type != TensorProto.FLOAT or np.prod(constant.dims) < SMALL:
            continue
        name, most = constant.name, float(np.finfo(np.float16).max)
        halved = numpy_helper.to_array(constant).clip(-most, most).astype(np.float16)
        constant.CopyFrom(numpy_helper.from_array(halved, f"{name}_half"))
        casts.append(helper.make_node("Cast", [constant.name], [name], name=f"{name}_float", to=TensorProto.FLOAT))
    operators = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(operators)
    return model


class OnnxRuntimeHalf(OnnxRuntimeAhead):
    """ONNX Runtime on a file of half the size: weights become float32 again when it is loaded."""

    dialect: ClassVar[Dialect] = Dialect(format="onnx-half")

    def build(self, source: Artifact, out: Path, **_: object) -> None:
        """Copy the graph: optimised ahead of time its weights would be float32 again."""
        shutil.copyfile(source.path / self.file, out / self.file)

    def open(self, built: Path) -> Session:
        """Load and optimise it."""
        graph = built / self.file
        return AheadSession(self._session(graph, f"ORT_ENABLE_{self.level.upper()}"), self.threads, graph)
