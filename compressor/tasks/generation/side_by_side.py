"""What several models drew from the same noise for the same labels, as strips of pictures for a report."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from compressor.contracts import Evaluation
from compressor.contracts.notes import MOST_PICTURES, Images, Note, Remark

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

MOST_MODELS = 24
MOST_DRAWN = 10
"""Pictures of a strip: one of each class, of as many classes."""
LARGEST = 64
"""Pixels of a picture's longer side; larger ones are made smaller."""
GAP = 2
GREY = 128


def strips(evaluations: Mapping[str, Evaluation], pictures: str, split: str) -> Iterator[Note]:
    """A strip for each model, of the first row of each class."""
    drawn = {name: each.outputs[pictures] for name, each in evaluations.items() if pictures in each.outputs}
    if not drawn:
        return
    truth = next(iter(evaluations.values())).truth
    rows = first_of_classes(truth["labels"])
    names = [str(each) for each in truth["names"]]
    labels = [int(truth["labels"][row]) for row in rows]
    shown = dict(list(drawn.items())[:MOST_MODELS])
    some = f", of the first {MOST_DRAWN} classes" if len(rows) == MOST_DRAWN else ""
    yield Images(
        title=f"Drawn from the same noise, {split}",
        strips={name: strip(each[rows], pictures) for name, each in shown.items()},
        columns=tuple(names[label] if label < len(names) else str(label) for label in labels),
        caption=f"The first {split} row of each class{some}: one noise and label a column.",
    )
    if len(shown) < len(drawn):
        yield Remark(text=f"Of {len(drawn)} models the first {len(shown)} are shown; pictures of all lie in the run's folder.")


def first_of_classes(labels: NDArray[np.int64]) -> list[int]:
    """Of each class the number of its first row, in the order of the classes."""
    import numpy as np

    return [int(row) for row in np.unique(labels, return_index=True)[1][:MOST_DRAWN]]


def strip(rows: NDArray[np.float32], gives: str) -> str:
    """Rows `[n, C, H, W]` in [-1, 1] of what models give, `shown` side by side as one PNG in base64, smaller until it may stand in a report."""
    from PIL import Image

    from compressor.tasks.inputs.sampling import shown

    light = shown(rows, gives).transpose(0, 2, 3, 1)
    cells = [Image.fromarray(each[..., 0] if each.shape[-1] == 1 else each) for each in light]
    side = LARGEST
    while len(found := _png(cells, side)) > MOST_PICTURES:
        side //= 2
    return found


def _png(cells: Sequence[Image.Image], side: int) -> str:
    from PIL import Image

    width, height = cells[0].size
    by = min(1.0, side / max(width, height))
    size = max(1, round(width * by)), max(1, round(height * by))
    joined = Image.new(
        cells[0].mode, ((size[0] + GAP) * len(cells) - GAP, size[1]), GREY if cells[0].mode == "L" else (GREY,) * 3
    )
    for place, each in enumerate(cells):
        joined.paste(each if by == 1 else each.resize(size, Image.Resampling.LANCZOS), (place * (size[0] + GAP), 0))
    file = io.BytesIO()
    joined.save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()
