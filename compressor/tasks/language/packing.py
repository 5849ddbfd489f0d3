"""Training rows of a language model: several windows in one row, none of which sees another."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compressor.contracts import Batch, Epoch
from compressor.tasks.language.documents import Window
from compressor.tasks.language.likelihood import IGNORED

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MULTIPLE = 8
"""Rows are padded to a multiple of so many tokens: fewer shapes to prepare kernels for."""
NUMBERS = ("row", "window")
"""What says of which documents, and of which of all windows, a training row is made."""
NO_ROW = -1
"""Where a training row holds fewer documents than another of its batch."""


def packed(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Numbers of the lengths, put together so that each sum is at most `size`: the longest first, each where least room is left.

    The same lengths give the same rows, so that every epoch has as many.
    """
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # what is left in each row, sorted
    for number in sorted(range(len(lengths)), key=lambda each: (-lengths[each], each)):
        place = bisect_left(room, (lengths[number], -1))
        left, row = room.pop(place) if place < len(room) else (size, len(rows))
        if row == len(rows):
            rows.append([])
        rows[row].append(number)
        insort(room, (left - lengths[number], row))
    return rows


def epoch_of(windows: Sequence[Window], size: int, *, packing: bool, share: float) -> Epoch:
    """What an epoch is made of, by the windows of a share of the training documents."""
    lengths = [len(each.document.ids) for each in windows]
    counted = sum(int(each.document.counted.sum()) for each in windows)
    found = Epoch(rows=len(packed(lengths, size)) if packing else len(windows), counted=counted)
    return found if share == 1 else found.times(1 / share)


@dataclass(frozen=True)
class PackedBatches:
    """Batches of training rows, each of the windows whose numbers it has."""

    windows: Sequence[Window]
    groups: Sequence[Sequence[Sequence[int]]]
    """For each batch its rows, for each row its windows."""
    pad: int

    def __len__(self) -> int:
        return len(self.groups)

    def __iter__(self) -> Iterator[Batch]:
        import torch

        for rows in self.groups:
            yield {name: torch.from_numpy(array) for name, array in self._arrays(rows).items()}

    def _arrays(self, rows: Sequence[Sequence[int]]) -> dict[str, NDArray[np.int64]]:
        import numpy as np

        width = max(sum(len(self.windows[number].document.ids) for number in row) for row in rows)
        width = -(-max(2, width) // MULTIPLE) * MULTIPLE
        shape = (len(rows), width)
        found = {
            "input_ids": np.full(shape, self.pad, dtype=np.int64),
            "attention_mask": np.zeros(shape, dtype=np.int64),
            "position_ids": np.zeros(shape, dtype=np.int64),
            "labels": np.full(shape, IGNORED, dtype=np.int64),
            **{name: np.full((len(rows), max(map(len, rows))), NO_ROW, dtype=np.int64) for name in NUMBERS},
        }
        for at, row in enumerate(rows):
            self._fill(found, at, row)
        return {name: array[:, 0] if name in NUMBERS and array.shape[1] == 1 else array for name, array in found.items()}

    def _fill(self, found: dict[str, NDArray[np.int64]], at: int, row: Sequence[int]) -> None:
        """One training row: positions begin anew with each document, and with the padding after the last."""
        import numpy as np

        start = 0
        for place, number in enumerate(row):
            document = self.windows[number].document
            end = start + len(document.ids)
            found["input_ids"][at, start:end] = document.ids
            found["attention_mask"][at, start:end] = 1
            found["position_ids"][at, start:end] = np.arange(end - start)
            found["labels"][at, start:end] = np.where(document.counted, document.ids, IGNORED)
            found["row"][at, place], found["window"][at, place] = self.windows[number].row, number
            start = end
        found["position_ids"][at, start:] = np.arange(found["position_ids"].shape[1] - start)
