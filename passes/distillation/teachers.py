"""Around a distillation: teachers made ready, their answers kept, and what the report says of how well they were heard."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING

from compressor.contracts import Context, Message
from compressor.errors import UnsupportedModel
from compressor.training.settings import TrainingSettings
from passes.distillation.losses import DistillationLoss, Teacher
from passes.distillation.teacher_cache import answers

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from compressor.contracts import Model

INPUT_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "preprocessor_config.json")
"""Files that decide what a model is fed."""
COMPARED_ROWS = 500
"""Rows of validation on which student and teacher are compared."""
POINTS = 200
"""Points of a curve in the report."""
ALIKE = 0.999
"""Agreement of a student that began as its teacher's copy: it can only fall."""
STILL = 0.05
"""Relative change of a loss below which it has not moved."""


def teacher(
    name: str,
    model: Model,
    lessons: tuple[DistillationLoss, ...],
    *,
    student: Model,
    ctx: Context,
    settings: TrainingSettings,
    cache: bool,
) -> Teacher:
    """A frozen teacher; with `cache` one whose answers are computed now, for each row.

    Raises:
        UnsupportedModel: it has other classes than the student.
    """
    module: nn.Module = model.module
    module.requires_grad_(False)
    module.to(ctx.device).eval()
    _check_classes(name, model, student)
    made = Teacher(module, lessons)
    return replace(made, answers=answers(name, model, made.want, ctx, settings)) if cache else made


def files_read(folder: Path) -> dict[str, bytes]:
    """The files in a model's folder that decide what it is fed, by name."""
    return {name: (folder / name).read_bytes() for name in INPUT_FILES if (folder / name).is_file()}


def _check_classes(name: str, model: Model, student: Model) -> None:
    mine, theirs = (getattr(each.module.config, "num_labels", None) for each in (student, model))
    if mine != theirs:
        raise UnsupportedModel(f"teacher {name} tells {theirs} classes apart and the student {mine}")


# ------------------------------------------------------------------ how well they were heard


def agreements(student: NDArray[np.float32], taught: Mapping[str, NDArray[np.float32]], *, logits: bool) -> dict[str, float]:
    """Share of the compared rows on which the student predicts what each teacher does; without logits the mean cosine."""
    agreed = _same_class if logits else _cosine
    return {name: agreed(student, each) for name, each in taught.items()}


def _same_class(mine: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    return float((mine.argmax(-1) == theirs.argmax(-1)).mean())


def _cosine(mine: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    import numpy as np

    lengths = np.linalg.norm(mine, axis=-1) * np.linalg.norm(theirs, axis=-1)
    return float(((mine * theirs).sum(-1) / np.maximum(lengths, 1e-30)).mean())


def agreement_remarks(before: Mapping[str, float], after: Mapping[str, float], *, rows: int, ctx: Context) -> Iterator[str]:
    """A sentence for each teacher."""
    for name in before:
        if ctx.task.logits:
            found = f"agree on {after[name]:.1%} of {rows} validation rows, {before[name]:.1%} before"
        else:
            found = f"have features at a mean cosine of {after[name]:.3f} on {rows} validation rows, {before[name]:.3f} before"
        yield f"Student and teacher {name} {found}."
        if after[name] < before[name] < ALIKE:
            ctx.tell(Message(f"the student agrees less with {name} than before: try a lower learning_rate or more epochs"))


def silent(curves: Mapping[str, Sequence[tuple[float, float]]]) -> Iterator[str]:
    """A sentence for each loss that ends where it began: the means of its first and last quarter hardly differ."""
    for name, curve in curves.items():
        quarter = len(curve) // 4
        if quarter < 2:
            continue
        first, last = (fmean(value for _, value in part) for part in (curve[:quarter], curve[-quarter:]))
        if abs(last - first) <= STILL * abs(first):
            yield f"The loss {name} did not move ({first:.3g} at first, {last:.3g} at last): it taught the student nothing new."


def thinned(curve: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """At most `POINTS` points, each the mean of as many neighbours."""
    width = -(-len(curve) // POINTS)
    bins = (curve[at : at + width] for at in range(0, len(curve), width))
    return tuple((sum(x for x, _ in each) / len(each), sum(y for _, y in each) / len(each)) for each in bins)
