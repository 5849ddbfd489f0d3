"""What passes share that train a student which draws."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compressor.contracts.notes import Remark
from compressor.errors import SourceError, UnsupportedModel
from compressor.tasks.generation.description import Description, described

if TYPE_CHECKING:
    from compressor.contracts import Model
    from compressor.training.learners import Learner
    from compressor.training.settings import TrainingSettings


def drawing(model: Model) -> Description:
    """How a model draws.

    Raises:
        UnsupportedModel: it does not.
    """
    try:
        return described(model)
    except SourceError as error:
        raise UnsupportedModel(f"{type(model.module).__name__} is no network that draws from noise: {error}") from error


def check_alike(mine: Description, theirs: Description, teacher: str) -> None:
    """That a student draws the pictures of its teacher, by the process that it was trained on.

    Raises:
        UnsupportedModel: it does not; the teacher is named.
    """
    if mine.process != theirs.process or mine.shape != theirs.shape:
        raise UnsupportedModel(f"teacher {teacher} draws by another process, or pictures of another shape, than the student")


def compared(student: Model, teacher: Model) -> Remark:
    """How often each is asked for a picture."""
    mine, theirs = (described(each).evaluations for each in (student, teacher))
    return Remark(text=f"The student draws in {mine} evaluations a picture, the teacher in {theirs}.")


def averaged(student: Model, settings: TrainingSettings, decay: float | None) -> tuple[Learner, ...]:
    """One learner of all weights that keeps an average of them; none without a decay."""
    from compressor.training.learners import Learner

    if decay is None:
        return ()
    learned = tuple(each for each in student.module.parameters() if each.requires_grad)
    return (Learner("averaged", learned, settings.learning_rate, settings.weight_decay, ema=decay),)
