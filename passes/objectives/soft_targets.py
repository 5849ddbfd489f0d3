"""Soft targets: the student imitates the teacher's answers, probabilities of classes, words or labels at a temperature, or numbers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from compressor.contracts import Batch, Objective, Outputs, Task
from compressor.model.token_losses import Chunk
from passes.objectives.token_objective import TokenObjective

if TYPE_CHECKING:
    import torch

Divergence = Literal["forward", "reverse", "jensen-shannon", "skewed", "skewed-reverse"]


def soft_target_values(
    student: torch.Tensor,
    teacher: torch.Tensor,
    *,
    temperature: float = 1.0,
    divergence: Divergence = "forward",
    beta: float = 0.5,
    skew: float = 0.1,
) -> torch.Tensor:
    """`temperature² · D(p_T, p_S)` of logits `[..., classes]`, for each of the leading axes.

    With `p = softmax(logits / temperature)`, `D` is

    - `forward`: `KL(p_T || p_S)`, whose gradient on the student is `temperature · (p_S - p_T)`;
    - `reverse`: `KL(p_S || p_T)`;
    - `jensen-shannon`: `beta · KL(p_T || M) + (1 - beta) · KL(p_S || M)` with `M = beta · p_T + (1 - beta) · p_S`. Divided by
      `beta` it tends to `forward` as `beta` tends to 0, and divided by `1 - beta` to `reverse` as `beta` tends to 1; 0 and 1 stand for these;
    - `skewed`: `KL(p_T || skew · p_T + (1 - skew) · p_S)`, and `skewed-reverse`: `KL(p_S || (1 - skew) · p_T + skew · p_S)`; with a skew
      of 0 they are `forward` and `reverse`.

    The factor `temperature²` keeps gradients at the scale of a hard-label loss; as the temperature grows, `forward` tends to
    half the mean square difference of the centred logits.
    """
    log_student, log_teacher = ((each / temperature).log_softmax(dim=-1) for each in (student, teacher))
    return temperature**2 * _divergence(log_student, log_teacher, divergence, beta if divergence == "jensen-shannon" else skew)


def soft_label_loss(
    student: torch.Tensor,
    teacher: torch.Tensor,
    *,
    temperature: float = 1.0,
    divergence: Divergence = "forward",
    beta: float = 0.5,
    skew: float = 0.1,
) -> torch.Tensor:
    """The mean of `soft_target_values` of logits `[..., labels]` of labels that are each there or not, over all axes.

    With `p = sigmoid(logits / temperature)`, `forward` is `temperature²` times the binary cross-entropy with the teacher's probabilities less
    their entropy, so that it is 0 where both agree.
    """
    import torch

    one, other = (torch.stack((logits, torch.zeros_like(logits)), dim=-1) for logits in (student, teacher))
    return soft_target_values(one, other, temperature=temperature, divergence=divergence, beta=beta, skew=skew).mean()


def kl(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """`KL(p || q) = sum p log(p / q)` over the last axis, of log-probabilities.

    Where only q is learned from, the two sums are taken apart: products that are summed at once leave no tensor behind.
    """
    import torch

    if log_p.requires_grad:
        return (log_p.exp() * (log_p - log_q)).sum(dim=-1)
    p = log_p.exp()
    found: torch.Tensor = torch.linalg.vecdot(p, log_p) - torch.linalg.vecdot(p, log_q)
    return found


def _divergence(log_student: torch.Tensor, log_teacher: torch.Tensor, divergence: Divergence, share: float) -> torch.Tensor:
    """Of log-probabilities; `share` is beta or the skew."""
    if divergence == "forward" or (divergence in ("jensen-shannon", "skewed") and share == 0):
        return kl(log_teacher, log_student)
    if divergence == "reverse" or (divergence, share) in (("jensen-shannon", 1), ("skewed-reverse", 0)):
        return kl(log_student, log_teacher)
    if divergence == "skewed":
        return kl(log_teacher, _mixed(log_teacher, log_student, share))
    if divergence == "skewed-reverse":
        return kl(log_student, _mixed(log_student, log_teacher, share))
    mixture = _mixed(log_teacher, log_student, share)
    return share * kl(log_teacher, mixture) + (1 - share) * kl(log_student, mixture)


def _mixed(log_p: torch.Tensor, log_q: torch.Tensor, share: float) -> torch.Tensor:
    """The logarithm of `share · p + (1 - share) · q`."""
    import torch

    return torch.logaddexp(log_p + math.log(share), log_q + math.log1p(-share))


class SoftTargets(TokenObjective):
    """Imitate the teacher's probabilities at a temperature, scaled by its square; where a task tells numbers, the numbers."""

    paper: ClassVar[str] = (
        "Hinton et al., Distilling the Knowledge in a Neural Network, 2015, arXiv:1503.02531; "
        "generalised Jensen-Shannon: Agarwal et al., On-Policy Distillation of Language Models, 2024, arXiv:2306.13649; "
        "skewed: Ko et al., DistiLLM, 2024, arXiv:2402.03898"
    )

    temperature: float = Field(
        2.0, gt=0, le=1000, description="divides the logits of both before the softmax or sigmoid; of numbers none are divided"
    )
    divergence: Divergence = Field("forward", description="forward is KL(teacher || student)")
    beta: float = Field(
        0.5, ge=0, le=1, description="share of the teacher in the mixture of jensen-shannon; 0 stands for forward, 1 for reverse"
    )
    skew: float = Field(
        0.1, ge=0, lt=1, description="share of what is held against the mixture in that, of skewed and skewed-reverse"
    )

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
        said = ("temperature", "divergence", "beta", "skew") if task.imitated() == "numbers" and type(self) is SoftTargets else ()
        return tuple(name for name in said if name in self.model_fields_set)

    @override
    def values(self, chunk: Chunk, teacher: Outputs) -> torch.Tensor:
        """The divergence of each token or row."""
        if self.temperature == 1:
            share = self.beta if self.divergence == "jensen-shannon" else self.skew
            return _divergence(chunk.logs, chunk.logs_of(teacher), self.divergence, share)
        return soft_target_values(chunk.logits, chunk.of(teacher), **self._given())

    def _given(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("temperature", "divergence", "beta", "skew")}


class SoftLabels(SoftTargets):
    """Soft targets where a row has any number of labels."""

    @override
    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> torch.Tensor:
        """The divergence of one batch, label by label."""
        return soft_label_loss(student.main, teacher.main, **self._given())


class SoftNumbers(SoftTargets):
    """Soft targets where a row has a number."""

    @override
    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> torch.Tensor:
        """Mean square difference of the numbers of one batch."""
        import torch

        return torch.nn.functional.mse_loss(student.main, teacher.main)
