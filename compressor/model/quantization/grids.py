"""Grids that weights and activations are rounded to, as data: bits, what shares a step, how a step is found."""

from __future__ import annotations

from typing import Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

from compressor.contracts import Scheme

WeightBits: TypeAlias = Literal["ternary", 2, 3, 4, 7, 8]
InputBits: TypeAlias = Literal[4, 8, 16]


class Grid(BaseModel):
    """Values at which a tensor may stand: multiples of a step, whole numbers times it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    symmetric: bool = True
    """Whether 0 is the whole number 0; else it is another one, chosen by the smallest and the greatest value."""
    float16_steps: bool = False
    """Whether steps are numbers of float16, as GGUF files have them."""


class WeightGrid(Grid):
    """The grid of a weight matrix `[outputs, inputs]`, of a table with a row for each token, or of a convolution, whose inputs are all taps of all
    channels."""

    bits: WeightBits = 8
    """`ternary` has the whole numbers -1, 0 and 1. 7 bits are those of int8 whose products, summed by twos, fit into 16 bits."""
    granularity: Literal["tensor", "channel", "group"] = "channel"
    """What has a step of its own: the matrix, an output (of a table: a row), or a run of inputs of one output."""
    group: int | None = Field(default=None, ge=16, le=4096)
    """Inputs in a run."""
    steps: Literal["max", "mean", "learned"] = "max"
    """`max`: the greatest magnitude is the last whole number. `mean`: by means of magnitudes (TWN for `ternary`). `learned`: LSQ."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.granularity == "group") != (self.group is not None):
            raise ValueError("group goes with granularity: group")
        if self.bits == "ternary" and self.steps == "max":
            raise ValueError("ternary weights have steps: mean (TWN) or learned")
        if not self.symmetric and self.steps != "max":
            raise ValueError("a grid that is not symmetric has steps: max")
        return self

    @property
    def bounds(self) -> tuple[int, int]:
        """The least and the greatest whole number."""
        if self.bits == "ternary":
            return -1, 1
        top = 2 ** (self.bits - 1) - 1
        return (-top if self.symmetric and self.steps != "learned" else -top - 1), top

    @property
    def stored_bits(self) -> int:
        """Bits of a weight in deployed files: kernels know 2, 4 and 8."""
        return {"ternary": 2, 3: 4, 7: 8}.get(self.bits) or int(self.bits)

    def told(self) -> str:
        """In words."""
        of = {"tensor": "one step", "channel": "a step for each output", "group": f"a step for {self.group} inputs"}
        kind = "ternary" if self.bits == "ternary" else f"{self.bits} bits"
        return f"weights {kind}, {of[self.granularity]} ({self.steps}{'' if self.symmetric else ', with zero points'})"


class InputGrid(Grid):
    """The grid of what a layer reads: `[..., features]`, of a convolution `[rows, channels, ...]`."""

    bits: InputBits = 8
    ranges: Literal["static", "dynamic"] = "static"
    """`static`: one step, found beforehand. `dynamic`: a step for each row of features, found when it is there: rows of padding, or other
    rows of the call, have no part in it."""
    learned: bool = True
    """Whether a static step is learned once it was found."""
    by: Literal["lsq", "pact"] = "lsq"
    """What it is learned by: all values, or those alone that are cut off, which is learning where to cut."""
    block: int | None = Field(default=None, ge=16, le=4096)
    """Of dynamic ranges: so many features of a row have a step of their own; the whole row unless given."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.ranges == "static" and self.block is not None:
            raise ValueError("block goes with ranges: dynamic")
        if self.ranges == "dynamic" and not self.symmetric:
            raise ValueError("dynamic ranges are symmetric")
        if self.ranges == "static" and self.float16_steps:
            raise ValueError("float16_steps goes with ranges: dynamic")
        return self

    @property
    def bounds(self) -> tuple[int, int]:
        """The least and the greatest whole number."""
        top = 2 ** (self.bits - 1) - 1
        return (-top if self.ranges == "dynamic" else -top - 1), top

    def told(self) -> str:
        """In words."""
        if self.ranges == "static":
            kind = "fixed" if not self.learned else "learned" if self.by == "lsq" else "learned (PACT)"
            how = f"one {kind} step for each tensor{'' if self.symmetric else ' and a zero point'}"
        else:
            how = f"a step for each {f'{self.block} features' if self.block else 'row'}, found at run time"
        return f"activations {self.bits} bits, {how}"


def scheme_of(weights: WeightGrid, inputs: InputGrid | None) -> Scheme:
    """What a target needs kernels for."""
    return Scheme(
        weights="ternary" if weights.bits == "ternary" else f"int{weights.stored_bits}",
        activations=f"int{inputs.bits}" if inputs else "fp32",
        granularity=weights.granularity,
        group=weights.group,
        dynamic=inputs is not None and inputs.ranges == "dynamic",
    )
