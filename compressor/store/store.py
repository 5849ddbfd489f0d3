"""Results kept by content: a key of all that can change a result leads to its files, put in place whole or not at all.

results/ab/KEY/entry.json   what it was made from, its digest, and a checksum of the entry itself
results/ab/KEY/files/       what was made
results/ab/KEY/used/        a file for each plan whose runs used it, dated by the last
staging/KEY/                where a result is made, under its lock
scratch/KEY/                what a step writes on its way; a killed run goes on from there
known/                      what `check` read off files, beside how they looked
locks/, runs/               who makes which result, which runs live; gone with the process
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import socket
import stat
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from compressor.errors import StoreError
from compressor.store.disk import FULL, sync_folder, writing
from compressor.store.locks import held, taken_at, tried

STORE_VERSION = 2
MARK = "compressor-store-"
"""Name of an empty file in every store, with the version at its end: other folders are not taken for one."""
ROOMS = {"locks", "results", "runs", "scratch", "staging"}
KEY = "[0-9a-f]{64}"
LOST = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
"""What a file is that somebody removed or put a link in place of; any other failure to read says nothing of the file."""
ENTRY, FILES, USED = "entry.json", "files", "used"
NO_PLAN = "-"
CHECKSUM = "sha256"
"""Field of an entry that all versions share: sha256 over the other fields as canonical JSON."""


@dataclass(frozen=True)
class StoredResult:
    """A result in the store."""

    key: str
    digest: str
    """sha256 over the names and contents of its files."""
    path: Path
    """Folder of its files."""
    facts: Mapping[str, Any]
    """What its maker had to say, as JSON values."""
    seconds: float
    """Seconds it took to make."""
    found: bool
    """True when it was there already."""


class DamagedEntry(Exception):
    """A stored result is not what was put there; the message says what is wrong with it."""


class Store:
    """A folder of results, shared by any number of processes; only successes are kept.

    Args:
        root: the folder; made when it is not there.
        plan: name of the plan that uses it, noted beside what is used.
        tell: hears, as a line of text, whom a run waits for and which damaged results are thrown away.
    """

    def __init__(self, root: Path, *, plan: str = NO_PLAN, tell: Callable[[str], None] = lambda _: None) -> None:
        self.root = root
        self.plan = plan
        self._tell = tell

    def find(self, parts: Mapping[str, Any]) -> StoredResult | None:
        """Look for the result made from `parts`; a damaged one counts as not there. Changes nothing.

        Raises:
            StoreError: a newer version of this program wrote it.
        """
        self.check()
        try:
            return self._found(key_of(parts))
        except DamagedEntry as damage:
            self._tell(f"stored result {key_of(parts)[:12]} is damaged ({damage}): a run makes it again")
            return None

    def obtain(self, parts: Mapping[str, Any], make: Callable[[Path], Mapping[str, Any]]) -> StoredResult:
        """Find the result of `parts`, or make it: `make` fills an empty folder and returns facts to keep beside it.

        Processes that want the same result wait for the first one; a damaged result is thrown away and made again.

        Raises:
            StoreError: the store cannot be written, or a newer version of this program wrote the result.
        """
        self.ensure()
        key = key_of(parts)
        step = str(parts.get("step", "a result"))
        with self._lock(key, step):
            found = self._found_or_discarded(key)
            if found is not None:
                self._use(self.entry(key))
                return found
            with writing(self.root):
                made = self._make(key, parts, make)
            remove(self.root / "scratch" / key)
            return made

    def scratch(self, parts: Mapping[str, Any], *, keep: Callable[[Path], bool] = Path.exists) -> Path:
        """A folder for what a step writes on its way; the same one for the same step until its result is stored.

        Of what a killed process left in it, only that stays which `keep` says is whole. To be asked for by the maker of that
        result only: its lock keeps others out of the folder.
        """
        self.ensure()
        folder = self.root / "scratch" / key_of(parts)
        if folder.is_symlink():
            remove(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for path in _inside(folder):
            if not keep(path):
                remove(path)
        return folder

    @contextmanager
    def running(self) -> Iterator[None]:
        """A run of this process: what it uses stays as long as it lives. What killed runs left is removed first."""
        self.ensure()
        name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.lock"
        with held(self.root / "runs" / name, work=self.plan, waits=self._tell):
            self._clean()
            yield

    def check(self) -> None:
        """Refuse a folder that is there and is no store of a version that is known.

        Raises:
            StoreError: says what it is instead.
        """
        try:
            names = {path.name for path in self.root.iterdir()} if os.path.lexists(self.root) else set()
        except OSError as error:
            raise StoreError(
                f"{self.root} cannot be read as a folder ({error.strerror}): name another one with --store"
            ) from error
        versions = [int(found[1]) for name in names if (found := re.fullmatch(rf"{MARK}(\d{{1,9}})", name))]
        if versions and max(versions) > STORE_VERSION:
            raise StoreError(
                f"{self.root} was written by a newer version (store {max(versions)}, known {STORE_VERSION}): "
                "update compressor-toolchain, or name another folder with --store"
            )
        if names and not versions and not self._unmarked(names):
            raise StoreError(
                f"{self.root} is no store and not empty ('{min(names)}' lies in it): name another folder with --store"
            )

    def _unmarked(self, names: set[str]) -> bool:
        """Whether this is a store from before they were marked: nothing but its rooms, and results where they lie."""
        return names <= ROOMS and any(re.fullmatch(KEY, path.parent.name) for path in self.root.glob(f"results/??/*/{ENTRY}"))

    def ensure(self) -> None:
        """Make the folder a store, where it is new or empty.

        Raises:
            StoreError: it is another folder, or cannot be written.
        """
        self.check()
        with writing(self.root):
            try:
                self.root.mkdir(parents=True, exist_ok=True)
                (self.root / f"{MARK}{STORE_VERSION}").touch()
            except OSError as error:
                if error.errno in FULL:
                    raise
                raise StoreError(f"{self.root} cannot be written ({error.strerror}): name another folder with --store") from error

    def entry(self, key: str) -> Path:
        """Where the result of a key lies."""
        return self.root / "results" / key[:2] / key

    def lock(self, key: str) -> Path:
        """The lock of a key: held by who makes, checks or removes its result."""
        return self.root / "locks" / f"{key}.lock"

    @contextmanager
    def _lock(self, key: str, step: str) -> Iterator[None]:
        with held(self.lock(key), work=step, waits=lambda who: self._tell(f"{step}: waits for {who}")):
            yield

    def _found(self, key: str) -> StoredResult | None:
        folder = self.entry(key)
        if not os.path.lexists(folder):
            return None
        entry = read_entry(folder)
        return StoredResult(key, entry["digest"], folder / FILES, entry["facts"], entry["seconds"], found=True)

    def _found_or_discarded(self, key: str) -> StoredResult | None:
        try:
            return self._found(key)
        except DamagedEntry as damage:
            self._tell(f"stored result {key[:12]} is damaged ({damage}): it is made again")
            discard(self.entry(key))
            return None

    def _make(self, key: str, parts: Mapping[str, Any], make: Callable[[Path], Mapping[str, Any]]) -> StoredResult:
        staging = self.root / "staging" / key
        remove(staging)  # of a killed run: the lock is ours
        try:
            for name in (FILES, USED):
                (staging / name).mkdir(parents=True)
            started = time.monotonic()
            facts = make(staging / FILES)
            seconds = round(time.monotonic() - started, 3)
            self._use(staging)
            entry = write_entry(staging, key=key, parts=parts, facts=facts, seconds=seconds)
            _sync(staging)
            self.entry(key).parent.mkdir(parents=True, exist_ok=True)
            staging.rename(self.entry(key))
            sync_folder(self.entry(key).parent)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        return StoredResult(key, entry["digest"], self.entry(key) / FILES, entry["facts"], seconds, found=False)

    def _use(self, folder: Path) -> None:
        """Note that the plan uses a result: never before a living run began, though the clock was set back since."""
        noted = folder / USED / self.plan
        noted.touch()
        began = max(taken_at(self.root / "runs"), default=0)
        if noted.stat().st_mtime_ns < began:
            os.utime(noted, ns=(began, began))

    def _clean(self) -> None:
        """Remove what killed runs left: half-made results, the scratch of finished ones, locks."""
        left = [*_inside(self.root / "staging")]
        left += [folder for folder in _inside(self.root / "scratch") if self.entry(folder.name).exists()]
        for path in left:
            with tried(self.lock(path.name), work="cleaning up") as ours:
                if ours:
                    remove(path)
        for path in (*_inside(self.root / "locks"), *_inside(self.root / "runs")):
            with tried(path, work="cleaning up"):
                """Letting it go removes it."""


# ------------------------------------------------------------------ entries


def write_entry(folder: Path, *, key: str, parts: Mapping[str, Any], facts: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Write `entry.json` beside finished files; returns it as it will be read."""
    values = {
        "store": STORE_VERSION,
        "key": key,
        "parts": parts,
        "digest": digest_of(folder / FILES),
        "facts": facts,
        "seconds": seconds,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    entry: dict[str, Any] = json.loads(json.dumps(values))  # as it will be read: tuples are lists, keys are strings
    (folder / ENTRY).write_text(json.dumps({**entry, CHECKSUM: _checksum(entry)}, indent=1), encoding="utf-8")
    return entry


def read_entry(folder: Path) -> dict[str, Any]:
    """The entry of a stored result, after everything about it has been checked.

    Raises:
        DamagedEntry: something is missing, added, altered, of another key, or a link.
        StoreError: a newer version wrote it.
    """
    try:
        entry = _read_intact(folder)
        if entry["store"] > STORE_VERSION:
            raise StoreError(
                f"{folder} was written by a newer version (store {entry['store']}, known {STORE_VERSION}): "
                "update compressor-toolchain, or name another folder with --store"
            )
        if entry["store"] < STORE_VERSION:
            raise DamagedEntry(f"it is of the older store {entry['store']}")
        if entry["key"] != folder.name or key_of(entry["parts"]) != folder.name:
            raise DamagedEntry(f"it is the result of another key, {entry['key'][:12]}")
        if _files_digest(folder) != entry["digest"]:
            raise DamagedEntry("its digest does not match")
    except OSError as error:
        if error.errno in LOST:
            raise DamagedEntry(f"{error.filename or folder} cannot be read: {error.strerror}") from error
        raise StoreError(
            f"{error.filename or folder} cannot be read ({error.strerror}): what is stored there may be whole, and is kept; "
            "see to it that it can be read, or name another folder with --store"
        ) from error
    except (KeyError, TypeError, AttributeError) as error:  # whole, but not of our making
        raise DamagedEntry(f"{ENTRY} lacks or misspells a field: {error}") from error
    return entry


def discard(folder: Path) -> None:
    """Remove a stored result at once, so that no half of it is ever found; follows no link."""
    if folder.parent.is_symlink():
        remove(folder.parent)
        return
    if folder.is_dir() and not folder.is_symlink():
        remove(folder / ENTRY)  # first: what is left is no result, whatever happens now
    remove(folder)


def _read_intact(folder: Path) -> dict[str, Any]:
    for path in (folder.parent, folder):
        if path.is_symlink() or not path.is_dir():
            raise DamagedEntry(f"{path} is no plain folder")
    names = {path.name for path in folder.iterdir()}
    if strange := sorted(names - {ENTRY, FILES, USED}):
        raise DamagedEntry(f"it holds '{strange[0]}', which nobody put there")
    if missing := sorted({ENTRY, FILES, USED} - names):
        raise DamagedEntry(f"{missing[0]} is missing")
    if not _is_plain(folder / ENTRY):
        raise DamagedEntry(f"{ENTRY} is no plain file")
    if (folder / USED).is_symlink() or not all(map(_is_plain, (folder / USED).iterdir())):
        raise DamagedEntry(f"{USED} is no folder of plain files")
    try:
        entry = json.loads((folder / ENTRY).read_bytes())
        intact = entry.pop(CHECKSUM) == _checksum(entry)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedEntry(f"{ENTRY} is not what was written: {type(error).__name__}") from error
    if not intact:
        raise DamagedEntry(f"{ENTRY} does not match its checksum")
    return dict(entry)


def _is_plain(path: Path) -> bool:
    return stat.S_ISREG(path.lstat().st_mode)


def _files_digest(folder: Path) -> str:
    if (folder / FILES).is_symlink():
        raise DamagedEntry(f"{FILES} is a symbolic link")
    try:
        return digest_of(folder / FILES)
    except StoreError as error:
        raise DamagedEntry(str(error)) from error


def _checksum(entry: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()


# ------------------------------------------------------------------ digests and files


def key_of(parts: Mapping[str, Any]) -> str:
    """sha256 of the canonical JSON of `parts`."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def sha256_of(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(folder: Path) -> str:
    """sha256 over the relative names and contents of all files in a folder."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            raise StoreError(f"{path} is a symbolic link: results hold plain files only")
        if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
            raise StoreError(f"{path} is a pipe, socket or device: results hold plain files only")
        if stat.S_ISREG(mode):
            total.update(os.fsencode(f"{path.relative_to(folder).as_posix()}\0{sha256_of(path)}\n"))
    return total.hexdigest()


def remove(path: Path) -> None:
    """Remove a file, a link (not what it leads to) or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _inside(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    sync_folder(folder)
