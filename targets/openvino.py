"""OpenVINO on CPU."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from compressor.contracts import Artifact, Dialect, Feed, Missing, Session, Target

PRODUCTS = ("MatMul", "FullyConnected", "Convolution", "Gemm", "Subgraph")
"""Layers that do the bulk of the arithmetic, by OpenVINO's names; a subgraph may hold an attention."""
INT8 = ("i8", "u8")


class OpenVino(Target):
    """OpenVINO's intermediate representation, compiled for the processor when it is loaded."""

    dialect: ClassVar[Dialect] = Dialect(rung="openvino", quantizer="nncf", precisions=("fp32", "bf16", "int8"))
    file: ClassVar[str] = "model.xml"
    requires: ClassVar[tuple[str, ...]] = ("openvino",)

    threads: int = Field(default=1, ge=1, le=256, description="Inference threads of one stream.")
    precision: Literal["f32", "bf16", "default"] = Field(
        default="f32", description="Precision of what is not quantised; `default` is what OpenVINO chooses for the processor."
    )

    def missing(self) -> Missing:
        """The package."""
        from importlib.util import find_spec

        if find_spec("openvino") is None:
            reason = "openvino is not installed: pip install 'compressor-toolchain[openvino]'"
            return Missing(build=reason, run=reason)
        return Missing()

    def build(self, source: Artifact, out: Path) -> None:
        """Copy the representation."""
        for name in ("model.xml", "model.bin"):
            shutil.copyfile(source.path / name, out / name)

    def open(self, built: Path) -> Session:
        """Compile for latency: one stream."""
        return _OpenVinoSession(self._compiled(built))

    def diagnose(self, built: Path) -> tuple[str, ...]:
        """Products that compute in float, and quantisation that was not fused, in the compiled graph."""
        counts = Counter(layers(self._compiled(built)))
        float_products = {each: count for each, count in counts.items() if each[0] in PRODUCTS and each[1] not in INT8}
        lines = [f"{count} {kind} in {_name(precision)}" for (kind, precision), count in sorted(float_products.items())]
        left = sum(count for (kind, _), count in counts.items() if kind == "FakeQuantize")
        return (*lines, f"{left} FakeQuantize left by itself") if left else tuple(lines)

    def _compiled(self, built: Path) -> Any:
        from compressor.deploy.telemetry import silence

        silence()
        import openvino

        options: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": self.threads,
            "ENABLE_CPU_PINNING": False,
        }
        if self.precision != "default":
            options["INFERENCE_PRECISION_HINT"] = self.precision
        return openvino.Core().compile_model(str(built / self.file), "CPU", options)


class _OpenVinoSession:
    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._request = compiled.create_infer_request()
        self._inputs = {name for port in compiled.inputs for name in port.get_names()}
        self._outputs = [port.get_any_name() for port in compiled.outputs]

    def run(self, feed: Feed, state: object | None = None) -> tuple[Feed, object | None]:
        self._request.infer({name: array for name, array in feed.items() if name in self._inputs}, share_inputs=True)
        return {name: self._request.get_output_tensor(i).data.copy() for i, name in enumerate(self._outputs)}, state

    def facts(self) -> dict[str, str]:
        """Precisions of the products in the compiled graph, and of what is left where all of them are int8."""
        precisions = {precision for kind, precision in layers(self._compiled) if kind in PRODUCTS}
        hint = self._compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        real = sorted(_name(precision) for precision in (precisions - set(INT8)) or {hint})
        return {
            "precision": " + ".join([*(["int8"] if precisions & set(INT8) else []), *real]),
            "device": "CPU",
            "threads": str(self._compiled.get_property("INFERENCE_NUM_THREADS")),
        }


def layers(compiled: Any) -> list[tuple[str, str]]:
    """Kind and precision of each layer as the runtime executes it."""
    infos = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    return [(info["layerType"].astype(str), info["runtimePrecision"].astype(str)) for info in infos if "layerType" in info]


def _name(precision: str) -> str:
    return {"f32": "fp32", "f16": "fp16"}.get(precision, precision)
