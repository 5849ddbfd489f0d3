"""How much each head, neuron or layer matters: scores that rank what structured pruning removes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from compressor.contracts import Batch, Context, Outputs, Progress, Task, Want
from compressor.contracts.anatomy import Anatomy, Units
from compressor.contracts.failing import rows_told
from compressor.errors import UnsupportedModel
from compressor.model.costs import matrix
from passes.pruning.ranking import Kind
from passes.side_files import write_side_files

if TYPE_CHECKING:
    import torch
    from torch import nn

    from compressor.contracts import Model

Importance: TypeAlias = Literal["magnitude", "taylor", "activation", "random"]
Scores: TypeAlias = dict[Units, tuple[float, ...]]
"""Importance of each unit, not negative."""


def random_scores(anatomy: Anatomy, kinds: Sequence[Kind], *, seed: int) -> Scores:
    """Scores in [0, 1) that say nothing: what the other ways are compared with."""
    draw = random.Random(seed)
    return {units: tuple(draw.random() for _ in range(units.count)) for units in anatomy.units(kinds)}


def magnitude_scores(module: nn.Module, anatomy: Anatomy, kinds: Sequence[Kind]) -> Scores:
    """Euclidean norm of a unit's weights, on the way in and out, divided by its mean over the units of the block."""
    import torch

    scores: Scores = {}
    for units in anatomy.units(kinds):
        with torch.no_grad():
            norms = (_layer_squares if units.kind == "layers" else _unit_squares)(module, units).sqrt()
            scores[units] = tuple((norms / norms.mean().clamp(min=1e-12)).tolist())
    return scores


def _unit_squares(module: nn.Module, units: Units) -> torch.Tensor:
    total = matrix(module.get_submodule(units.reader)).square().sum(dim=0).view(units.count, -1).sum(dim=1)
    for writer in units.writers:
        rows = matrix(module.get_submodule(writer)).square().sum(dim=1)
        several = max(1, len(rows) // (units.count * units.size))  # some layers are several in one
        total = total + rows.view(several, units.count, -1).sum(dim=(0, 2))
    return total


def _layer_squares(module: nn.Module, units: Units) -> torch.Tensor:
    import torch

    blocks = (module.get_submodule(block).parameters() for block in units.writers)
    return torch.stack([sum((weight.square().sum() for weight in weights), torch.zeros(())) for weights in blocks])


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

    wanted, first = anatomy.units(kinds), Want(hidden_states=(anatomy.blocks[0].id,))
    sums = {units: torch.zeros(units.count, dtype=torch.float64) for units in wanted}
    rows = 0
    for batch in batches:
        with _watching(module, wanted) as seen, torch.set_grad_enabled(importance == "taylor"):
            with rows_told(batch.get("row", ()), "importance"):
                outputs = task.forward(module, batch, first)  # with states comes the mask of their tokens
            _check_seen(seen)
            count = len(next(iter(batch.values())))
            scores = _taylor(seen, task.loss(outputs, batch) * count, count) if importance == "taylor" else None
            scores = scores or _activation(seen, module, outputs, count)
        for units, values in scores.items():
            sums[units] += values.detach().double().cpu()
        rows += count
    return {units: tuple((values / max(rows, 1)).tolist()) for units, values in sums.items()}


Seen: TypeAlias = dict[Units, "list[tuple[torch.Tensor, ...]]"]
"""What passed by: the input of the projection that reads a block's units; for layers (input, output) of each block."""


@contextmanager
def _watching(module: nn.Module, wanted: Iterable[Units]) -> Iterator[Seen]:
    seen: Seen = {units: [] for units in wanted}
    handles = []
    for units, passed in seen.items():
        layers = units.kind == "layers"
        record = _recorder(passed, whole=layers)
        watched = [module.get_submodule(path) for path in (units.writers if layers else (units.reader,))]
        handles += [part.register_forward_hook(record, with_kwargs=True) for part in watched]
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


def _check_seen(seen: Seen) -> None:
    for units, passed in seen.items():
        expected = units.count if units.kind == "layers" else 1
        if len(passed) != expected:
            raise UnsupportedModel(
                f"{units.where}: its {units.kind} passed by {len(passed)} times in one forward pass, expected {expected}; "
                "use importance: magnitude"
            )


def _taylor(seen: Seen, loss: torch.Tensor, rows: int) -> dict[Units, torch.Tensor]:
    import torch

    watched = [(units, tensors) for units, passed in seen.items() for tensors in passed]
    gradients = torch.autograd.grad(loss, [tensors[-1] for _, tensors in watched])
    scores: dict[Units, list[torch.Tensor]] = {}
    for (units, tensors), gradient in zip(watched, gradients, strict=True):
        change = gradient * (tensors[-1] - tensors[0] if units.kind == "layers" else tensors[-1])
        by_row = change.float().reshape(rows, -1, change.shape[-1] // units.size, units.size).sum(dim=(1, 3))
        scores.setdefault(units, []).append(by_row.abs().sum(dim=0))
    return {units: torch.cat(values) for units, values in scores.items()}


def _activation(seen: Seen, module: nn.Module, outputs: Outputs, rows: int) -> dict[Units, torch.Tensor]:
    import torch

    scores = {}
    for units, passed in seen.items():
        if units.kind == "layers":
            cosines = [1 - torch.cosine_similarity(given.float(), result.float(), dim=-1) for given, result in passed]
            values = torch.stack(cosines, dim=-1)
        else:
            values = _contribution(passed[0][0].float(), matrix(module.get_submodule(units.reader)).float(), units.size)
        scores[units] = _sum_of_row_means(values, outputs.mask, rows)
    return scores


def _contribution(given: torch.Tensor, weight: torch.Tensor, size: int) -> torch.Tensor:
    """Norm of `weight[:, unit] @ given[unit]` for units of `size` inputs: `[..., units]`, by way of each unit's Gram matrix."""
    import torch

    columns = weight.view(weight.shape[0], -1, size)
    grams = torch.einsum("oui,ouj->uij", columns, columns)
    units = given.view(*given.shape[:-1], -1, size)
    return torch.einsum("...ui,uij,...uj->...u", units, grams, units).clamp(min=0).sqrt()


def _sum_of_row_means(values: torch.Tensor, mask: torch.Tensor | None, rows: int) -> torch.Tensor:
    """Sum over rows of the mean over each row's valid tokens, of values `[B, T, units]`."""
    values = values.reshape(rows, -1, values.shape[-1])
    if mask is None or mask.shape != values.shape[:2]:
        return values.mean(dim=1).sum(dim=0)
    valid = mask.to(values.dtype).unsqueeze(-1)
    return ((values * valid).sum(dim=1) / valid.sum(dim=1).clamp(min=1)).sum(dim=0)
