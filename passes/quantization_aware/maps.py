"""How far a student's attention departs from that of the model that it was, layer by layer and head by head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from compressor.contracts import Context, Feature, Want
from compressor.model.anatomy import anatomy_or_bare

if TYPE_CHECKING:
    import torch

    from compressor.contracts import Model

LOOKED_AT_ROWS = 64
MAPS = "attention maps"
TOP = 5
"""Keys that a token attends to most."""


@dataclass
class Ranges:
    """Of what attention adds to the residual stream, over valid tokens."""

    least: float = float("inf")
    most: float = float("-inf")

    def add(self, states: torch.Tensor, mask: torch.Tensor | None) -> None:
        """The states `[B, T, D]` of one batch."""
        seen = states[mask.bool()] if mask is not None and mask.shape == states.shape[:2] else states
        if seen.numel():
            self.least, self.most = min(self.least, float(seen.min())), max(self.most, float(seen.max()))


@dataclass
class Apart:
    """Of one layer: means over valid tokens."""

    heads: list[float] = field(default_factory=list)
    """`KL(model || student)` of the attention maps of each head."""
    coverage: float = 0.0
    """Share of the `TOP` keys that the model attends to most which are among those of the student; a mean over heads."""
    theirs: Ranges = field(default_factory=Ranges)
    mine: Ranges = field(default_factory=Ranges)

    @property
    def divergence(self) -> float:
        """A mean over heads."""
        return sum(self.heads) / max(1, len(self.heads))

    def add(self, heads: list[float], coverage: float, share: float) -> None:
        """Those of a batch that has a share of all tokens."""
        before = self.heads or [0.0] * len(heads)
        self.heads = [old + share * new for old, new in zip(before, heads, strict=True)]
        self.coverage += share * coverage


def maps_apart(model: Model, student: Model, ctx: Context) -> dict[str, Apart]:
    """By number of the layer, on some validation rows; empty where the family hands out no maps."""
    import torch

    from passes.side_files import write_side_files

    anatomy = anatomy_or_bare(student.module)
    blocks = tuple(block.id for block in anatomy.blocks if block.attention is not None)
    if not blocks or {MAPS, "features"} & set(anatomy.row.without):
        return {}
    rows = ctx.data.split("validation")
    rows = rows.select(range(min(LOOKED_AT_ROWS, len(rows))))
    files = write_side_files(student, ctx.folder / "files")
    modules = [each.module.to(ctx.device).eval() for each in (model, student)]
    # one row at a time: maps of all blocks and heads, of two models, grow with the square of its tokens
    batches = [_on(batch, ctx.device) for batch in ctx.task.batches(rows, files, batch_size=1)]
    added = tuple(Feature("attention-update", block) for block in blocks)
    found = {block: Apart() for block in blocks}
    tokens, seen = 0.0, []
    for batch in batches:
        with torch.no_grad():
            theirs, mine = (ctx.task.forward(module, batch, Want(added, attention_maps=blocks)) for module in modules)
        count = float(mine.mask.sum()) if mine.mask is not None else float(len(next(iter(batch.values()))))
        tokens += count
        for block in blocks:
            pair = mine.attention_maps[block], theirs.attention_maps[block]
            seen.append((block, divergences(*pair, mine.mask).tolist(), float(coverage(*pair, mine.mask)), count))
        for feature in added:
            for outputs, ranges in ((theirs, found[feature.block].theirs), (mine, found[feature.block].mine)):
                if feature in outputs.features:
                    ranges.add(outputs.features[feature], outputs.mask)
    for block, heads, kept, count in seen:
        found[block].add(heads, kept, count / max(tokens, 1.0))
    return {block.rpartition(".")[2]: each for block, each in found.items()}


def divergences(student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """`KL(teacher || student)` of maps `[B, H, T, T]` of as many heads, head by head `[H]`: a mean over valid query tokens."""
    import torch

    from passes.objectives.attention_maps import attention_map_loss

    heads = range(student.shape[1])
    return torch.stack([attention_map_loss(student[:, at : at + 1], teacher[:, at : at + 1], mask) for at in heads])


def coverage(student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Share of the keys that the teacher attends to most which are among the student's, of maps `[B, H, T, T]` of as many heads.

    As many keys are looked at as the shortest row has, `TOP` at most; a mean over heads and valid query tokens.
    """
    import torch

    from passes.objectives.reductions import mean_over_valid

    many = min(TOP, student.shape[-1] if mask is None else max(1, int(mask.bool().sum(-1).min())))
    chosen = []
    for maps in (student, teacher):
        seen = maps if mask is None else maps.masked_fill(~mask.bool()[:, None, None, :], -1.0)
        chosen.append(torch.zeros_like(maps).scatter(-1, seen.topk(many, dim=-1).indices, 1.0))
    return mean_over_valid((chosen[0] * chosen[1]).sum(-1).mean(1) / many, mask)


def _on(batch: Mapping[str, torch.Tensor], device: str) -> dict[str, torch.Tensor]:
    return {name: tensor.to(device) for name, tensor in batch.items()}
