"""Distillation: train a student to imitate one or several teachers, by objectives that are found by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator
from typing_extensions import override

from compressor.contracts import Batch, Context, Needs, Objective, Recipe, Size, Wish
from compressor.contracts.notes import Series
from compressor.model.anatomy import anatomy_of
from compressor.training.course import told
from compressor.training.loop import Training, train
from compressor.training.lora import Lora, adapted, in_float
from compressor.training.settings import TokenSettings
from passes.distillation.distillation import Distillation, TeacherAgreement, projections
from passes.distillation.generation import Generation, ends_of
from passes.distillation.teachers import COMPARED_ROWS, thinned
from passes.objectives.layer_maps import ids
from passes.pruning.take_layers import take

if TYPE_CHECKING:
    import torch

    from compressor.contracts import Model
    from compressor.training.loop import Moment
    from passes.distillation.losses import Teacher


class Distill(Distillation, TokenSettings):
    """Train a student, which starts from the step's input model, to imitate one or several teachers."""

    version: ClassVar[int] = 4
    paper: ClassVar[str] = (
        "Hinton et al., Distilling the Knowledge in a Neural Network, 2015, arXiv:1503.02531; students from every other layer: "
        "Sanh et al., DistilBERT, 2019, arXiv:1910.01108; lora: Yang et al., LLM-Neo, 2024, arXiv:2411.06839; generate: Agarwal et al., On-Policy "
        "Distillation of Language Models, 2024, arXiv:2306.13649; Xu et al., Speculative Knowledge Distillation, 2024, arXiv:2410.11325"
    )
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({"teacher": "source", "init": "every-other"},)

    init: Literal["self", "every-other", "first", "last", "uniform", "both-ends"] = Field(
        "self", description="which layers of the input model the student takes; every-other and uniform are evenly spaced"
    )
    layers: int | None = Field(None, ge=1, description="how many layers it takes; half of them for every-other unless given")
    lora: Lora | None = Field(
        None,
        description="learn small matrices beside the student's (LLM-Neo), added to it at the end; they take a learning_rate 10 times as high",
    )

    generate: Generation | None = Field(
        None,
        description="train on what the student, the teacher or both write after the beginnings of rows, in a share of the steps",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.init == "self" and self.layers is not None:
            raise ValueError("layers needs init: every-other, first, last, uniform or both-ends")
        if self.init not in ("self", "every-other") and self.layers is None:
            raise ValueError(f"init: {self.init} needs layers, the number of layers to take")
        if self.generate and self.tokens is not None:
            raise ValueError("tokens are those of the rows, and generate trains on others: give epochs or steps")
        if self.generate and self.cache_teacher:
            raise ValueError("cache_teacher keeps answers to the rows, and generate trains on others: leave cache_teacher out")
        if self.generate and self.generate.by != "teacher" and not any(each.weight for each in self.known_objectives().values()):
            raise ValueError(f"generate: by {self.generate.by} has no labels to learn from: give an objective a weight")
        if self.generate and self.generate.by != "student" and len(self.teachers()) > 1:
            raise ValueError(f"generate: by {self.generate.by} takes one teacher, and there are {len(self.teachers())}")
        return self

    @classmethod
    @override
    def recipe(cls, wish: Wish) -> Recipe | None:
        """It teaches a model that lost parts what the one before answers; where that cannot be imitated, what it holds inside."""
        why = f"teach it again what {wish.reference} answers"
        given: dict[str, Any] = {"teacher": wish.reference, "epochs": 3}
        if wish.task.imitated() is None:
            if wish.without is None or "features" in wish.without:
                return None
            given |= {"objectives": {"hidden-states": 1.0}, **({"task_loss": 1.0} if wish.task.trainable else {})}
        return Recipe(given, why, role="recover")

    @override
    def needs(self) -> Needs:
        """What the objectives need; a student of fewer layers is an edit of the layers."""
        found = super().needs()
        layers = () if self.init == "self" else ("layers",)
        plugins, tokens = {**found.plugins, "edit": ("keep-blocks",)}, self.tokens is not None
        return replace(found, plugins=plugins, inside=(*found.inside, *layers), tokens=tokens, floats=in_float(self.lora))

    @override
    def work(self, size: Size) -> float:
        """The student's epochs and the teachers' answers."""
        train, validation = size.rows["train"], size.rows["validation"]
        passes, scored = self.passes(train, size.epoch), self.validated(train, size.epoch)
        student = 3 * passes * train + scored * validation + min(COMPARED_ROWS, validation)
        return student * size.result + self.answers(size, passes)

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
        models = {name: ctx.model(name) for name in self.teachers()}
        teachers = self.taught_by(student, models, ctx)
        listening = TeacherAgreement(student, models, ctx)
        with adapted(student.module, self.lora, seed=ctx.seed):
            training = Training(
                torch.nn.ModuleList([student.module, *projections(teachers)]),
                batches=self.batches(student, ctx),
                step=lambda batch, moment: self._learned(student, teachers, batch, ctx, moment),
                settings=self,
                evaluate=lambda: ctx.evaluate(student, "validation").quality,
                beside=tuple(each.module for each in teachers if each.answers is None),
            )
            log = train(training, ctx, work="distill")
        curves = {name: thinned(curve) for name, curve in log.losses.items()}
        ctx.note(Series(title=f"Losses by weight ({log.precision})", x="step", y="loss", curves=curves))
        for note in told(log, ctx):
            ctx.note(note)
        listening.tell(student, log.losses)
        return student

    def _learned(
        self, student: Model, teachers: Sequence[Teacher], batch: Batch, ctx: Context, moment: Moment
    ) -> dict[str, torch.Tensor]:
        """Losses by name, on the rows or on what is written after their beginnings; what a student writes is no label."""
        if not (self.generate and self.generate.due(ctx.seed, moment.step)):
            return self.losses(student.module, teachers, batch, ctx.task, moment)
        beginnings, ends = (batch, student.module, teachers[0].module), ends_of(student)
        batch = self.generate.written(*beginnings, seed=ctx.seed, step=moment.step, ends=ends)
        return self.losses(student.module, teachers, batch, ctx.task, moment, labels=self.generate.by == "teacher")

    @override
    def _answers_kept(self, counted: Sequence[Objective] | None = None) -> bool:
        """Not where batches are written: a teacher has to read them."""
        return self.generate is None and super()._answers_kept(counted)

    @override
    def needs_whole(self) -> str:
        """Words are written by as many calls as texts take, which differ from process to process."""
        if self.generate:
            return "generate writes texts of other lengths in each process, and all of them have to make equal calls"
        return self.taken_whole(self.lora)

    def _student(self, model: Model) -> Model:
        """A copy of the input model, or of some of its layers; one that is spread over processes, which this step alone has, itself."""
        from compressor.model.sharding import roots

        student = model if roots(model.module) else model.copy()
        if self.init == "self":
            return student
        count = self.layers or (len(ids(anatomy_of(student.module))) + 1) // 2
        take(student, "uniform" if self.init == "every-other" else self.init, count)
        return student
