"""Distillation of a guided model, which takes two evaluations a step, into one that is told the scale and takes one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator
from typing_extensions import override

from compressor.contracts import Batch, Context, Needs, Size
from compressor.errors import UnsupportedModel
from compressor.tasks.generation.description import Description, described
from passes.diffusion.students import Course, DistillDrawing, check_alike, drawing

if TYPE_CHECKING:
    import torch

    from compressor.contracts import Model
    from passes.diffusion.denoiser import Denoiser

TELL_SCALE = "tell-scale"
SCALES = (1.0, 4.0)
Scale = Annotated[float, Field(ge=0, le=100)]


class DistillGuidance(DistillDrawing):
    """Train a student, which starts from the step's input model, to tell by one evaluation what its guided teacher tells by two."""

    version: ClassVar[int] = 2
    paper: ClassVar[str] = (
        "Meng et al., On Distillation of Guided Diffusion Models, 2023, arXiv:2210.03142; ground_truth is the idea of mixed supervision of FADA, "
        "without its weights by the quality of rows"
    )
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"teacher": "source", "epochs": 1, "batch_size": 12, "precision": "fp32", "validations": 1},
    )

    scales: tuple[Scale, Scale] = Field(
        SCALES,
        description="least and greatest scale that is learned; the student is sampled at its teacher's own as far as that lies between",
    )
    ground_truth: float = Field(
        0.0,
        ge=0,
        description="weight of the error against what the rows themselves say, learned at scale 1, beside that against the teacher",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.scales[0] >= self.scales[1]:
            raise ValueError(f"scales: {list(self.scales)}: the first is the least, the second the greatest")
        return self

    @override
    def needs(self) -> Needs:
        """A teacher, and an embedding of the scale."""
        edits = {"edit": (TELL_SCALE,)}
        return Needs(
            teachers=(self.teacher,), machine=self.attention == "auto", plugins=edits, teaches="scales", own_lessons=True
        )

    @override
    def edit_of(self, student: Description) -> str | None:
        """An embedding of the scale."""
        return None if student.scales else TELL_SCALE

    @override
    def check_drawing(self, mine: Description, theirs: Description) -> None:
        """By one process, and a teacher that can be guided."""
        check_alike(mine, theirs, self.teacher)
        if mine.spans:
            raise UnsupportedModel(
                "guidance is learned of no step in particular, and the model is told how far its steps go: fold it before"
            )
        if mine.stepped and not theirs.stepped:
            raise UnsupportedModel(
                f"the model draws in long steps, which teacher {self.teacher} was not taught: learn guidance before"
            )
        if theirs.empty is None:
            raise UnsupportedModel(f"teacher {self.teacher} has no label that says nothing, so it cannot be guided")

    @override
    def work(self, size: Size) -> float:
        """Of a row a backward pass and two forward passes of the teacher; validation rows take those of a score."""
        train, validation = size.rows["train"], size.rows["validation"]
        learned, scored = self.passes(train, size.epoch) * train, self.validated(train, size.epoch) * validation * size.scored
        return (3 * learned + scored) * size.result + 2 * learned * size.teachers

    @override
    def apply(self, model: Model, ctx: Context) -> Model:
        """The student.

        Raises:
            UnsupportedModel: a model does not draw, cannot be guided, or cannot be told a scale.
            TrainingDiverged: the loss is not finite.
        """
        from compressor.training.learners import averaging

        teacher = ctx.model(self.teacher)
        self.check_models(model, teacher)
        guidance = drawing(teacher).sampling.guidance
        student = self.begun(model, ctx.seed, lambda how: self.told(how, guidance))
        teacher.module.to(ctx.device).train(False).requires_grad_(False)
        learners = averaging(student.module, self, self.ema)
        course = Course(student.module, lambda batch, _: self.losses(student, teacher, batch), learners)
        self.taught(student, teacher, ctx, course, work="distill-guidance")
        return student

    def losses(self, student: Model, teacher: Model, batch: Batch) -> dict[str, torch.Tensor]:
        """Mean squared errors of the student's output at times and scales drawn by torch's generator, by what it is held against."""
        import torch

        rows, label = batch["clean"], batch["labels"]
        t = 1 - torch.rand(len(rows), device=rows.device, dtype=torch.float64)
        least, most = self.scales
        scale = least + (most - least) * torch.rand(len(rows), device=rows.device)
        noise = torch.randn_like(rows)
        mine, theirs = (_denoiser(each, scale) for each in (student, teacher))
        with torch.no_grad():
            x = mine.noised(rows, t, noise)
            wanted = theirs.told(x, t, label)
        found = {"guided": (mine.told(x, t, label) - wanted).square().mean()}
        if self.ground_truth:
            plain = _denoiser(student, torch.ones_like(scale))
            target = mine.how.process.target(rows, noise, mine.at(t))
            found["ground truth"] = self.ground_truth * (plain.told(x, t, label) - target).square().mean()
        return found

    def told(self, how: Description, guidance: float) -> Description:
        """How a student draws that is told a scale, at its teacher's where that is one it learns."""
        least, most = self.scales
        sampling = how.sampling.model_copy(update={"guidance": min(most, max(least, guidance))})
        return how.model_copy(update={"scales": True, "sampling": sampling})


def _denoiser(model: Model, scale: torch.Tensor) -> Denoiser:
    from passes.diffusion.denoiser import Denoiser

    return Denoiser(model.module, described(model), scale)
