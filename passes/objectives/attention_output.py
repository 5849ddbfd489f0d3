"""Attention output: what attention makes of the residual stream, as the norm after it hands it on."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from typing_extensions import override

from compressor.contracts import FeatureKind, Want
from compressor.errors import UnsupportedModel
from passes.objectives.hidden_states import hidden_state_loss
from passes.objectives.paired_blocks import PairedBlocks

if TYPE_CHECKING:
    import torch

    from compressor.contracts.anatomy import Anatomy


class AttentionOutput(PairedBlocks):
    """Imitate what leaves the attention sub-layers: their output after residual and norm, by its mean square difference."""

    paper: ClassVar[str] = (
        "Kim et al., Understanding and Improving Knowledge Distillation for Quantization-Aware Training of Large Transformer Encoders, 2022, "
        "arXiv:2211.11014"
    )

    named: ClassVar[str] = "attention-output"
    kind: ClassVar[FeatureKind] = "attention-norm"

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
        return super().wants(student, teacher)

    @override
    def of_pair(self, student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Their mean square difference."""
        return hidden_state_loss(student, teacher, mask)
