"""ONNX Runtime with its graph optimised ahead of time."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from compressor.contracts import Artifact, Dialect, Feed, Missing, Session, Target


class OnnxRuntimeAhead(Target):
    """The graph as ONNX Runtime rewrites it, saved when it is built: what is shipped is what runs, and it starts sooner."""

    dialect: ClassVar[Dialect] = Dialect(format="onnxruntime", quantizer="onnxruntime", precisions=("fp32", "int8"))
    file: ClassVar[str] = "model.onnx"
    requires: ClassVar[tuple[str, ...]] = ("onnxruntime",)

    threads: int = Field(default=1, ge=1, le=256, description="Threads of one operator.")
    level: Literal["basic", "extended"] = Field(
        default="extended", description="How far the graph is rewritten; `extended` fuses for CPUs."
    )

    def missing(self) -> Missing:
        """The package."""
        reason = None if find_spec("onnxruntime") else "onnxruntime is not installed: pip install onnxruntime"
        return Missing(build=reason, run=reason)

    def build(self, source: Artifact, out: Path, **_: object) -> None:
        """Optimise and save the only graph; it serves every workload."""
        self._session(source.path / "model.onnx", f"ORT_ENABLE_{self.level.upper()}", optimised=out / self.file)

    def open(self, built: Path) -> Session:
        """Load the graph as it is."""
        return AheadSession(self._session(built / self.file, "ORT_DISABLE_ALL"), self.threads, built / self.file)

    def _session(self, graph: Path, level: str, *, optimised: Path | None = None) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = self.threads, 1, 3
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
        if optimised:
            options.optimized_model_filepath = str(optimised)
        return onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])


class AheadSession:
    """A loaded graph."""

    def __init__(self, session: Any, threads: int, graph: Path) -> None:
        self._session, self._threads, self._graph = session, threads, graph
        self._inputs = {each.name for each in session.get_inputs()}
        self._outputs = [each.name for each in session.get_outputs()]

    def run(self, feed: Feed, *, graph: str = "model", state: object | None = None) -> tuple[Feed, object | None]:  # noqa: ARG002
        """Outputs by name."""
        found = self._session.run(self._outputs, {name: array for name, array in feed.items() if name in self._inputs})
        return dict(zip(self._outputs, found, strict=True)), state

    def facts(self) -> dict[str, str]:
        """What ran, by the operators of the graph."""
        import onnx

        kinds = {node.op_type for node in onnx.load(self._graph, load_external_data=False).graph.node}
        int8 = any("Integer" in kind or kind.startswith(("QLinear", "QGemm", "QAttention")) for kind in kinds)
        return {"precision": "int8 + fp32" if int8 else "fp32", "device": "CPU", "threads": str(self._threads)}
