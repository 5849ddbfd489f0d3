"""Gates laid over a model: which units it has, where their masks act, and the model that is left when masks are folded in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from compressor.contracts.anatomy import Anatomy, Convolution, UnitKind, Units
from compressor.errors import UnsupportedModel
from compressor.model.costs import matrix
from compressor.model.edits import KeepChannels, KeepHeads, KeepNeurons
from compressor.model.modules import ScaledNorm
from passes.gating.gates import Gate

if TYPE_CHECKING:
    from compressor.contracts import Edit, Model

DROPS: dict[UnitKind, float] = {"heads": 0.01, "neurons": 0.5, "channels": 0.01, "attention": 0.01, "feed-forward": 0.01}
"""Where gates start, as in DPHuBERT's recipe."""


def gated_places(anatomy: Anatomy, kinds: Sequence[UnitKind]) -> tuple[Units, ...]:
    """All places that have units of these kinds, convolutions first, then block by block.

    Raises:
        UnsupportedModel: the model has no units of one of the kinds.
    """
    chosen = anatomy.units(kinds)
    for kind in kinds:
        if not any(units.kind == kind for units in chosen):
            raise UnsupportedModel(f"this {anatomy.family} model has no {kind} to gate")
    return chosen


class Gating(nn.Module):
    """A gate a unit, laid over a model by hooks while it is `attached`. Masks are drawn anew in each forward pass."""

    def __init__(self, anatomy: Anatomy, kinds: Sequence[UnitKind], *, drops: Mapping[UnitKind, float] = DROPS) -> None:
        """Gates are drawn from torch's generator; `drops` is where they start, by kind.

        Raises:
            UnsupportedModel: the model has no units of one of the kinds.
        """
        super().__init__()
        self.anatomy = anatomy
        self.places = gated_places(anatomy, kinds)
        self.gates = nn.ModuleList(Gate(place.count, drop=drops[place.kind]) for place in self.places)
        self._masks: dict[Units, torch.Tensor] = {}
        self._passed: set[Units] = set()

    def gate(self, place: Units) -> Gate:
        """The gate of a place."""
        found = self.gates[self.places.index(place)]
        assert isinstance(found, Gate)
        return found

    def keep(self, chosen: Mapping[Units, Sequence[int]]) -> None:
        """From now on the masks in eval mode are those of the units chosen at each place."""
        for place, units in chosen.items():
            gate = self.gate(place)
            gate.keep(torch.tensor(units, dtype=torch.long, device=gate.log_alpha.device))

    def expected(self) -> tuple[torch.Tensor, ...]:
        """Expected number of units left, by place."""
        return tuple(self.gate(place).expected() for place in self.places)

    def draw(self) -> None:
        """Masks for the next forward pass: random in training mode, else those after training."""
        self._masks = {place: self.gate(place)() for place in self.places}
        self._passed.clear()

    def check_seen(self) -> None:
        """After a forward pass: whether every mask acted.

        Raises:
            UnsupportedModel: a module that should be masked was not called as one.
        """
        if missed := [place for place in self.places if place not in self._passed]:
            raise UnsupportedModel(f"{missed[0]} did not pass by in a forward pass: {missed[0].reader} is not called as a module")

    @contextmanager
    def attached(self, module: nn.Module) -> Iterator[None]:
        """Inside, `module` computes with the masks; its parameters and their names are untouched."""
        handles = [module.register_forward_pre_hook(lambda *_: self.draw())]
        for place in self.places:
            reader = module.get_submodule(place.reader)
            if place.kind in ("attention", "feed-forward"):
                handles.append(reader.register_forward_hook(self._scaling(place)))
            else:
                handles.append(reader.register_forward_pre_hook(self._masking(place, channels=isinstance(reader, nn.Conv1d))))
        for place, norm in self._layer_norms(module):
            handles.append(module.get_submodule(norm).register_forward_hook(self._normalising(place)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _layer_norms(self, module: nn.Module) -> Iterator[tuple[Units, str]]:
        """Layer norms over gated channels, their statistics change with the channels."""
        for place in self.places:
            for path in _norms(self.anatomy, place):
                norm = module.get_submodule(path)
                inner = f"{path}.norm" if isinstance(norm, ScaledNorm) else path
                if isinstance(module.get_submodule(inner), nn.LayerNorm):
                    yield place, inner

    def _masking(self, place: Units, *, channels: bool) -> Callable[..., tuple[torch.Tensor, ...]]:
        """A hook that masks what a module is given: `[..., units * size]`, or `[B, units, T]` where it is a convolution."""

        def hook(_: nn.Module, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            self._passed.add(place)
            mask = self._masks[place].to(given[0].dtype).repeat_interleave(place.size)
            return (given[0] * (mask[:, None] if channels else mask), *given[1:])

        return hook

    def _scaling(self, place: Units) -> Callable[..., torch.Tensor]:
        """A hook that masks all that a module puts out."""

        def hook(_: nn.Module, __: Any, output: torch.Tensor) -> torch.Tensor:
            self._passed.add(place)
            return output * self._masks[place].to(output.dtype)

        return hook

    def _normalising(self, place: Units) -> Callable[..., torch.Tensor]:
        """A hook that makes a layer norm `[..., units]` one over the units that are on, as it will be without the others."""

        def hook(norm: nn.LayerNorm, given: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
            states = given[0] if given[0].dtype == torch.float64 else given[0].float()
            on = (self._masks[place] > 0).to(states.dtype)
            count = on.sum().clamp(min=1)
            centred = (states - (states * on).sum(-1, keepdim=True) / count) * on
            variance = centred.square().sum(-1, keepdim=True) / count
            return ((centred * torch.rsqrt(variance + norm.eps) * norm.weight + norm.bias) * on).to(output.dtype)

        return hook


# ------------------------------------------------------------------ what is left


def pruned(model: Model, gating: Gating) -> Model:
    """A copy of `model` that computes what it does under the masks after training, without the units that are off.

    Masks are folded into the weights that read the units. Where a norm stands between they are kept as a vector before it. A
    sub-layer without units keeps its output bias.

    Raises:
        UnsupportedModel: a convolution would lose all its channels.
    """
    result = model.copy()
    masks = masks_after_training(gating)
    for place, mask in masks.items():
        _fold(result.module, place, mask)
    for edit in edits(gating):
        result.apply(edit)
    for place, mask in masks.items():
        if (through := _through(gating.anatomy, place)) is not None:
            scale = result.module.get_submodule(through).get_parameter("scale")
            with torch.no_grad():
                scale.mul_(mask[mask > 0].to(scale.dtype))
    return result


def edits(gating: Gating) -> Iterator[Edit]:
    """What takes the units away that are off after training.

    Raises:
        UnsupportedModel: a convolution would lose all its channels.
    """
    for place, mask in masks_after_training(gating).items():
        yield from _edits(gating, place, mask)


def masks_after_training(gating: Gating) -> dict[Units, torch.Tensor]:
    """The mask of each place; units in a sub-layer that is off are off themselves."""
    masks = {place: gating.gate(place).mask() for place in gating.places}
    whole: dict[UnitKind, UnitKind] = {"heads": "attention", "neurons": "feed-forward"}
    off = {(place.kind, place.where) for place, mask in masks.items() if not bool(mask.any())}
    return {
        place: torch.zeros_like(mask) if (whole.get(place.kind), place.where) in off else mask for place, mask in masks.items()
    }


def _fold(module: nn.Module, place: Units, mask: torch.Tensor) -> None:
    """Multiply into what reads the units; a sub-layer's mask into all that makes its output."""
    reader: Any = module.get_submodule(place.reader)
    with torch.no_grad():
        if place.kind in ("attention", "feed-forward"):
            for parameter in reader.parameters():
                parameter.mul_(mask.to(parameter.dtype))
        elif isinstance(reader, nn.Conv1d):
            reader.weight.mul_(mask.to(reader.weight.dtype)[None, :, None])
        elif isinstance(reader, nn.Linear) or hasattr(reader, "nf"):
            matrix(reader).mul_(mask.to(reader.weight.dtype).repeat_interleave(place.size))


def _edits(gating: Gating, place: Units, mask: torch.Tensor) -> Iterator[Edit]:
    kept = tuple(int(unit) for unit in mask.nonzero().flatten())
    gated = {(each.kind, each.where) for each in gating.places}
    if place.kind == "channels":
        if not kept:
            raise UnsupportedModel(f"{place.where} would lose all its channels")
        scale = _through(gating.anatomy, place) is not None
        if scale or len(kept) < place.count:
            yield KeepChannels(conv=place.where, channels=kept, scale=scale)
    elif len(kept) == place.count:
        return
    elif place.kind == "heads" or (place.kind == "attention" and ("heads", place.where) not in gated):
        yield KeepHeads(block=place.where, heads=kept)
    elif place.kind == "neurons" or (place.kind == "feed-forward" and ("neurons", place.where) not in gated):
        yield KeepNeurons(block=place.where, neurons=kept)


def _convolution(anatomy: Anatomy, place: Units) -> Convolution | None:
    return next((each for each in anatomy.extractor if place.kind == "channels" and each.conv == place.where), None)


def _through(anatomy: Anatomy, place: Units) -> str | None:
    """The norm that the channels pass before they are read, which keeps a mask from being folded."""
    found = _convolution(anatomy, place)
    return found.through if found else None


def _norms(anatomy: Anatomy, place: Units) -> tuple[str, ...]:
    """Norms over the channels, before the activation and before the reader."""
    found = _convolution(anatomy, place)
    return tuple(path for path in (found.norm, found.through) if path is not None) if found else ()
