"""Pictures become pixels, by steps in the order of a description, in Pillow's arithmetic."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageOps

Image.init()  # Pillow loads what reads a format when it is first met, but none of those that are named
NAMES = ("PNG", "JPEG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "AVIF", "JPEG2000", "PPM", "ICO", "QOI", "PCX", "TGA")
FORMATS = tuple(name for name in NAMES if name in Image.OPEN)  # in this order: a TGA has no signature, and others look like one
"""What is read as a picture, whatever its file is called: Pillow would have Ghostscript run what it takes for PostScript."""
LONGEST_EDGE = 2**17
"""Pixels that a picture may be long once its shorter edge has its length: one of 1 x 65,000 would fill the memory."""


def pixels_of(given: str | bytes, steps: Sequence[Mapping[str, Any]]) -> Any:
    """Pixels `[channels, height, width]` in float32 of a picture, given by its path or its bytes.

    Raises:
        OSError: it cannot be read.
        ValueError: its pixels are of a kind that no step takes.
    """
    with Image.open(io.BytesIO(given) if isinstance(given, bytes) else given, formats=FORMATS) as image:
        return pixels_of_image(image, steps)


def pixels_of_image(image: Any, steps: Sequence[Mapping[str, Any]]) -> Any:
    """Pixels `[channels, height, width]` in float32 of an image of Pillow.

    Raises:
        OSError: it cannot be read.
        ValueError: its pixels are of a kind that no step takes.
    """
    for step in steps:
        settings = {name: value for name, value in step.items() if name != "do"}
        image = STEPS[step["do"]](image, **settings)
    return np.ascontiguousarray(image, dtype=np.float32)


def check_depth(image: Any) -> None:
    """Refuse values beyond 255, which no conversion keeps.

    Raises:
        ValueError: it may hold such.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        raise ValueError(f"more than 8 bits a channel (mode {image.mode}): scale its values to 0 to 255 and save it as PNG")


def upright(image: Any) -> Any:
    """Turned as its EXIF tag says."""
    return ImageOps.exif_transpose(image)


def colored(image: Any, mode: str, transparent: str) -> Any:
    """In `RGB` or `L`: what is transparent shows `white`, or the colour that is `kept` below."""
    check_depth(image)
    if transparent == "white" and ("A" in image.getbands() or image.info.get("transparency") is not None):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
    return image.convert(mode)


def resized(image: Any, resample: int, size: Sequence[int] | None = None, shortest_edge: int | None = None) -> Any:
    """To a height and width, or so that the shorter edge is so long."""
    if shortest_edge:
        long = int(shortest_edge * max(image.size) / min(image.size))
        if long > LONGEST_EDGE:
            raise ValueError(
                f"it is {image.width}x{image.height}: with a shorter edge of {shortest_edge} it would be {long} pixels long"
            )
        size = (long, shortest_edge) if image.width <= image.height else (shortest_edge, long)
    assert size is not None
    return image.resize((size[1], size[0]), Image.Resampling(resample))


def cropped(image: Any, size: Sequence[int]) -> Any:
    """The middle, of a height and width; black where the picture is smaller."""
    top, left = (image.height - size[0]) // 2, (image.width - size[1]) // 2
    return image.crop((left, top, left + size[1], top + size[0]))


def checked(image: Any, size: Sequence[int]) -> Any:
    """As it is, where it has the height and width that the model takes."""
    if image.size != (size[1], size[0]):
        raise ValueError(f"it is {image.width}x{image.height}, the model takes {size[1]}x{size[0]}")
    return image


def as_array(image: Any) -> Any:
    """Values from 0 to 255, `[channels, height, width]`."""
    values = np.asarray(image)
    return (values[..., np.newaxis] if values.ndim == 2 else values).transpose(2, 0, 1)


def rescaled(values: Any, factor: float, offset: float) -> Any:
    """Times a factor, and plus an offset."""
    scaled = (values.astype(np.float64) * factor).astype(np.float32)
    return scaled + np.float32(offset) if offset else scaled


def normalized(values: Any, mean: Sequence[float], std: Sequence[float]) -> Any:
    """Less the mean of each channel, over its deviation."""
    values = values.astype(np.float32)
    return ((values.T - np.array(mean, dtype=np.float32)) / np.array(std, dtype=np.float32)).T


def flipped(values: Any) -> Any:
    """Channels in the reverse order: BGR."""
    return values[::-1]


STEPS: dict[str, Callable[..., Any]] = {
    "turn upright": upright,
    "convert": colored,
    "resize": resized,
    "crop": cropped,
    "check size": checked,
    "to array": as_array,
    "rescale": rescaled,
    "normalize": normalized,
    "flip channels": flipped,
}
"""What a step of a description is done by."""
