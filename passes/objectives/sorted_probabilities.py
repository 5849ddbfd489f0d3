"""Sorted probabilities: a student learns from a teacher that has other words, by how probable the first, the second, ... is (ULD)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field
from typing_extensions import override

from compressor.contracts import Outputs
from compressor.model.token_losses import Chunk
from passes.objectives.token_objective import TokenObjective

if TYPE_CHECKING:
    import torch


def sorted_values(student: torch.Tensor, teacher: torch.Tensor, *, temperature: float = 1.0) -> torch.Tensor:
    """`sum_k |p_S(k) - p_T(k)|` of probabilities from the most to the least, `[n]`, of logits `[n, words]`; the vocabularies may differ.

    It is the Wasserstein distance of both where every word is as far from every other; the smaller vocabulary has words of probability 0.
    """
    import torch

    mine, theirs = ((logits / temperature).softmax(dim=-1).sort(dim=-1, descending=True).values for logits in (student, teacher))
    short = mine.shape[-1] - theirs.shape[-1]
    mine, theirs = (torch.nn.functional.pad(each, (0, max(0, more))) for each, more in ((mine, -short), (theirs, short)))
    return (mine - theirs).abs().sum(dim=-1)


class SortedProbabilities(TokenObjective):
    """Imitate the teacher's probabilities in falling order, whichever words they are of: another tokenizer's teacher can teach so.

    Tokens are paired by their place in what counts of a row, as far as both have some.
    """

    paper: ClassVar[str] = (
        "Boizard et al., Towards Cross-Tokenizer Distillation: the Universal Logit Distillation Loss, 2024, arXiv:2402.12030"
    )

    temperature: float = Field(1.0, gt=0, le=1000, description="divides the logits before the softmax")

    @override
    def values(self, chunk: Chunk, teacher: Outputs) -> torch.Tensor:
        """The distance of each token."""
        return sorted_values(chunk.logits, chunk.of(teacher), temperature=self.temperature)
