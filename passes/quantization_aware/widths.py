"""Bits of layers: one concept that a plan, a schedule and a budget share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from compressor.model.quantization.grids import WeightBits

Widths: TypeAlias = Mapping[str, WeightBits]
"""Bits of the weights of layers, by path."""
RISING: Sequence[WeightBits] = ("ternary", 2, 3, 4, 7, 8)
"""Bits, those with the fewest values first."""


def named(path: str, others: Mapping[str, WeightBits]) -> WeightBits | None:
    """Bits that a plan names for a layer: by the longest part of its path, of equally long ones by the last in it; None where there is none."""
    parts = [part for part in others if part in path]
    return others[max(parts, key=lambda part: (len(part), path.rfind(part)))] if parts else None


def planned(paths: Iterable[str], usual: WeightBits, others: Mapping[str, WeightBits]) -> dict[str, WeightBits]:
    """Bits of each layer as a plan says them: those that it names, else the usual ones."""
    return {path: named(path, others) or usual for path in paths}


def at_least(widths: Widths, floor: WeightBits) -> dict[str, WeightBits]:
    """The same, none narrower than that: a stage of a schedule that narrows."""
    return {path: max(width, floor, key=RISING.index) for path, width in widths.items()}


def by_width(alike: Iterable[tuple[str, ...]], widths: Widths) -> Mapping[WeightBits, tuple[tuple[str, ...], ...]]:
    """Layers by their bits; of those that are alike, which read one tensor, those of equal bits stand together."""
    found: dict[WeightBits, list[tuple[str, ...]]] = {}
    for paths in alike:
        for width in dict.fromkeys(widths[path] for path in paths):
            found.setdefault(width, []).append(tuple(path for path in paths if widths[path] == width))
    return {width: tuple(groups) for width, groups in found.items()}
