"""The one training loop: device placement and mixed precision by `accelerate`, seeded, with progress and a guard against NaN."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, Field

from compressor.contracts import Batch, Event, Progress
from compressor.errors import TrainingDiverged

if TYPE_CHECKING:
    import torch

Precision = Literal["auto", "fp32", "bf16"]


class TrainingSettings(BaseModel):
    """Parameters that every training pass has."""

    epochs: int = Field(default=3, ge=1, le=10_000, description="Passes over the training rows.")
    batch_size: int = Field(default=16, ge=1, description="Rows a step.")
    learning_rate: float = Field(default=1e-4, gt=0, lt=1, description="Peak learning rate of AdamW.")
    weight_decay: float = Field(default=0.01, ge=0, lt=1, description="Of matrices; biases and norms have none.")
    warmup: float = Field(default=0.1, ge=0, lt=1, description="Share of the steps in which the rate rises from 0.")
    schedule: Literal["linear", "cosine", "constant"] = Field(default="linear", description="How the rate falls after warm-up.")
    max_grad_norm: float = Field(default=1.0, gt=0, description="Gradients are clipped to this norm.")
    precision: Precision = Field(default="auto", description="`auto`: bf16 where the processor or GPU computes in it, else fp32.")
    keep: Literal["best", "last"] = Field(default="best", description="Which epoch's weights stay, by the metric on validation.")


@dataclass(frozen=True)
class TrainingLog:
    """What happened: losses by name and step, the metric on validation after each epoch."""

    losses: Mapping[str, tuple[tuple[float, float], ...]]
    validation: tuple[tuple[float, float], ...]
    kept_epoch: int
    seconds: float
    rows_per_second: float
    precision: str


@dataclass
class _Course:
    """Where a training stands."""

    step: int = 0
    rows: int = 0
    losses: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    validation: list[tuple[float, float]] = field(default_factory=list)
    best: tuple[float, int, dict[str, torch.Tensor]] | None = None


def train(
    trained: torch.nn.Module,
    *,
    batches: Callable[[int], Iterable[Batch]],
    step: Callable[[Batch], Mapping[str, torch.Tensor]],
    settings: TrainingSettings,
    seed: int,
    device: str,
    tell: Callable[[Event], None],
    work: str,
    evaluate: Callable[[], float] | None = None,
) -> TrainingLog:
    """Train in place.

    Args:
        trained: everything with parameters to learn, in one module.
        batches: the batches of an epoch, by its number from 0; with a length.
        step: losses by name for a batch, already weighted; their sum is minimised.
        evaluate: the metric on validation, higher is better; needed for `keep: best`.

    Raises:
        TrainingDiverged: a loss or a gradient is not finite; the weights are those before that step.
    """
    import torch
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import set_seed

    started = time.monotonic()
    precision = resolved_precision(settings.precision, device)
    AcceleratorState._reset_state(reset_partial_state=True)  # else an earlier training's precision and device are kept
    accelerator = Accelerator(cpu=device == "cpu", mixed_precision="bf16" if precision == "bf16" else "no")
    set_seed(seed)
    trained.to(device).train()
    groups = parameter_groups(trained, settings.weight_decay)
    optimiser = torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)  # one pass over memory instead of ten
    first = batches(0)
    total = settings.epochs * len(first)  # type: ignore[arg-type]
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda at: rate(at, total, settings))
    course = _Course()
    for epoch in range(settings.epochs):
        for batch in first if epoch == 0 else batches(epoch):
            moved = {name: tensor.to(device) for name, tensor in batch.items()}
            with accelerator.autocast():
                losses = step(moved)
            _record(course, losses, settings)
            torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
            norm = float(torch.nn.utils.clip_grad_norm_(trained.parameters(), settings.max_grad_norm))
            _check_finite("the norm of the gradients", norm, course.step, settings)
            optimiser.step()
            schedule.step()
            optimiser.zero_grad(set_to_none=True)
            course.rows += len(next(iter(moved.values())))
            tell(Progress(work, course.step, total, values={name: curve[-1][1] for name, curve in course.losses.items()}))
        if evaluate is not None:
            _validate(course, trained, evaluate, epoch, settings.keep)
    if course.best is not None:
        trained.load_state_dict(course.best[2])
    trained.eval()
    seconds = time.monotonic() - started
    return TrainingLog(
        losses={name: tuple(curve) for name, curve in course.losses.items()},
        validation=tuple(course.validation),
        kept_epoch=course.best[1] if course.best else settings.epochs,
        seconds=seconds,
        rows_per_second=course.rows / seconds,
        precision=precision,
    )


def resolved_precision(precision: Precision, device: str) -> Literal["fp32", "bf16"]:
    """What `auto` means here: bf16 where there are instructions for it, since emulated bf16 is slower than fp32."""
    import torch

    if precision != "auto":
        return precision
    if device.startswith("cuda"):
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    from compressor.machine import features, read_cpuinfo

    return "bf16" if {"avx512_bf16", "amx_bf16"} & set(features(read_cpuinfo())) else "fp32"


def _record(course: _Course, losses: Mapping[str, torch.Tensor], settings: TrainingSettings) -> None:
    course.step += 1
    for name, loss in losses.items():
        value = float(loss.detach())
        _check_finite(f"the loss '{name}'", value, course.step, settings)
        course.losses.setdefault(name, []).append((float(course.step), value))


def _check_finite(what: str, value: float, step: int, settings: TrainingSettings) -> None:
    if not math.isfinite(value):
        raise TrainingDiverged(
            f"{what} is {value} at step {step}: "
            f"try a lower learning_rate (now {settings.learning_rate:g}), a longer warmup, or precision: fp32"
        )


def _validate(
    course: _Course, trained: torch.nn.Module, evaluate: Callable[[], float], epoch: int, keep: Literal["best", "last"]
) -> None:
    trained.eval()
    value = evaluate()
    trained.train()
    course.validation.append((float(course.step), value))
    if keep == "best" and (course.best is None or value >= course.best[0]):
        course.best = (value, epoch + 1, {name: tensor.detach().clone() for name, tensor in trained.state_dict().items()})


def parameter_groups(trained: torch.nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Matrices, which decay, and vectors (biases and norms), which do not."""
    learned = [parameter for parameter in trained.parameters() if parameter.requires_grad]
    return [
        {"params": [each for each in learned if each.ndim > 1], "weight_decay": weight_decay},
        {"params": [each for each in learned if each.ndim <= 1], "weight_decay": 0.0},
    ]


def rate(at: int, total: int, settings: TrainingSettings) -> float:
    """Share of the peak rate at a step."""
    warm = max(1, round(settings.warmup * total))
    if at < warm and settings.warmup:
        return (at + 1) / warm
    if settings.schedule == "constant":
        return 1.0
    left = max(0.0, (total - at) / max(1, total - warm))
    return left if settings.schedule == "linear" else 0.5 * (1 - math.cos(math.pi * left))
