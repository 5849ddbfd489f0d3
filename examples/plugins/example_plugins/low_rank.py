"""Low-rank feed-forwards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from compressor.contracts import Context, Needs, Pass
from compressor.contracts.notes import Bars
from compressor.errors import UnsupportedModel
from compressor.model.anatomy import anatomy_of
from example_plugins.factor_linear import FactorLinear

if TYPE_CHECKING:
    from compressor.contracts import Model


class LowRank(Pass):
    """Replace each feed-forward matrix by two thinner ones where that makes it smaller; distil afterwards."""

    requires: ClassVar[tuple[str, ...]] = ("torch",)
    paper: ClassVar[str] = "Denton et al., Exploiting Linear Structure Within Convolutional Networks, 2014, arXiv:1404.0736"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({"energy": 0.5},)

    energy: float = Field(0.9, gt=0, le=1, description="share of a matrix's squared singular values that stays")

    def needs(self) -> Needs:
        """The edit that it makes of a model."""
        return Needs(plugins={"edit": (FactorLinear.kind,)}, inside=("neurons",))

    def apply(self, model: Model, ctx: Context) -> Model:
        """Factor what gets smaller by it, and note the ranks.

        Raises:
            UnsupportedModel: no matrix gets smaller at this energy.
        """
        parts = [block.feed_forward for block in anatomy_of(model.module).blocks if block.feed_forward]
        paths = [path for part in parts for path in (part.up, part.gate, part.down) if path]
        ranks = {path: rank for path in paths if (rank := self._rank(model.module.get_submodule(path).weight))}
        if not ranks:
            raise UnsupportedModel(f"low-rank: none of {len(paths)} matrices gets smaller at energy {self.energy:g}; try less")
        for path, rank in ranks.items():
            model.apply(FactorLinear(path=path, rank=rank))
        ctx.note(Bars(title="Ranks of feed-forward matrices", unit="rank", values=ranks))
        return model

    def _rank(self, weight: Any) -> int | None:
        """The least rank with this energy, or None where two matrices of it are no smaller than one of full rank."""
        import torch

        energies = torch.linalg.svdvals(weight.detach().double()).square()
        rank = int((energies.cumsum(0) < self.energy * energies.sum()).sum()) + 1
        return rank if rank * sum(weight.shape) < weight.numel() else None
