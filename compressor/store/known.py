"""Facts read off files and kept beside how the files looked: as long as all of them look the same, none has to be read again.

known/KEY.json   the look of the files, which further ones there are, the fact, and a checksum

A look is size, mtime, ctime and inode. Nothing that decides rests on it, since a disk can alter a file and leave its look.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from compressor.errors import StoreError
from compressor.files import json_in
from compressor.store.disk import put
from compressor.store.store import CHECKSUM, Store, key_of

KNOWN = "known"
MOST = 200
"""Facts that are kept; those that were not asked for the longest go first."""
UNSETTLED_NS = 20_000_000
"""A file changed less than this ago could change once more within one tick of the clock that dates it."""


@dataclass(frozen=True)
class Fact:
    """What was found in files."""

    value: Any
    """A JSON value."""
    also: tuple[Path, ...] = ()
    """Files it rests on that only reading the others showed."""


@dataclass(frozen=True)
class _Look:
    """How files looked at one moment."""

    digest: str
    """sha256 over their names, sizes, times and inodes."""
    newest: int
    """When one of them changed last, in nanoseconds since the epoch."""


def known(store: Store, parts: Mapping[str, Any], files: Iterable[Path], find: Callable[[], Fact]) -> Any:
    """The fact of `parts`: the kept one if the files look as they did then, else `find` is called and its fact kept.

    A store that cannot be written keeps none.

    Args:
        parts: everything but the files that can change the fact, as JSON values.
        files: files and folders that it is read off; of a folder everything below.
        find: reads the files.
    """
    path, roots = store.root / KNOWN / f"{key_of(parts)}.json", tuple(map(Path.absolute, files))
    kept = _read(path)
    if kept and (look := _look(roots, map(Path, kept["also"]))) and kept["look"] == look.digest:
        with suppress(OSError):
            path.touch()
        return kept["value"]
    start, before = time.time_ns(), _look(roots)
    fact = find()
    look = _look(roots, map(Path.absolute, fact.also))
    if before and look and before == _look(roots) and look.newest < start - UNSETTLED_NS:
        _keep(store, path, {"look": look.digest, "also": [os.fspath(each.absolute()) for each in fact.also], "value": fact.value})
    return fact.value


def recalled(store: Store, parts: Mapping[str, Any]) -> Any:
    """What `noted` kept of `parts`; None where there is nothing."""
    kept = _read(store.root / KNOWN / f"{key_of(parts)}.json")
    return kept["value"] if kept else None


def noted(store: Store, parts: Mapping[str, Any], value: Any) -> None:
    """Keep a JSON value that rests on no file, such as how long something took; a store that cannot be written keeps none."""
    _keep(store, store.root / KNOWN / f"{key_of(parts)}.json", {"value": value})


def _read(path: Path) -> dict[str, Any] | None:
    """A fact as it was written; None where there is none, or it is damaged."""
    try:
        kept: dict[str, Any] = json_in(path)
        return kept if kept.pop(CHECKSUM) == key_of(kept) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _keep(store: Store, path: Path, kept: dict[str, Any]) -> None:
    with suppress(OSError, StoreError):
        store.ensure()
        path.parent.mkdir(exist_ok=True)
        put(path, json.dumps({**kept, CHECKSUM: key_of(kept)}))
        for old in sorted(path.parent.glob("*.json"), key=lambda each: each.stat().st_mtime, reverse=True)[MOST:]:
            old.unlink(missing_ok=True)


def _look(roots: Iterable[Path], also: Iterable[Path] = ()) -> _Look | None:
    """How the files look; None where one of them cannot be looked at."""
    total, newest = hashlib.sha256(), 0
    try:
        for path in chain(*map(_files, roots), map(os.fspath, also)):
            found = os.stat(path)  # noqa: PTH116 - thousands of files
            total.update(os.fsencode(path))
            total.update(f"\0{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}\n".encode())
            newest = max(newest, found.st_ctime_ns)
    except OSError:
        return None
    return _Look(total.hexdigest(), newest)


def _files(root: Path) -> Iterator[str]:
    """A file, or all files below a folder; a link stands for what it leads to."""
    if not root.is_dir():
        yield os.fspath(root)
        return
    seen = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        if (real := os.path.realpath(folder)) in seen:  # a link that leads up
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        yield from (f"{folder}/{name}" for name in sorted(names))
