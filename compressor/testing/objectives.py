"""What holds for objectives: nothing to learn from one's equal, something from another, a mean over rows and valid tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compressor.contracts import Batch, Objective, Outputs, Want
from compressor.model.anatomy import anatomy_of
from compressor.model.edits import KeepBlocks
from compressor.tasks.tiny import SPREAD
from compressor.testing.steps import STEP
from compressor.testing.subject import Subject
from compressor.testing.tiny import tiny_run

if TYPE_CHECKING:
    import torch

    from compressor.contracts import Model

ZERO = 1e-5
SAME = 1e-4


def learns_nothing_from_its_equal(subject: Subject) -> None:
    """The loss is 0 where student and teacher agree."""
    loss = _value(_loss(subject, _Pair.of(subject, tiny_run().model())))
    subject.require(abs(loss) < ZERO, f"a student that equals its teacher has the loss {loss:.3g}, expected 0")


def says_where_it_looks(subject: Subject) -> None:
    """`looks_at` names the innermost that it wants."""
    anatomy = anatomy_of(tiny_run().model().module)
    with subject.during("wants"):
        wanted = subject.plugin.wants(anatomy, anatomy)
    states = "states" if any(wanted) else "logits"
    at = "maps" if any(each.of("attention-map") or each.of("attention-score") for each in wanted) else states
    said = subject.plugin.looks_at()
    subject.require(at == said, f"looks_at says {said}, and it wants {at}")


def learns_from_another(subject: Subject) -> None:
    """The loss of a student that differs is above 0, to the bit the same each time, and the student has a gradient of it."""
    import torch

    student = _other()
    pair = _Pair.of(subject, student)
    loss, again = _loss(subject, pair), _loss(subject, pair)
    subject.require(loss.ndim == 0 and bool(torch.isfinite(loss)), f"the loss is {loss!r}, expected one finite number")
    first, second = _value(loss), _value(again)
    subject.require(first > ZERO, f"a student that differs from its teacher has the loss {first:.3g}, expected more than 0")
    subject.require(first == second, f"the same outputs have the loss {first!r}, then {second!r}")
    with subject.during("the gradient of its loss"):
        loss.backward()  # type: ignore[no-untyped-call]
    gradients = [parameter.grad for parameter in student.module.parameters() if parameter.grad is not None]
    subject.require(any(bool(each.abs().sum() > 0) for each in gradients), "its loss has no gradient on the student")
    subject.require(all(bool(torch.isfinite(each).all()) for each in gradients), "its gradient on the student is not finite")


def is_a_mean(subject: Subject) -> None:
    """Padding changes nothing, and its weight is left to whoever adds the losses up."""
    pair = _Pair.of(subject, _other())
    loss, padded = _value(_loss(subject, pair)), _value(_loss(subject, pair, padding=8))
    subject.require(abs(padded - loss) <= SAME * max(1.0, abs(loss)), f"padding changes the loss from {loss:.6g} to {padded:.6g}")
    heavier = Subject(subject.kind, subject.name, subject.plugin.model_copy(update={"weight": 2 * subject.plugin.weight + 1}))
    weighted = _value(_loss(heavier, pair))
    subject.require(weighted == loss, "its loss depends on `weight`, which the pass multiplies it with")


def fits_a_shallower_student(subject: Subject) -> None:
    """A student of fewer blocks learns from the teacher, or is refused with an error that says why."""
    student = tiny_run().model()
    blocks = anatomy_of(student.module).blocks
    student.apply(KeepBlocks(blocks=(blocks[0].id,)))
    with subject.refusing("a student of one block and a teacher of two", naming=("block", "layer")):
        loss = _value(_loss(subject, _Pair.of(subject, student)))
        subject.require(loss >= 0, f"a student of one block has the loss {loss:.3g}")


OBJECTIVE = (
    *STEP,
    says_where_it_looks,
    learns_nothing_from_its_equal,
    learns_from_another,
    is_a_mean,
    fits_a_shallower_student,
)


@dataclass(frozen=True)
class _Pair:
    """A student with the tiny teacher, and what the objective captures on each."""

    student: Model
    teacher: Model
    wants: tuple[Want, Want]
    projections: torch.nn.Module | None

    @classmethod
    def of(cls, subject: Subject, student: Model) -> _Pair:
        objective: Objective = subject.plugin
        teacher = tiny_run().model()
        mine, theirs = anatomy_of(student.module), anatomy_of(teacher.module)
        wants = objective.wants(mine, theirs)
        for want, anatomy in zip(wants, (mine, theirs), strict=True):
            known = {block.id for block in anatomy.blocks}
            wanted = {feature.block for feature in want.features} - {anatomy.stack}
            strange = sorted(wanted - known)
            subject.require(not strange, f"wants features of {', '.join(strange)}, the model has {', '.join(sorted(known))}")
        return cls(student, teacher, wants, objective.projections(mine, theirs))


def _loss(subject: Subject, pair: _Pair, *, padding: int = 0) -> torch.Tensor:
    import torch

    run = tiny_run()
    batch = _padded(next(iter(run.task.batches(run.data.split("train"), run.source.path, batch_size=8))), padding)
    sides: list[Outputs] = []
    for model, want, learns in zip((pair.student, pair.teacher), pair.wants, (True, False), strict=True):
        module: Any = model.module
        with torch.set_grad_enabled(learns):
            sides.append(run.task.forward(module.eval(), batch, want).chosen(want))
    objective: Objective = subject.plugin
    with subject.during("loss"):
        return objective.loss(objective.project(sides[0], pair.projections), sides[1], batch)


def _value(loss: torch.Tensor) -> float:
    return float(loss.detach())


def _padded(batch: Batch, padding: int) -> Batch:
    """The batch with `padding` more tokens in each row that no mask counts."""
    import torch

    return {name: torch.nn.functional.pad(tensor, (0, padding)) if tensor.ndim == 2 else tensor for name, tensor in batch.items()}


def _other() -> Model:
    """The tiny model with all its parameters moved."""
    import torch

    model = tiny_run().model()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        for parameter in model.module.parameters():
            parameter.add_(SPREAD * torch.randn_like(parameter))
    return model
