"""What a model costs as a polynomial in the numbers of units that are left: parameters and multiply-accumulates.

It is read from the shapes of the module itself. As gates are independent, the expected size is the polynomial at the expected
numbers of units.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

from compressor.contracts.anatomy import Anatomy, UnitKind, Units
from compressor.model.costs import cost_of
from compressor.model.modules import ScaledNorm
from passes.pruning.ranking import Number

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Term:
    """So much for each unit, or for each pair of units of two places that meet."""

    each: float
    places: tuple[int, ...]
    """Positions of the places whose numbers of units are multiplied."""


class Formula(Protocol):
    """What a model costs by the numbers of units that are left, in parameters, multiply-accumulates or milliseconds."""

    @property
    def whole(self) -> float:
        """The cost before anything is removed."""
        ...

    def of(self, counts: Sequence[Number]) -> Number:
        """The cost with so many units left at each place."""
        ...


@dataclass(frozen=True)
class SizeFormula:
    """`fixed + sum(each * product of counts)`."""

    whole: float
    """The size before anything is removed, and without what is added by removing."""
    fixed: float
    terms: tuple[Term, ...]

    def of(self, counts: Sequence[Number]) -> Number:
        """The size with so many units left at each place."""
        total: Any = self.fixed
        for term in self.terms:
            total = total + term.each * math.prod((counts[at] for at in term.places[1:]), start=counts[term.places[0]])
        found: Number = total
        return found


def parameters(module: nn.Module, anatomy: Anatomy, places: Sequence[Units]) -> SizeFormula:
    """Parameters of the blocks and, where channels are gated, of the convolutions with their norms and of what reads them.

    What never changes is not part of it: embeddings, of position too, and norms before the first and behind the last block.
    """
    at = {(place.kind, place.where): number for number, place in enumerate(places)}
    terms, added = _in_blocks(places, lambda units: cost_of(module, units).parameters), 0.0
    if any(place.kind == "channels" for place in places):
        channel_terms, added = _channels(module, anatomy, at)
        terms += channel_terms
    scope = _scope(anatomy, places)
    total = float(sum(tensor.numel() for name, tensor in module.named_parameters() if name.startswith(scope)))
    return _formula(total, added, terms, places)


def multiply_accumulates(module: nn.Module, anatomy: Anatomy, places: Sequence[Units], *, tokens: int) -> SizeFormula:
    """Multiply-accumulates for one row of so many tokens: of the blocks and, where channels are gated, of the extractor.

    They are those of projections and convolutions, and of the scores and sums of attention.
    """

    def unit(units: Units) -> float:
        return cost_of(module, units).macs(tokens)

    terms, total = _in_blocks(places, unit), sum(unit(each) for each in anatomy.units(("attention", "feed-forward")))
    if any(place.kind == "channels" for place in places):
        at = {(place.kind, place.where): number for number, place in enumerate(places)}
        channel_terms = _channel_macs(module, anatomy, at, tokens=tokens)
        terms += channel_terms
        total += SizeFormula(0.0, 0.0, tuple(channel_terms)).of([float(place.count) for place in places])
    return _formula(total, 0.0, terms, places)


def _formula(total: float, added: float, terms: Sequence[Term], places: Sequence[Units]) -> SizeFormula:
    """What is not in the terms is fixed."""
    gone = SizeFormula(0.0, 0.0, tuple(terms)).of([float(place.count) for place in places])
    return SizeFormula(total, total + added - gone, tuple(terms))


def _in_blocks(places: Sequence[Units], unit: Callable[[Units], float]) -> list[Term]:
    """Terms of heads, neurons and sub-layers; `unit` is what one unit costs."""
    whole: dict[UnitKind, UnitKind] = {"heads": "attention", "neurons": "feed-forward"}
    inner = {sub_layer: kind for kind, sub_layer in whole.items()}
    terms = []
    at = {(place.kind, place.where): number for number, place in enumerate(places)}
    for number, place in enumerate(places):
        if place.kind in whole:
            around = at.get((whole[place.kind], place.where))
            terms.append(Term(unit(place), (number,) if around is None else (number, around)))
        elif place.kind in inner and (inner[place.kind], place.where) not in at:
            terms.append(Term(unit(place), (number,)))
    return terms


def _scope(anatomy: Anatomy, places: Sequence[Units]) -> tuple[str, ...]:
    """Prefixes of the parameters that count."""
    stack = f"{anatomy.stack}."
    if not any(place.kind == "channels" for place in places):
        return (stack,)
    return (
        stack,
        *(f"{path}." for each in anatomy.extractor for path in (each.conv, each.norm, each.through, each.reader) if path),
    )


def _channels(module: nn.Module, anatomy: Anatomy, at: Mapping[tuple[UnitKind, str], int]) -> tuple[list[Term], float]:
    """Terms of all convolutions, each coupled to the one before it; and what is added although nothing goes."""
    terms: list[Term] = []
    added = 0.0
    before: int | None = None
    for each in anatomy.extractor:
        number = at["channels", each.conv]
        conv: Any = module.get_submodule(each.conv)
        kernel = math.prod(conv.kernel_size)
        terms.append(
            Term(float(kernel), (before, number)) if before is not None else Term(float(kernel * conv.in_channels), (number,))
        )
        own = float(conv.bias is not None)
        for path in (each.norm, each.through):
            own += sum(1.0 for _ in module.get_submodule(path).parameters()) if path else 0.0
        if each.through and not isinstance(module.get_submodule(each.through), ScaledNorm):
            own += 1.0  # the scale that a mask leaves
        reader: Any = module.get_submodule(each.reader)
        chained = any(other.conv == each.reader for other in anatomy.extractor)
        if not chained:
            own += reader.weight.numel() / conv.out_channels
        terms.append(Term(own, (number,)))
        before = number if chained else None
        if each.through and not isinstance(module.get_submodule(each.through), ScaledNorm):
            added += conv.out_channels
    return terms, added


def _channel_macs(module: nn.Module, anatomy: Anatomy, at: Mapping[tuple[UnitKind, str], int], *, tokens: int) -> list[Term]:
    """Terms of all convolutions and of what reads the last one, which puts out so many tokens."""
    terms: list[Term] = []
    frames = tokens
    for each in reversed(anatomy.extractor):
        number, conv, reader = at["channels", each.conv], module.get_submodule(each.conv), module.get_submodule(each.reader)
        assert isinstance(conv, torch.nn.Conv1d)
        before = next((at["channels", other.conv] for other in anatomy.extractor if other.reader == each.conv), None)
        if not any(other.conv == each.reader for other in anatomy.extractor):
            terms.append(Term(frames * reader.get_parameter("weight").numel() / conv.out_channels, (number,)))
            frames = _frames_read(reader, frames)
        kernel = float(frames * conv.kernel_size[0])
        terms.append(Term(kernel, (before, number)) if before is not None else Term(kernel * conv.in_channels, (number,)))
        frames = _frames_read(conv, frames)
    return terms


def _frames_read(reader: nn.Module, frames: int) -> int:
    """How many frames go in where so many come out; the fewest that do where several would."""
    if not isinstance(reader, torch.nn.Conv1d):
        return frames
    padding = reader.padding[0] if isinstance(reader.padding, tuple) else 0
    return (frames - 1) * reader.stride[0] + reader.kernel_size[0] - 2 * padding
