"""Distillation of a guided model, which takes two evaluations a step, into one that is told the scale and takes one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator
from typing_extensions import override

from compressor.contracts import Batch, Context, Needs, Pass, Size, registry
from compressor.contracts.notes import Series
from compressor.errors import UnsupportedModel
from compressor.tasks.generation.description import FILE, Description, described
from compressor.training.settings import TrainingSettings
from passes.diffusion.students import averaged, check_alike, compared, drawing

if TYPE_CHECKING:
    import torch

    from compressor.contracts import Model
    from passes.diffusion.denoiser import Denoiser

TELL_SCALE = "tell-scale"
SCALES = (1.0, 4.0)
Scale = Annotated[float, Field(ge=0, le=100)]


class DistillGuidance(TrainingSettings, Pass):
    """Train a student, which starts from the step's input model, to tell by one evaluation what its guided teacher tells by two."""

    version: ClassVar[int] = 1
    trains: ClassVar[bool] = True
    requires: ClassVar[tuple[str, ...]] = ("torch", "numpy")
    tried_on: ClassVar[str | None] = "image-generation"
    paper: ClassVar[str] = (
        "Meng et al., On Distillation of Guided Diffusion Models, 2023, arXiv:2210.03142; ground_truth is the idea of mixed supervision of FADA, "
        "without its weights by the quality of rows"
    )
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"teacher": "source", "epochs": 1, "batch_size": 12, "precision": "fp32", "validations": 1},
    )

    teacher: str = Field(description="an earlier step, an entry of models, or source; it has a label that says nothing")
    scales: tuple[Scale, Scale] = Field(
        SCALES,
        description="least and greatest scale that is learned; the student is sampled at its teacher's own as far as that lies between",
    )
    ground_truth: float = Field(
        0.0,
        ge=0,
        description="weight of the error against what the rows themselves say, learned at scale 1, beside that against the teacher",
    )
    ema: float | None = Field(
        0.99,
        ge=0,
        lt=1,
        description="decay of an average of the student's weights over the steps, which is scored and kept; null for none",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.scales[0] >= self.scales[1]:
            raise ValueError(f"scales: {list(self.scales)}: the first is the least, the second the greatest")
        return self

    @override
    def needs(self) -> Needs:
        """A teacher, and an embedding of the scale."""
        return Needs(teachers=(self.teacher,), machine=self.attention == "auto", plugins={"edit": (TELL_SCALE,)})

    @override
    def check(self, given: Path, origins: Mapping[str, Path]) -> None:
        """Models that draw by one process, and a teacher that can be guided."""
        self._check(described(given), described(origins[self.teacher]))

    def _check(self, mine: Description, theirs: Description) -> None:
        check_alike(mine, theirs, self.teacher)
        if theirs.empty is None:
            raise UnsupportedModel(f"teacher {self.teacher} has no label that says nothing, so it cannot be guided")

    @override
    def work(self, size: Size) -> float:
        """Of a row a backward pass and two forward passes of the teacher."""
        train, validation = size.rows["train"], size.rows["validation"]
        learned, scored = self.passes(train, size.epoch) * train, self.validated(train, size.epoch) * validation
        return (3 * learned + scored) * size.result + 2 * learned * size.teachers

    @override
    def apply(self, model: Model, ctx: Context) -> Model:
        """The student.

        Raises:
            UnsupportedModel: a model does not draw, cannot be guided, or cannot be told a scale.
            TrainingDiverged: the loss is not finite.
        """
        from compressor.training.course import told
        from compressor.training.loop import Training, train
        from passes.side_files import write_side_files

        teacher = ctx.model(self.teacher)
        self._check(drawing(model), drawing(teacher))
        student = self._student(model, drawing(teacher).sampling.guidance, ctx.seed)
        teacher.module.to(ctx.device).train(False).requires_grad_(False)
        files, rows = write_side_files(student, ctx.folder / "files"), ctx.data.split("train")
        training = Training(
            student.module,
            batches=lambda epoch: ctx.task.batches(rows, files, batch_size=self.batch_size, shuffle_seed=ctx.seed + epoch),
            step=lambda batch, _: self.losses(student, teacher, batch),
            settings=self,
            learners=averaged(student, self, self.ema),
            evaluate=lambda: ctx.evaluate(student, "validation").quality,
            beside=(teacher.module,),
        )
        log = train(training, ctx, work="distill-guidance")
        ctx.note(Series(title=f"Losses ({log.precision})", x="step", y="loss", curves=dict(log.losses)))
        for note in told(log, ctx):
            ctx.note(note)
        ctx.note(compared(student, teacher))
        return student

    def losses(self, student: Model, teacher: Model, batch: Batch) -> dict[str, torch.Tensor]:
        """Mean squared errors of the student's output at times and scales drawn by torch's generator, by what it is held against."""
        import torch

        rows, label = batch["pictures"], batch["labels"]
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

    def _student(self, model: Model, guidance: float, seed: int) -> Model:
        """A copy of the input model that is told a scale."""
        import torch

        student = model.copy()
        if not described(student).scales:
            torch.manual_seed(seed)  # the embedding that is added is the same one when a killed run goes on
            student.apply(registry.load("edit", TELL_SCALE)())
        least, most = self.scales
        how = described(student)
        sampling = how.sampling.model_copy(update={"guidance": min(most, max(least, guidance))})
        student.files[FILE] = how.model_copy(update={"scales": True, "sampling": sampling}).written()
        return student


def _denoiser(model: Model, scale: torch.Tensor) -> Denoiser:
    from passes.diffusion.denoiser import Denoiser

    return Denoiser(model.module, described(model), scale)
