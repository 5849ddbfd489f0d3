"""Top-k targets (TopKLD): the teacher's likeliest words, and apart from them how it shares the rest among all others."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field
from typing_extensions import override

from compressor.contracts import Outputs
from compressor.model.token_losses import Chunk
from passes.objectives.soft_targets import kl
from passes.objectives.token_objective import TokenObjective

if TYPE_CHECKING:
    import torch


def top_k_values(student: torch.Tensor, teacher: torch.Tensor, *, k: int, balance: float = 0.5) -> torch.Tensor:
    """`balance · KL_top + (1 - balance) · KL_rest` of logits `[..., words]`, for each of the leading axes.

    Args:
        student: what is learned.
        teacher: logits of the same words.
        k: how many of the teacher's likeliest words are looked at one by one.
        balance: in [0, 1].

    `KL_top` is `KL(teacher || student)` of `k + 1` classes: these words, and all others together. `KL_rest` is that of the others among themselves,
    each side's probabilities brought to a sum of 1. `KL` of all words is `KL_top` and `KL_rest` times the probability of the rest,
    which a sure teacher leaves next to nothing of. Both are 0 where the logits agree up to a shift; with `k` words or fewer there is no rest.
    """
    import torch

    mine, theirs = (each.log_softmax(dim=-1) for each in (student, teacher))
    words = theirs.topk(min(k, theirs.shape[-1]), dim=-1).indices
    if words.shape[-1] == theirs.shape[-1]:
        return balance * kl(theirs, mine)
    firsts, rests = [], []
    for logs in (theirs, mine):
        rest = logs.scatter(-1, words, -torch.inf)
        whole = rest.logsumexp(dim=-1, keepdim=True)
        firsts.append(torch.cat([logs.gather(-1, words), whole], dim=-1))
        rests.append((rest - whole).scatter(-1, words, LEFT_OUT))  # finite on both sides: it counts for nothing
    return balance * kl(*firsts) + (1 - balance) * kl(*rests)


LEFT_OUT = -1e4
"""Logarithm of a probability that is 0 in float32."""


class TopKTargets(TokenObjective):
    """Imitate the teacher's likeliest words, and the shares of all others among themselves: a quantised generator keeps its tail.

    Kept answers of a language model (`cache_teacher`) know the likeliest words alone (`cached_words`): the others' shares are then the student's own.
    """

    paper: ClassVar[str] = "idea of TopKLD, for quantised visual autoregressive generators; this form of it is our own"

    k: int | None = Field(None, ge=1, description="words that are looked at one by one; a share of all of them unless given")
    share: float = Field(0.05, gt=0, lt=1, description="of all words, where k is not given")
    balance: float = Field(0.5, ge=0, le=1, description="weight of the likeliest words; the others have what is left of 1")

    @override
    def values(self, chunk: Chunk, teacher: Outputs) -> torch.Tensor:
        """The divergence of each token or row."""
        words = chunk.logits.shape[-1]
        return top_k_values(chunk.logits, chunk.of(teacher), k=self.k or max(1, round(self.share * words)), balance=self.balance)
