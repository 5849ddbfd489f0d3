"""Attention scores: products of queries and keys before the softmax, which TernaryBERT imitates."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from typing_extensions import override

from compressor.contracts import FeatureKind
from passes.objectives.paired_blocks import PairedBlocks
from passes.objectives.reductions import mean_over_valid

if TYPE_CHECKING:
    import torch


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


class AttentionScores(PairedBlocks):
    """Imitate attention scores before the softmax. It takes no care of which token comes first: attention-maps or attention-output do."""

    paper: ClassVar[str] = "Zhang et al., TernaryBERT: Distillation-aware Ultra-low Bit BERT, 2020, arXiv:2009.12812"

    named: ClassVar[str] = "attention-scores"
    kind: ClassVar[FeatureKind] = "attention-score"

    @override
    def looks_at(self) -> Literal["logits", "states", "maps"]:
        """Scores, of which maps are made."""
        return "maps"

    @override
    def of_pair(self, student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Their mean square difference."""
        return attention_score_loss(student, teacher, mask)
