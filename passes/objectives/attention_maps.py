"""Attention maps: chosen student blocks attend to the tokens that chosen teacher blocks attend to."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from compressor.contracts import Batch, Objective, Outputs, Want
from passes.objectives.layer_maps import LayerMap, attending_pairs
from passes.objectives.reductions import mean_over_valid

if TYPE_CHECKING:
    import torch

    from compressor.contracts.anatomy import Anatomy


def attention_map_loss(student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """`KL(teacher || student)` of attention probabilities `[B, H, T, T]`, a mean over heads and the batch's valid query tokens.

    Head by head where both have as many; else both are first averaged over their heads.
    Keys outside `mask` `[B, T]` do not count.
    """
    if student.shape[1] != teacher.shape[1]:
        student, teacher = student.mean(dim=1, keepdim=True), teacher.mean(dim=1, keepdim=True)
    tiny = 1e-12
    terms = teacher * (teacher.clamp(min=tiny).log() - student.clamp(min=tiny).log())
    if mask is not None:
        terms = terms.masked_fill(~mask.bool()[:, None, None, :], 0.0)
    return mean_over_valid(terms.sum(dim=-1).mean(dim=1), mask)


class AttentionMaps(Objective):
    """Imitate where the teacher's blocks attend to."""

    paper: ClassVar[str] = (
        "KL of attention distributions: Wang et al., MiniLM, 2020, arXiv:2002.10957; "
        "by layer: Jiao et al., TinyBERT, 2020, arXiv:1909.10351"
    )

    layers: LayerMap = Field("last", description="uniform, last, or pairs of block numbers (student, teacher)")

    @override
    def looks_at(self) -> Literal["logits", "states", "maps"]:
        """Attention maps."""
        return "maps"

    @override
    def wants(self, student: Anatomy, teacher: Anatomy) -> tuple[Want, Want]:
        """Attention maps of the paired blocks.

        Raises:
            UnsupportedModel: a paired block has no attention.
        """
        pairs = attending_pairs(self.layers, student, teacher, "attention-maps")
        return Want(attention_maps=tuple(mine for mine, _ in pairs)), Want(attention_maps=tuple(theirs for _, theirs in pairs))

    @override
    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> torch.Tensor:
        """The mean over pairs of one batch."""
        import torch

        pairs = zip(student.attention_maps.values(), teacher.attention_maps.values(), strict=True)
        return torch.stack([attention_map_loss(ours, other, student.mask) for ours, other in pairs]).mean()
