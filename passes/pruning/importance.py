"""How much each head, neuron or layer matters: scores that rank what structured pruning removes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from compressor.contracts import Batch, Context, Outputs, Progress, Task, Want
from compressor.contracts.anatomy import Anatomy, Block
from compressor.errors import UnsupportedModel
from passes.pruning.ranking import Kind
from passes.side_files import write_side_files

if TYPE_CHECKING:
    import torch
    from torch import nn

    from compressor.contracts import Model

Importance: TypeAlias = Literal["magnitude", "taylor", "activation", "random"]
Place: TypeAlias = tuple[Kind, str]
"""Kind of unit and id of the block; the id is empty for whole layers."""
Scores: TypeAlias = dict[Place, tuple[float, ...]]
"""Importance of each unit, not negative."""


def places(anatomy: Anatomy, kinds: Sequence[Kind]) -> dict[Place, int]:
    """Where units of these kinds are, and how many."""
    found: dict[Place, int] = {}
    for block in anatomy.blocks:
        if "heads" in kinds and block.attention:
            found["heads", block.id] = block.attention.heads
        if "neurons" in kinds and block.feed_forward:
            found["neurons", block.id] = block.feed_forward.width
    if "layers" in kinds:
        found["layers", ""] = len(anatomy.blocks)
    return found


def random_scores(anatomy: Anatomy, kinds: Sequence[Kind], *, seed: int) -> Scores:
    """Scores in [0, 1) that say nothing: what the other ways are compared with."""
    draw = random.Random(seed)
    return {place: tuple(draw.random() for _ in range(count)) for place, count in places(anatomy, kinds).items()}


def magnitude_scores(module: nn.Module, anatomy: Anatomy, kinds: Sequence[Kind]) -> Scores:
    """Euclidean norm of a unit's weights, on the way in and out, divided by its mean over the units of the block."""
    import torch

    scores: Scores = {}
    for kind, block_id in places(anatomy, kinds):
        with torch.no_grad():
            squares = (
                _layer_squares(module, anatomy) if kind == "layers" else _unit_squares(module, anatomy.block(block_id), kind)
            )
            norms = squares.sqrt()
            scores[kind, block_id] = tuple((norms / norms.mean().clamp(min=1e-12)).tolist())
    return scores


def _unit_squares(module: nn.Module, block: Block, kind: Kind) -> torch.Tensor:
    consumer, size, sources = _wiring(block, kind)
    squares = module.get_submodule(consumer).get_parameter("weight").square().sum(dim=0)
    for source in sources:
        squares = squares + module.get_submodule(source).get_parameter("weight").square().sum(dim=1)
    return squares.view(-1, size).sum(dim=1)


def _layer_squares(module: nn.Module, anatomy: Anatomy) -> torch.Tensor:
    import torch

    blocks = (module.get_submodule(block.id).parameters() for block in anatomy.blocks)
    return torch.stack([sum((weight.square().sum() for weight in weights), torch.zeros(())) for weights in blocks])


def _wiring(block: Block, kind: Kind) -> tuple[str, int, tuple[str, ...]]:
    """The projection that reads the units of a kind, how many of its inputs are one unit, and the projections that write them."""
    if kind == "heads":
        assert block.attention
        attention = block.attention
        return attention.output, attention.head_size, (attention.query, attention.key, attention.value)
    assert block.feed_forward
    inner = block.feed_forward
    return inner.down, 1, (inner.up, *([inner.gate] if inner.gate else []))


# ------------------------------------------------------------------ scores that need data


def some_batches(model: Model, ctx: Context, *, rows: int, batch_size: int) -> Iterator[Batch]:
    """At most so many training rows, drawn by the step's seed, on the step's device."""
    split, files = ctx.data.split("train"), write_side_files(model, ctx.folder / "files")
    chosen = sorted(random.Random(ctx.seed).sample(range(len(split)), min(rows, len(split))))
    total = -(-len(chosen) // batch_size)
    for done, batch in enumerate(ctx.task.batches(split.select(chosen), files, batch_size=batch_size), start=1):
        yield {name: tensor.to(ctx.device) for name, tensor in batch.items()}
        ctx.tell(Progress("importance", done, total, "batches"))


def data_scores(
    module: nn.Module,
    anatomy: Anatomy,
    kinds: Sequence[Kind],
    *,
    importance: Literal["taylor", "activation"],
    task: Task,
    batches: Iterable[Batch],
) -> Scores:
    """Scores from running `batches` through `module`, which is in eval mode.

    `taylor`: what the loss changes by, to first order, when the unit is gated off: `|sum of activation · gradient|` for each row,
    a mean over rows (Michel et al., 2019, arXiv:1905.10650; Molchanov et al., 2019, arXiv:1906.10771). For a layer, the gate lets
    the block's input through in place of its output.

    `activation`: norm of what the unit adds to the residual stream, a mean over valid tokens. For a layer, one minus the cosine
    between what enters and what leaves it (Men et al., ShortGPT, 2024, arXiv:2403.03853).

    Raises:
        UnsupportedModel: a projection is not called as a module, so that nothing can be seen there.
    """
    import torch

    wanted = places(anatomy, kinds)
    sums = {place: torch.zeros(count, dtype=torch.float64) for place, count in wanted.items()}
    rows = 0
    for batch in batches:
        with _watching(module, anatomy, wanted) as seen, torch.set_grad_enabled(importance == "taylor"):
            outputs = task.forward(module, batch, Want((anatomy.blocks[0].id,)))  # with states comes the mask of their tokens
            _check_seen(wanted, seen, anatomy)
            count = outputs.logits.shape[0]
            scores = _taylor(seen, anatomy, task.loss(outputs, batch) * count, count) if importance == "taylor" else None
            scores = scores or _activation(seen, module, anatomy, outputs)
        for place, values in scores.items():
            sums[place] += values.detach().double().cpu()
        rows += count
    return {place: tuple((values / max(rows, 1)).tolist()) for place, values in sums.items()}


Seen: TypeAlias = dict[Place, "list[tuple[torch.Tensor, ...]]"]
"""What passed by: the input of the projection that reads a block's units; for layers (input, output) of each block."""


@contextmanager
def _watching(module: nn.Module, anatomy: Anatomy, wanted: Iterable[Place]) -> Iterator[Seen]:
    seen: Seen = {place: [] for place in wanted}
    handles = []
    for kind, block_id in seen:
        if kind == "layers":
            record = _recorder(seen[kind, block_id], whole=True)
            handles += [
                module.get_submodule(block.id).register_forward_hook(record, with_kwargs=True) for block in anatomy.blocks
            ]
        else:
            consumer, _, _ = _wiring(anatomy.block(block_id), kind)
            record = _recorder(seen[kind, block_id], whole=False)
            handles.append(module.get_submodule(consumer).register_forward_hook(record, with_kwargs=True))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _recorder(into: list[tuple[torch.Tensor, ...]], *, whole: bool) -> Callable[..., None]:
    def record(_: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> None:
        given = arguments[0] if arguments else next(iter(keywords.values()))
        result = output[0] if isinstance(output, tuple) else output
        into.append((given, result) if whole else (given,))

    return record


def _check_seen(wanted: dict[Place, int], seen: Seen, anatomy: Anatomy) -> None:
    for kind, block_id in wanted:
        expected = len(anatomy.blocks) if kind == "layers" else 1
        found = len(seen[kind, block_id])
        if found != expected:
            raise UnsupportedModel(
                f"{block_id or anatomy.stack}: its {kind} passed by {found} times in one forward pass, expected {expected}; "
                "use importance: magnitude"
            )


def _taylor(seen: Seen, anatomy: Anatomy, loss: torch.Tensor, rows: int) -> dict[Place, torch.Tensor]:
    import torch

    watched = [(place, at, tensors) for place, passed in seen.items() for at, tensors in enumerate(passed)]
    gradients = torch.autograd.grad(loss, [tensors[-1] for _, _, tensors in watched])
    scores: dict[Place, list[torch.Tensor]] = {}
    for ((kind, block_id), _, tensors), gradient in zip(watched, gradients, strict=True):
        change = gradient * (tensors[-1] - tensors[0] if kind == "layers" else tensors[-1])
        size = change.shape[-1] if kind == "layers" else _wiring(anatomy.block(block_id), kind)[1]
        by_row = change.float().reshape(rows, -1, change.shape[-1] // size, size).sum(dim=(1, 3))
        scores.setdefault((kind, block_id), []).append(by_row.abs().sum(dim=0))
    return {place: torch.cat(values) for place, values in scores.items()}


def _activation(seen: Seen, module: nn.Module, anatomy: Anatomy, outputs: Outputs) -> dict[Place, torch.Tensor]:
    import torch

    scores = {}
    for (kind, block_id), passed in seen.items():
        if kind == "layers":
            cosines = [1 - torch.cosine_similarity(given.float(), result.float(), dim=-1) for given, result in passed]
            values = torch.stack(cosines, dim=-1)
        else:
            consumer, size, _ = _wiring(anatomy.block(block_id), kind)
            values = _contribution(passed[0][0].float(), module.get_submodule(consumer).get_parameter("weight").float(), size)
        scores[kind, block_id] = _sum_of_row_means(values, outputs)
    return scores


def _contribution(given: torch.Tensor, weight: torch.Tensor, size: int) -> torch.Tensor:
    """Norm of `weight[:, unit] @ given[unit]` for units of `size` inputs: `[..., units]`, by way of each unit's Gram matrix."""
    import torch

    columns = weight.view(weight.shape[0], -1, size)
    grams = torch.einsum("oui,ouj->uij", columns, columns)
    units = given.view(*given.shape[:-1], -1, size)
    return torch.einsum("...ui,uij,...uj->...u", units, grams, units).clamp(min=0).sqrt()


def _sum_of_row_means(values: torch.Tensor, outputs: Outputs) -> torch.Tensor:
    """Sum over rows of the mean over each row's valid tokens, of values `[B, T, units]`."""
    rows = outputs.logits.shape[0]
    values = values.reshape(rows, -1, values.shape[-1])
    mask = outputs.mask
    if mask is None or mask.shape != values.shape[:2]:
        return values.mean(dim=1).sum(dim=0)
    valid = mask.to(values.dtype).unsqueeze(-1)
    return ((values * valid).sum(dim=1) / valid.sum(dim=1).clamp(min=1)).sum(dim=0)
