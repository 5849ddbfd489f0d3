"""SmoothQuant: what single channels of activations hold moves into the weights that read them, by way of the norm before.

Xiao et al., SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models, 2023, arXiv:2211.10438.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from compressor.contracts import Batch, Context, Task
from compressor.contracts.notes import Remark
from compressor.errors import UnsupportedModel
from passes.side_files import write_side_files

if TYPE_CHECKING:
    import torch

    from compressor.contracts import Model
    from passes.quantization_aware.scheme import QuantizationScheme

BATCH, TRIED = 16, 4
"""Rows of a batch, and rows on which it is tried whether a norm can be scaled."""
LEAST = 1e-5
"""Magnitude that a channel is taken to have at least."""


@dataclass
class Read:
    """What a norm gives, and who reads it."""

    channels: torch.Tensor | None = None
    """Greatest magnitude of each feature over valid tokens, `[features]`."""
    readers: dict[str, None] = field(default_factory=dict)
    """Paths of linear layers, in order."""

    def add(self, given: torch.Tensor, mask: torch.Tensor | None) -> None:
        """What the norm gave for one batch."""
        valid = given[mask.bool()] if mask is not None and mask.shape == given.shape[:-1] else given.flatten(0, -2)
        if len(valid):
            found = valid.abs().amax(0)
            self.channels = found if self.channels is None else self.channels.maximum(found)


def smoothed(model: Model, scheme: QuantizationScheme, ctx: Context) -> Model:
    """A copy that computes the same, with norms divided and what reads them multiplied, channel by channel.

    A channel's factor is `max|x|^smooth / max|w|^(1 - smooth)`, of calibration rows and of all weights that read it.

    Raises:
        UnsupportedModel: no norm is read by linear layers alone, as where norms stand on the residual stream.
    """
    found = model.copy()
    module = found.module.to(ctx.device).eval()
    rows = ctx.data.split("calibration")
    rows = rows.select(range(min(scheme.calibration, len(rows))))
    files = write_side_files(found, ctx.folder / "files")
    batches = [_on(batch, ctx.device) for batch in ctx.task.batches(rows, files, batch_size=BATCH)]
    read = _observed(module, batches, ctx.task)
    tried = {name: tensor[:TRIED] for name, tensor in batches[0].items()}
    folded = [norm for norm, seen in read.items() if _is_read_by_these_alone(module, norm, tuple(seen.readers), tried, ctx.task)]
    if not folded:
        raise UnsupportedModel(
            "smooth: no norm of this model is read by linear layers alone, so that none can be scaled: leave smooth out"
        )
    for norm in folded:
        _fold(module, norm, read[norm], scheme.smooth)
    left = len(read) - len(folded)
    rest = f"; {left} norms stay, as what they give is read elsewhere too" if left else ""
    layers = sum(len(read[norm].readers) for norm in folded)
    ctx.note(
        Remark(text=f"Smoothed by {scheme.smooth:g}: {len(folded)} norms, folded into the {layers} layers that read them{rest}.")
    )
    return found


def _observed(module: Any, batches: Sequence[Batch], task: Task) -> dict[str, Read]:
    """By path of each norm that linear layers read."""
    import torch
    from transformers.pytorch_utils import Conv1D

    norms = {
        path: part
        for path, part in module.named_modules()
        if type(part).__name__.endswith(("Norm", "NormGated")) and _scales(part)
    }
    layers = {path: part for path, part in module.named_modules() if type(part) in (torch.nn.Linear, Conv1D)}
    given: list[tuple[str, torch.Tensor]] = []
    taken: list[tuple[str, torch.Tensor]] = []
    handles = [part.register_forward_hook(lambda _m, _x, y, path=path: given.append((path, y))) for path, part in norms.items()]
    handles += [
        part.register_forward_pre_hook(lambda _m, x, path=path: taken.append((path, x[0]))) for path, part in layers.items()
    ]
    found: dict[str, Read] = {}
    try:
        with torch.no_grad():
            for batch in batches:
                given.clear()
                taken.clear()
                mask = task.forward(module, batch).mask
                for norm, states in given:
                    readers = [path for path, x in taken if x is states]
                    if readers:
                        seen = found.setdefault(norm, Read())
                        seen.readers |= dict.fromkeys(readers)
                        seen.add(states, mask)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _scales(norm: Any) -> bool:
    weight = getattr(norm, "weight", None)
    return weight is not None and weight.ndim == 1


def _is_read_by_these_alone(module: Any, norm: str, readers: Sequence[str], batch: Batch, task: Task) -> bool:
    """Whether a norm twice as large before weights half as large gives the same bits: nothing else reads it, and it does nothing but scale."""
    import torch

    def answers() -> torch.Tensor:
        with torch.no_grad():
            return task.forward(module, batch).main

    before = answers()
    with _times(module, norm, readers, torch.full_like(module.get_submodule(norm).weight, 2.0)):
        return torch.equal(before, answers())


@contextmanager
def _times(module: Any, norm: str, readers: Sequence[str], factor: torch.Tensor) -> Iterator[None]:
    """Powers of 2, so that all is as it was afterwards."""
    _scale(module, norm, readers, 1 / factor)
    try:
        yield
    finally:
        _scale(module, norm, readers, factor)


def _scale(module: Any, norm: str, readers: Sequence[str], factor: torch.Tensor) -> None:
    """Divide what a norm gives, channel by channel, and multiply the weights that read it."""
    import torch

    part = module.get_submodule(norm)
    with torch.no_grad():
        for each in (part.weight, getattr(part, "bias", None)):
            if each is not None:
                each.div_(factor)
        for path in readers:
            layer = module.get_submodule(path)
            layer.weight.mul_(factor[:, None] if hasattr(layer, "nf") else factor)


def _fold(module: Any, norm: str, read: Read, share: float) -> None:
    import torch

    assert read.channels is not None
    columns = []
    for path in read.readers:
        layer = module.get_submodule(path)
        columns.append(layer.weight.detach().abs().amax(1 if hasattr(layer, "nf") else 0))
    weights = torch.stack(columns).amax(0).clamp(min=LEAST)
    _scale(module, norm, tuple(read.readers), read.channels.clamp(min=LEAST) ** share / weights ** (1 - share))


def _on(batch: Batch, device: str) -> dict[str, torch.Tensor]:
    return {name: tensor.to(device) for name, tensor in batch.items()}
