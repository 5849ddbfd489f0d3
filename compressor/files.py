"""Files of others: read up to a bound, and only where they are files, since a pipe or device may never end."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

MOST_BYTES = 256 * 2**20
"""Of a file that is read whole, unless whoever reads it says otherwise."""
POINTER = b"version https://git-lfs"
POINTER_BYTES = 1024
"""What a checkout without Git LFS has in the place of a large file begins so, and is no larger."""


def plain_file(path: Path | str, most: int | None = None, *, or_folder: bool = False) -> int:
    """Bytes of what lies at a path, which is a file that can be read; asked before it is opened.

    Args:
        path: links are followed.
        most: bytes that a file may have.
        or_folder: a folder will do.

    Raises:
        OSError: nothing is there, it is larger, or it is something else; `strerror` says what.
    """
    found = os.stat(path)  # noqa: PTH116 - thousands of files
    if stat.S_ISDIR(found.st_mode) and not or_folder:
        raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
        raise OSError(errno.EINVAL, "it is a pipe, socket or device, and no file", str(path))
    if stat.S_ISREG(found.st_mode) and found.st_size <= POINTER_BYTES and _is_pointer(path):
        raise OSError(errno.EINVAL, "it is a pointer of Git LFS and not the file itself: fetch that by `git lfs pull`", str(path))
    if most is not None and found.st_size > most:
        raise OSError(errno.EFBIG, f"it has {found.st_size} bytes; at most {most} are read", str(path))
    return found.st_size


def _is_pointer(path: Path | str) -> bool:
    with open(path, "rb") as file:  # noqa: PTH123 - thousands of files
        return file.read(len(POINTER)) == POINTER


def read_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
    """All of a file, if that is at most `most` bytes.

    Raises:
        OSError: it cannot be read, is larger, or is no plain file.
    """
    plain_file(path, most)
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:  # it grew
        raise OSError(errno.EFBIG, f"it has more than {most} bytes; no more are read", str(path))
    return content


def text_in(path: Path, most: int = MOST_BYTES) -> str:
    """The text of a file in UTF-8.

    Raises:
        OSError: as `read_bytes`.
        ValueError: it is no such text.
    """
    return read_bytes(path, most).decode()


def json_in(path: Path, most: int = MOST_BYTES) -> Any:
    """What a file of JSON holds.

    Raises:
        OSError: as `read_bytes`.
        ValueError: it is no JSON, nested too deep, or says two things under one key.
    """
    try:
        return json.loads(read_bytes(path, most), object_pairs_hook=once_each)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON: of two values under one key a reader takes whichever it likes.

    Raises:
        ValueError: a key is there twice, with other values.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        for name, value in pairs:
            if value != found[name]:
                raise ValueError(
                    f"the key {name!r:.60} is there twice, once with {value!r:.40} and once with {found[name]!r:.40}"
                )
    return found
