"""Paths that a plan names: found as they are spelled, and never out of the folder that they lie in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

from compressor.errors import SourceError, near_name
from compressor.files import plain_file
from compressor.foreign import is_text

SNAPSHOTS, BLOBS = "snapshots", "blobs"
"""How the hub's cache lays out a repository: what a snapshot shows are links to blobs."""
MOST_FILES = 2_000_000
"""In one folder and those below it; more are no folder of data."""
MOST_NEAR = 1000
"""Files among which a near name is looked for."""
MOST_LEVELS = 64
"""Folders in folders."""


def matches(folder: Path, spelled: str) -> list[Path]:
    """Files and folders that a path means: the one of that very name, else those that its `*` and `?` match, hidden ones not.

    Args:
        folder: a relative path starts here; signs in its name are none of a pattern.
        spelled: the path; `[` is a character like any other.
    """
    try:
        if (folder / spelled).exists():
            return [folder / spelled]
        parts = Path(spelled).parts
        fixed = next((number for number, part in enumerate(parts) if "*" in part or "?" in part), len(parts))
        start, wild = folder.joinpath(*parts[:fixed]), parts[fixed:]
        if not wild:
            return []
        asked = any(part.startswith(".") for part in wild)
        found = sorted(start.glob("/".join(wild).replace("[", "[[]")))
    except (OSError, ValueError):  # too long a name; `**` as part of one
        return []
    return [path for path in found if asked or not any(part.startswith(".") for part in path.relative_to(start).parts)]


def is_folder(path: Path) -> bool:
    """Whether it is one that can be looked at."""
    try:
        return path.is_dir()
    except OSError:
        return False


def near_path(path: Path) -> str:
    """What may be meant by a path where nothing is: a near name beside it, a file, an address, or what shells fill in and plans do not."""
    if any(part.endswith(":") for part in path.parts):
        return "; a path is wanted, and no address: fetch it, and name what came"
    if path.is_file():
        return "; it is a file"
    if any(part.startswith(("~", "$")) for part in path.parts):
        return "; `~` and `$NAME` are characters here: write the path out"
    try:
        return near_name(path.name, [each.name for each in islice(path.parent.iterdir(), MOST_NEAR)])
    except (OSError, ValueError):
        return ""


@dataclass(frozen=True)
class Place:
    """A folder that a plan names, and what may be read by way of it: what really lies there, wherever links and names lead."""

    folder: Path
    root: Path | None = None
    """A further folder whose files may be read."""
    advice: str = "copy it there, or leave it out"
    """What to do about a file that leads elsewhere."""

    @cached_property
    def _allowed(self) -> tuple[str, ...]:
        real = self.folder.resolve()
        blobs = [each.parent.parent / BLOBS for each in (real, *real.parents) if each.parent.name == SNAPSHOTS]
        further = [self.root.resolve()] if self.root else []
        return tuple(os.path.join(each, "") for each in (real, *blobs, *further))  # noqa: PTH118 - an end that no other name has

    def check(self, path: Path) -> None:
        """Refuse what must not be read.

        Raises:
            SourceError: it leads out of the folder, to nothing, or to a pipe, socket or device.
        """
        try:
            real = os.path.realpath(path)
        except ValueError as error:  # a name with a NUL in it
            raise SourceError(f"{str(path)!r}: no such file or folder") from error
        if not os.path.join(real, "").startswith(self._allowed):  # noqa: PTH118
            raise SourceError(f"{path} leads to {real}, out of {self.folder}: {self.advice}")
        try:
            plain_file(real, or_folder=True)
        except FileNotFoundError as error:
            raise SourceError(f"{path}: no such file or folder") from error
        except OSError as error:
            raise SourceError(f"{path}: {error.strerror}") from error

    def files(self, most: int = MOST_FILES, *, once: bool = False) -> Iterator[Path]:
        """All files of the folder and of those in it, in order; hidden folders and hidden links are passed over.

        Args:
            most: that are listed.
            once: links to folders that lie in this one are passed over, since what is in them is there by its own name.

        Raises:
            SourceError: `check` refuses one, a name is not UTF-8, or there are more than `most`.
        """
        for number, path in enumerate(self._below(self.folder, (os.path.realpath(self.folder),), once=once)):
            if number >= most:
                raise SourceError(f"{self.folder} and what is below it hold more than {most:,} files: name the folder itself")
            yield path

    def _below(self, folder: Path, above: tuple[str, ...], *, once: bool) -> Iterator[Path]:
        """`above` are the real folders that lead here: a link to one of them is no way on."""
        if len(above) > MOST_LEVELS:
            raise SourceError(f"{folder} lies more than {MOST_LEVELS} folders below {self.folder}")
        for path in sorted(folder.iterdir()):
            if not is_text(path.name):
                raise SourceError(f"{path}: its name is not UTF-8: rename it")
            linked, real = path.is_symlink(), os.path.realpath(path)
            if path.name.startswith(".") and (linked or path.is_dir()):
                continue
            if linked or not (path.is_file() or path.is_dir()):
                self.check(path)
            if path.is_file():
                yield path
            elif not linked or not (real in above or (once and real.startswith(self._allowed[0]))):
                yield from self._below(path, (*above, real), once=once)
