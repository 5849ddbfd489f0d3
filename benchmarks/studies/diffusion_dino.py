"""Pictures by features of DINOv2, which knows nothing of this data: kernel distances of a few models, paired by noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.studies.diffusion_cells import Absent, Book
from benchmarks.studies.diffusion_plans import Cell
from compressor.store.disk import settle
from compressor.tasks.generated.features import FolderFeatures

if TYPE_CHECKING:
    from numpy.typing import NDArray

EDGE = 56
"""Pixels that pictures are brought to: four by four patches."""


@dataclass
class Seen:
    """Features that are kept, or made now by a network in a folder; without one nothing is made."""

    book: Book
    source: Path | None = None

    @cached_property
    def _network(self) -> FolderFeatures:
        assert self.source is not None
        return FolderFeatures(self.source, size=EDGE)

    def of(self, cell: Cell) -> NDArray[np.float32]:
        """Of a cell's pictures, `[n, features]`.

        Raises:
            Absent: they are not there, and nothing is to be run.
        """
        return self._kept(cell.name, lambda: self.book.shown(cell))

    def real(self) -> NDArray[np.float32]:
        """Of real pictures: the first ones, then those that all are held against."""
        return self._kept("real", self.book.real_pictures)

    def _kept(self, name: str, shown: Callable[[], NDArray[Any]]) -> NDArray[np.float32]:
        path = self.book.folder / f"dinov2-{EDGE}" / f"{name}-{self.book.size.drawn}.npy"
        if not path.is_file():
            if self.source is None or not self.book.run:
                raise Absent(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_suffix(".part")
            with unfinished.open("wb") as file:
                np.save(file, self._network.of(shown()).rows)
            settle(unfinished, path)
        found: NDArray[np.float32] = np.load(path)
        return found
