"""Attention output: what attention makes of the residual stream, as the norm after it hands it on."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field
from typing_extensions import override

from compressor.contracts import Batch, Feature, Objective, Outputs, Want
from compressor.errors import UnsupportedModel
from passes.objectives.hidden_states import hidden_state_loss
from passes.objectives.layer_maps import LayerMap, attending_pairs

if TYPE_CHECKING:
    import torch

    from compressor.contracts.anatomy import Anatomy


class AttentionOutput(Objective):
    """Imitate what leaves the attention sub-layers: their output after residual and norm, by its mean square difference."""

    paper: ClassVar[str] = (
        "Kim et al., Understanding and Improving Knowledge Distillation for Quantization-Aware Training of Large Transformer Encoders, 2022, "
        "arXiv:2211.11014"
    )

    layers: LayerMap = Field("uniform", description="uniform, last, or pairs of block numbers (student, teacher)")

    @override
    def wants(self, student: Anatomy, teacher: Anatomy) -> tuple[Want, Want]:
        """The norms after attention of the paired blocks.

        Raises:
            UnsupportedModel: a paired block has no attention, or the two have states of other sizes.
        """
        if student.hidden_size != teacher.hidden_size:
            raise UnsupportedModel(
                f"attention-output: the student is {student.hidden_size} wide and the teacher {teacher.hidden_size}; it has no projection"
            )
        sides = zip(*attending_pairs(self.layers, student, teacher, "attention-output"), strict=True)
        mine, theirs = (Want(Feature("attention-norm", block) for block in blocks) for blocks in sides)
        return mine, theirs

    @override
    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> torch.Tensor:
        """The mean over pairs of one batch."""
        import torch

        pairs = zip(student.of("attention-norm").values(), teacher.of("attention-norm").values(), strict=True)
        return torch.stack([hidden_state_loss(ours, other, student.mask) for ours, other in pairs]).mean()
