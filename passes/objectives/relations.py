"""Relations of samples: rows that are alike, or far apart, for the teacher are so for the student; sizes need not agree."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from compressor.contracts import Batch, Objective, Outputs, Want
from compressor.errors import UnsupportedModel
from passes.objectives.layer_maps import ids
from passes.objectives.reductions import pooled

if TYPE_CHECKING:
    import torch

    from compressor.contracts.anatomy import Anatomy

EPSILON = 1e-8
"""Added to squared lengths: keeps gradients finite where two rows coincide."""


def distance_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Huber loss of the distances between rows of `[B, D]`, each divided by their mean: a mean over ordered pairs (RKD-D)."""
    import torch.nn.functional as F  # noqa: N812

    return F.smooth_l1_loss(_distances(student), _distances(teacher))


def angle_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Huber loss of the cosines of the angles that each three rows of `[B, D]` form: a mean over triplets (RKD-A).

    Takes memory in the cube of the batch size.
    """
    import torch.nn.functional as F  # noqa: N812

    return F.smooth_l1_loss(_angles(student), _angles(teacher))


def similarity_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Mean square difference of the matrices of cosine similarities between rows of `[B, D]`."""
    import torch.nn.functional as F  # noqa: N812

    ours, others = F.normalize(student, dim=-1), F.normalize(teacher, dim=-1)
    return (ours @ ours.T - others @ others.T).square().mean()


def _distances(rows: torch.Tensor) -> torch.Tensor:
    import torch

    squares = (rows[:, None] - rows[None]).square().sum(dim=-1)
    distances = (squares + EPSILON).sqrt()[~torch.eye(len(rows), dtype=torch.bool, device=rows.device)]
    return distances / distances.mean()


def _angles(rows: torch.Tensor) -> torch.Tensor:
    import torch

    differences = rows[:, None] - rows[None]
    directions = differences / (differences.square().sum(dim=-1, keepdim=True) + EPSILON).sqrt()
    return torch.einsum("aid,bid->abi", directions, directions)


class Relations(Objective):
    """Imitate how the samples of a batch relate to each other."""

    paper: ClassVar[str] = (
        "Park et al., Relational Knowledge Distillation, 2019, arXiv:1904.05068; "
        "similarities: after Tung and Mori, Similarity-Preserving Knowledge Distillation, 2019, arXiv:1907.09682"
    )

    relation: Literal["distance-angle", "similarity"] = Field(
        "distance-angle", description="what is compared: distances of pairs and angles of triplets, or cosine similarities"
    )
    features: Literal["hidden", "logits"] = Field(
        "hidden", description="the last block's output, pooled over valid tokens, or logits"
    )
    angle_weight: float = Field(2.0, ge=0, description="weight of angles against 1 for distances")

    @override
    def looks_at(self) -> Literal["logits", "states", "maps"]:
        """What `features` says."""
        return "states" if self.features == "hidden" else "logits"

    @override
    def wants(self, student: Anatomy, teacher: Anatomy) -> tuple[Want, Want]:
        """The outputs of the last blocks, or nothing but logits.

        Raises:
            UnsupportedModel: a model has no blocks and `features` is `hidden`.
        """
        if self.features == "logits":
            return Want(), Want()
        if not student.blocks or not teacher.blocks:
            raise UnsupportedModel("relations of hidden states need blocks; use features: logits")
        return Want(hidden_states=ids(student)[-1:]), Want(hidden_states=ids(teacher)[-1:])

    @override
    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> torch.Tensor:
        """The loss of one batch; 0 for a single row, which relates to nothing."""
        ours, others = self._rows(student), self._rows(teacher)
        if len(ours) < 2:
            return ours.sum() * 0.0
        if self.relation == "similarity":
            return similarity_loss(ours, others)
        loss = distance_loss(ours, others)
        return loss + self.angle_weight * angle_loss(ours, others) if self.angle_weight else loss

    def _rows(self, outputs: Outputs) -> torch.Tensor:
        if self.features == "logits":
            return outputs.main
        return pooled(next(iter(outputs.hidden_states.values())), outputs.mask)
