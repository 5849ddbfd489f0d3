"""Hidden states: chosen student blocks imitate what chosen teacher blocks put out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from compressor.contracts import Batch, Objective, Outputs, Want
from compressor.errors import UnsupportedModel
from passes.objectives.layer_maps import LayerMap, layer_pairs
from passes.objectives.reductions import mean_over_valid

if TYPE_CHECKING:
    import torch

    from compressor.contracts.anatomy import Anatomy

Distance = Literal["mse", "cosine", "l1"]


def hidden_state_loss(
    student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor | None = None, *, distance: Distance = "mse"
) -> torch.Tensor:
    """Distance of states `[B, T, D]`, a mean over features, then over the valid tokens of the batch.

    `mse` is the mean square difference, `l1` the mean absolute one, `cosine` is `1 - cos`, in [0, 2].
    """
    import torch.nn.functional as F  # noqa: N812 - the name it has everywhere

    if distance == "mse":
        values = (student - teacher).square().mean(dim=-1)
    elif distance == "l1":
        values = (student - teacher).abs().mean(dim=-1)
    else:
        values = 1 - F.cosine_similarity(student, teacher, dim=-1)
    return mean_over_valid(values, mask)


def identity_projections(sizes: Sequence[tuple[int, int]]) -> torch.nn.ModuleList:
    """One linear layer for each (student, teacher) size: weight the identity (cut or padded where sizes differ), bias 0."""
    import torch

    layers = torch.nn.ModuleList(torch.nn.Linear(mine, theirs) for mine, theirs in sizes)
    for layer in layers:
        assert isinstance(layer, torch.nn.Linear)
        torch.nn.init.eye_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    return layers


class HiddenStates(Objective):
    """Imitate the outputs of the teacher's blocks, through a projection where sizes differ."""

    version: ClassVar[int] = 2
    paper: ClassVar[str] = (
        "Romero et al., FitNets, 2015, arXiv:1412.6550; Jiao et al., TinyBERT, 2020, arXiv:1909.10351; "
        "identity start: Peng et al., DPHuBERT, 2023, arXiv:2305.17651"
    )

    layers: LayerMap = Field("uniform", description="uniform, last, or pairs of block numbers (student, teacher)")
    distance: Distance = Field("mse", description="of two states: mse, cosine or l1")
    projection: Literal["auto", "none", "linear"] = Field(
        "auto", description="auto projects only where sizes differ; a projection starts as the identity and is thrown away"
    )

    @override
    def wants(self, student: Anatomy, teacher: Anatomy) -> tuple[Want, Want]:
        """Outputs of the paired blocks."""
        pairs = layer_pairs(self.layers, student, teacher)
        return Want(hidden_states=tuple(mine for mine, _ in pairs)), Want(hidden_states=tuple(theirs for _, theirs in pairs))

    @override
    def projections(self, student: Anatomy, teacher: Anatomy) -> torch.nn.Module | None:
        """A linear layer for each pair, from the student's size to the teacher's; None where none is needed.

        Raises:
            UnsupportedModel: sizes differ and `projection` is `none`.
        """
        sizes = (student.hidden_size, teacher.hidden_size)
        differ = sizes[0] != sizes[1]
        if self.projection == "none" and differ:
            raise UnsupportedModel(
                f"hidden-states: the student is {sizes[0]} wide and the teacher {sizes[1]}; use projection: auto or linear"
            )
        if self.projection == "none" or (self.projection == "auto" and not differ):
            return None
        return identity_projections([sizes] * len(layer_pairs(self.layers, student, teacher)))

    @override
    def project(self, student: Outputs, projections: torch.nn.Module | None) -> Outputs:
        """States of the teacher's size."""
        import torch

        if not isinstance(projections, torch.nn.ModuleList):
            return student
        pairs = zip(projections, student.hidden_states.items(), strict=True)
        return student.having("hidden-state", {block: project(states) for project, (block, states) in pairs})

    @override
    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> torch.Tensor:
        """The mean over pairs of one batch."""
        import torch

        pairs = zip(student.hidden_states.values(), teacher.hidden_states.values(), strict=True)
        losses = [hidden_state_loss(ours, other, student.mask, distance=self.distance) for ours, other in pairs]
        return torch.stack(losses).mean()
