"""What all objectives on answers share: values row by row or token by token, a mean over those that count, logits a few at a time."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Literal, Self

from typing_extensions import override

from compressor.contracts import Batch, Objective, Outputs, Want
from compressor.model.token_losses import Chunk, TokenLoss, token_means
from passes.objectives.reductions import mean_over_valid

if TYPE_CHECKING:
    import torch

    from compressor.contracts.anatomy import Anatomy


class TokenObjective(Objective):
    """An objective on logits alone: the mean of its values over the tokens that count, or over rows where each has one answer."""

    @override
    def looks_at(self) -> Literal["logits", "states", "maps"]:
        """Logits."""
        return "logits"

    @override
    def wants(self, student: Anatomy, teacher: Anatomy) -> tuple[Want, Want]:
        """Nothing but logits."""
        return Want(), Want()

    @abstractmethod
    def values(self, chunk: Chunk, teacher: Outputs) -> torch.Tensor:
        """Values `[n]` of some tokens: of the student's logits `[n, words]` and the teacher's, `chunk.of(teacher)`.

        Each of its own, so that a batch can be computed in parts.
        """

    def prepared(self, student: Outputs, teacher: Outputs, batch: Batch) -> Self:  # noqa: ARG002 - most need to know nothing
        """What is to be known of all tokens before the first value: this objective, which knows it then."""
        return self

    def token_loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> TokenLoss:
        """Its values by chunk, of one batch."""
        ready = self.prepared(student, teacher, batch)
        return lambda chunk: ready.values(chunk, teacher)

    @override
    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> torch.Tensor:
        """The mean of one batch; logits that are put off are computed a few tokens at a time."""
        loss = self.token_loss(student, teacher, batch)
        if student.tokens is not None:
            return token_means(student.tokens, {"loss": loss})["loss"]
        values = loss(every_token(student, batch)).reshape(student.main.shape[:-1])
        return mean_over_valid(values, student.mask if student.mask is not None and values.ndim == 2 else None)


def every_token(student: Outputs, batch: Batch) -> Chunk:
    """All rows or tokens at once, of logits that are there; where a row has one answer, with its class."""
    import torch

    logits, labels = student.main.flatten(0, -2), batch.get("labels")
    classes = labels is not None and labels.ndim == 1 == student.main.ndim - 1 and not labels.is_floating_point()
    return Chunk(torch.arange(len(logits), device=logits.device), logits, labels if classes else None)
