"""What files of text are written in. Nothing is guessed: what is not UTF-8 is refused until the plan says what it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from compressor.errors import SourceError

BLOCK = 2**20
"""Characters that are tried at a time."""


def names_of(wanted: str | Sequence[str] | None) -> tuple[str, ...]:
    """Encodings that a plan names, UTF-8 where it names none: with or without the mark that some programs begin a file with."""
    given = (wanted,) if isinstance(wanted, str) else wanted or ("utf-8",)
    return tuple("utf-8-sig" if name.lower().replace("_", "-") in ("utf-8", "utf8") else name for name in given)


def encoding_of(path: Path, wanted: str | Sequence[str] | None) -> str:
    """The first of a plan's encodings that fits all of a file; the last one where none does."""
    *first, last = names_of(wanted)
    return next((name for name in first if fits(path, name)), last)


def decoded(path: Path, content: bytes, wanted: str | Sequence[str] | None) -> str:
    """The text in what was read of a file, by the first encoding that fits.

    Raises:
        SourceError: none does.
    """
    names = names_of(wanted)
    for name in names:
        try:
            return content.decode(name)
        except UnicodeError as error:
            if name == names[-1]:
                raise misfit(path, wanted, error) from error
    raise AssertionError(names)


def misfit(path: Path, wanted: str | Sequence[str] | None, error: UnicodeError) -> SourceError:
    """The error of a file that is in another encoding than the plan says: the first byte that does not fit, and the option."""
    names = names_of(wanted)
    spelled = " or ".join(name.upper().removesuffix("-SIG") for name in names)
    found = _first_fault(path, names[-1])
    where, what = (
        (f"{path}, line {found[0]}", f"byte {found[1]} of the file is {found[2]:#04x}, ") if found else (str(path), f"{error}: ")
    )
    return SourceError(
        f"{where}: {what}not {spelled}; say what it is in, as `encoding: cp1252`, or where only some files are, "
        "`encoding: [utf-8, cp1252]`"
    )


def fits(path: Path, name: str) -> bool:
    """Whether all of a file is in an encoding."""
    try:
        with path.open(encoding=name, newline="") as file:
            while file.read(BLOCK):
                pass
    except UnicodeError:
        return False
    return True


def _first_fault(path: Path, name: str) -> tuple[int, int, int] | None:
    """Line from 1, place from 0 and value of the first byte that an encoding does not take; None where lines by themselves fit."""
    place = 0
    with path.open("rb") as file:
        for line, raw in enumerate(file, start=1):
            try:
                raw.decode(name)
            except UnicodeDecodeError as error:
                return line, place + error.start, raw[error.start]
            except UnicodeError:
                return None
            place += len(raw)
    return None
