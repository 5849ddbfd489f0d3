"""Soft targets: the student imitates the teacher's answers, probabilities of classes or labels at a temperature, or numbers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from compressor.contracts import Batch, Objective, Outputs, Task, Want

if TYPE_CHECKING:
    import torch

    from compressor.contracts.anatomy import Anatomy

Divergence = Literal["forward", "reverse", "jensen-shannon"]


def soft_target_loss(
    student: torch.Tensor,
    teacher: torch.Tensor,
    *,
    temperature: float = 1.0,
    divergence: Divergence = "forward",
    beta: float = 0.5,
) -> torch.Tensor:
    """`temperature² · D(p_T, p_S)` of logits `[..., classes]`, a mean over all leading axes.

    With `p = softmax(logits / temperature)`, `D` is

    - `forward`: `KL(p_T || p_S)`, whose gradient on the student is `temperature · (p_S - p_T)`;
    - `reverse`: `KL(p_S || p_T)`;
    - `jensen-shannon`: `beta · KL(p_T || M) + (1 - beta) · KL(p_S || M)` with `M = beta · p_T + (1 - beta) · p_S`. Divided by
      `beta` it tends to `forward` as `beta` tends to 0, and divided by `1 - beta` to `reverse` as `beta` tends to 1.

    The factor `temperature²` keeps gradients at the scale of a hard-label loss; as the temperature grows, `forward` tends to
    half the mean square difference of the centred logits.
    """
    log_student = (student / temperature).log_softmax(dim=-1)
    log_teacher = (teacher / temperature).log_softmax(dim=-1)
    return temperature**2 * _divergence(log_student, log_teacher, divergence, beta).mean()


def soft_label_loss(
    student: torch.Tensor,
    teacher: torch.Tensor,
    *,
    temperature: float = 1.0,
    divergence: Divergence = "forward",
    beta: float = 0.5,
) -> torch.Tensor:
    """`soft_target_loss` of logits `[..., labels]` of labels that are each there or not, a mean over all axes.

    With `p = sigmoid(logits / temperature)`, `forward` is `temperature²` times the binary cross-entropy with the teacher's probabilities less
    their entropy, so that it is 0 where both agree.
    """
    import torch

    one, other = (torch.stack((logits, torch.zeros_like(logits)), dim=-1) for logits in (student, teacher))
    return soft_target_loss(one, other, temperature=temperature, divergence=divergence, beta=beta)


def kl(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """`KL(p || q) = sum p log(p / q)` over the last axis, of log-probabilities."""
    return (log_p.exp() * (log_p - log_q)).sum(dim=-1)


def _divergence(log_student: torch.Tensor, log_teacher: torch.Tensor, divergence: Divergence, beta: float) -> torch.Tensor:
    import torch

    if divergence == "forward":
        return kl(log_teacher, log_student)
    if divergence == "reverse":
        return kl(log_student, log_teacher)
    log_mixture = torch.logaddexp(log_teacher + math.log(beta), log_student + math.log1p(-beta))
    return beta * kl(log_teacher, log_mixture) + (1 - beta) * kl(log_student, log_mixture)


class SoftTargets(Objective):
    """Imitate the teacher's probabilities at a temperature, scaled by its square; where a task tells numbers, the numbers."""

    paper: ClassVar[str] = (
        "Hinton et al., Distilling the Knowledge in a Neural Network, 2015, arXiv:1503.02531; "
        "generalised Jensen-Shannon: Agarwal et al., On-Policy Distillation of Language Models, 2024, arXiv:2306.13649"
    )

    temperature: float = Field(
        2.0, gt=0, le=1000, description="divides the logits of both before the softmax or sigmoid; of numbers none are divided"
    )
    divergence: Divergence = Field("forward", description="forward is KL(teacher || student)")
    beta: float = Field(0.5, gt=0, lt=1, description="share of the teacher in the mixture of jensen-shannon")

    @override
    def of(self, task: Task) -> Objective:
        """Of classes, of labels each by itself, or of numbers; a class derived from this one has a loss of its own and keeps it."""
        if type(self) is not SoftTargets:
            return self
        kind = {"labels": SoftLabels, "numbers": SoftNumbers}.get(task.imitated() or "")
        return kind(**self.model_dump()) if kind else self

    @override
    def idle(self, task: Task) -> tuple[str, ...]:
        """Of numbers, which are no logits, all that is said of logits."""
        said = ("temperature", "divergence", "beta") if task.imitated() == "numbers" and type(self) is SoftTargets else ()
        return tuple(name for name in said if name in self.model_fields_set)

    @override
    def looks_at(self) -> Literal["logits", "states", "maps"]:
        """Logits."""
        return "logits"

    @override
    def wants(self, student: Anatomy, teacher: Anatomy) -> tuple[Want, Want]:
        """Nothing but logits."""
        return Want(), Want()

    @override
    def loss(
        self,
        student: Outputs,
        teacher: Outputs,
        batch: Batch,
    ) -> torch.Tensor:
        """The divergence of one batch."""
        return soft_target_loss(
            student.main, teacher.main, temperature=self.temperature, divergence=self.divergence, beta=self.beta
        )


class SoftLabels(SoftTargets):
    """Soft targets where a row has any number of labels."""

    @override
    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> torch.Tensor:
        """The divergence of one batch, label by label."""
        return soft_label_loss(
            student.main, teacher.main, temperature=self.temperature, divergence=self.divergence, beta=self.beta
        )


class SoftNumbers(SoftTargets):
    """Soft targets where a row has a number."""

    @override
    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> torch.Tensor:
        """Mean square difference of the numbers of one batch."""
        import torch

        return torch.nn.functional.mse_loss(student.main, teacher.main)
