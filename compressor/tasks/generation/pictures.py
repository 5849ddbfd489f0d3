"""Pictures as arrays: read from rows at the size that a model draws, and told in letters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from compressor.tasks.image_classification import pixels

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset
    from numpy.typing import NDArray

LANCZOS = 1
SHADES = " .:-=+*#"


def pictures_of(images: Dataset, chosen: Sequence[int], column: str, shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """Pictures `[n, C, H, W]` in [-1, 1] of rows by their numbers, as files that are not decoded yet.

    Raises:
        SourceError: one cannot be read.
    """
    import numpy as np

    channels, height, width = shape
    steps: list[dict[str, Any]] = [
        {"do": "turn upright"},
        {"do": "convert", "mode": "L" if channels == 1 else "RGB", "transparent": "white"},
        {"do": "resize", "resample": LANCZOS, "size": [height, width]},
        {"do": "to array"},
        {"do": "rescale", "factor": 2 / 255, "offset": -1.0},
    ]
    return np.stack([pixels(images[int(number)][column], {"steps": steps}, int(number)) for number in chosen])


def in_letters(rows: NDArray[np.float32], gives: str) -> list[str]:
    """Each row of what a model gives in lines of letters, dark to light, as it is `shown`."""
    from compressor.tasks.inputs.sampling import shown

    light = (shown(rows, gives).mean(1) / 255 * (len(SHADES) - 1)).round().astype(int)
    return ["\n".join("".join(SHADES[each] for each in line) for line in picture) for picture in light]
