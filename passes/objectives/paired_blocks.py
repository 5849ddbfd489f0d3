"""What objectives share that hold one feature of attention of a student's blocks against that of the teacher's blocks they are paired with."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field
from typing_extensions import override

from compressor.contracts import Batch, Feature, FeatureKind, Objective, Outputs, Want
from passes.objectives.layer_maps import LayerMap, attending_pairs

if TYPE_CHECKING:
    import torch

    from compressor.contracts.anatomy import Anatomy


class PairedBlocks(Objective):
    """The mean over pairs of blocks of what a pair's features differ by."""

    named: ClassVar[str]
    """What messages call it."""
    kind: ClassVar[FeatureKind]

    layers: LayerMap = Field("uniform", description="uniform, last, or pairs of block numbers (student, teacher)")

    @override
    def wants(self, student: Anatomy, teacher: Anatomy) -> tuple[Want, Want]:
        """The feature of the paired blocks.

        Raises:
            UnsupportedModel: a paired block has no attention.
        """
        sides = zip(*attending_pairs(self.layers, student, teacher, self.named), strict=True)
        mine, theirs = (Want(Feature(self.kind, block) for block in blocks) for blocks in sides)
        return mine, theirs

    @abstractmethod
    def of_pair(self, student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """What the features of one pair differ by; `mask` `[B, T]` says which tokens are valid."""

    @override
    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> torch.Tensor:
        """The mean over pairs of one batch."""
        import torch

        pairs = zip(student.of(self.kind).values(), teacher.of(self.kind).values(), strict=True)
        return torch.stack([self.of_pair(ours, other, student.mask) for ours, other in pairs]).mean()
