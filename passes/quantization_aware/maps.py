"""How far a student's attention departs from that of the model that it was, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from compressor.contracts import Context, Want
from compressor.model.anatomy import anatomy_or_bare

if TYPE_CHECKING:
    import torch

    from compressor.contracts import Model

LOOKED_AT_ROWS, BATCH = 64, 16
MAPS = "attention maps"
TOP = 5
"""Keys that a token attends to most."""


class Apart(NamedTuple):
    """Of one layer: a mean over heads and valid tokens."""

    divergence: float
    """`KL(model || student)` of attention maps."""
    coverage: float
    """Share of the `TOP` keys that the model attends to most which are among those of the student."""


def maps_apart(model: Model, student: Model, ctx: Context) -> dict[str, Apart]:
    """By number of the layer, on some validation rows; empty where the family hands out no maps."""
    import torch

    from passes.objectives.attention_maps import attention_map_loss
    from passes.side_files import write_side_files

    anatomy = anatomy_or_bare(student.module)
    blocks = tuple(block.id for block in anatomy.blocks if block.attention is not None)
    if not blocks or {MAPS, "features"} & set(anatomy.row.without):
        return {}
    rows = ctx.data.split("validation")
    rows = rows.select(range(min(LOOKED_AT_ROWS, len(rows))))
    files, want = write_side_files(student, ctx.folder / "files"), Want(attention_maps=blocks)
    modules = [each.module.to(ctx.device).eval() for each in (model, student)]
    sums, tokens = {block: [0.0, 0.0] for block in blocks}, 0.0
    for batch in ctx.task.batches(rows, files, batch_size=BATCH):
        with torch.no_grad():
            theirs, mine = (ctx.task.forward(module, _on(batch, ctx.device), want) for module in modules)
            count = float(mine.mask.sum()) if mine.mask is not None else 1.0
            tokens += count
            for block in blocks:
                pair = mine.attention_maps[block], theirs.attention_maps[block]
                sums[block][0] += count * float(attention_map_loss(*pair, mine.mask))
                sums[block][1] += count * float(coverage(*pair, mine.mask))
    return {block.rpartition(".")[2]: Apart(*(each / max(tokens, 1.0) for each in total)) for block, total in sums.items()}


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
