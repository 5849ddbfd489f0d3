"""What all steps that learn from teachers share: who teaches, by which objectives, and how a training is made of that."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import Field, ValidationError, model_validator
from typing_extensions import override

from compressor.contracts import Batch, Context, Needs, Objective, Pass, Size, Task, registry
from compressor.contracts.notes import Remark
from compressor.errors import PluginError, UnsupportedModel, did_you_mean
from compressor.model.anatomy import anatomy_of, anatomy_or_bare
from compressor.training.settings import TrainingSettings
from passes.distillation.losses import Teacher, lessons, losses
from passes.distillation.teachers import (
    COMPARED_ROWS,
    Agreement,
    agreement,
    agreement_remarks,
    silent,
    teacher,
)
from passes.side_files import INPUT_FILES, files_read

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import nn

    from compressor.contracts import Model
    from compressor.training.loop import Moment

Weight = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(gt=0)]


class Distillation(Pass, TrainingSettings):
    """A training by teachers; what is done to the student is the step's own."""

    requires: ClassVar[tuple[str, ...]] = ("torch", "transformers", "accelerate")
    trains: ClassVar[bool] = True

    teacher: str | Annotated[tuple[str, ...], Field(min_length=1)] | Annotated[dict[str, Share], Field(min_length=1)] = Field(
        description="an earlier step, an entry of models, or source; several as a list, or with a share each"
    )
    objectives: dict[str, Weight | dict[str, Any]] = Field(
        {"soft-targets": 1.0},
        description="losses by name: a weight, or parameters with `weight` among them",
        json_schema_extra={"plugins": "objective"},
    )
    task_loss: float = Field(0.0, ge=0, description="weight of the supervised loss on the labels")
    cache_teacher: bool | None = Field(
        None,
        description="run the teacher once a row and keep what it answers, inner states on disk (tokens x features x 2 bytes a row and state "
        "in bf16); on unless false where only logits are wanted",
    )

    cached_words: int = Field(
        64,
        ge=1,
        le=2**20,
        description="of a language model's kept answers: so many of the likeliest words of each token, 4 bytes each in bf16",
    )

    @model_validator(mode="after")
    def _something_to_learn(self) -> Self:
        if isinstance(self.teacher, tuple) and len(set(self.teacher)) < len(self.teacher):
            raise ValueError(f"teacher names one twice: {', '.join(self.teacher)}")
        made = self.known_objectives()
        if len(made) == len(self.objectives) and not self.task_loss and not any(each.weight for each in made.values()):
            raise ValueError("nothing to learn: every weight of objectives is 0, and so is task_loss")
        looks = {name: each.looks_at() for name, each in made.items() if each.weight}
        maps = [name for name, at in looks.items() if at == "maps"]
        if maps and self.cache_teacher:
            raise ValueError(
                f"cache_teacher keeps no attention maps, and {', '.join(maps)} looks at them: leave cache_teacher out"
            )
        inside = [name for name, at in looks.items() if at != "logits"]
        if inside and self.compile:
            raise ValueError(f"compile: true hides what {', '.join(inside)} looks at inside of the student: leave compile out")
        return self

    @override
    def needs(self) -> Needs:
        """Teachers, objectives, and what these look at. Objectives at fault are left out: the plan's check tells them."""
        counted = self._counted()
        seen = {each.looks_at() for each in counted}
        given = self.objectives.get("soft-targets", 0.0)
        soft = bool(given.get("weight", 1.0) if isinstance(given, dict) else given)
        return Needs(
            teachers=self.teachers(),
            machine=self.attention == "auto",
            logits_of=self.teachers() if "logits" in seen else (),
            plugins={"objective": tuple(self.objectives)},
            loss=self.task_loss > 0,
            imitates=soft,
            repeats=self._answers_kept(counted),
            inside=(*(("features",) if seen - {"logits"} else ()), *(("attention maps",) if "maps" in seen else ())),
        )

    def teachers(self) -> tuple[str, ...]:
        """Names of the teachers."""
        return (self.teacher,) if isinstance(self.teacher, str) else tuple(self.teacher)

    def _counted(self) -> tuple[Objective, ...]:
        """Objectives that are installed, take their parameters and count."""
        found = []
        for name in (name for name in self.objectives if name in registry.names("objective")):
            with suppress(PluginError, ValueError):
                found.append(objective(name, self.objectives[name]))
        return tuple(each for each in found if each.weight > 0)

    @override
    def check(self, given: Path, origins: Mapping[str, Path]) -> None:
        """Teachers that would have to run on what the student reads, and read something else."""
        if all(each.looks_at() == "logits" for each in self._counted()) and (self._answers_kept() or not self._counted()):
            return  # they run on what they read themselves, or not at all
        mine = files_read(given)
        for name in self.teachers():
            theirs = files_read(origins[name])
            if other := [file for file in INPUT_FILES if mine.get(file) != theirs.get(file)]:
                raise UnsupportedModel(
                    f"teacher {name} and student read different inputs ({', '.join(other)} differ): "
                    "such a teacher gives soft-targets only (of words, sorted-probabilities), with cache_teacher: true"
                )

    def answers(self, size: Size, epochs: float) -> float:
        """Work of the teachers: once a row where their answers are kept, else anew in every epoch."""
        train, compared = size.rows["train"], min(COMPARED_ROWS, size.rows["validation"])
        times = 1 if self._answers_kept() else epochs
        return ((times if self._counted() else 0) * train + compared) * size.teachers

    def _answers_kept(self, counted: Sequence[Objective] | None = None) -> bool:
        """Whether the teachers run once a row: where that was asked for, and by itself where only their logits are wanted."""
        looked = [each.looks_at() for each in (self._counted() if counted is None else counted)]
        if self.cache_teacher is None:
            return set(looked) == {"logits"}
        return self.cache_teacher and bool(looked)

    def taught_by(self, student: Model, models: Mapping[str, Model], ctx: Context) -> tuple[Teacher, ...]:
        """The teachers, ready to teach; their shares sum to 1.

        Raises:
            UnsupportedModel: a teacher or objective does not fit the student.
        """
        shares = self.teacher if isinstance(self.teacher, dict) else dict.fromkeys(self.teachers(), 1.0)
        read = anatomy_of if self.needs().inside else anatomy_or_bare
        whole, mine = sum(shares.values()), read(student.module)
        wanted = {name: each.of(ctx.task) for name, each in self._objectives().items()}
        made = []
        for name, model in models.items():
            suffix = f" of {name}" if len(models) > 1 else ""
            taught = lessons(mine, read(model.module), wanted, share=shares[name] / whole, suffix=suffix)
            held, words = self._answers_kept(), self.cached_words
            made.append(teacher(name, model, taught, student=student, ctx=ctx, settings=self, cache=held, words=words))
        return tuple(made)

    def known_objectives(self) -> dict[str, Objective]:
        """The objectives that are installed, by name; others are faults that the plan's check tells."""
        known = registry.names("objective")
        return {name: objective(name, given) for name, given in self.objectives.items() if name in known}

    def _objectives(self) -> dict[str, Objective]:
        """The objectives that count, by name."""
        made = {name: objective(name, given) for name, given in self.objectives.items()}
        return {name: each for name, each in made.items() if each.weight > 0}

    def losses(
        self, student: nn.Module, teachers: Sequence[Teacher], batch: Batch, task: Task, moment: Moment, *, labels: bool = True
    ) -> dict[str, torch.Tensor]:
        """Losses by name, weighted; that on the labels only where the batch has some."""
        return losses(teachers, task, student, batch, task_loss=self.task_loss if labels else 0.0, moment=moment)


def projections(teachers: Sequence[Teacher]) -> list[nn.Module]:
    """What the lessons train beside the student."""
    return [lesson.projections for each in teachers for lesson in each.lessons if lesson.projections is not None]


class TeacherAgreement:
    """How well a student agrees with its teachers before and after."""

    def __init__(self, student: Model, teachers: Iterable[str], ctx: Context) -> None:
        self._ctx = ctx
        self._taught = {name: self._outputs(name) for name in teachers}
        self._before = self._agreements(student)

    def tell(self, student: Model, curves: Mapping[str, Sequence[tuple[float, float]]]) -> None:
        """Into the report: agreement, and losses that stood still."""
        after, rows = self._agreements(student), min(len(each) for each in self._taught.values())
        for remark in (*agreement_remarks(self._before, after, rows=rows, ctx=self._ctx), *silent(curves)):
            self._ctx.note(Remark(text=remark))

    def _agreements(self, student: Model) -> dict[str, Agreement]:
        mine = self._outputs(student)
        return {name: agreement(self._ctx.task, mine, each) for name, each in self._taught.items()}

    def _outputs(self, model: Model | str) -> NDArray[np.float32]:
        return self._ctx.outputs(model, "validation", limit=COMPARED_ROWS)


def objective(name: str, given: float | dict[str, Any]) -> Objective:
    """The objective of that name with what the plan says of it: its weight, or its parameters.

    Raises:
        PluginError: there is none of that name.
        ValueError: it does not take these parameters; says all that is wrong.
    """
    kind: type[Objective] = registry.load("objective", name)
    parameters = given if isinstance(given, dict) else {"weight": given}
    try:
        return kind.model_validate_json(json.dumps(parameters), strict=True)
    except ValidationError as error:
        faults = (_fault(name, kind, details["loc"], details["type"], details["msg"]) for details in error.errors())
        raise ValueError("; ".join(faults)) from None


def _fault(name: str, kind: type[Objective], where: tuple[int | str, ...], what: str, message: str) -> str:
    path = ".".join([name, *map(str, where)])
    if what == "extra_forbidden":
        return f"{path}: no such parameter{did_you_mean(str(where[-1]), kind.model_fields)}"
    return f"{path}: {message[:1].lower()}{message[1:]}"
