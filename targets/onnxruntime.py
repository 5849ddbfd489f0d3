"""ONNX Runtime on CPU, CUDA or through TensorRT."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from compressor.contracts import Artifact, Dialect, Feed, Missing, Session, Target
from compressor.deploy.machine import accelerators
from compressor.errors import MissingDependency
from targets.onnx_operators import Operator, operators

if TYPE_CHECKING:
    import onnxruntime

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
LEVELS = {"none": "ORT_DISABLE_ALL", "basic": "ORT_ENABLE_BASIC", "extended": "ORT_ENABLE_EXTENDED", "all": "ORT_ENABLE_ALL"}
INT8_OPERATORS = (
    "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QLinearMatMul", "QGemm", "QLinearConv", "ConvInteger",
    "QAttention",
)  # fmt: skip
PRODUCTS = ("MatMul", "Gemm", "Conv", "FusedMatMul", "FusedGemm", "FusedConv", "Attention", "MultiHeadAttention")
"""Operators that do the bulk of the arithmetic, when they compute in float."""
CONVERSIONS = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")


class OnnxRuntime(Target):
    """One ONNX file, optimised by ONNX Runtime when it is loaded."""

    dialect: ClassVar[Dialect] = Dialect(rung="onnxruntime", quantizer="onnxruntime", precisions=("fp32", "int8"))
    file: ClassVar[str] = "model.onnx"
    requires: ClassVar[tuple[str, ...]] = ("onnxruntime",)

    threads: int = Field(default=1, ge=1, le=256, description="Threads of one operator.")
    provider: Literal["cpu", "cuda", "tensorrt"] = Field(default="cpu", description="Execution provider.")
    graph_optimization: Literal["all", "extended", "basic", "none"] = Field(
        default="all", description="How far ONNX Runtime rewrites the graph when it loads it."
    )

    def missing(self) -> Missing:
        """The package, the provider in it, or the device it runs on."""
        try:
            import onnxruntime
        except ImportError:
            return Missing(run="onnxruntime is not installed: pip install 'compressor-toolchain[cpu]'")
        if PROVIDERS[self.provider] not in onnxruntime.get_available_providers():
            return Missing(
                run=f"this onnxruntime has no {PROVIDERS[self.provider]} (onnxruntime-gpu is not installed): "
                "on a machine with CUDA, pip install 'compressor-toolchain[gpu]'"
            )
        if self.provider != "cpu" and not accelerators():
            return Missing(run="no CUDA device")
        return Missing()

    def build(self, source: Artifact, out: Path) -> None:
        """Copy the graph."""
        for path in source.path.glob("model.onnx*"):
            shutil.copyfile(path, out / path.name)

    def open(self, built: Path) -> Session:
        """Load the graph.

        Raises:
            MissingDependency: ONNX Runtime fell back to another provider than was asked for.
        """
        session = self._session(built / self.file)
        if PROVIDERS[self.provider] not in session.get_providers():
            raise MissingDependency(f"asked for {PROVIDERS[self.provider]}, onnxruntime runs {session.get_providers()}")
        return _OnnxSession(session, self, built / self.file)

    def diagnose(self, built: Path) -> tuple[str, ...]:
        """Products that compute in float, and conversions between float and int8, in the graph that really runs."""
        with tempfile.TemporaryDirectory(prefix="compressor-optimised-") as folder:
            optimised = Path(folder) / "optimised.onnx"
            self._session(built / self.file, optimised=optimised)
            found = operators(optimised)
        fake = Counter(each.kind for each in fake_quantised(found))
        real = Counter(each.kind for each in found) - fake
        lines = [f"{count} {kind} in float on values that were quantised and dequantised" for kind, count in sorted(fake.items())]
        lines += [f"{real[kind]} {kind} in float" for kind in PRODUCTS if real[kind]]
        return (*lines, *(f"{real[kind]} {kind} between float and int8" for kind in CONVERSIONS if real[kind]))

    def _session(self, file: Path, *, optimised: Path | None = None) -> onnxruntime.InferenceSession:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, LEVELS[self.graph_optimization])
        options.log_severity_level = 3
        if optimised:
            options.optimized_model_filepath = str(optimised)
        return onnxruntime.InferenceSession(str(file), options, providers=[PROVIDERS[self.provider]])


class _OnnxSession:
    def __init__(self, session: onnxruntime.InferenceSession, target: OnnxRuntime, file: Path) -> None:
        self._session = session
        self._target = target
        self._file = file
        self._inputs = {each.name for each in session.get_inputs()}
        self._outputs = [each.name for each in session.get_outputs()]

    def run(self, feed: Feed, state: object | None = None) -> tuple[Feed, object | None]:
        found = self._session.run(self._outputs, {name: array for name, array in feed.items() if name in self._inputs})
        return dict(zip(self._outputs, found, strict=True)), state

    def facts(self) -> dict[str, str]:
        """Q/DQ pairs count as int8 only where ONNX Runtime makes int8 operators of them: from `extended` on."""
        found = operators(self._file)
        fused = bool(fake_quantised(found)) and self._target.graph_optimization in ("extended", "all")
        int8 = fused or any(each.kind in INT8_OPERATORS for each in found)
        return {
            "precision": "int8 + fp32" if int8 else "fp32",
            "device": self._session.get_providers()[0].removesuffix("ExecutionProvider"),
            "threads": str(self._session.get_session_options().intra_op_num_threads),
            "graph_optimization": self._target.graph_optimization,
        }


def fake_quantised(found: Sequence[Operator]) -> list[Operator]:
    """Products whose first two inputs come straight from `DequantizeLinear`."""
    dequantised = {name for each in found if each.kind == "DequantizeLinear" for name in each.outputs}
    return [each for each in found if each.kind in ("MatMul", "Gemm", "Conv") and dequantised.issuperset(each.inputs[:2])]
