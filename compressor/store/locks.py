"""Locks between processes: held by the kernel for a process and gone with it, with a file that says who holds them."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from compressor.errors import StoreError
from compressor.files import json_in
from compressor.store.disk import writing

if TYPE_CHECKING:
    from filelock import BaseFileLock

POLL_SECONDS = 0.1


@contextmanager
def held(path: Path, *, work: str, waits: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock `path` for `work`; while another process holds it, tell `waits` who that is, and wait for its end.

    The file is there as long as the lock is held. What a killed process left of it locks nobody out.

    Raises:
        StoreError: the file cannot be written.
    """
    lock = _lock(path, work)
    if not _acquired(lock, path):
        waits(holder(path))
        lock.acquire(poll_interval=POLL_SECONDS)
    try:
        yield
    finally:
        _release(lock, path)


@contextmanager
def tried(path: Path, *, work: str) -> Iterator[bool]:
    """Hold the lock `path` if nobody does; the value says whether it is held.

    Raises:
        StoreError: the file cannot be written.
    """
    lock = _lock(path, work)
    if not _acquired(lock, path):
        yield False
        return
    try:
        yield True
    finally:
        _release(lock, path)


def holder(path: Path) -> str:
    """Who holds a lock, in words."""
    try:
        found = json_in(path)
        return f"process {found['pid']} on {found['host']} ({found['work']}, since {found['since']})"
    except (OSError, ValueError, KeyError, TypeError):  # just let go, or not signed yet
        return "another process"


def taken_at(folder: Path) -> tuple[int, ...]:
    """When each lock in a folder was taken, in nanoseconds since the epoch, by the clock as it was then."""
    found = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        with suppress(FileNotFoundError):  # let go meanwhile
            found.append(path.stat().st_mtime_ns)
    return tuple(found)


def _lock(path: Path, work: str) -> BaseFileLock:
    from filelock import FileLock

    def sign(descriptor: int) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        os.ftruncate(descriptor, 0)
        os.pwrite(
            descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "work": work, "since": now}).encode(), 0
        )

    return FileLock(path, on_acquired=sign, fallback_to_soft=False)


def _acquired(lock: BaseFileLock, path: Path) -> bool:
    from filelock import Timeout

    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(blocking=False)
    except Timeout:
        return False
    except OSError as error:
        raise StoreError(f"{path} cannot be locked ({error.strerror}): may this process write there?") from error
    return True


def _release(lock: BaseFileLock, path: Path) -> None:
    path.unlink(missing_ok=True)  # while it is held: who waits sees that its file is gone, and opens the new one
    lock.release()
