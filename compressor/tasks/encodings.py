"""What files of text are written in. Nothing is guessed: what is not UTF-8 is refused until the plan says what it is."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from pathlib import Path

from compressor.errors import SourceError

MARKS = {
    "utf-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE),
    "utf-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
}
"""How files of these begin, where they say what they are; the longer mark begins with the shorter one."""
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
    where = f"{path}, line {found[0]}" if found and found[0] else str(path)
    what = f"byte {found[1]} of the file is {found[2]:#04x}, " if found else f"{error}: "
    if marked := mark_of(path):
        return SourceError(f"{where}: {what}not {spelled}; it begins with the mark of {marked.upper()}: say `encoding: {marked}`")
    return SourceError(
        f"{where}: {what}not {spelled}; say what it is in, as `encoding: cp1252`, or where only some files are, "
        "`encoding: [utf-8, cp1252]`"
    )


def mark_of(path: Path) -> str | None:
    """The encoding of two or four bytes a character that a file's first bytes say; None where they say none."""
    with path.open("rb") as file:
        start = file.read(4)
    return next((name for name, marks in MARKS.items() if start.startswith(marks)), None)


def fits(path: Path, name: str) -> bool:
    """Whether all of a file is in an encoding."""
    try:
        with path.open(encoding=name, newline="") as file:
            while file.read(BLOCK):
                pass
    except UnicodeError:
        return False
    return True


def _first_fault(path: Path, name: str) -> tuple[int | None, int, int] | None:
    """Line from 1, place in the file from 0 and value of the first byte that an encoding does not take; None where none does by itself.

    Lines are counted by bytes, so there is none where a line ends otherwise than in ASCII: UTF-16, EBCDIC.
    """
    decoder, counted = codecs.getincrementaldecoder(name)(), "a\n".encode(name).removeprefix(codecs.BOM_UTF8) == b"a\n"
    line = end = 0
    try:
        with path.open("rb") as file:
            for raw in file:
                line, end = line + 1, end + len(raw)
                decoder.decode(raw)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:  # of the bytes since the last whole character, without the mark
        return (line if counted else None), end - len(error.object) + error.start, error.object[error.start]
    except UnicodeError:
        pass
    return None
