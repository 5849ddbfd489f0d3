"""Results kept by content: a key of all that can change a result leads to its files, put in place whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressor.errors import StoreError

STORE_VERSION = 1
ENTRY = "entry.json"
FILES = "files"


@dataclass(frozen=True)
class Made:
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


class Store:
    """A folder of results; only successes are kept.

    `tell` hears, as a line of text, when a damaged result is thrown away.
    """

    def __init__(self, root: Path, *, tell: Callable[[str], None] = lambda _: None) -> None:
        self.root = root
        self._tell = tell

    def find(self, parts: Mapping[str, Any]) -> Made | None:
        """The result made from `parts`, or None; a damaged one is thrown away and counts as not there."""
        key = key_of(parts)
        folder = self._entry(key)
        if not (folder / ENTRY).is_file():
            return None
        entry = json.loads((folder / ENTRY).read_text(encoding="utf-8"))
        if entry["store"] > STORE_VERSION:
            raise StoreError(f"{folder} was written by a newer version (store {entry['store']}, known {STORE_VERSION})")
        if digest_of(folder / FILES) != entry["digest"]:
            self._tell(f"stored result {key[:12]} is damaged (its digest does not match): it is made again")
            shutil.rmtree(folder)
            return None
        return Made(key, entry["digest"], folder / FILES, entry["facts"], entry["seconds"], found=True)

    def obtain(self, parts: Mapping[str, Any], make: Callable[[Path], Mapping[str, Any]]) -> Made:
        """Find the result of `parts`, or make it: `make` fills an empty folder and returns facts to keep beside it."""
        found = self.find(parts)
        if found is not None:
            return found
        key = key_of(parts)
        staging = self.root / "staging" / f"{key[:16]}-{uuid.uuid4().hex[:8]}"
        (staging / FILES).mkdir(parents=True)
        started = time.monotonic()
        try:
            facts = dict(make(staging / FILES))
            entry: dict[str, Any] = {
                "store": STORE_VERSION,
                "key": key,
                "parts": parts,
                "digest": digest_of(staging / FILES),
                "facts": facts,
                "seconds": round(time.monotonic() - started, 3),
            }
            (staging / ENTRY).write_text(json.dumps(entry, indent=1, sort_keys=True), encoding="utf-8")
            _sync(staging)
            self._put(staging, self._entry(key))
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        return Made(key, entry["digest"], self._entry(key) / FILES, facts, entry["seconds"], found=False)

    def scratch(self, parts: Mapping[str, Any]) -> Path:
        """A folder for what a step writes on its way; the same one for the same step."""
        folder = self._scratch(parts)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def discard_scratch(self, parts: Mapping[str, Any]) -> None:
        """Remove that folder: what it was for is stored."""
        shutil.rmtree(self._scratch(parts), ignore_errors=True)

    def _scratch(self, parts: Mapping[str, Any]) -> Path:
        return self.root / "scratch" / key_of(parts)[:16]

    def _entry(self, key: str) -> Path:
        return self.root / "results" / key[:2] / key

    @staticmethod
    def _put(staging: Path, final: Path) -> None:
        final.parent.mkdir(parents=True, exist_ok=True)
        try:
            staging.rename(final)
        except OSError:
            if not (final / ENTRY).is_file():  # else another run made the same result first
                raise
        _sync_folder(final.parent)


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
        if path.is_symlink():
            raise StoreError(f"{path} is a symbolic link: results hold plain files only")
        if path.is_file():
            total.update(f"{path.relative_to(folder).as_posix()}\0{sha256_of(path)}\n".encode())
    return total.hexdigest()


def _sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
