"""Which layers of a model got how many bits: what every quantiser of weights says, and how a report shows it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple, TypeAlias

from pydantic import Field

from compressor.contracts.notes import Table
from compressor.errors import UnsupportedModel, did_you_mean

NEAREST: Literal["round-to-nearest"] = "round-to-nearest"
"""The algorithm that looks at nothing but weights."""
PathPart: TypeAlias = Annotated[str, Field(min_length=1)]
"""Of the paths of layers that an option is for; an empty one would be a part of them all."""


@dataclass(frozen=True)
class Wanted:
    """What weights are to become."""

    bits: int
    group: int | None
    """Weights of one scale; None for a row."""
    symmetric: bool
    algorithm: str
    embeddings: int | None
    """Bits of tables and of the last product; None: they stay in float."""
    exclude: tuple[str, ...] = ()

    def leaves(self, *names: str) -> bool:
        """Whether a layer of these names is to stay in float."""
        return any(part in name for part in self.exclude for name in names)


def require_named(parts: Sequence[str], layers: Iterable[str], *, option: str = "exclude") -> None:
    """Every part of a path that an option gives names a layer.

    Raises:
        UnsupportedModel: one names none, and nothing would say so.
    """
    known = tuple(layers)
    names = {name for layer in known for name in layer.partition("/")[0].split(".") if not name.isdecimal()}
    for part in parts:
        if not any(part in layer for layer in known):
            raise UnsupportedModel(f"{option}: no layer has '{part}' in its path{did_you_mean(part, names)}")


def require_rows(wanted: Wanted, feeds: Sequence[object]) -> None:
    """There are rows for an algorithm that looks at what layers read.

    Raises:
        UnsupportedModel: there are none: it would round to nearest and not say so.
    """
    if wanted.algorithm != NEAREST and not feeds:
        raise UnsupportedModel(f"{wanted.algorithm} looks at calibration rows, and there are none: leave `algorithm` out")


def require_float(quantised: Iterable[str]) -> None:
    """No weight of a model is quantised.

    Args:
        quantised: what holds weights or activations that are, by the format's names.

    Raises:
        UnsupportedModel: some are.
    """
    if kinds := ", ".join(sorted(set(quantised))):
        raise UnsupportedModel(f"the model is quantised already ({kinds}): weights are quantised once, from those in float")


class Chosen(NamedTuple):
    """What became of a layer."""

    layer: str
    """Path of its module."""
    bits: int
    group: int | None
    """Weights of one scale; None where a row has one."""
    symmetric: bool
    weights: int
    """How many it has."""
    stored: int
    """Bytes of its numbers and scales; 0 where another layer's serve it."""
    tied: bool = False
    """Whether it reads the numbers of an embedding table."""


class Left(NamedTuple):
    """A layer that stays in float."""

    layer: str
    weights: int
    why: str


def shown(chosen: Sequence[Chosen], left: Sequence[Left]) -> Table:
    """Bits by layer, layers that differ in their number alone in one row."""
    rows: dict[tuple[str, str, str, str], list[tuple[int, int]]] = defaultdict(list)
    for each in chosen:
        how = f"{each.group or 'a row'}", "symmetric" if each.symmetric else "with zero points"
        told = "the table's numbers" if each.tied else ""
        rows[unnumbered(each.layer), str(each.bits), f"{how[0]}, {how[1]}", told].append((each.weights, each.stored))
    for kept in left:
        rows[unnumbered(kept.layer), "32 (float)", "", kept.why].append((kept.weights, 4 * kept.weights))
    return Table(
        title="Bits of weights by layer",
        columns=("layer", "layers", "bits", "weights of one scale", "weights", "bytes", ""),
        rows=tuple(
            (name, len(found), bits, group, sum(each for each, _ in found), sum(each for _, each in found), told)
            for (name, bits, group, told), found in rows.items()
        ),
    )


def bits_per_weight(chosen: Iterable[Chosen]) -> float:
    """Bits stored for each weight that was quantised, scales counted; a table that serves a head counts once."""
    each = [one for one in chosen if not one.tied]
    weights = sum(one.weights for one in each)
    return 8 * sum(one.stored for one in each) / weights if weights else 0.0


def unnumbered(path: str) -> str:
    """A path without the numbers of blocks: `layers.*.mlp`."""
    return re.sub(r"\.\d+(?=\.|$)", ".*", path)
