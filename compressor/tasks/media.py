"""Pictures and sounds of rows: whether they can be read whole, found when rows are first read and named by row and file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from compressor.errors import MissingDependency, SourceError
from compressor.files import read_bytes
from compressor.foreign import told
from compressor.plan.paths import Place
from compressor.tasks.places import PLACE
from compressor.tasks.reading import each_row, values_of
from compressor.tasks.sound_files import what_is_missing

if TYPE_CHECKING:
    from datasets import Dataset

    from compressor.contracts.data import Data

MOST_FILE_BYTES = 2**30
"""Of one picture or sound."""
PHOTO = "MPO"
"""A JPEG with further pictures behind it that cameras and telephones write: previews, depths, a second view. The first one is the photo."""
MOST_SAMPLES, MOST_HOURS = 2**29, 6
"""Of a sound, over its channels, and how long it may be at whatever rate: silence packs into nothing, and is decoded and resampled whole."""
BLOCK = 2**18
"""Frames of a sound that are decoded at a time."""


def place_of(folder: Path, further: Path | None) -> Place:
    """A folder that rows lie in, and a further one that the plan lets them name files of."""
    return Place(folder, further, "copy it there, or say `data: {root: FOLDER}` with a folder that it lies in")


def is_file_cell(value: Any) -> bool:
    """Whether a cell is a picture or sound as the library keeps one."""
    return isinstance(value, dict) and value.keys() == {"bytes", "path"}


def content_of(cell: Mapping[str, Any]) -> bytes:
    """The bytes of a picture or sound.

    Raises:
        SourceError: its file cannot be read.
    """
    if cell["bytes"] is not None:
        return bytes(cell["bytes"])
    try:
        return read_bytes(Path(cell["path"]), MOST_FILE_BYTES)
    except OSError as error:
        raise SourceError(f"{cell['path']} cannot be read: {error.strerror}") from error


def undecoded(rows: Dataset) -> Iterator[dict[str, Any]]:
    """Rows with images and sounds as the bytes of their files, so that nothing is decoded just to be compared."""
    from datasets import Audio, Image

    for name, feature in rows.features.items():
        if isinstance(feature, Image | Audio):
            rows = rows.cast_column(name, type(feature)(decode=False))
    return each_row(rows)


def owned(rows: Dataset, place: Place, start: Path) -> Dataset:
    """Rows whose files lie where they may; relative names start at `start`, and become absolute.

    Raises:
        SourceError: a row names a file elsewhere, or none.
    """
    from datasets import Audio, Image, Value

    for name, feature in rows.features.items():
        media = isinstance(feature, Image | Audio)
        if not (media or is_file_cell(feature)):
            continue
        plain = rows.cast_column(name, type(feature)(decode=False)) if media else rows
        if any(map(_names_a_file, values_of(plain, name))):
            moved = [
                _owned(cell, place, start, where) if _names_a_file(cell) else cell
                for where, cell in zip(values_of(rows, PLACE), values_of(plain, name), strict=True)
            ]
            stored: Any = {"bytes": Value("binary"), "path": Value("string")}
            rows = rows.remove_columns(name).add_column(name, moved, feature=stored)
            rows = rows.cast_column(name, feature) if media else rows
    return rows


def _names_a_file(cell: Any) -> bool:
    return cell is not None and cell["bytes"] is None and cell["path"] is not None


def _owned(cell: Mapping[str, Any], place: Place, start: Path, where: str) -> dict[str, Any]:
    path = start / cell["path"]
    try:
        place.check(path)
    except SourceError as error:
        raise SourceError(f"{where}: {error}") from error
    return {"bytes": None, "path": os.fspath(path)}


def check_column(data: Data, column: str, kind: Literal["Image", "Audio"]) -> None:
    """Refuse a column that is of no pictures or sounds, as the library knows them.

    Raises:
        SourceError: it holds something else; its first row is named.
    """
    import datasets

    for name, rows in data.splits.items():
        if len(rows) and not isinstance(rows.features[column], getattr(datasets, kind)):
            found = next(undecoded(rows.select([0])))[column]
            what = {"Image": "pictures", "Audio": "sounds"}[kind]
            raise SourceError(
                f"{data.place(name, 0)}: column '{column}' holds {found!r:.40} ({type(found).__name__}), expected {what}: "
                f"{_as_media(found, column, kind)}"
            )


def _as_media(found: Any, column: str, kind: str) -> str:
    """How what was found is given as pictures or sounds."""
    if isinstance(found, str):
        folder = {"Image": "imagefolder", "Audio": "audiofolder"}[kind]
        return f"files are named in the column `file_name` of a table metadata.csv that lies beside them, with `format: {folder}`"
    if isinstance(found, bytes) or is_file_cell(found):
        return f"`cast_column('{column}', {kind}())` and `to_parquet` of datasets write a table in which they are known as such"
    return "save each as a file, in a folder for each label"


def check_media(rows: Dataset) -> None:
    """Read every picture and sound whole, so that a broken one is found now and not when its split is.

    Raises:
        SourceError: one cannot be read, ends early, or holds what is no number or no single picture; its place is named.
        MissingDependency: the library that reads sounds is not installed.
    """
    from datasets import Audio, Image

    for column, feature in rows.features.items():
        check = {Image: check_image, Audio: check_sound}.get(type(feature))
        if check is None:
            continue
        for row in undecoded(rows.select_columns([column, PLACE])):
            cell = row[column]
            if cell is not None and (cell["bytes"] is not None or cell["path"] is not None):
                place, path = row[PLACE], cell["path"] or ""
                check(content_of(cell), place if path in place else f"{place} ({path})")


def check_image(content: bytes, where: str) -> None:
    """Refuse what is not one picture of 8 bits a channel, read to its end.

    Raises:
        SourceError: it is not.
    """
    from PIL import Image

    from compressor.tasks.inputs.image import FORMATS, check_depth

    try:
        with Image.open(BytesIO(content), formats=FORMATS) as image:
            pictures = 1 if image.format == PHOTO else getattr(image, "n_frames", 1)
            image.draft(None, (1, 1))  # jpeg: all of it is read, little is computed
            image.load()
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        KeyError,
        IndexError,
        TypeError,
        ArithmeticError,
        Image.DecompressionBombError,
    ) as error:
        raise SourceError(f"{where} cannot be read as an image: {told(error)}; mend it, or leave it out of the data") from error
    if pictures > 1:
        raise SourceError(f"{where} holds {pictures} pictures, as an animation or pages: save the one that is meant as PNG")
    try:
        check_depth(image)
    except ValueError as error:
        raise SourceError(f"{where} has {error}") from error


def check_sound(content: bytes, where: str) -> None:
    """Refuse a sound that cannot be decoded to its end, or holds samples that are no numbers.

    Raises:
        SourceError: it cannot be used.
        MissingDependency: the library that reads sounds is not installed.
    """
    try:
        import soundfile
    except ImportError as error:
        raise MissingDependency("soundfile is not installed: pip install 'compressor-toolchain[audio]'") from error
    if missing := what_is_missing(content):
        raise SourceError(f"{where} is a sound that {missing}; mend it, or leave it out of the data")
    try:
        with soundfile.SoundFile(BytesIO(content)) as file:
            declared = file.frames
            if declared * file.channels > MOST_SAMPLES or declared > MOST_HOURS * 3600 * file.samplerate:
                raise SourceError(
                    f"{where} is a sound of {declared / file.samplerate / 3600:.1f} hours, {file.channels} channels at {file.samplerate} Hz, "
                    f"more than {MOST_HOURS} hours or {MOST_SAMPLES} samples: cut it into pieces"
                )
            frames = sum(_finite(block, where) for block in file.blocks(BLOCK, dtype="float32", always_2d=True))
    except (OSError, RuntimeError, ValueError, TypeError, MemoryError) as error:
        raise SourceError(f"{where} cannot be read as a sound: {told(error)}; mend it, or leave it out of the data") from error
    if not frames:
        raise SourceError(f"{where} is a sound without a sample")
    if frames < declared:
        raise SourceError(
            f"{where} is a sound that ends early: {frames} of {declared} samples are there; mend it, or leave it out of the data"
        )


def _finite(block: Any, where: str) -> int:
    import numpy as np

    if not np.isfinite(block).all():
        raise SourceError(f"{where} holds samples that are NaN or infinite: mend it, or leave it out of the data")
    return len(block)
