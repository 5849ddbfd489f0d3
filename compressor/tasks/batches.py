"""Feeds and batches of rows that are read when they are asked for: all images or sounds of a split may not fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from compressor.contracts import Batch, Feed
from compressor.contracts.failing import made_by_row
from compressor.errors import SourceError

if TYPE_CHECKING:
    import numpy as np

Each = TypeVar("Each")
GROUPS_SORTED = 50
"""Groups among whose rows those of like lengths are put together."""


@dataclass(frozen=True)
class Feeds(Sequence[Feed]):
    """A feed for each group of rows, made by `make` from their numbers."""

    make: Callable[[Sequence[int]], Feed]
    groups: Sequence[Sequence[int]]

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [self[each] for each in range(*number.indices(len(self)))]
        return made_by_row(self.make, self.groups[number])


@dataclass(frozen=True)
class Batches:
    """The feeds as tensors, with `labels` and `row`."""

    feeds: Feeds
    labels: Sequence[int]

    def __len__(self) -> int:
        return len(self.feeds)

    def __iter__(self) -> Iterator[Batch]:
        import torch

        for feed, chosen in zip(self.feeds, self.feeds.groups, strict=True):
            yield {
                **{name: torch.from_numpy(array) for name, array in feed.items()},
                "labels": torch.tensor([self.labels[number] for number in chosen]),
                "row": torch.tensor(list(chosen)),
            }


def order_of(rows: int, shuffle_seed: int | None) -> list[int]:
    """Numbers of the rows, shuffled by a seed where there is one."""
    import numpy as np

    return list(range(rows)) if shuffle_seed is None else np.random.default_rng(shuffle_seed).permutation(rows).tolist()


def grouped(order: Sequence[Each], size: int) -> list[Sequence[Each]]:
    """Rows in groups of `size`; the last one may be smaller."""
    return [order[start : start + size] for start in range(0, len(order), size)]


def alike(lengths: Sequence[float], size: int, draw: np.random.Generator, *, spread: float = 0.0) -> list[Sequence[int]]:
    """All rows in groups of `size` and of like lengths: little is padded, and order and company are drawn anew by each generator.

    Rows are shuffled and sorted by length within each `GROUPS_SORTED` groups; then the groups are shuffled.

    Args:
        spread: up to so much is added to each length at random before, so that rows of few lengths do not always meet the same ones.
    """
    order = draw.permutation(len(lengths)).tolist()
    jittered = [length + spread * extra for length, extra in zip(lengths, draw.random(len(lengths)).tolist(), strict=True)]
    near = [number for part in grouped(order, size * GROUPS_SORTED) for number in sorted(part, key=jittered.__getitem__)]
    groups = grouped(near, size)
    return [groups[number] for number in draw.permutation(len(groups))]


def full_groups(rows: int, size: int, count: int | None) -> list[Sequence[int]]:
    """The first groups that are full, at most `count` of them.

    Raises:
        SourceError: there is none.
    """
    groups = [group for group in grouped(range(rows), size) if len(group) == size][:count]
    if not groups:
        raise SourceError(f"{rows} rows are too few for one batch of {size}")
    return groups


def as_file(content: Any) -> dict[str, Any]:
    """A picture or sound as rows hold it: the path of its file, or its bytes."""
    return {"bytes": content, "path": None} if isinstance(content, bytes) else {"bytes": None, "path": str(content)}
