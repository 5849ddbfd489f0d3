"""Around a distillation: teachers made ready, their answers kept, and what the report says of how well they were heard."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

from compressor.contracts import Context, Message, Task
from compressor.errors import UnsupportedModel
from compressor.training.settings import TrainingSettings
from passes.distillation.losses import DistillationLoss, Teacher
from passes.distillation.teacher_cache import answers

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from compressor.contracts import Model

COMPARED_ROWS = 500
"""Rows of validation on which student and teacher are compared."""
POINTS = 200
"""Points of a curve in the report."""
ALIKE = 0.999
"""Agreement of a student that began as its teacher's copy: it can only fall."""
THREE_PLACES = "{:.3f} on {rows} validation rows, {before:.3f} before"
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
    words: int,
) -> Teacher:
    """A frozen teacher; with `cache` one whose answers are computed now, for each row, of a language model's so many likeliest words.

    Raises:
        UnsupportedModel: it has other classes than the student, or other words and a lesson that needs them.
    """
    module: nn.Module = model.module
    module.requires_grad_(False)
    module.to(ctx.device).eval()
    _check_classes(name, model, student)
    made = Teacher(module, lessons)
    if not cache:
        return made
    alone = [lesson.name for lesson in lessons if not getattr(lesson.objective, "of_any_words", False)]
    return replace(made, answers=answers(name, model, made.want, ctx, settings, words=words, student=student, alone=alone))


def held_once(module: nn.Module, beside: nn.Module) -> None:
    """Have a frozen model share those parameters with another that both have alike, on one device; the other is not to be trained."""
    import torch

    others = dict(beside.named_parameters())
    for name, mine in module.named_parameters():
        other = others.get(name)
        if other is not None and (mine.dtype, mine.device) == (other.dtype, other.device) and torch.equal(mine, other):
            mine.data = other.data


def _check_classes(name: str, model: Model, student: Model) -> None:
    mine, theirs = (getattr(each.module.config, "num_labels", None) for each in (student, model))
    if mine != theirs:
        raise UnsupportedModel(f"teacher {name} tells {theirs} classes apart and the student {mine}")


# ------------------------------------------------------------------ how well they were heard


@dataclass(frozen=True)
class Agreement:
    """How alike the answers of student and teacher are, at most 1, and how that is said."""

    value: float
    told: str


def agreement(task: Task, mine: NDArray[np.float32], theirs: NDArray[np.float32]) -> Agreement:
    """Of main outputs, row by row: the share of equal predictions; where rows have none the correlation of numbers, or the mean cosine.

    Args:
        task: whose outputs they are.
        mine: of the student, `[n, ...]`.
        theirs: of a teacher, for the same rows.
    """
    one, other = _predictions(task, mine), _predictions(task, theirs)
    if one is not None and other is not None:
        return Agreement(float((one == other).mean()), "agree on {:.1%} of {rows} validation rows, {before:.1%} before")
    if mine.shape[-1] == 1:
        return Agreement(_correlation(mine, theirs), f"tell numbers with a correlation of {THREE_PLACES}")
    return Agreement(_cosine(mine, theirs), f"have features at a mean cosine of {THREE_PLACES}")


def _predictions(task: Task, outputs: NDArray[np.float32]) -> NDArray[Any] | None:
    found = task.predictions({task.outputs()[0].name: outputs})
    return outputs.argmax(-1) if found is None and task.gives_logits() else found


def _correlation(mine: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    one, other = ((each - each.mean()).reshape(1, -1) for each in (mine, theirs))
    return _cosine(one, other)


def _cosine(mine: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    import numpy as np

    lengths = np.linalg.norm(mine, axis=-1) * np.linalg.norm(theirs, axis=-1)
    return float(((mine * theirs).sum(-1) / np.maximum(lengths, 1e-30)).mean())


def agreement_remarks(
    before: Mapping[str, Agreement], after: Mapping[str, Agreement], *, rows: int, ctx: Context
) -> Iterator[str]:
    """A sentence for each teacher."""
    for name, now in after.items():
        began = before[name].value
        yield f"Student and teacher {name} {now.told.format(now.value, rows=rows, before=began)}."
        if now.value < began < ALIKE:
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
