"""What a page takes from whoever uses it, checked before any of it is decoded whole."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MOST_CHARACTERS = 20_000
MOST_SEED = 2**31 - 1
MOST_BYTES = 20 * 2**20
MOST_PIXELS = 25_000_000
MOST_SECONDS = 60.0
MOST_SAMPLES = 24_000_000
PICTURES = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")
"""Pillow would have Ghostscript run what it takes for PostScript."""


def refused(kind: str, given: Any) -> str:
    """Why something is refused, for a person to read; empty where it is taken.

    Args:
        kind: as `Subject.kind` says.
        given: a text, a list of texts, the path of a file, `label` and `seed` of a picture to draw, or None.
    """
    if isinstance(given, Path):
        if not given.is_file():
            return "This file is gone; choose it again."
        size = given.stat().st_size
        if not size:
            return "This file is empty."
        if size > MOST_BYTES:
            return f"This file has {size / 2**20:.0f} MB; at most {MOST_BYTES / 2**20:.0f} MB are taken here."
        return {"image": _picture, "audio": _sound}.get(kind, lambda _: "")(given)
    if given is None:
        what = {
            "image": "Choose a picture, or take one.",
            "audio": "Choose a sound, or record one.",
            "seed": f"Choose a class, and a whole number from 0 to {MOST_SEED:,} as seed.",
        }
        return what.get(kind, "Type a text, or choose a file.")
    if isinstance(given, Mapping):
        return ""
    return _texts([given] if isinstance(given, str) else given)


def _texts(given: Sequence[str]) -> str:
    if not all(text.strip() for text in given):
        return "Type a text first." if len(given) == 1 else "Type both texts first."
    longest = max(map(len, given))
    if longest > MOST_CHARACTERS:
        return f"This text has {longest:,} characters; at most {MOST_CHARACTERS:,} are taken here."
    return ""


def _picture(path: Path) -> str:
    """By its head alone."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # refused below, by a lower bound
            with Image.open(path, formats=[name for name in PICTURES if name in Image.OPEN or Image.init()]) as image:
                pixels = image.width * image.height
    except Image.DecompressionBombError:
        pixels = MOST_PIXELS + 1
    except (OSError, SyntaxError, ValueError, EOFError, KeyError, IndexError, TypeError):
        return f"This is no picture that can be read ({', '.join(PICTURES)})."
    if pixels > MOST_PIXELS:
        return f"This picture has too many pixels; at most {MOST_PIXELS / 1e6:.0f} million are taken here."
    return ""


def _sound(path: Path) -> str:
    """By its head alone."""
    import soundfile

    try:
        head = soundfile.info(str(path))
        seconds, samples = head.frames / head.samplerate, head.frames * head.channels
    except (OSError, RuntimeError, ValueError, TypeError, ZeroDivisionError):
        return "This is no sound that can be read (wav, flac, ogg or mp3)."
    if samples > MOST_SAMPLES:
        return f"This sound has {samples / 1e6:.0f} million samples over its channels; at most {MOST_SAMPLES / 1e6:.0f} million are taken here."
    if seconds > MOST_SECONDS:
        return f"This sound lasts {seconds:.0f} s; at most {MOST_SECONDS:.0f} s are taken here."
    return ""
