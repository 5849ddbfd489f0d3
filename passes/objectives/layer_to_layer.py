"""Layer to layer: what leaves chosen blocks, and what enters the first, through projections that start as the identity."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator
from typing_extensions import override

from compressor.contracts import Batch, Objective, Outputs, Want
from compressor.errors import UnsupportedModel
from passes.objectives.hidden_states import identity_projections
from passes.objectives.layer_maps import ids
from passes.objectives.reductions import mean_over_valid

if TYPE_CHECKING:
    import torch

    from compressor.contracts.anatomy import Anatomy

CosineForm = Literal["raw", "log-sigmoid"]


def layer_to_layer_loss(
    student: torch.Tensor,
    teacher: torch.Tensor,
    mask: torch.Tensor | None = None,
    *,
    l1: float = 1.0,
    cosine: float = 1.0,
    mse: float = 0.0,
    form: CosineForm = "raw",
) -> torch.Tensor:
    """`l1 mean|s - t| + cosine (1 - cos(s, t)) + mse mean (s - t)^2` of states `[B, T, D]`, a mean over the valid tokens.

    With `log-sigmoid` the cosine's part is `log sigmoid(1) - log sigmoid(cos)`, which is 0 for equal states too.
    """
    import torch
    import torch.nn.functional as F  # noqa: N812 - the name it has everywhere

    similarity = F.cosine_similarity(student, teacher, dim=-1)
    one = torch.ones_like(similarity)
    apart = one - similarity if form == "raw" else F.logsigmoid(one) - F.logsigmoid(similarity)
    difference = student - teacher
    values = l1 * difference.abs().mean(-1) + cosine * apart + mse * difference.square().mean(-1)
    return mean_over_valid(values, mask)


class LayerToLayer(Objective):
    """Imitate states between the teacher's blocks by their L1 distance and their direction."""

    version: ClassVar[int] = 2
    paper: ClassVar[str] = "Peng et al., DPHuBERT, 2023, arXiv:2305.17651; Chang et al., DistilHuBERT, 2022, arXiv:2110.01900"

    layers: (
        Annotated[tuple[int, ...], Field(min_length=1)]
        | Annotated[dict[int, int | Annotated[tuple[int, ...], Field(min_length=1)]], Field(min_length=1)]
        | None
    ) = Field(
        None,
        description="after how many blocks, 0 for what enters the first; (student: teacher, or several) where depths differ; "
        "0 and every third of the depth unless given",
    )
    projection: Literal["shared", "own", "none"] = Field(
        "shared", description="one linear layer for all states but what enters the first block, which has its own; or one each"
    )
    l1: float = Field(1.0, ge=0, description="weight of the mean absolute difference")
    cosine: float = Field(1.0, ge=0, description="weight of the angle")
    mse: float = Field(0.0, ge=0, description="weight of the mean square difference")
    cosine_form: CosineForm = Field("raw", description="1 - cos, or by its log-sigmoid")

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not (self.l1 or self.cosine or self.mse):
            raise ValueError("l1, cosine and mse are all 0")
        several = [at for at, theirs in self.layers.items() if len(_several(theirs)) > 1] if isinstance(self.layers, dict) else []
        if several and self.projection != "own":
            raise ValueError(f"one state ({several[0]}) cannot be several layers of the teacher but by projection: own")
        return self

    @override
    def wants(self, student: Anatomy, teacher: Anatomy) -> tuple[Want, Want]:
        """States of the paired places.

        Raises:
            UnsupportedModel: one is not there or named twice, or the depths differ and no pairs are given.
        """
        pairs = self._pairs(student, teacher)
        mine = tuple(dict.fromkeys(_id(student, at) for at, _ in pairs))
        return Want(hidden_states=mine), Want(hidden_states=tuple(_id(teacher, at) for _, at in pairs))

    @override
    def projections(self, student: Anatomy, teacher: Anatomy) -> torch.nn.Module | None:
        """Linear layers from the student's size to the teacher's, in the order of the pairs; those that are shared are one module."""
        sizes = (student.hidden_size, teacher.hidden_size)
        if self.projection == "none":
            if sizes[0] != sizes[1]:
                raise UnsupportedModel(f"states of {sizes[0]} and of {sizes[1]} features need a projection: leave projection out")
            return None
        pairs = self._pairs(student, teacher)
        made = identity_projections([sizes] * len(pairs))
        if self.projection == "shared":
            inner = [number for number, (at, _) in enumerate(pairs) if at]
            for number in inner[1:]:
                made[number] = made[inner[0]]
        return made

    @override
    def project(self, student: Outputs, projections: torch.nn.Module | None) -> Outputs:
        """A state for each layer that is imitated, of the teacher's size; named by number, as one may imitate several."""
        import torch

        states = list(student.hidden_states.values())
        if isinstance(self.layers, dict):
            states = [each for each, others in zip(states, self.layers.values(), strict=True) for _ in _several(others)]
        if isinstance(projections, torch.nn.ModuleList):
            states = [project(each) for project, each in zip(projections, states, strict=True)]
        return student.having("hidden-state", {str(number): each for number, each in enumerate(states)})

    @override
    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> torch.Tensor:
        """The mean over pairs of one batch."""
        import torch

        losses = [
            layer_to_layer_loss(ours, other, student.mask, l1=self.l1, cosine=self.cosine, mse=self.mse, form=self.cosine_form)
            for ours, other in zip(student.hidden_states.values(), teacher.hidden_states.values(), strict=True)
        ]
        return torch.stack(losses).mean()

    def _pairs(self, student: Anatomy, teacher: Anatomy) -> tuple[tuple[int, int], ...]:
        depths = len(student.blocks), len(teacher.blocks)
        if isinstance(self.layers, dict):
            pairs = tuple((at, other) for at, others in self.layers.items() for other in _several(others))
        else:
            if depths[0] != depths[1]:
                raise UnsupportedModel(
                    f"layer-to-layer: the student has {depths[0]} blocks and the teacher {depths[1]}; give pairs, student: teacher"
                )
            pairs = tuple(
                (at, at) for at in self.layers or dict.fromkeys((0, *(-(-depths[0] * third // 3) for third in (1, 2, 3))))
            )
        sides = tuple(dict.fromkeys(at for at, _ in pairs)), tuple(other for _, other in pairs)
        for side, depth, whose in zip(sides, depths, ("student", "teacher"), strict=True):
            if len(set(side)) < len(side) or not all(0 <= at <= depth for at in side):
                raise UnsupportedModel(
                    f"layer-to-layer: {', '.join(map(str, side))} of the {whose}: each once, and 0 to {depth}, as it has {depth} blocks"
                )
        return pairs


def _several(given: int | tuple[int, ...]) -> tuple[int, ...]:
    return (given,) if isinstance(given, int) else given


def _id(anatomy: Anatomy, at: int) -> str:
    """Id of what is captured: a block, or the stack for what enters it."""
    return ids(anatomy)[at - 1] if at else anatomy.stack
