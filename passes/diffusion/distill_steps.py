"""Distillation of a model that draws in many steps into one that draws in few."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator
from typing_extensions import override

from compressor.contracts import Batch, Context, Needs, Pass, Size, registry
from compressor.contracts.notes import Series
from compressor.errors import UnsupportedModel
from compressor.tasks.generation.description import FILE, Description, described
from compressor.tasks.generation.samplers import Sampler, Sampling
from compressor.training.settings import TrainingSettings
from passes.diffusion.bootstrap import finest
from passes.diffusion.students import averaged, check_alike, compared, drawing

if TYPE_CHECKING:
    import torch

    from compressor.contracts import Model
    from passes.diffusion.bootstrap import Method

SAMPLERS: Mapping[Method, Sampler] = {"progressive": "ddim", "shortcut": "ddim", "consistency": "consistency", "meanflow": "ddim"}
TOLD_SPANS = ("shortcut", "meanflow")
HEEDED: Mapping[str, tuple[Method, ...]] = {"levels": ("consistency", "shortcut"), "share": ("shortcut", "meanflow")}
"""Parameters that only some methods have a use for."""
PROCESSES, PREDICTIONS = ("flow", "cosine"), ("flow", "v")
TELL_SPAN = "tell-span"
FOLDED = 1.0
"""Guidance of a network that tells at once what a guided one does."""


class DistillSteps(TrainingSettings, Pass):
    """Train a student, which starts from the step's input model, to draw in few steps what a teacher draws in many."""

    version: ClassVar[int] = 2
    trains: ClassVar[bool] = True
    requires: ClassVar[tuple[str, ...]] = ("torch", "numpy")
    tried_on: ClassVar[str | None] = "image-generation"
    paper: ClassVar[str] = (
        "progressive: Salimans and Ho, Progressive Distillation for Fast Sampling of Diffusion Models, 2022, arXiv:2202.00512; shortcut: Frans et "
        "al., One Step Diffusion via Shortcut Models, 2024, arXiv:2410.12557; consistency: Song et al., Consistency Models, 2023, "
        "arXiv:2303.01469; meanflow: Geng et al., Mean Flows for One-step Generative Modeling, 2025, arXiv:2505.13447; guidance: Meng et al., On "
        "Distillation of Guided Diffusion Models, 2023, arXiv:2210.03142"
    )
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = tuple(
        {"teacher": "source", "method": method, "to": [2], "epochs": 1, "batch_size": 12, "precision": "fp32", "validations": 1}
        for method in SAMPLERS
    )

    teacher: str = Field(description="an earlier step, an entry of models, or source")
    method: Literal["progressive", "shortcut", "consistency", "meanflow"] = Field(
        "progressive",
        description="what a student's step is to equal: two of the teacher's, halving again and again; two of its own, of any length; a step to the "
        "end; or the mean of velocities by their derivative (flow only)",
    )
    to: tuple[Annotated[int, Field(ge=1, le=1000)], ...] = Field(
        (4,),
        min_length=1,
        description="steps that the student draws in, most first, each of them a model of its own, `STEP.steps-8` say, the last one the step's; "
        "progressive halves from one to the next and trains each anew, the first by twice as many steps (DDIM) of the teacher",
    )
    guidance: Literal["folded", "kept"] = Field(
        "folded",
        description="folded: the student tells at once what its guided teacher tells by two evaluations; kept: it goes on being guided",
    )
    scale: float | None = Field(
        None, ge=0, le=100, description="at which the teacher is guided where that is folded; its own unless given"
    )
    levels: int = Field(
        64,
        ge=2,
        le=1000,
        description="of consistency: even steps of the teacher that it is learned along; of shortcut: so many of the finest step are 1, or the "
        "next power of 2",
    )
    share: float = Field(
        0.25,
        gt=0,
        le=1,
        description="of the rows of shortcut and meanflow: how many learn longer steps; the others learn from the teacher alone",
    )
    ema: float | None = Field(
        0.99,
        ge=0,
        lt=1,
        description="decay of an average of the student's weights over the steps, which is scored and kept; null for none",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if any(later >= earlier for earlier, later in pairwise(self.to)):
            raise ValueError(f"to: {list(self.to)}: steps are given most first, each once")
        if self.method == "progressive" and any(2 * later != earlier for earlier, later in pairwise(self.to)):
            raise ValueError(f"to: {list(self.to)}: progressive halves the steps from one to the next")
        if self.method == "shortcut" and (odd := next((each for each in self.to if each & (each - 1)), None)):
            raise ValueError(f"to: {odd}: shortcut knows steps of 1, 2, 4, 8 and so on, as their halves are halved again")
        if self.method == "shortcut" and self.to[0] > finest(self.levels):
            raise ValueError(f"to: {self.to[0]}: steps shorter than 1 / {finest(self.levels)} are not learned: raise levels")
        for name, methods in HEEDED.items():
            if self.method not in methods and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} is of {' and '.join(methods)}, not of {self.method}: leave it out")
        if self.scale is not None and self.guidance == "kept":
            raise ValueError("scale is what a teacher is guided by where guidance is folded: leave it out")
        return self

    @override
    def needs(self) -> Needs:
        """A teacher; of all counts but the last a model beside the step's own."""
        edits = {"edit": (TELL_SPAN,)} if self.method in TOLD_SPANS else {}
        return Needs(
            teachers=(self.teacher,),
            machine=self.attention == "auto",
            plugins=edits,
            products=tuple(f"steps-{count}" for count in self.to[:-1]),
        )

    @override
    def check(self, given: Path, origins: Mapping[str, Path]) -> None:
        """Models that draw by one process that steps are defined of."""
        self._check(described(given), described(origins[self.teacher]))

    def _check(self, mine: Description, theirs: Description) -> None:
        check_alike(mine, theirs, self.teacher)
        if self.scale not in (None, 1.0) and theirs.empty is None:
            raise UnsupportedModel(
                f"scale: {self.scale:g}: teacher {self.teacher} has no label that says nothing, so it cannot be guided"
            )
        process = mine.process
        if process.kind not in PROCESSES or process.prediction not in PREDICTIONS:
            raise UnsupportedModel(
                f"steps are learned on processes {' and '.join(PROCESSES)} of networks that tell {' or '.join(PREDICTIONS)}, and the model is of "
                f"{process.kind} and tells {process.prediction}"
            )
        if self.method == "meanflow" and (process.kind, process.prediction) != ("flow", "flow"):
            raise UnsupportedModel(
                f"meanflow needs the process and the prediction flow, found {process.kind} and {process.prediction}"
            )

    @override
    def work(self, size: Size) -> float:
        """Of a row a backward pass, and forward passes of student and teacher; validation rows take a pass for each step."""
        train, validation = size.rows["train"], size.rows["validation"]
        rounds = len(self.to) if self.method == "progressive" else 1
        learned = rounds * self.passes(train, size.epoch) * train
        scored = rounds * self.validated(train, size.epoch) * validation * self.to[0]
        return (3 * learned + scored) * size.result + 2 * learned * size.teachers

    @override
    def apply(self, model: Model, ctx: Context) -> Model:
        """The student of the last count.

        Raises:
            UnsupportedModel: the models do not draw, or by a process of which steps are not defined.
            TrainingDiverged: the loss is not finite.
        """
        teacher = ctx.model(self.teacher)
        self._check(drawing(model), drawing(teacher))
        scale = FOLDED if self.guidance == "kept" else self.scale
        student = self._student(model, ctx.seed)
        if self.method != "progressive":
            self._train(student, teacher, ctx, count=self.to[-1], steps=self.levels, scale=scale)
            for count in self.to[:-1]:
                ctx.produce(f"steps-{count}", self._sampled(student.copy(), count))
            return student
        for number, count in enumerate(self.to, start=1):
            self._train(student, teacher, ctx, count=count, steps=count, scale=scale, followed=number < len(self.to))
            if number < len(self.to):
                teacher, scale = student.copy(), FOLDED
                ctx.produce(f"steps-{count}", teacher)
        return student

    def _student(self, model: Model, seed: int) -> Model:
        """A copy of the input model, told spans where the method needs them."""
        import torch

        student = model.copy()
        if self.method in TOLD_SPANS and not described(student).spans:
            torch.manual_seed(seed)  # the embedding that is added is the same one when a killed run goes on
            student.apply(registry.load("edit", TELL_SPAN)())
            student.files[FILE] = described(student).model_copy(update={"spans": True}).written()
        return student

    def _sampled(self, model: Model, count: int) -> Model:
        """The model, set to draw in so many steps; a guidance that is folded is none any more."""
        how = described(model)
        guidance = how.sampling.guidance if self.guidance == "kept" else FOLDED
        sampling = Sampling(sampler=SAMPLERS[self.method], steps=count, guidance=guidance)
        model.files[FILE] = how.model_copy(update={"sampling": sampling}).written()
        return model

    def _train(
        self,
        student: Model,
        teacher: Model,
        ctx: Context,
        *,
        count: int,
        steps: int,
        scale: float | None,
        followed: bool = False,
    ) -> None:
        """One training, of the student in place; `steps` are those of `Pair`."""
        from compressor.training.course import told
        from compressor.training.loop import Training, train
        from passes.diffusion.bootstrap import Pair
        from passes.diffusion.denoiser import Denoiser
        from passes.side_files import write_side_files

        self._sampled(student, count)
        taught = described(teacher)
        guided = taught.sampling.guidance if scale is None else scale
        pair = Pair(
            Denoiser(teacher.module, taught, guided), Denoiser(student.module, described(student)), steps, share=self.share
        )
        teacher.module.to(ctx.device).train(False).requires_grad_(False)
        files = write_side_files(student, ctx.folder / "files")
        rows = ctx.data.split("train")
        training = Training(
            student.module,
            batches=lambda epoch: ctx.task.batches(rows, files, batch_size=self.batch_size, shuffle_seed=ctx.seed + epoch),
            step=lambda batch, _: {self.method: pair.loss(self.method, batch["pictures"], self._labels(batch))},
            settings=self,
            learners=averaged(student, self, self.ema),
            evaluate=lambda: ctx.evaluate(student, "validation").quality,
            beside=(teacher.module,),
            followed=followed,
        )
        log = train(training, ctx, work=f"distill-to-{count}")
        ctx.note(Series(title=f"Loss to {count} steps ({log.precision})", x="step", y="loss", curves=dict(log.losses)))
        for note in told(log, ctx, title=f"Validation, {count} steps"):
            ctx.note(note)
        ctx.note(compared(student, teacher))

    def _labels(self, batch: Batch) -> torch.Tensor:
        """Labels of rows: some left out where the student goes on being guided."""
        return batch["label"] if self.guidance == "kept" else batch["labels"]
