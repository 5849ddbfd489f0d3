"""Int8 weights without calibration."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from compressor.contracts import Artifact, Context, Pass
from passes.side_files import carry_side_files


class QuantizeDynamic(Pass):
    """Int8 weights; activations are quantised at run time by ONNX Runtime, and stay in float in OpenVINO."""

    accepts: ClassVar[tuple[str, ...]] = ("onnx", "openvino")
    quantizes: ClassVar[bool] = True
    requires: ClassVar[tuple[str, ...]] = ("onnx",)

    weights: int = Field(default=8, ge=8, le=8, description="Bits of weights.")
    embeddings: bool = Field(default=True, description="Quantise embedding tables too (on ONNX; NNCF always does).")
    per_channel: bool = Field(default=True, description="One scale for each output channel of a weight (on ONNX).")
    exclude: tuple[str, ...] = Field(
        default=(), description="Layers whose module path contains one of these stay in float (on ONNX)."
    )

    def apply(self, model: Artifact, ctx: Context) -> Artifact:
        """Quantise by the library that the target's rung belongs to."""
        out = ctx.folder / "quantized"
        out.mkdir(parents=True, exist_ok=True)
        if model.rung == "openvino":
            from compressor.records import Remark
            from passes.quantizers import nncf

            nncf.compress_weights(model.path / "model.xml", out / "model.xml")
            ctx.note(Remark(text="NNCF compressed weights and embeddings to int8; the runtime computes in float."))
        else:
            import onnx

            from passes.quantizers import onnxruntime

            onnxruntime.quantize_dynamic(
                model.path / "model.onnx", out / "model.onnx", per_channel=self.per_channel, exclude=self.exclude
            )
            if self.embeddings:
                graph = onnx.load(out / "model.onnx")
                onnxruntime.quantize_embeddings(graph)
                onnx.save(graph, out / "model.onnx")
        return Artifact(model.rung, carry_side_files(model.path, out))
