"""Relations among a row's queries, among its keys and among its values: sizes and numbers of heads need not agree (MiniLMv2)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field
from typing_extensions import override

from compressor.contracts import Batch, Feature, FeatureKind, Objective, Outputs, Want
from compressor.errors import UnsupportedModel
from passes.objectives.layer_maps import ids
from passes.objectives.reductions import mean_over_valid
from passes.objectives.soft_targets import kl

if TYPE_CHECKING:
    import torch

    from compressor.contracts.anatomy import Anatomy, Attention

KINDS: tuple[FeatureKind, ...] = ("query", "key", "value")
HEAD_SIZE = 16
"""Features of a head, at least, as MiniLMv2 has them for models of 768."""
FAR = -1e9
"""A relation that is none, and finite, so that 0 times its logarithm is 0."""


def relation_loss(
    student: torch.Tensor,
    teacher: torch.Tensor,
    heads: int,
    related: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """`KL(R_T || R_S)` with `R = softmax(M Mᵀ / sqrt(size of a head))`, a mean over heads and the tokens that are valid.

    Args:
        student: its queries, keys or values, `[B, T, D]`.
        teacher: the teacher's, of any size.
        heads: into how many heads both are divided anew.
        related: which tokens are held against each other, `[B, T, T]`; all unless given.
        mask: which tokens are valid, `[B, T]`.
    """
    logs = []
    for states in (teacher, student):
        parts = states.unflatten(-1, (heads, -1)).transpose(1, 2)  # type: ignore[no-untyped-call]
        scores = parts @ parts.transpose(-1, -2) / math.sqrt(parts.shape[-1])
        if related is not None:
            scores = scores.masked_fill(~related[:, None], FAR)
        logs.append(scores.log_softmax(dim=-1))
    return mean_over_valid(kl(*logs).mean(dim=1), mask)


class QueryKeyValueRelations(Objective):
    """Imitate how the queries of a row relate to each other, its keys, and its values, in one block: the mean of the three."""

    paper: ClassVar[str] = "Wang et al., MiniLMv2: Multi-Head Self-Attention Relation Distillation, 2020, arXiv:2012.15828"

    layer: int = Field(
        -1, ge=-1000, le=1000, description="block of the teacher, from 0, or from the end; of the student it is always the last"
    )
    heads: int | None = Field(
        None,
        ge=1,
        description="into how many heads queries, keys and values are divided anew; unless given, as many as leave 16 features to each",
    )

    @override
    def wants(self, student: Anatomy, teacher: Anatomy) -> tuple[Want, Want]:
        """Queries, keys and values of the student's last block and one of the teacher's.

        Raises:
            UnsupportedModel: there is no such block, or `heads` does not divide one of the sizes.
        """
        mine, theirs = ids(student), ids(teacher)
        if not mine or not -len(theirs) <= self.layer < len(theirs):
            raise UnsupportedModel(f"layer {self.layer}: the teacher has {len(theirs)} blocks, and the student {len(mine)}")
        blocks = student.block(mine[-1]), teacher.block(theirs[self.layer])
        for whose, block in zip(("student", "teacher"), blocks, strict=True):
            if block.attention is None:
                raise UnsupportedModel(f"{block.id} of the {whose} has no attention left, so no queries, keys and values")
            for kind in KINDS:
                if self.heads and _size(block.attention, kind) % self.heads:
                    raise UnsupportedModel(
                        f"heads: {self.heads} does not divide the {_size(block.attention, kind)} features of a {kind} of the {whose}"
                    )
        one, other = (Want(Feature(kind, block.id) for kind in KINDS) for block in blocks)
        return one, other

    @override
    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> torch.Tensor:
        """The mean of the three; documents that share a row have no relations."""
        import torch

        related = _related(student.mask, batch.get("position_ids"))
        found = []
        for kind in KINDS:
            (mine,), (theirs,) = student.of(kind).values(), teacher.of(kind).values()
            heads = self.heads or _heads(mine.shape[-1], theirs.shape[-1])
            found.append(relation_loss(mine, theirs, heads, related, student.mask))
        return torch.stack(found).mean()


def _size(attention: Attention, kind: FeatureKind) -> int:
    heads = attention.heads if kind == "query" else attention.heads // attention.key_value_groups
    return heads * attention.head_size


def _heads(one: int, other: int) -> int:
    """The most heads that divide both sizes and leave `HEAD_SIZE` features to the smaller one's."""
    shared = math.gcd(one, other)
    return max(
        each for each in range(1, shared + 1) if shared % each == 0 and (each == 1 or min(one, other) // each >= HEAD_SIZE)
    )


def _related(mask: torch.Tensor | None, positions: torch.Tensor | None) -> torch.Tensor | None:
    """Pairs of valid tokens of one document, `[B, T, T]`; positions begin anew with each."""
    if mask is None:
        return None
    related = mask.bool()[:, None, :].expand(-1, mask.shape[1], -1)
    if positions is None:
        return related
    documents = (positions == 0).cumsum(dim=1)
    return related & (documents[:, :, None] == documents[:, None, :])
