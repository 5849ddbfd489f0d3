"""Correlation: the student keeps the teacher's order of classes and of rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from compressor.contracts import Batch, Objective, Outputs, Want

if TYPE_CHECKING:
    import torch

    from compressor.contracts.anatomy import Anatomy


def correlation_loss(student: torch.Tensor, teacher: torch.Tensor, *, dim: int) -> torch.Tensor:
    """`1 - Pearson's correlation` of `[B, classes]` along `dim`, a mean over the other axis; in [0, 2]."""
    import torch.nn.functional as F  # noqa: N812

    centred = (each - each.mean(dim=dim, keepdim=True) for each in (student, teacher))
    return 1 - F.cosine_similarity(*centred, dim=dim).mean()


class Correlation(Objective):
    """Imitate which classes the teacher prefers for a row, and which rows for a class, but not how sure it is of them."""

    paper: ClassVar[str] = "Huang et al., Knowledge Distillation from A Stronger Teacher, 2022, arXiv:2205.10536"

    temperature: float = Field(1.0, gt=0, le=1000, description="divides the logits of both before the softmax")
    rows: float = Field(1.0, ge=0, description="weight of the order of rows against 1 for the order of classes")

    @override
    def looks_at(self) -> Literal["logits", "states", "maps"]:
        """Logits."""
        return "logits"

    @override
    def wants(self, student: Anatomy, teacher: Anatomy) -> tuple[Want, Want]:
        """Nothing but logits."""
        return Want(), Want()

    @override
    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> torch.Tensor:
        """The loss of one batch."""
        ours, theirs = ((each.main / self.temperature).softmax(dim=-1) for each in (student, teacher))
        return correlation_loss(ours, theirs, dim=-1) + self.rows * correlation_loss(ours, theirs, dim=0)
