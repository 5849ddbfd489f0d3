"""A disk that is full, told as what it is wherever it is met: by us, by numpy, by a library written in C++."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from compressor.errors import StoreError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


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
        found = next((each for each in _chain(error) if _is_full(each)), None)
        if found is None:
            raise
        path = Path(str(getattr(found, "filename", None) or folder))
        raise StoreError(
            f"{path} cannot be written, {_why(found)} ({_free(path)}): make room, for example with "
            "`compressor store prune --older-than 30d`, and run the same command again; nothing half written was kept"
        ) from error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_full(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in FULL:
        return True
    return any(os.strerror(code) in str(error) for code in FULL)  # libraries hand on the system's words, not its number


def _why(error: BaseException) -> str:
    code = next((code for code in FULL if os.strerror(code) in str(error)), errno.ENOSPC)
    return os.strerror(code).lower()


def _free(path: Path) -> str:
    while not path.exists() and path != path.parent:
        path = path.parent
    return f"{shutil.disk_usage(path).free / 1e6:.1f} MB free"
