"""What a student learns from each of its teachers: features captured once, objectives summed by weight."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Any, TypeAlias

from compressor.contracts import Batch, Objective, Outputs, Task, Want
from compressor.contracts.anatomy import Anatomy
from compressor.model.anatomy import anatomy_of
from compressor.model.token_losses import TokenLoss, cross_entropy, token_means
from passes.objectives.token_objective import TokenObjective

if TYPE_CHECKING:
    import torch
    from torch import nn

    from compressor.training.loop import Moment
    from passes.distillation.teacher_cache import TeacherCache

TASK = "task"
"""Name of the supervised loss among the losses."""


@dataclass(frozen=True)
class DistillationLoss:
    """One objective with one teacher."""

    name: str
    """How its curve is called: the objective's name, with the teacher's where there are several."""
    objective: Objective
    weight: float
    """The objective's weight times the teacher's share."""
    student: Want
    teacher: Want
    projections: nn.Module | None

    def at(self, moment: Moment | None) -> DistillationLoss:
        """The same in one step of a training."""
        if moment is None:
            return self
        before = moment.before.get(self.name)
        now = self.objective.at(self.projections, step=moment.step, done=moment.done, before=before)
        return self if now is self.objective else replace(self, objective=now)

    def projected(self, student: Outputs) -> Outputs:
        """What the objective asked for of the student, in the order it asked, through its projections."""
        return self.objective.project(student.chosen(self.student), self.projections)

    def loss(self, projected: Outputs, teacher: Outputs, batch: Batch) -> torch.Tensor:
        """The loss before its weight."""
        return self.objective.loss(in_float32(projected), in_float32(teacher.chosen(self.teacher)), batch)


@dataclass(frozen=True)
class Teacher:
    """A frozen model and the lessons it gives; with `answers` they are looked up by row and the model is not run."""

    module: nn.Module
    lessons: tuple[DistillationLoss, ...]
    answers: TeacherCache | None = None

    @property
    def want(self) -> Want:
        """What all its lessons capture on it."""
        return union(lesson.teacher for lesson in self.lessons)

    def outputs(self, task: Task, batch: Batch, like: Outputs) -> Outputs:
        """What it makes of a batch, without gradients; `like` are the student's outputs."""
        import torch

        if self.answers is not None:
            return self.answers.of(batch, like)
        with torch.no_grad():
            return task.forward(self.module, batch, self.want)


def lessons(
    student: Anatomy, teacher: Anatomy, objectives: Mapping[str, Objective], *, share: float = 1.0, suffix: str = ""
) -> tuple[DistillationLoss, ...]:
    """One lesson an objective, its projections freshly made."""
    return tuple(
        DistillationLoss(
            f"{name}{suffix}",
            objective,
            objective.weight * share,
            *objective.wants(student, teacher),
            objective.projections(student, teacher),
        )
        for name, objective in objectives.items()
    )


def losses(
    teachers: Sequence[Teacher],
    task: Task,
    student: nn.Module,
    batch: Batch,
    *,
    task_loss: float = 0.0,
    moment: Moment | None = None,
) -> dict[str, torch.Tensor]:
    """Each lesson's loss times its weight, and the task's own as `task`, in float32 whatever the forward pass runs in.

    What looks at the student's answers token by token is computed together, so that these are computed once; of those losses only the
    sum can be learned from.
    """
    import torch

    outputs = student_outputs(teachers, task, student, batch)
    taught = [
        (lesson.at(moment), lesson.projected(outputs), theirs)
        for teacher in teachers
        if teacher.lessons
        for theirs in [teacher.outputs(task, batch, outputs)]
        for lesson in teacher.lessons
    ]
    with torch.autocast(outputs.device.type, enabled=False):
        return _added(outputs, taught, batch, task, task_loss)


def student_outputs(teachers: Sequence[Teacher], task: Task, student: nn.Module, batch: Batch) -> Outputs:
    """What a student makes of a batch, with all features that its lessons want."""
    want = union(lesson.student for teacher in teachers for lesson in teacher.lessons)
    _quiet(student, want.of("attention-map"))
    with unabridged(student) if want else nullcontext():
        return task.forward(student, batch, want)


Taught: TypeAlias = "Sequence[tuple[DistillationLoss, Outputs, Outputs]]"
"""Lessons with the student's projected outputs and the teacher's."""


def _added(outputs: Outputs, taught: Taught, batch: Batch, task: Task, task_loss: float) -> dict[str, torch.Tensor]:
    """Weighted losses by name, in the order of the lessons and the task's last."""
    found = _by_token(outputs, taught, batch, task_loss)
    for lesson, mine, theirs in taught:
        if lesson.name not in found:
            found[lesson.name] = lesson.weight * lesson.loss(mine, theirs, batch)
    if task_loss and TASK not in found:
        found[TASK] = task_loss * task.loss(in_float32(outputs), batch)
    return {name: found[name] for name in (*(lesson.name for lesson, _, _ in taught), TASK) if name in found}


def _by_token(outputs: Outputs, taught: Taught, batch: Batch, task_loss: float) -> dict[str, torch.Tensor]:
    """Those of the losses that can be computed token by token, where the student's logits are put off."""
    tokens = outputs.tokens
    if tokens is None:
        return {}
    made: dict[str, TokenLoss] = {}
    weights = {lesson.name: lesson.weight for lesson, _, _ in taught} | {TASK: task_loss}
    for lesson, mine, theirs in taught:
        if isinstance(lesson.objective, TokenObjective) and type(lesson.objective).loss is TokenObjective.loss:
            made[lesson.name] = lesson.objective.token_loss(mine, theirs, batch)
    if task_loss and tokens.labels is not None:
        made[TASK] = cross_entropy
    return token_means(tokens, made, weights) if made else {}


@contextmanager
def unabridged(module: nn.Module) -> Iterator[None]:
    """No layer drop and no masked frames meanwhile.

    A block that is left out has no states to imitate, and gates that do not act; a teacher sees what a mask hides from its student.
    """
    config: Any = getattr(module, "config", None)
    held: list[tuple[Any, str, Any]] = [
        (part, "layerdrop", part.layerdrop)
        for part in (config, *module.modules())
        if isinstance(getattr(part, "layerdrop", None), float)
    ]
    if getattr(config, "apply_spec_augment", False):
        held.append((config, "apply_spec_augment", True))
    for part, name, _ in held:
        setattr(part, name, type(getattr(part, name))(0))
    try:
        yield
    finally:
        for part, name, before in held:
            setattr(part, name, before)


def _quiet(student: nn.Module, blocks: Sequence[str]) -> None:
    """Switch dropout off in attention that hands out its maps: they come after it, and a dropped entry is no probability."""
    if blocks:
        anatomy = anatomy_of(student)
        for attention in (anatomy.block(block).attention for block in blocks):
            if attention is not None:
                student.get_submodule(attention.module).eval()


def union(wants: Iterable[Want]) -> Want:
    """All that any of `wants` asks for, each feature once."""
    return reduce(or_, wants, Want())


def in_float32(outputs: Outputs) -> Outputs:
    """The same outputs with every number in float32."""
    features = {feature: tensor.float() for feature, tensor in outputs.features.items()}
    return Outputs(outputs.later or outputs.main.float(), features, outputs.mask)
