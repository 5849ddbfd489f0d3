"""Distillation: train a student to imitate one or several teachers, by objectives that are found by name."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, ValidationError, model_validator
from typing_extensions import override

from compressor import registry
from compressor.anatomy import anatomy_of
from compressor.contracts import Batch, Context, Objective, Pass, Size, Task
from compressor.edits import KeepBlocks
from compressor.errors import CompressorError, UnsupportedModel, did_you_mean
from compressor.records import Remark, Series
from compressor.training import TrainingSettings, train
from passes.lessons import Teacher, lessons, losses
from passes.objectives.layer_maps import ids, spread
from passes.side_files import write_side_files
from passes.teaching import COMPARED_ROWS, agreement_remarks, agreements, silent, teacher, thinned, validation_outputs

if TYPE_CHECKING:
    import torch
    from torch import nn

    from compressor.model import Model

Weight = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(gt=0)]


class Distill(Pass, TrainingSettings):
    """Train a student, which starts from the step's input model, to imitate one or several teachers."""

    requires: ClassVar[tuple[str, ...]] = ("torch", "transformers", "accelerate")
    trains: ClassVar[bool] = True
    paper: ClassVar[str] = (
        "Hinton et al., Distilling the Knowledge in a Neural Network, 2015, arXiv:1503.02531; students from every other layer: "
        "Sanh et al., DistilBERT, 2019, arXiv:1910.01108"
    )
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({"teacher": "source", "init": "every-other"},)

    teacher: str | Annotated[tuple[str, ...], Field(min_length=1)] | Annotated[dict[str, Share], Field(min_length=1)] = Field(
        description="an earlier step, an entry of models, or source; several as a list, or with a share each"
    )
    objectives: dict[str, Weight | dict[str, Any]] = Field(
        {"soft-targets": 1.0}, description="losses by name: a weight, or parameters with `weight` among them"
    )
    task_loss: float = Field(0.0, ge=0, description="weight of the supervised loss on the labels")
    init: Literal["self", "every-other", "first", "last"] = Field(
        "self", description="which layers of the input model the student takes"
    )
    layers: int | None = Field(None, ge=1, description="how many layers it takes; half of them for every-other unless given")
    cache_teacher: bool | None = Field(None, description="run the teacher once a row; by itself where only its logits are wanted")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.init == "self" and self.layers is not None:
            raise ValueError("layers needs init: every-other, first or last")
        if self.init in ("first", "last") and self.layers is None:
            raise ValueError(f"init: {self.init} needs layers, the number of layers to take")
        if isinstance(self.teacher, tuple) and len(set(self.teacher)) < len(self.teacher):
            raise ValueError(f"teacher names one twice: {', '.join(self.teacher)}")
        known = registry.names("objective")
        made = [objective(name, given) for name, given in self.objectives.items() if name in known]
        if len(made) == len(self.objectives) and not self.task_loss and not any(each.weight for each in made):
            raise ValueError("nothing to learn: every weight of objectives is 0, and so is task_loss")
        return self

    @override
    def teachers(self) -> tuple[str, ...]:
        """Names of the teachers."""
        return (self.teacher,) if isinstance(self.teacher, str) else tuple(self.teacher)

    @override
    def plugins(self) -> Mapping[str, tuple[str, ...]]:
        """The objectives, and the edit that makes a student of fewer layers."""
        return {"objective": tuple(self.objectives), "edit": ("keep-blocks",)}

    @override
    def work(self, size: Size) -> float:
        """The student's epochs, and the teachers' answers: once where they are kept, else anew in every epoch."""
        train, validation = size.rows["train"], size.rows["validation"]
        compared = min(COMPARED_ROWS, validation)
        looked_inside = any(name != "soft-targets" for name in self.objectives)
        answers = self.epochs if self.cache_teacher is False or looked_inside else 1
        student = self.epochs * (3 * train + validation) + compared
        return student * size.result + (answers * train + compared) * size.teachers

    @override
    def apply(self, model: Model, ctx: Context) -> Model:
        """The trained student, a model of its own.

        Raises:
            UnsupportedModel: a teacher or objective does not fit the student, or there are too few layers.
            TrainingDiverged: the loss is not finite.
        """
        import torch

        torch.manual_seed(ctx.seed)  # projections that start at random are the same ones when a killed run goes on
        student = self._student(model)
        student.module.requires_grad_(True)
        models = {name: ctx.model(name) for name in self.teachers()}
        teachers = self._teachers(student, models, ctx)
        if self.compile and (inside := [lesson.name for each in teachers for lesson in each.lessons if lesson.looks_inside]):
            raise CompressorError(
                f"compile: true hides what {', '.join(inside)} looks at inside of the student: leave compile out"
            )
        taught = validation_outputs(models, ctx)
        before = agreements(ctx.evaluate(student, "validation", limit=COMPARED_ROWS), taught)
        projections = [lesson.projections for each in teachers for lesson in each.lessons if lesson.projections is not None]
        log = train(
            torch.nn.ModuleList([student.module, *projections]),
            batches=self._batches(student, ctx),
            step=lambda batch: self._step(student.module, teachers, batch, ctx.task),
            settings=self,
            seed=ctx.seed,
            device=ctx.device,
            tell=ctx.tell,
            work="distill",
            folder=ctx.folder,
            evaluate=lambda: ctx.evaluate(student, "validation").scores.main.value,
        )
        curves = {name: thinned(curve) for name, curve in log.losses.items()}
        ctx.note(Series(title=f"Losses by weight ({log.precision})", x="step", y="loss", curves=curves))
        ctx.note(Series(title="Validation", x="step", y=ctx.task.metric, curves={ctx.task.metric: log.validation}))
        after = agreements(ctx.evaluate(student, "validation", limit=COMPARED_ROWS), taught)
        for remark in (*agreement_remarks(before, after, taught, ctx), *silent(log.losses)):
            ctx.note(Remark(text=remark))
        return student

    def _student(self, model: Model) -> Model:
        """A copy of the input model, or of some of its layers."""
        student = model.copy()
        if self.init == "self":
            return student
        blocks = ids(anatomy_of(student.module))
        count = self.layers or (len(blocks) + 1) // 2
        if count > len(blocks):
            raise UnsupportedModel(f"the student is to take {count} layers of a model that has {len(blocks)}")
        chosen = {
            "first": range(count),
            "last": range(len(blocks) - count, len(blocks)),
            "every-other": spread(count, len(blocks)),
        }
        student.apply(KeepBlocks(blocks=tuple(blocks[at] for at in chosen[self.init])))
        return student

    def _objectives(self) -> dict[str, Objective]:
        """The objectives that count, by name."""
        made = {name: objective(name, given) for name, given in self.objectives.items()}
        return {name: each for name, each in made.items() if each.weight > 0}

    def _teachers(self, student: Model, models: Mapping[str, Model], ctx: Context) -> tuple[Teacher, ...]:
        """The teachers, ready to teach; their shares sum to 1."""
        shares = self.teacher if isinstance(self.teacher, dict) else dict.fromkeys(self.teachers(), 1.0)
        whole, mine, wanted = sum(shares.values()), anatomy_of(student.module), self._objectives()
        made = []
        for name, model in models.items():
            suffix = f" of {name}" if len(models) > 1 else ""
            taught = lessons(mine, anatomy_of(model.module), wanted, share=shares[name] / whole, suffix=suffix)
            made.append(teacher(name, model, taught, student=student, ctx=ctx, settings=self, cache=self.cache_teacher))
        return tuple(made)

    def _batches(self, student: Model, ctx: Context) -> Callable[[int], Iterable[Batch]]:
        rows, files = ctx.data.split("train"), write_side_files(student, ctx.folder / "files")
        return lambda epoch: ctx.task.batches(rows, files, batch_size=self.batch_size, shuffle_seed=ctx.seed + epoch)

    def _step(self, student: nn.Module, teachers: Sequence[Teacher], batch: Batch, task: Task) -> dict[str, torch.Tensor]:
        outputs, found = losses(teachers, task, student, batch)
        weights = {lesson.name: lesson.weight for each in teachers for lesson in each.lessons}
        weighted = {name: weights[name] * loss for name, loss in found.items()}
        return weighted | ({"task": self.task_loss * task.loss(outputs, batch)} if self.task_loss else {})


def objective(name: str, given: float | dict[str, Any]) -> Objective:
    """The objective of that name with what the plan says of it: its weight, or its parameters.

    Raises:
        PluginError: there is none of that name.
        ValueError: it does not take these parameters; says all that is wrong.
    """
    kind: type[Objective] = registry.load("objective", name)
    parameters = given if isinstance(given, dict) else {"weight": given}
    try:
        made = kind.model_validate_json(json.dumps(parameters), strict=True)
    except ValidationError as error:
        faults = (_fault(name, kind, details["loc"], details["type"], details["msg"]) for details in error.errors())
        raise ValueError("; ".join(faults)) from None
    if made.weight < 0:
        raise ValueError(f"{name}.weight: found {made.weight:g}, expected 0 or more")
    return made


def _fault(name: str, kind: type[Objective], where: tuple[int | str, ...], what: str, message: str) -> str:
    path = ".".join([name, *map(str, where)])
    if what == "extra_forbidden":
        return f"{path}: no such parameter{did_you_mean(str(where[-1]), kind.model_fields)}"
    return f"{path}: {message[:1].lower()}{message[1:]}"
