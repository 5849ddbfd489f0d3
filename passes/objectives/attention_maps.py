"""Attention maps: chosen student blocks attend to the tokens that chosen teacher blocks attend to."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from compressor.contracts import FeatureKind
from passes.objectives.layer_maps import LayerMap
from passes.objectives.paired_blocks import PairedBlocks
from passes.objectives.reductions import mean_over_valid

if TYPE_CHECKING:
    import torch


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


class AttentionMaps(PairedBlocks):
    """Imitate where the teacher's blocks attend to."""

    paper: ClassVar[str] = (
        "KL of attention distributions: Wang et al., MiniLM, 2020, arXiv:2002.10957; "
        "by layer: Jiao et al., TinyBERT, 2020, arXiv:1909.10351"
    )

    named: ClassVar[str] = "attention-maps"
    kind: ClassVar[FeatureKind] = "attention-map"

    layers: LayerMap = Field("last", description="uniform, last, or pairs of block numbers (student, teacher)")

    @override
    def looks_at(self) -> Literal["logits", "states", "maps"]:
        """Attention maps."""
        return "maps"

    @override
    def of_pair(self, student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """The divergence from the teacher's."""
        return attention_map_loss(student, teacher, mask)
