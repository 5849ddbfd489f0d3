"""Attention scores: products of queries and keys before the softmax, which TernaryBERT imitates."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from compressor.contracts import Batch, Feature, Objective, Outputs, Want
from passes.objectives.layer_maps import LayerMap, attending_pairs
from passes.objectives.reductions import mean_over_valid

if TYPE_CHECKING:
    import torch

    from compressor.contracts.anatomy import Anatomy


def attention_score_loss(student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Mean square difference of scores `[B, H, T, T]`: a mean over heads and valid keys, then over the batch's valid query tokens.

    Head by head where both have as many; else both are first averaged over their heads. `mask` `[B, T]` says which tokens are valid.
    """
    if student.shape[1] != teacher.shape[1]:
        student, teacher = student.mean(dim=1, keepdim=True), teacher.mean(dim=1, keepdim=True)
    values = (student - teacher).square().mean(dim=1)
    if mask is None:
        return values.mean()
    valid = mask.bool()
    keys = values.masked_fill(~valid[:, None, :], 0.0).sum(dim=-1) / valid.sum(dim=-1, keepdim=True).clamp(min=1)
    return mean_over_valid(keys, mask)


class AttentionScores(Objective):
    """Imitate attention scores before the softmax. It takes no care of which token comes first: attention-maps or attention-output do."""

    paper: ClassVar[str] = "Zhang et al., TernaryBERT: Distillation-aware Ultra-low Bit BERT, 2020, arXiv:2009.12812"

    layers: LayerMap = Field("uniform", description="uniform, last, or pairs of block numbers (student, teacher)")

    @override
    def looks_at(self) -> Literal["logits", "states", "maps"]:
        """Scores, of which maps are made."""
        return "maps"

    @override
    def wants(self, student: Anatomy, teacher: Anatomy) -> tuple[Want, Want]:
        """Attention scores of the paired blocks.

        Raises:
            UnsupportedModel: a paired block has no attention.
        """
        sides = zip(*attending_pairs(self.layers, student, teacher, "attention-scores"), strict=True)
        mine, theirs = (Want(Feature("attention-score", block) for block in blocks) for blocks in sides)
        return mine, theirs

    @override
    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> torch.Tensor:
        """The mean over pairs of one batch."""
        import torch

        pairs = zip(student.of("attention-score").values(), teacher.of("attention-score").values(), strict=True)
        return torch.stack([attention_score_loss(ours, other, student.mask) for ours, other in pairs]).mean()
