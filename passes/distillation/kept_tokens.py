"""Numbers of every token of the training rows, in files: written once row by row, read for any rows together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.contracts import Batch

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

LARGEST = 65504.0
"""In half precision; a number beyond is kept as this."""


def windows(batch: Batch) -> list[list[int]]:
    """Of each training row the numbers of the rows that it holds, one after the other: several where documents share a row.

    They are counted as batches that are not shuffled count them: a document that is longer than a model takes is several.
    """
    numbers: list[int] | list[list[int]] = batch.get("window", batch["row"]).tolist()
    return [[at for at in each if at >= 0] if isinstance(each, list) else [each] for each in numbers]


@dataclass(frozen=True)
class KeptTokens:
    """Numbers for all rows, one token after the other."""

    values: NDArray[Any]
    """`[tokens, features]`, mapped from a file."""
    starts: NDArray[np.int64]
    """Where each row begins, and where the last one ends: `[rows + 1]`."""
    order: NDArray[np.int64] | None = None
    """Which of the values each token has, -1 where none: `[tokens]`. None where they lie as the tokens do."""

    def row(self, row: int) -> NDArray[Any]:
        """Numbers `[tokens, features]` of one row; of a token that has none, nothing that is a number, or 0 where they are whole ones."""
        import numpy as np

        here = slice(self.starts[row], self.starts[row + 1])
        if self.order is None:
            return self.values[here]
        chosen = self.order[here]
        kept: NDArray[Any] = self.values[chosen.clip(min=0)]
        kept[chosen < 0] = np.nan if kept.dtype.kind == "f" else 0
        return kept

    def of(self, rows: Sequence[Sequence[int]], tokens: int) -> NDArray[Any]:
        """Numbers `[B, tokens, features]` of some rows, several one after the other; zeros where there are fewer tokens."""
        import numpy as np

        found = np.zeros((len(rows), tokens, self.values.shape[1]), dtype=self.values.dtype)
        for at, several in enumerate(rows):
            start = 0
            for row in several:
                kept = self.row(row)[: tokens - start]
                found[at, start : start + len(kept)] = kept
                start += len(kept)
        return found


class TokenWriter:
    """Writes numbers of tokens, batch by batch in the order of the rows."""

    def __init__(self, path: Path, dtype: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._dtype = path, dtype
        path.write_bytes(b"")
        self._lengths: list[int] = []
        self._features = 0

    def add(self, numbers: torch.Tensor, mask: torch.Tensor | None) -> None:
        """Append numbers `[B, T, D]`, of each row its valid tokens, which come first."""
        if self._dtype.startswith("float"):
            numbers = numbers.float().clamp(-LARGEST, LARGEST) if self._dtype == "float16" else numbers.float()
        array = numbers.cpu().numpy().astype(self._dtype)
        lengths = [numbers.shape[1]] * len(array) if mask is None else mask.sum(dim=1).tolist()
        with self._path.open("ab") as file:
            for row, length in zip(array, lengths, strict=True):
                file.write(row[: int(length)].tobytes())
        self._lengths += [int(length) for length in lengths]
        self._features = numbers.shape[2]

    def kept(self) -> KeptTokens:
        """What was written."""
        import numpy as np

        starts = np.concatenate([[0], np.cumsum(self._lengths)]).astype(np.int64)
        shape = (int(starts[-1]), self._features)
        return KeptTokens(np.memmap(self._path, dtype=self._dtype, mode="r", shape=shape), starts)
