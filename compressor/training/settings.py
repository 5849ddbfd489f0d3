"""Parameters that every training pass has."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator
from typing_extensions import override

from compressor.contracts import Batch, Context, Epoch, derived_seed
from compressor.contracts.read_again import ReadAgain

if TYPE_CHECKING:
    from compressor.contracts import Model

Precision = Literal["auto", "fp32", "bf16"]


class TrainingSettings(ReadAgain):
    """Parameters that every training pass has."""

    renamed: ClassVar[Mapping[str, str]] = {"keep": "checkpoint"}

    epochs: int = Field(default=3, ge=1, le=10_000, description="Passes over the training rows.")
    steps: int | None = Field(
        default=None,
        ge=1,
        le=10_000_000,
        description="Steps of the optimiser instead of epochs, where rows are packed or drawn.",
    )
    batch_size: int = Field(default=16, ge=1, description="Rows per step, over all parts and processes.")
    accumulate: int = Field(
        default=1,
        ge=1,
        description="Parts in which a process computes its rows, one after the other: less memory, the same step.",
    )
    learning_rate: float = Field(default=1e-4, gt=0, lt=1, description="Peak learning rate of AdamW.")
    weight_decay: float = Field(default=0.01, ge=0, lt=1, description="Of matrices; biases and norms have none.")
    warmup: float = Field(default=0.1, ge=0, lt=1, description="Share of the steps in which the rate rises from 0.")
    schedule: Literal["linear", "cosine", "constant"] = Field(default="linear", description="How the rate falls after warm-up.")
    max_grad_norm: float = Field(default=1.0, gt=0, description="Gradients are clipped to this norm.")
    precision: Precision = Field(default="auto", description="`auto`: bf16 where the processor or GPU computes in it, else fp32.")
    dropout: bool = Field(
        default=True,
        description="Off: no dropout, layer drop nor masking, which a model that was made small often does not need.",
    )
    attention: Literal["auto", "eager", "sdpa"] = Field(
        default="auto",
        description="How attention is computed while training; `auto`: on a CPU what takes the least time in a few steps, measured once "
        "on a machine, else the model's own.",
    )
    compile: bool = Field(default=False, description="Compile the model by torch.compile; on a CPU this needs a C++ compiler.")
    checkpoint: Literal["best", "last"] = Field(
        default="best", description="Which weights stay: the best of those whose metric on validation was looked at, or the last."
    )

    validations: int | None = Field(
        default=None,
        ge=1,
        le=1000,
        description="How often the metric on validation is looked at, evenly over the training; unless given after each epoch, or ten "
        "times where tokens are counted.",
    )

    @model_validator(mode="after")
    def _counted_once(self) -> Self:
        if self.steps is not None and "epochs" in self.model_fields_set:
            raise ValueError("a training counts epochs or steps: leave one of them out")
        return self

    @override
    def unheeded(self) -> tuple[str, ...]:
        """Epochs, where something else is counted."""
        return (*super().unheeded(), *(("epochs",) if self.steps or self.budget else ()))

    @property
    def budget(self) -> int | None:
        """Tokens to learn from, where neither epochs nor steps are counted."""
        return None

    def taken_whole(self, lora: object | None = None) -> str:
        """Why these settings need the model whole in each process; empty where they do not."""
        if lora is not None:
            return "lora puts matrices beside layers that each process has to hold"
        return "compile: true compiles layers that each process has to hold" if self.compile else ""

    @property
    def looks(self) -> int | None:
        """How often validation is looked at; None for once after each epoch."""
        return self.validations

    def steps_of(self, rows: int, epoch: Epoch | None = None) -> int | None:
        """Steps of the optimiser on so many training rows, of which `epoch` is made; None where that is not known."""
        return self.steps or self.epochs * _steps(rows, epoch, self.batch_size)

    def passes(self, rows: int, epoch: Epoch | None = None) -> float:
        """How often each of so many training rows, of which `epoch` is made, is seen."""
        return self.epochs if self.steps is None else self.steps * self.batch_size / max(1, epoch.rows if epoch else rows)

    def validated(self, rows: int, epoch: Epoch | None = None) -> float:
        """How often each validation row is scored meanwhile."""
        return self.looks or self.passes(rows, epoch)

    def batches(self, model: Model, ctx: Context, *, stage: int = 0) -> Callable[[int], Iterable[Batch]]:
        """Training rows as `model` reads them, by the number of an epoch: each is shuffled anew, by the run's seed.

        Args:
            model: what lies beside it is put into the step's folder, for the task.
            ctx: gives task, rows, seed and folder.
            stage: of a step that trains several times, which of its trainings.
        """
        rows, files, stages = ctx.data.split("train"), ctx.folder / "files", (ctx.seed, "rows", stage)
        model.save_beside(files)
        ctx.task.ready(rows, files, ctx.tell)
        return lambda epoch: ctx.task.batches(rows, files, batch_size=self.batch_size, shuffle_seed=derived_seed(*stages, epoch))

    def shortened(self) -> Mapping[str, int | None]:
        """What is laid over these settings to train as little as can be, for `compressor rehearse`."""
        return {"epochs": 1} if self.steps is None else {"steps": min(self.steps, SHORTENED_STEPS)}


class TokenSettings(TrainingSettings):
    """Those of a training that may have a budget of tokens."""

    tokens: int | None = Field(
        default=None,
        ge=1,
        le=10**13,
        description="Tokens to learn from, instead of epochs or steps: the training ends with the step that reaches them.",
    )

    @model_validator(mode="after")
    def _budgeted_once(self) -> Self:
        if self.tokens is not None and (
            other := {"epochs", "steps"} & {name for name in self.model_fields_set if getattr(self, name)}
        ):
            raise ValueError(f"a training counts {min(other)} or tokens: leave one of them out")
        return self

    @property
    @override
    def budget(self) -> int | None:
        """As the plan has it."""
        return self.tokens

    @property
    @override
    def looks(self) -> int | None:
        """As given; some times where tokens are counted, for a curve by them."""
        return self.validations or (LOOKS if self.tokens else None)

    @override
    def steps_of(self, rows: int, epoch: Epoch | None = None) -> int | None:
        """As many as learn from these tokens."""
        if self.tokens is None:
            return super().steps_of(rows, epoch)
        return math.ceil(self.tokens * _steps(rows, epoch, self.batch_size) / epoch.counted) if epoch and epoch.counted else None

    @override
    def passes(self, rows: int, epoch: Epoch | None = None) -> float:
        """Tokens by those of an epoch; 1 where that is not known."""
        if self.tokens is None:
            return super().passes(rows, epoch)
        return self.tokens / epoch.counted if epoch and epoch.counted else 1.0

    @override
    def shortened(self) -> Mapping[str, int | None]:
        """A few steps instead of tokens."""
        return super().shortened() if self.tokens is None else {"tokens": None, "steps": SHORTENED_STEPS}


def _steps(rows: int, epoch: Epoch | None, batch_size: int) -> int:
    """Of one epoch."""
    return math.ceil((epoch.rows if epoch else rows) / batch_size)


SHORTENED_STEPS = 4
"""Of a training that counts steps or tokens, in a rehearsal."""
LOOKS = 10
"""Times that validation is looked at in a training that counts tokens."""


def resolved_precision(precision: Precision, device: str) -> Literal["fp32", "bf16"]:
    """What `auto` means here: bf16 where there are instructions for it, since emulated bf16 is slower than fp32."""
    import torch

    if precision != "auto":
        return precision
    if device.startswith("cuda"):
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    from compressor.deploy.machine import features, read_cpuinfo

    return "bf16" if {"avx512_bf16", "amx_bf16"} & set(features(read_cpuinfo())) else "fp32"
