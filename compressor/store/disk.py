"""Files put in place whole, and a disk that is full told as what it is: met by us, by numpy, by a library written in C++."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from compressor.errors import StoreError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
WORDLESS = {
    "Protobuf serialization failed": "ONNX Runtime could not write a model",
    "iostream error": "OpenVINO could not write a model",
}
"""What libraries say when they cannot write, and do not say why."""


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """What is written meanwhile lies in `folder`, unless the error names another path.

    Raises:
        StoreError: the disk is full, a quota is used up or a file is larger than the system allows.
    """
    try:
        yield
    except StoreError:
        raise
    except Exception as error:
        for each in _chain(error):
            if why := _why(each):
                path = Path(str(getattr(each, "filename2", None) or getattr(each, "filename", None) or folder))
                raise StoreError(
                    f"{path} cannot be written: {why} ({_free(path)}). Make room, for example with "
                    "`compressor store prune --older-than 30d`, and run the same command again; nothing half written was kept"
                ) from error
        raise


def put(path: Path, text: str) -> None:
    """Write a text so that at every moment the old one or the new one is there, whole."""
    unfinished = path.with_name(f".{path.name}.part")
    unfinished.write_text(text, encoding="utf-8")
    settle(unfinished, path)


def settle(unfinished: Path, final: Path) -> None:
    """Rename a file once its content is on disk, and have the folder remember it."""
    with unfinished.open("rb") as file:
        os.fsync(file.fileno())
    unfinished.replace(final)
    sync_folder(final.parent)


def sync_folder(folder: Path) -> None:
    """Have the disk remember which names a folder holds."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _why(error: BaseException) -> str | None:
    if isinstance(error, OSError) and error.errno in FULL:
        return os.strerror(error.errno).lower()
    words = {
        os.strerror(code): os.strerror(code).lower() for code in FULL
    }  # libraries hand on the system's words, not its number
    guesses = {said: f"{what}, most likely for want of space" for said, what in WORDLESS.items()}
    return next((why for said, why in {**words, **guesses}.items() if said in str(error)), None)


def _free(path: Path) -> str:
    while not path.exists() and path != path.parent:
        path = path.parent
    return f"{shutil.disk_usage(path).free / 1e6:.1f} MB free"
