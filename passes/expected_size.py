"""What a model costs as a polynomial in the numbers of units that are left: parameters and multiply-accumulates.

It is read from the shapes of the module itself. As gates are independent, the expected size is the polynomial at the expected
numbers of units.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from compressor.anatomy import Anatomy
from compressor.bypass import ScaledNorm
from passes.gating import Place

if TYPE_CHECKING:
    import torch
    from torch import nn

Number = TypeVar("Number", float, "torch.Tensor")


@dataclass(frozen=True)
class Term:
    """So much for each unit, or for each pair of units of two places that meet."""

    each: float
    places: tuple[int, ...]
    """Positions of the places whose numbers of units are multiplied."""


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


def parameters(module: nn.Module, anatomy: Anatomy, places: Sequence[Place]) -> SizeFormula:
    """Parameters of the blocks and, where channels are gated, of all that comes before them except embeddings of position."""
    terms, added = [], 0.0
    at = {(place.kind, place.where): number for number, place in enumerate(places)}
    for number, place in enumerate(places):
        if place.kind in ("heads", "neurons"):
            whole = at.get(("attention" if place.kind == "heads" else "feed-forward", place.where))
            each = _unit_parameters(module, anatomy, place)
            terms.append(Term(each, (number,) if whole is None else (number, whole)))
        elif place.kind != "channels" and (_inner(place), place.where) not in at:
            terms.append(Term(_sub_layer_parameters(module, anatomy, place), (number,)))
    if any(place.kind == "channels" for place in places):
        channel_terms, added = _channels(module, anatomy, at)
        terms += channel_terms
    scope = _scope(anatomy, places)
    total = float(sum(tensor.numel() for name, tensor in module.named_parameters() if name.startswith(scope)))
    full = [float(place.units) for place in places]
    gone = SizeFormula(0.0, 0.0, tuple(terms)).of(full)
    return SizeFormula(total, total + added - gone, tuple(terms))


def _scope(anatomy: Anatomy, places: Sequence[Place]) -> tuple[str, ...]:
    """Prefixes of the parameters that count."""
    stack = f"{anatomy.stack}."
    if not any(place.kind == "channels" for place in places):
        return (stack,)
    return (
        stack,
        *(f"{path}." for each in anatomy.extractor for path in (each.conv, each.norm, each.through, each.reader) if path),
    )


def _inner(place: Place) -> str:
    return "heads" if place.kind == "attention" else "neurons"


def _unit_parameters(module: nn.Module, anatomy: Anatomy, place: Place) -> float:
    block = anatomy.block(place.where)
    written: tuple[str, ...]
    if place.kind == "heads":
        assert block.attention
        written = (block.attention.query, block.attention.key, block.attention.value)
    else:
        assert block.feed_forward
        written = tuple(path for path in (block.feed_forward.up, block.feed_forward.gate) if path)
    weights = sum(tensor.numel() for path in written for tensor in module.get_submodule(path).parameters())
    return (weights + module.get_submodule(place.reader).get_parameter("weight").numel()) / place.units


def _sub_layer_parameters(module: nn.Module, anatomy: Anatomy, place: Place) -> float:
    """All of a sub-layer but its output bias and its norm."""
    block = anatomy.block(place.where)
    if place.kind == "attention":
        assert block.attention
        inner = Place("heads", place.where, block.attention.heads, place.reader)
    else:
        assert block.feed_forward
        inner = Place("neurons", place.where, block.feed_forward.width, place.reader)
    return inner.units * _unit_parameters(module, anatomy, inner)


def _channels(module: nn.Module, anatomy: Anatomy, at: dict[tuple[Any, str], int]) -> tuple[list[Term], float]:
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
