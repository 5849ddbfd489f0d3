"""How a plan has weights and activations rounded, and what a target says to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, Self

from pydantic import BaseModel, Field, ValidationError, model_validator

from compressor.contracts import Dialect
from compressor.contracts.registry import TORCH, load, lowering
from compressor.model.quantization.grids import InputGrid, WeightBits, WeightGrid, scheme_of
from passes.quantization.quantizers.weight_layers import PathPart
from passes.quantization_aware.widths import named

GROUP: Literal[32] = 32
CALIBRATION = 128
STEP_RATE = 1e-3
CLIP_DECAY = 1e-4
FEW = (2, 3, 4, "ternary")
"""Bits of weights that have kernels with a step for a group of inputs only."""
TIED = WeightGrid(granularity="group", group=GROUP), InputGrid(ranges="dynamic", block=GROUP)
"""Grids of a head that is its table."""


class QuantizationScheme(BaseModel):
    """Grids of weights, by their bits, and of what they read."""

    weights: WeightBits = Field(
        8,
        description="bits of weights; below 8 they are stored in 2 or 4 bits (3 as 4, ternary as 2); 7 is for processors without VNNI",
    )
    layer_bits: dict[PathPart, WeightBits] = Field(
        {},
        description="other bits for layers, by a part of their path (lm_head: 8); the longest part counts, of equally long "
        "ones the last in the path",
    )
    activations: Literal["none", 4, 8, 16] = Field(
        8, description="bits of what layers read; none leaves it in float; only 8 bits have kernels"
    )
    embeddings: Literal["none", 8] = Field(
        8,
        description="bits of the table of words, a step for each row; for 32 numbers of a row where it is the head too and `head` is true; "
        "none leaves it in float",
    )
    granularity: Literal["auto", "tensor", "channel", "group"] = Field(
        "auto",
        description="what has a step of its own: a matrix, an output, a group of inputs; auto: channel, below 7 bits group",
    )
    group: Literal[32, 64, 128, 256] = Field(
        GROUP,
        description="inputs in a group; OpenVINO makes int8 of activations in groups of 32 only, ONNX Runtime in 32 to 128, llama.cpp in "
        "32 of 8 and 4 bits and 256 of ternary weights",
    )
    ranges: Literal["auto", "static", "dynamic"] = Field(
        "auto",
        description="static: steps of activations are found on calibration rows and learned; dynamic: each row (a token), or each group of it, "
        "has its own at run time; auto: static, dynamic for groups",
    )
    step_sizes: Literal["auto", "max", "mean", "learned"] = Field(
        "auto",
        description="steps of weights: by the greatest magnitude, by means (TWN), or learned (LSQ); auto: max, mean for ternary, "
        "learned for 2 to 4 bits",
    )
    activation_steps: Literal["lsq", "pact"] = Field(
        "lsq",
        description="what static steps of activations are learned by: all values (LSQ), or those alone that are cut off, against a decay (PACT)",
    )
    clip_decay: float = Field(
        CLIP_DECAY, ge=0, le=1, description="of pact: weight of the squares of where activations are cut, in the sum of losses"
    )
    float16_steps: bool = Field(
        False,
        description="steps of weights, and of activations in groups of 32, are numbers of float16, as llama.cpp has them: what is trained is what "
        "it computes; other runtimes have steps of activations in float32",
    )
    symmetric_weights: bool = Field(
        True,
        description="0 is in the middle of the grid of weights, of convolutions always; false needs step_sizes: max, and ranges: static unless "
        "steps are for groups",
    )
    symmetric_activations: bool = Field(True, description="0 is in the middle of the grid of static activations")
    smooth: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="move what stands out of activations into the weights that read them before anything is rounded (SmoothQuant), where norms are "
        "read by linear layers alone; the share that moves, 0.5 evenly; 0: no",
    )
    calibration: int = Field(
        CALIBRATION, ge=1, le=100_000, description="rows of the calibration split on which steps of activations start"
    )
    step_rate: float = Field(STEP_RATE, gt=0, lt=1, description="peak learning rate of the logarithms of learned steps")
    head: bool = Field(
        False,
        description="quantise the layers of the task's head too; one that is its table gets 8 bits, with a step for 32 inputs, and so does the table",
    )
    exclude: tuple[PathPart, ...] = Field((), description="layers whose path contains one of these stay in float")

    @model_validator(mode="after")
    def _rounds_consistently(self) -> Self:
        widths = tuple(self.trained_widths())
        static = self.activations != "none" and any(not self._found_at_run_time(width) for width in widths)
        learned = any(self._steps(width) == "learned" for width in widths)
        unheard = {
            "group, as no step is for a group": self.group != GROUP and all(self._by(width) != "group" for width in widths),
            "ranges, as activations stay in float": self.ranges != "auto" and self.activations == "none",
            "symmetric_activations, as they have no static grid": not self.symmetric_activations and not static,
            "smooth, as activations stay in float": self.smooth > 0 and self.activations == "none",
            "activation_steps, as they have no static grid": self.activation_steps != "lsq" and not static,
            "clip_decay, as activation_steps is not pact": self.clip_decay != CLIP_DECAY and self.activation_steps != "pact",
            "calibration, as nothing is static": self.calibration != CALIBRATION and not static and not self.smooth,
            "float16_steps, as no step is for a group": self.float16_steps
            and all(self._by(width) != "group" for width in widths),
            "step_rate, as no step is learned": self.step_rate != STEP_RATE and not static and not learned,
        }
        if told := [name for name, ignored in unheard.items() if ignored]:
            raise ValueError(f"nothing would heed {told[0]}: leave it out")
        for width in widths:
            dynamic = self._found_at_run_time(width) and self._by(width) != "group" and self.activations != "none"
            if not self.symmetric_weights and dynamic:
                raise ValueError("symmetric_weights: false has kernels with ranges: static or with a step for a group only")
            try:
                self.weight_grid(width)
            except ValidationError as error:
                raise ValueError("; ".join(each["msg"].removeprefix("Value error, ") for each in error.errors())) from None
        return self

    def usual_widths(self) -> tuple[WeightBits, ...]:
        """Bits of layers that `layer_bits` does not name."""
        return (self.weights,)

    def widths(self) -> Iterator[WeightBits]:
        """Bits that some layer may have, each once."""
        yield from dict.fromkeys((*self.usual_widths(), *self.layer_bits.values()))

    def trained_widths(self) -> Iterator[WeightBits]:
        """Those that some layer has at some time of the training, each once."""
        yield from self.widths()

    def weight_grid(self, bits: WeightBits | None = None) -> WeightGrid:
        """The grid of the weights of linear layers of so many bits; of those that most have unless given."""
        bits = self.weights if bits is None else bits
        by = self._by(bits)
        group = self.group if by == "group" else None
        return WeightGrid(
            bits=bits,
            granularity=by,
            group=group,
            steps=self._steps(bits),
            symmetric=self.symmetric_weights,
            float16_steps=self.float16_steps and by == "group",
        )

    def input_grid(self, bits: WeightBits | None = None) -> InputGrid | None:
        """The grid of what they read; None leaves it in float."""
        bits = self.weights if bits is None else bits
        if self.activations == "none":
            return None
        if not self._found_at_run_time(bits):
            return InputGrid(bits=self.activations, symmetric=self.symmetric_activations, by=self.activation_steps)
        block = self.group if self._by(bits) == "group" else None
        halved = self.float16_steps and block == GROUP
        return InputGrid(bits=self.activations, ranges="dynamic", block=block, float16_steps=halved)

    def tied_grids(self) -> tuple[WeightGrid, InputGrid]:
        """Those of a head that is its table: one store of numbers serves both."""
        weights, inputs = TIED
        halved = {"float16_steps": self.float16_steps}
        return weights.model_copy(update=halved), inputs.model_copy(update=halved)

    def convolution_grids(self) -> tuple[WeightGrid, InputGrid] | None:
        """Those of convolutions; None where layers have no bits that these have kernels for. A target that has those of layers has these."""
        widths = [width for width in self.usual_widths() if width in (7, 8)]
        if not widths:
            return None
        weights, inputs = self.weight_grid(widths[0]), self.input_grid(widths[0])
        if weights.group or inputs is None or inputs.ranges == "dynamic" or inputs.bits != 8:
            return None
        return weights.model_copy(update={"symmetric": True}), inputs

    def lacks(self, dialect: Dialect) -> Mapping[str, str]:
        """What a target has no kernels for, by the parameter; one that runs the torch model simulates all of it."""
        if dialect.format == TORCH:
            return {}
        if not any(load("format", each).writes_quantizers for each in lowering(dialect.format)):
            return {"weights": f"layers that simulate quantisation do not come down to '{dialect.format}'"}
        found: dict[str, str] = {}
        for width in self.widths():
            if self.activations == "none" and self._by(width) == "group":
                found["activations"] = "weights with a step for a group are written with activations of 8 bits: leave it out"
                continue
            if lacks := dialect.lacks(scheme_of(self.weight_grid(width), self.input_grid(width))):
                found.setdefault(self.said_by(width), lacks)
        return found

    def lacks_rows(self, dialect: Dialect, rows: Mapping[str, int]) -> Mapping[str, str]:
        """Rows of layers in blocks that groups do not divide, by the parameter, for a target that has them in whole groups alone."""
        if dialect.format == TORCH or not any(load("format", each).whole_groups for each in lowering(dialect.format)):
            return {}
        found: dict[str, str] = {}
        for path, row in rows.items():
            if not any(part.isdecimal() for part in path.split(".")) or any(part in path for part in self.exclude):
                continue  # the table and the head are looked at by themselves
            said = named(path, self.layer_bits)
            groups = {width: self.weight_grid(width).group for width in ((said,) if said else self.usual_widths())}
            if all(group and row % group for group in groups.values()):  # of several bits a budget may choose those that fit
                width, group = next(iter(groups.items()))
                why = f"rows of {row} weights ('{path}') are not made of groups of {group}, as {dialect.format} has them"
                found.setdefault(self.said_by(width), f"{why}: exclude such layers, or choose other bits")
        return found

    def said_by(self, width: WeightBits) -> str:
        """The parameter that has layers of these bits."""
        return "weights" if width == self.weights else "layer_bits"

    def _by(self, bits: WeightBits) -> Literal["tensor", "channel", "group"]:
        if self.granularity != "auto":
            return self.granularity
        return "group" if bits in FEW else "channel"

    def _found_at_run_time(self, bits: WeightBits) -> bool:
        return self.ranges == "dynamic" or (self.ranges == "auto" and self._by(bits) == "group")

    def _steps(self, bits: WeightBits) -> Literal["max", "mean", "learned"]:
        if self.step_sizes != "auto":
            return self.step_sizes
        if bits == "ternary":
            return "mean"
        return "learned" if bits in FEW and self.symmetric_weights else "max"
