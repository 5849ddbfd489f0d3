"""What passes share that train a student which draws."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field
from typing_extensions import override

from compressor.contracts import Batch, Context, Pass, registry
from compressor.contracts.model import BLUEPRINT
from compressor.contracts.notes import Remark, Series
from compressor.errors import SourceError, UnsupportedModel
from compressor.tasks.generation.description import FILE, Description, described
from compressor.training.settings import TrainingSettings

if TYPE_CHECKING:
    import torch

    from compressor.contracts import Model
    from compressor.training.course import TrainingLog
    from compressor.training.learners import Learner
    from compressor.training.loop import Moment


@dataclass(frozen=True, eq=False)
class Course:
    """How a student is trained."""

    trained: torch.nn.Module
    """Everything with parameters to learn, the student among it."""
    step: Callable[[Batch, Moment], Mapping[str, torch.Tensor]]
    """Losses of a batch."""
    learners: tuple[Learner, ...]
    batches: Callable[[int], Iterable[Batch]] | None = None
    """By the number of an epoch; the task's, of the training rows, where there are none."""
    may_rise: bool = False
    """Whether losses are bound to rise, as where networks are trained against each other."""


class DistillDrawing(TrainingSettings, Pass):
    """A student that draws is trained from a teacher that does."""

    trains: ClassVar[bool] = True
    requires: ClassVar[tuple[str, ...]] = ("torch", "numpy")
    tried_on: ClassVar[str | None] = "image-generation"

    teacher: str = Field(description="an earlier step, an entry of models, or source")
    ema: float | None = Field(
        0.99,
        ge=0,
        lt=1,
        description="decay of an average of the student's weights over the steps, which is scored and kept; null for none",
    )

    @abstractmethod
    def check_drawing(self, mine: Description, theirs: Description) -> None:
        """Refuse a student or a teacher by how they draw.

        Raises:
            UnsupportedModel: they do not go together, or not with this step.
        """

    @abstractmethod
    def edit_of(self, student: Description) -> str | None:
        """The edit by which a student that draws so is told one more number; None where it needs none."""

    @override
    def check(self, given: Path, origins: Mapping[str, Path]) -> None:
        """Models that draw alike, and a network that can be told what it has to be: tried without its weights, where they are not new."""
        mine = described(given)
        self.check_drawing(mine, described(origins[self.teacher]))
        check_decoders(given, origins, self.teacher)
        edit = self.edit_of(mine)
        if edit is not None and (network := built(given)):
            registry.load("edit", edit)().apply(network)

    def check_models(self, student: Model, teacher: Model) -> None:
        """The same of models that are there.

        Raises:
            UnsupportedModel: one does not draw, or they do not go together.
        """
        self.check_drawing(drawing(student), drawing(teacher))

    def begun(self, model: Model, seed: int, told: Callable[[Description], Description]) -> Model:
        """A copy of the input model with its embedding, if it needs one, described as `told` says of one that has it."""
        import torch

        student = model.copy()
        edit = self.edit_of(described(student))
        if edit is not None:
            torch.manual_seed(seed)  # the embedding that is added is the same one when a killed run goes on
            student.apply(registry.load("edit", edit)())
        student.files[FILE] = told(described(student)).written()
        return student

    def taught(
        self,
        student: Model,
        teacher: Model,
        ctx: Context,
        course: Course,
        *,
        work: str,
        to: str = "",
        stage: int = 0,
        followed: bool = False,
    ) -> TrainingLog:
        """Train the student in place, in one `stage` of a step that may have several; curves go into the report, titled by what it learns `to` do.

        Raises:
            TrainingDiverged: the loss is not finite.
        """
        from compressor.training.course import told
        from compressor.training.loop import Training, train

        training = Training(
            course.trained,
            batches=course.batches or self.batches(student, ctx, stage=stage),
            step=course.step,
            settings=self,
            learners=course.learners,
            evaluate=(lambda: ctx.evaluate(student, "validation").quality) if ctx.data.real else None,
            may_rise=course.may_rise,
            beside=(teacher.module,),
            stage=stage,
            followed=followed,
        )
        log = train(training, ctx, work=work)
        title = f"Losses{f' to {to}' if to else ''} ({log.precision})"
        ctx.note(Series(title=title, x="step", y="loss", curves=dict(log.losses)))
        for note in told(log, ctx, title=f"Validation{f', {to}' if to else ''}"):
            ctx.note(note)
        if not ctx.data.real:
            ctx.note(Remark(text="The plan has no data: validation was not looked at, and the last weights are kept."))
        ctx.note(compared(student, teacher))
        return log


def drawing(model: Model) -> Description:
    """How a model draws.

    Raises:
        UnsupportedModel: it does not.
    """
    try:
        return described(model)
    except SourceError as error:
        raise UnsupportedModel(f"{type(model.module).__name__} is no network that draws from noise: {error}") from error


def built(folder: Path) -> torch.nn.Module | None:
    """The network in a folder of the store, without its weights; None where only what lies beside them is there."""
    from compressor.model.blueprint import Blueprint
    from compressor.model.storage import read_index

    if not (folder / BLUEPRINT).is_file():
        return None
    found: torch.nn.Module = Blueprint.from_json(read_index(folder)["blueprint"]).build()
    return found


def check_alike(mine: Description, theirs: Description, teacher: str) -> None:
    """That a student draws the pictures of its teacher, by the process that it was trained on.

    Raises:
        UnsupportedModel: it does not; the teacher is named.
    """
    if mine.policy is not None or theirs.policy is not None:
        raise UnsupportedModel("a model whose rows a teacher mends is neither a student nor a teacher: `adaptive` comes last")
    if mine.process != theirs.process or mine.shape != theirs.shape:
        raise UnsupportedModel(f"teacher {teacher} draws by another process, or pictures of another shape, than the student")
    if mine.sound != theirs.sound or mine.decoded != theirs.decoded:
        what = "spectra by other settings" if mine.sound != theirs.sound else "latents of other pictures"
        raise UnsupportedModel(f"teacher {teacher} draws {what} than the student")
    if mine.classes != theirs.classes:
        raise UnsupportedModel(f"teacher {teacher} knows {theirs.classes} classes, the student {mine.classes}")


def check_decoders(given: Path, origins: Mapping[str, Path], teacher: str) -> None:
    """That latents of a teacher are those of its student.

    Raises:
        UnsupportedModel: another decoder makes pictures of them; the teacher is named.
    """
    from compressor.tasks.generation.latents import same_decoder

    if not same_decoder(given, origins[teacher]):
        raise UnsupportedModel(
            f"latents of teacher {teacher} are decoded by another `vae` than the student's: they are no lesson for it"
        )


def check_unlabelled(mine: Description, theirs: Description, teacher: str) -> None:
    """That one label says nothing to both, where both are asked with it.

    Raises:
        UnsupportedModel: it does not; the teacher is named.
    """
    if mine.empty != theirs.empty:
        raise UnsupportedModel(f"the student's label that says nothing is {mine.empty}, that of teacher {teacher} {theirs.empty}")


def compared(student: Model, teacher: Model) -> Remark:
    """How often each is asked for a picture."""
    mine, theirs = (described(each).evaluations for each in (student, teacher))
    return Remark(text=f"The student draws in {mine} evaluations a picture, the teacher in {theirs}.")
