"""What passes by the layers of a model on calibration rows: which layers are called, which read one tensor, and between which values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from compressor.contracts import Batch, Task
from compressor.contracts.tokens import TokenLogits

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass
class Range:
    """Values of a tensor over its valid tokens."""

    least: float = float("inf")
    most: float = float("-inf")
    total: float = 0.0
    count: int = 0

    @property
    def mean(self) -> float:
        """Of magnitudes."""
        return self.total / max(1, self.count)

    def add(self, found: PerToken, valid: torch.Tensor | None) -> None:
        """The tokens of one batch, those that are valid."""
        chosen = [each if valid is None else each[valid] for each in (found.least, found.most, found.mean)]
        if not chosen[0].numel():
            return
        self.least = min(self.least, float(chosen[0].min()))
        self.most = max(self.most, float(chosen[1].max()))
        self.total += float(chosen[2].double().sum())
        self.count += chosen[2].numel()


@dataclass(frozen=True)
class PerToken:
    """Least and greatest value, and mean magnitude, of each token: of a tensor without its axis of features."""

    least: torch.Tensor
    most: torch.Tensor
    mean: torch.Tensor


@dataclass
class Passing:
    """What layers have read so far."""

    ranges: dict[str, Range] = field(default_factory=dict)
    """By path, of layers that were called."""
    first: dict[str, str] = field(default_factory=dict)
    """By path, the first layer that reads the same tensor."""

    @property
    def alike(self) -> tuple[tuple[str, ...], ...]:
        """Layers that were called, those that read one tensor together."""
        groups: dict[str, list[str]] = {}
        for path, first in self.first.items():
            groups.setdefault(first, []).append(path)
        return tuple(map(tuple, groups.values()))

    def leave(self, paths: Sequence[str]) -> None:
        """Forget layers, which stay as they are."""
        for path in paths:
            self.first.pop(path, None)


def passing(module: nn.Module, paths: Sequence[str], batches: Iterable[Batch], task: Task, device: str) -> Passing:
    """Run batches, and note what the layers at `paths` read of their valid tokens."""
    import torch

    found, seen = Passing(), _Seen()
    head = _head_of(module, paths)
    handles = [module.get_submodule(path).register_forward_pre_hook(seen.hook(path)) for path in paths]
    try:
        with torch.no_grad():
            for batch in batches:
                seen.clear()
                outputs = task.forward(module, {name: tensor.to(device) for name, tensor in batch.items()})
                if head is not None and isinstance(outputs.later, TokenLogits):
                    seen.read(head, outputs.later.states)
                seen.into(found, outputs.mask)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _head_of(module: Any, paths: Sequence[str]) -> str | None:
    """Path of the layer that makes logits; None where it is none of those."""
    find = getattr(module, "get_output_embeddings", None)
    head = find() if callable(find) else None
    return next((path for path in paths if module.get_submodule(path) is head), None)


class _Seen:
    """One forward pass: tensors are told apart by what they are, so all that were read are held meanwhile."""

    def __init__(self) -> None:
        self._read: dict[str, list[tuple[Any, int]]] = {}
        """By path, what each call of a layer read, and which axis its features are: a block that a model goes through several times calls its
        layers as often."""
        self._tokens: dict[tuple[int, int], PerToken] = {}

    def clear(self) -> None:
        self._read, self._tokens = {}, {}

    def hook(self, path: str) -> Callable[..., None]:
        return partial(self._see, path)

    def _see(self, path: str, module: nn.Module, given: tuple[Any, ...]) -> None:
        from compressor.model.quantization.layers import feature_axis

        self.read(path, given[0], feature_axis(module))

    def read(self, path: str, x: torch.Tensor, axis: int = -1) -> None:
        """What a layer reads."""
        self._read.setdefault(path, []).append((x, axis))
        if (id(x), axis) not in self._tokens:
            self._tokens[id(x), axis] = PerToken(x.amin(axis), x.amax(axis), x.abs().mean(axis))

    def into(self, found: Passing, mask: torch.Tensor | None) -> None:
        firsts: dict[tuple[tuple[int, int], ...], str] = {}
        for path, read in self._read.items():
            first = firsts.setdefault(tuple((id(x), axis) for x, axis in read), path)
            before = found.first.setdefault(path, first)
            if before != first:
                found.first[path] = path  # not in every pass: it stands alone
            for x, axis in read:
                tokens = self._tokens[id(x), axis]
                valid = mask.bool() if mask is not None and mask.shape == tokens.least.shape else None
                found.ranges.setdefault(path, Range()).add(tokens, valid)
