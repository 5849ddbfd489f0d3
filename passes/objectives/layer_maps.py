"""Which student block imitates which teacher block."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

from compressor.errors import UnsupportedModel

if TYPE_CHECKING:
    from compressor.contracts.anatomy import Anatomy

LayerMap: TypeAlias = Literal["uniform", "last"] | tuple[tuple[int, int], ...] | dict[int, int]
"""`uniform`, `last`, or pairs of block numbers (student, teacher), counted from 0, or from the end when negative."""

Pairs: TypeAlias = tuple[tuple[str, str], ...]
"""Block ids: (student, teacher)."""


def spread(count: int, total: int) -> tuple[int, ...]:
    """`count` block numbers out of `total`, evenly spaced and ending with the last: (1, 3, 5) for 3 of 6."""
    return tuple(-(-(index + 1) * total // count) - 1 for index in range(count))


def layer_pairs(layers: LayerMap, student: Anatomy, teacher: Anatomy) -> Pairs:
    """The block ids that `layers` pairs up; no block stands in two pairs.

    Raises:
        UnsupportedModel: a block number is not there or named twice, or the student is deeper than the teacher.
    """
    mine, theirs = ids(student), ids(teacher)
    if not mine or not theirs:
        raise UnsupportedModel(f"a layer map needs blocks: the student has {len(mine)}, the teacher {len(theirs)}")
    if layers == "last":
        return ((mine[-1], theirs[-1]),)
    if layers == "uniform":
        if len(mine) > len(theirs):
            raise UnsupportedModel(
                f"layers: uniform pairs {len(mine)} student blocks with {len(theirs)}; give the pairs by number"
            )
        return tuple((block, theirs[at]) for block, at in zip(mine, spread(len(mine), len(theirs)), strict=True))
    numbers = tuple(layers.items()) if isinstance(layers, dict) else layers
    pairs = tuple((_block(mine, ours, "student"), _block(theirs, other, "teacher")) for ours, other in numbers)
    for side in zip(*pairs, strict=True):
        if len(set(side)) < len(side):
            raise UnsupportedModel(f"the layer map {numbers} names a block twice: {', '.join(side)}")
    return pairs


def attending_pairs(layers: LayerMap, student: Anatomy, teacher: Anatomy, name: str) -> Pairs:
    """The pairs for an objective of that name that looks at attention.

    Raises:
        UnsupportedModel: as `layer_pairs`, and where a paired block has no attention.
    """
    pairs = layer_pairs(layers, student, teacher)
    for side, blocks in zip((student, teacher), zip(*pairs, strict=True), strict=True):
        if without := [block.id for block in side.blocks if block.id in blocks and block.attention is None]:
            raise UnsupportedModel(f"{name}: {without[0]} has no attention heads; give `layers` that have")
    return pairs


def ids(anatomy: Anatomy) -> tuple[str, ...]:
    """Ids of the blocks, in order."""
    return tuple(block.id for block in anatomy.blocks)


def _block(blocks: tuple[str, ...], number: int, whose: str) -> str:
    if not -len(blocks) <= number < len(blocks):
        raise UnsupportedModel(
            f"the layer map names block {number} of the {whose}, which has {len(blocks)} (0 to {len(blocks) - 1})"
        )
    return blocks[number]
