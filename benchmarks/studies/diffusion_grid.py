"""A grid of pictures from the same noise: real ones, the teacher's and its students', with a name beside each row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.studies.diffusion_cells import Book, Found
from benchmarks.studies.diffusion_plans import CLASSES, METHODS, Cell, teachers
from compressor.tasks.generated.features import as_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

MARGIN = 150
"""Pixels of the names."""
INK, PAPER = 0, 255


def rows(book: Book, found: Mapping[Cell, Found]) -> Iterator[tuple[str, Found]]:
    """What is shown: of the teacher its own steps and the same sampler in few, of students those of the first seed in 4 steps and fewer."""
    yield "real", book.real()
    for cell in teachers():
        if cell in found and cell.sampling.sampler == "dpm++2m" and cell.sampling.steps in (50, 8, 4):
            yield f"teacher, {cell.sampling.steps} steps", found[cell]
    for cell, each in found.items():
        if cell.seed == 0 and cell.kind in METHODS and cell.sampling.steps <= 4:
            yield f"{cell.kind}, {cell.sampling.steps} step{'s' if cell.sampling.steps > 1 else ''}", each


def save_grid(book: Book, found: Mapping[Cell, Found], path: Path) -> None:
    """Write it, one picture of each class in a row."""
    from PIL import Image, ImageDraw

    labels = book.labels.tolist()
    chosen = [labels.index(label) for label in range(CLASSES) if label in labels[: len(book.real().first)]]
    shown = [(name, _joined(each.first[chosen])) for name, each in rows(book, found)]
    height, width = shown[0][1].shape
    grid = Image.new("L", (MARGIN + width, height * len(shown)), PAPER)
    draw = ImageDraw.Draw(grid)
    for at, (name, line) in enumerate(shown):
        draw.text((4, at * height + height // 2), name, fill=INK, anchor="lm")
        grid.paste(Image.fromarray(line), (MARGIN, at * height))
    path.parent.mkdir(parents=True, exist_ok=True)
    grid.save(path, optimize=True)


def _joined(shown: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Pictures of one channel side by side."""
    made: NDArray[np.uint8] = np.concatenate(list(as_bytes(np.nan_to_num(shown))[:, 0]), axis=1)
    return made
