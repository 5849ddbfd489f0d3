"""Adaptive teaching: of tokens that the teacher is sure of, what it says of all other words; of the rest, the whole (AT-KD)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field, PrivateAttr
from typing_extensions import override

from compressor.contracts import Batch, Outputs
from compressor.errors import UnsupportedModel
from compressor.model.token_losses import Chunk, chunks
from passes.objectives.soft_targets import kl
from passes.objectives.token_objective import TokenObjective

if TYPE_CHECKING:
    import torch

NEVER = -1e9
"""A logit whose probability is 0, and finite, so that 0 times its logarithm is 0."""


def target_values(student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """`KL` of the probabilities of the label and of all else together, `[n]`, of log-probabilities `[n, words]`."""
    import torch

    sides = []
    for logs in (teacher, student):
        told = logs.gather(-1, labels[:, None])
        others = _others(logs, labels).logsumexp(dim=-1, keepdim=True)
        sides.append(torch.cat((told, others), dim=-1))
    return kl(*sides)


def other_values(student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """`KL` of the probabilities among all words but the label, `[n]`, of log-probabilities `[n, words]`."""
    return kl(*(_others(logits, labels).log_softmax(dim=-1) for logits in (teacher, student)))


def _others(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return logits.scatter(-1, labels[:, None], NEVER)


class AdaptiveTeaching(TokenObjective):
    """Split tokens at the median of the teacher's uncertainty, `1 - p_T(label)`: easy ones teach what it says of other words, hard ones
    that and the label's probability too.

    The loss is `easy · mean over easy tokens + (1 - easy) · mean over hard ones`. The median is that of what is computed together: with
    `accumulate`, or in several processes, of each part.
    """

    paper: ClassVar[str] = (
        "Zhong et al., Revisiting Knowledge Distillation for Autoregressive Language Models, 2024, arXiv:2402.11890"
    )

    easy: float = Field(0.2, ge=0, le=1, description="weight of easy tokens; of hard ones 1 less this")

    _easy: Any = PrivateAttr(default=None)

    @override
    def prepared(self, student: Outputs, teacher: Outputs, batch: Batch) -> Self:
        """This objective, which knows which tokens are easy.

        Raises:
            UnsupportedModel: tokens, or rows, have no label.
        """
        found = self.model_copy()
        found._easy = _easy_tokens(student, teacher, batch)
        return found

    @override
    def values(self, chunk: Chunk, teacher: Outputs) -> torch.Tensor:
        """The divergence of each token, weighted so that the mean over all is that of the two groups."""
        assert chunk.labels is not None
        easy, weights = self._easy[0][chunk.tokens], self._easy[1]
        target = target_values(chunk.logs, chunk.logs_of(teacher), chunk.labels)
        others = other_values(chunk.logs, chunk.logs_of(teacher), chunk.labels)
        found: torch.Tensor = (self.easy * weights[0] * others).where(easy, (1 - self.easy) * weights[1] * (target + others))
        return found


def _easy_tokens(student: Outputs, teacher: Outputs, batch: Batch) -> tuple[torch.Tensor, tuple[float, float]]:
    """Which of all tokens are easy, `[B * T]`, and by how much more than one an easy and a hard one count in a mean over both."""
    import torch

    tokens = student.tokens
    labels = batch.get("labels") if tokens is None else tokens.labels
    if labels is None or (tokens is None and student.main.ndim != 2):
        raise UnsupportedModel("adaptive teaching splits tokens by their labels: the task gives none")
    labels = labels.flatten()
    counted = torch.arange(len(labels), device=labels.device) if tokens is None else tokens.counted()
    with torch.no_grad():
        if tokens is None or teacher.later is None:
            unsure = _unsure(teacher.main.flatten(0, -2)[counted], labels[counted])
        else:
            parts = [_unsure(teacher.later.at(part), labels[part]) for part in chunks(tokens, counted)]
            unsure = torch.cat(parts) if parts else torch.zeros(0)
    easy = torch.zeros(len(labels), dtype=torch.bool, device=labels.device)
    if len(counted):
        easy[counted] = unsure <= unsure.median()
    sure = int(easy.sum())
    return easy, (len(counted) / max(1, sure), len(counted) / max(1, len(counted) - sure))


def _unsure(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = 1 - logits.softmax(dim=-1).gather(-1, labels[:, None])[:, 0]
    return found
