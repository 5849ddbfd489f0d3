"""Weights of 8, 4 or 2 bits, activations as the target's kernels take them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeAlias

from pydantic import Field, field_validator, model_validator

from compressor.contracts import Artifact, Context, Dialect, Needs, Pass, Recipe, Size, Wish
from compressor.contracts.notes import Remark
from passes.quantization.quantizers.schemes import group_for, refusals, refused_bits
from passes.quantization.quantizers.weight_layers import NEAREST, Chosen, Left, PathPart, Wanted, bits_per_weight, shown
from passes.side_files import carry_side_files

if TYPE_CHECKING:
    from pathlib import Path

    from compressor.contracts import Feed, Graph

Found: TypeAlias = "tuple[Sequence[Chosen], Sequence[Left]]"
"""What became of each layer."""

ALGORITHMS: Mapping[str, tuple[str, ...]] = {
    "onnxruntime": (NEAREST, "gptq", "awq"),
    "openvino": (NEAREST, "gptq", "awq", "scale-estimation"),
    "gguf": (NEAREST,),
}
"""What runs on each format."""
DATA_AWARE_PASSES = 8
"""How much longer a calibration row takes than a forward pass, all that is done with it counted."""
CALIBRATION = 64
FAST_GROUP, FINE_GROUP = 128, 64
"""Weights of one scale where nothing is said: longer groups are read faster, and 8 bits lose next to nothing by them."""
TWO_BITS = (
    "2 bits buy size and no speed: a product takes longer than one of 4 bits, and from about 8 rows on (tokens of a prompt, texts at a time) longer "
    "than one in float32. What is lost is large unless the model was trained in 2 bits."
)
LITTLE = 20.0
"""Per cent of a perplexity from which on `init` writes 4 bits: SmolLM2-135M lost 13 to 16 so (docs/language-models.md)."""


class QuantizeWeights(Pass):
    """Weight-only quantisation to 8, 4 or 2 bits (RTN, GPTQ, AWQ), of language models and encoders: `MatMulNBits`, NNCF, GGUF."""

    version: ClassVar[int] = 2
    accepts: ClassVar[tuple[str, ...]] = ("onnxruntime", "openvino", "gguf")
    quantizes: ClassVar[bool] = True
    requires: ClassVar[tuple[str, ...]] = ("onnx", "torch")
    paper: ClassVar[str] = (
        "Frantar et al., GPTQ, 2022, arXiv:2210.17323; Lin et al., AWQ: Activation-aware Weight Quantization, 2023, arXiv:2306.00978"
    )
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({"bits": 8},)

    bits: Literal[8, 4, 2] = Field(
        default=8, description="Bits of the weights of matrix products; 3 and 6 have no kernels in any runtime here."
    )
    group_size: Literal["auto", 16, 32, 64, 128, 256] = Field(
        default="auto",
        description="Weights along a row that share a scale; auto: 128 of 8 bits and 64 of fewer in ONNX Runtime, a row of 8 bits and 64 of "
        "fewer in OpenVINO, 32 in GGUF, which has no others. Rows that a group does not divide are filled up in ONNX Runtime, and get shorter "
        "groups, or 8 bits, in OpenVINO. Tables and the last product of ONNX Runtime have groups of 64 whatever is said here, shorter ones where "
        "64 does not divide a row.",
    )
    symmetric: bool = Field(
        default=True,
        description="One zero for all groups, in the middle, which 0 is exactly; false: each group has its own zero point. Tables and the last "
        "product of ONNX Runtime are symmetric whatever is said here.",
    )
    algorithm: Literal["round-to-nearest", "gptq", "awq", "scale-estimation"] = Field(
        default=NEAREST,
        description="What chooses the numbers: rounding alone, or with calibration rows GPTQ (what a rounding does is made good in the weights "
        "after it), AWQ (channels with large activations are scaled up first) or scales that change outputs least, in OpenVINO alone.",
    )
    embeddings: Literal[8, 4, 2, "float"] = Field(
        default=8,
        description="Bits of embedding tables and of the last product, which are one table where they are tied; `float`: they stay as they are.",
    )
    cache: Literal[8, "float"] = Field(
        default="float",
        description="Bits of the keys and values that a language model keeps of earlier tokens, in ONNX Runtime, with a scale for each channel that "
        "calibration rows say; in OpenVINO and llama.cpp it is an option of the target.",
    )
    calibration: int = Field(
        default=CALIBRATION,
        ge=1,
        description="Rows of the calibration split that a cache in 8 bits and other algorithms than round-to-nearest look at.",
    )
    exclude: tuple[PathPart, ...] = Field(default=(), description="Layers whose module path contains one of these stay in float.")

    @field_validator("bits", mode="before")
    @classmethod
    def _has_kernels(cls, value: Any) -> Any:
        if isinstance(value, int) and (why := refused_bits(value)):
            raise ValueError(why)
        return value

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if self.embeddings != "float" and self.embeddings < self.bits:
            raise ValueError(f"embeddings of {self.embeddings} bits beside layers of {self.bits}: say {self.bits} or float")
        if self.algorithm != NEAREST and self.bits == 8:
            raise ValueError(
                f"{self.algorithm} beside 8 bits: rounding loses next to nothing there; leave it out, or say bits: 4"
            )
        if self.calibration != CALIBRATION and not self._looks:
            raise ValueError(f"nothing would heed calibration, as {NEAREST} looks at no rows: leave it out")
        return self

    @classmethod
    def recipe(cls, wish: Wish) -> Recipe | None:
        """For tasks that count tokens: 8 bits, which lose next to nothing; 4 where more may be lost."""
        if wish.task.counts != "tokens":
            return None
        if wish.max_drop < LITTLE:
            return Recipe({"bits": 8}, "weights in 8 bits; activations keep a scale of their own for each token", "quantize", -1)
        return Recipe({"bits": 4}, "weights in 4 bits, embeddings and head in 8; SmolLM2-135M lost 16 % so", "quantize", -1)

    def needs(self) -> Needs:
        """Rows to calibrate by, where they are looked at."""
        return Needs(calls=self._looks)

    def refuses(self, dialect: Dialect) -> Mapping[str, str]:
        """Bits, groups and algorithms that a target has not, with what it has."""
        found = dict(refusals(dialect, bits=self.bits, group=self.group_size))
        if self.embeddings != "float" and not found:
            found |= refusals(dialect, bits=self.embeddings, group="auto", named=("embeddings", "embeddings"))
        found |= {name: why for name, why in self._unlike(dialect.format).items() if name not in found}
        known = ALGORITHMS.get(dialect.format, (NEAREST,))
        if self.algorithm not in known:
            found["algorithm"] = f"{self.algorithm} does not run there; say {' or '.join(known)}"
        return found

    def _unlike(self, form: str) -> dict[str, str]:
        """What the library of a format does not write."""
        if form != "onnxruntime" and self.cache != "float":
            return {"cache": "it has 8 bits for keys and values of its own: leave it out here, and say `cache:` at the target"}
        if form == "openvino" and self.bits == 2 and not self.symmetric:
            return {"symmetric": "NNCF writes 2 bits with one zero for all groups alone: leave it out"}
        if form == "openvino" and self.embeddings not in (8, self.bits, "float"):
            return {
                "embeddings": f"NNCF writes tables and the last product in 8 bits, or as all other layers: say 8 or {self.bits}"
            }
        if form == "gguf" and self.bits == 8 and not self.symmetric:
            return {"symmetric": "Q8_0 has one zero for all groups: leave it out"}
        return {}

    def work(self, size: Size) -> float:
        """Writing the weights; forward passes over calibration rows where they are looked at."""
        rows = DATA_AWARE_PASSES * min(self.calibration, size.rows["calibration"]) if self._looks else 0
        return (1 + rows) * size.weights

    def apply(self, model: Artifact, ctx: Context) -> Artifact:
        """Quantise by the library that the target's format belongs to, and say what became of each layer."""
        out = carry_side_files(model.path, ctx.folder / "quantized")
        chosen, left = {"onnxruntime": self._onnx, "openvino": self._openvino, "gguf": self._gguf}[model.format](model, out, ctx)
        self._tell(chosen, left, ctx)
        return Artifact(model.format, out)

    def _onnx(self, model: Artifact, out: Path, ctx: Context) -> Found:
        from passes.quantization.quantizers.onnx_weights import quantize

        wires = self._kept(model, ctx)
        rows = self._rows(model, ctx)
        file, wanted = model.path / "model.onnx", self._wanted(ctx)
        return quantize(file, out, wanted, feeds=rows, tell=ctx.tell, say=lambda text: ctx.note(Remark(text=text)), cache=wires)

    def _kept(self, model: Artifact, ctx: Context) -> Graph | None:
        """The graph whose state is to be of 8 bits; None where it stays, or where there is none, which is said."""
        from passes.quantization.quantizers.onnx_cache import bytes_of_token, graph_beside

        if self.cache == "float":
            return None
        wires = graph_beside(model.path)
        if wires is None:
            ctx.note(Remark(text="The model keeps nothing between calls: `cache` has no part in it."))
        else:
            size = bytes_of_token(wires)
            ctx.note(Remark(text=f"Keys and values of a token take {size // 4:,} bytes, where they took {size:,} in float32."))
        return wires

    def _openvino(self, model: Artifact, out: Path, ctx: Context) -> Found:
        from passes.quantization.quantizers.nncf_weights import compress

        return compress(model.path / "model.xml", out / "model.xml", self._wanted(ctx), feeds=self._rows(model, ctx))

    def _gguf(self, model: Artifact, out: Path, ctx: Context) -> Found:
        from passes.quantization.quantizers.gguf_weights import convert

        return convert(model.path, out, self._wanted(ctx))

    def _rows(self, model: Artifact, ctx: Context) -> Sequence[Feed]:
        return ctx.feeds(model, "calibration", limit=self.calibration) if self._looks else ()

    @property
    def _looks(self) -> bool:
        """Whether calibration rows are looked at."""
        return self.algorithm != NEAREST or self.cache != "float"

    def _wanted(self, ctx: Context) -> Wanted:
        """What weights are to become on the target of this branch."""
        dialect = ctx.dialect
        assert dialect is not None, "it works in branches alone"
        wish = FAST_GROUP if self.bits == 8 else FINE_GROUP
        return Wanted(
            self.bits,
            group_for(dialect, self.bits, wish) if self.group_size == "auto" else self.group_size,
            self.symmetric,
            self.algorithm,
            None if self.embeddings == "float" else self.embeddings,
            self.exclude,
        )

    def _tell(self, chosen: Sequence[Chosen], left: Sequence[Left], ctx: Context) -> None:
        """Bits by layer; what a reader might take for granted and is not so."""
        ctx.note(shown(chosen, left))
        ctx.note(Remark(text=f"{bits_per_weight(chosen):.2f} bits are stored for each quantised weight, scales counted."))
        if not chosen:
            ctx.note(Remark(text="No layer was quantised: the model has no product by a constant matrix that is not excluded."))
        if self.bits == 2:
            ctx.note(Remark(text=TWO_BITS))
