"""Sorted probabilities: a student learns from a teacher that has other words, by how probable the first, the second, ... is (ULD)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

from pydantic import Field, PrivateAttr
from typing_extensions import override

from compressor.contracts import Batch, LikeliestLogits, Outputs
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

    of_any_words: ClassVar[bool] = True
    """Nothing in it depends on which word is which."""

    temperature: float = Field(1.0, gt=0, le=1000, description="divides the logits before the softmax")

    _more: float = PrivateAttr(default=1.0)

    @override
    def prepared(self, student: Outputs, teacher: Outputs, batch: Batch) -> Self:
        """This objective, which knows how many of the tokens that count have a partner: the mean is over those."""
        found, tokens, later = self.model_copy(), student.tokens, teacher.later
        if tokens is not None and isinstance(later, LikeliestLogits):
            rest = later.rest.flatten()[tokens.counted()]
            found._more = len(rest) / max(1, len(rest) - int(rest.isnan().sum()))
        return found

    @override
    def values(self, chunk: Chunk, teacher: Outputs) -> torch.Tensor:
        """The distance of each token, 0 where the teacher has said nothing."""
        theirs = chunk.of(teacher)
        silent = theirs[:, 0].isnan()
        values = sorted_values(chunk.logits, theirs.masked_fill(silent[:, None], 0.0), temperature=self.temperature)
        return self._more * values.masked_fill(silent, 0.0)
