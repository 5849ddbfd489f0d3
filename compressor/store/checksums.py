"""`SHA256SUMS` of a folder, in the format of `sha256sum`: what is read later is what was written, or it is refused."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from compressor.contracts.records import stays_inside
from compressor.errors import StoreError
from compressor.files import text_in
from compressor.store.store import sha256_of

SUMS = "SHA256SUMS"


def names_in(folder: Path) -> Iterator[str]:
    """Relative names of all files below a folder, sorted.

    Raises:
        StoreError: one of them is a link or no plain file.
    """
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise StoreError(f"{path} is a link, pipe or device: only plain files are read here")
        if path.is_file():
            yield path.relative_to(folder).as_posix()


def sums_text(sums: Mapping[str, str]) -> str:
    """Lines of `SHA256SUMS`, from digests by name."""
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items()))


def check_file(folder: Path, name: str) -> None:
    """Hold one file against `SHA256SUMS`.

    Raises:
        StoreError: it is not there, not listed, a link, or another one than was written.
    """
    _check(folder, name, _read(folder))


def check_below(folder: Path, below: str) -> None:
    """Hold every file below the subfolder `below` against `SHA256SUMS`: none altered, missing, renamed or added.

    Raises:
        StoreError: names the first that is.
    """
    sums = _read(folder)
    listed = {name for name in sums if name.startswith(f"{below}/")}
    for name in sorted(listed):
        _check(folder, name, sums)
    for name in names_in(folder / below):
        if f"{below}/{name}" not in listed:
            raise StoreError(f"{folder / below / name} is not in {SUMS}: the run did not write it")


def _check(folder: Path, name: str, sums: Mapping[str, str]) -> None:
    path = folder / name
    if name not in sums:
        raise StoreError(f"{path} is not in {folder / SUMS}: the run did not write it")
    for place in (path, *path.parents):
        if place == folder:
            break
        if place.is_symlink():
            raise StoreError(f"{place} is a link: only plain files are read here")
    if not path.is_file():
        raise StoreError(f"{path} is missing: run the plan again")
    try:
        found = sha256_of(path)
    except OSError as error:
        raise StoreError(f"{path} cannot be read ({error.strerror})") from error
    if found != sums[name]:
        raise StoreError(
            f"{path} is not the file that was written: sha256 {found[:12]}, {SUMS} says {sums[name][:12]}; run the plan again"
        )


def _read(folder: Path) -> dict[str, str]:
    path = folder / SUMS
    try:
        if path.is_symlink():
            raise StoreError(f"{path} is a link: only plain files are read here")
        lines = text_in(path).splitlines()
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read, so nothing proves what lies beside it: run the plan again") from error
    sums = {}
    for line in lines:
        found = re.fullmatch(r"([0-9a-f]{64})  (.+)", line)
        if not found or not stays_inside(found[2]):
            raise StoreError(f"{path} has a line that is no digest of a file in this folder: {line[:80]!r}")
        sums[found[2]] = found[1]
    return sums
