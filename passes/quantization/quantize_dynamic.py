"""Int8 weights without calibration."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from compressor.contracts import Artifact, Context, Pass
from passes.quantization.quantizers.bits import Bits, weight_bits
from passes.quantization.quantizers.weight_layers import PathPart
from passes.side_files import MAIN, carry_side_files, graphs_in


class QuantizeDynamic(Pass):
    """Int8 weights; activations are quantised at run time by ONNX Runtime, and stay in float in OpenVINO."""

    version: ClassVar[int] = 6
    accepts: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime", "openvino")
    quantizes: ClassVar[bool] = True
    each_graph: ClassVar[bool] = True
    requires: ClassVar[tuple[str, ...]] = ("onnx",)
    paper: ClassVar[str] = (
        "Jacob et al., Quantization and Training of Neural Networks for Integer-Only Inference, 2018, arXiv:1712.05877"
    )

    weights: Bits = Field(
        default="auto",
        description="Bits of weights, stored as int8; auto: 8, or 7 where the processor lacks VNNI and sums of 8 overflow.",
    )
    embeddings: bool = Field(default=True, description="Quantise embedding tables too (on ONNX; NNCF always does).")
    per_channel: bool = Field(default=True, description="One scale for each output channel of a weight (on ONNX).")
    ranges: Literal["auto", "tensor", "row"] = Field(
        default="auto",
        description="What activations share a range with (on ONNX): all of a call's, or those of their own row (a token); auto: row where tasks "
        "count tokens, for a language model's first token has activations a thousand times as large as others'.",
    )
    exclude: tuple[PathPart, ...] = Field(default=(), description="Layers whose module path contains one of these stay in float.")

    def apply(self, model: Artifact, ctx: Context) -> Artifact:
        """Quantise by the library that the target's format belongs to."""
        out = carry_side_files(model.path, ctx.folder / "quantized", several=True)
        graphs = graphs_in(model.path)
        if model.format == "openvino":
            from compressor.contracts.notes import Remark
            from passes.quantization.quantizers import nncf

            for name in graphs:
                nncf.compress_weights(model.path / f"{name}.xml", out / f"{name}.xml", self.exclude, named=name == MAIN)
            unheeded = [name for name in ("weights", "embeddings", "per_channel", "ranges") if name in self.model_fields_set]
            rest = f" {' and '.join(unheeded)} of the plan have no part in that." if unheeded else ""
            ctx.note(Remark(text=f"NNCF compressed weights and embeddings to int8; the runtime computes in float.{rest}"))
        else:
            from passes.quantization.quantizers import onnxruntime

            for name in graphs:
                onnxruntime.quantize_dynamic(
                    model.path / f"{name}.onnx",
                    bits=weight_bits(self.weights, ctx),
                    per_channel=self.per_channel,
                    embeddings=self.embeddings,
                    exclude=self.exclude,
                    by_row=self.ranges == "row" or (self.ranges == "auto" and ctx.task.counts == "tokens"),
                    named=name == MAIN,
                ).write(out, name=name)
        return Artifact(model.format, out)
