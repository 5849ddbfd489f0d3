"""What files of text are written in. Nothing is guessed: what is not UTF-8 is refused until the plan says what it is."""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from pathlib import Path

from compressor.errors import SourceError

BLOCK = 2**20
"""Characters that are tried at a time."""
HEAD = 1024
"""Bytes by which a file is told to be of characters of several bytes each."""
MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before that of UTF-16, which it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""How programs mark a file with what it is in; each is read without its mark by the encoding of that name."""
FAMILY = re.compile(r"utf-(8|16|32)")
WIDE = ("utf-16", "utf-32", "utf-16-le", "utf-16-be")
"""Encodings of several bytes a character, those that need a mark first."""


def names_of(wanted: str | Sequence[str] | None) -> tuple[str, ...]:
    """Encodings that a plan names, UTF-8 where it names none: with or without the mark that some programs begin a file with."""
    given = (wanted,) if isinstance(wanted, str) else wanted or ("utf-8",)
    return tuple("utf-8-sig" if name.lower().replace("_", "-") in ("utf-8", "utf8") else name for name in given)


def mark_of(head: bytes) -> str | None:
    """The encoding that the first bytes of a file are the mark of; None where they are none."""
    return next((name for mark, name in MARKS.items() if head.startswith(mark)), None)


def is_wide(name: str) -> bool:
    """Whether texts in an encoding hold zero bytes."""
    return _family(name) in ("16", "32")


def _family(name: str) -> str | None:
    """8, 16 or 32 of an encoding of Unicode, by whichever of its names."""
    found = FAMILY.match(codecs.lookup(name).name)
    return found[1] if found else None


def encoding_of(path: Path, wanted: str | Sequence[str] | None) -> str:
    """What a file is read in: what its mark says, else the first of a plan's encodings that fits all of it, or the last one.

    Raises:
        SourceError: its mark says another one than the plan, or half of its bytes are zero, as of texts of two bytes a character.
    """
    names = names_of(wanted)
    with path.open("rb") as file:
        head = file.read(HEAD)
    if marked := _marked(path, head, names):
        return marked
    if (wide := _by_zeros(head)) and not any(map(is_wide, names)):
        raise SourceError(f"{path} holds zero bytes, as text in UTF-16 does: say `encoding: {wide}` where it is that")
    *first, last = names
    return next((name for name in first if fits(path, name)), last)


def _marked(path: Path, head: bytes, names: Sequence[str]) -> str | None:
    """The encoding of a file's mark, which no other one takes for what it is: cp1252 reads three letters there."""
    mark = mark_of(head)
    if mark is None or _family(mark) in map(_family, names):
        return mark
    own, *said = (name.removesuffix("-sig") for name in (mark, *names))
    raise SourceError(
        f"{path} begins with the mark of {own.upper()}, and is to be read in {' or '.join(said)}: say `encoding: {own}`, or where "
        f"only some files are in it, `encoding: [{own}, {', '.join(said)}]`"
    )


def decoded(path: Path, content: bytes, wanted: str | Sequence[str] | None) -> str:
    """The text in what was read of a file, by its mark, else by the first encoding that fits.

    Raises:
        SourceError: none does, or the mark says another one.
    """
    names = names_of(wanted)
    names = (marked,) if (marked := _marked(path, content, names)) else names
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
    return SourceError(
        f"{where}: {what}not {spelled}; say what it is in, as `encoding: cp1252`, or where only some files are, "
        "`encoding: [utf-8, cp1252]`"
    )


def fits(path: Path, name: str) -> bool:
    """Whether all of a file is in an encoding; in UTF-16 and UTF-32 without their ends only where a mark says which these are."""
    with path.open("rb") as file:
        mark = mark_of(file.read(4))
    if (mark and _family(mark) != _family(name)) or (not mark and is_wide(name) and not name.lower().endswith(("le", "be"))):
        return False
    try:
        with path.open(encoding=name, newline="") as file:
            while file.read(BLOCK):
                pass
    except UnicodeError:
        return False
    return True


def encodings_in(paths: Sequence[Path]) -> str | list[str] | None:
    """What `encoding:` has to say for all of these files to be read, the surest first; None where that is UTF-8 alone."""
    found = dict.fromkeys(("utf-8", *WIDE), False)
    others = []
    for path in paths:
        with path.open("rb") as file:
            head = file.read(HEAD)
        name = (mark_of(head) or _by_zeros(head) or ("utf-8" if fits(path, "utf-8") else "")).removesuffix("-sig")
        found |= {name: True} if name else {}
        others += [] if name else [path]
    single = next(name for name in ("cp1252", "latin-1") if all(fits(path, name) for path in others))  # the latter fits any
    names = [*(name for name, there in found.items() if there), *([single] if others else [])]
    return None if names in ([], ["utf-8"]) else names[0] if len(names) == 1 else names


def _by_zeros(head: bytes) -> str | None:
    """The encoding of two bytes a character that a text without a mark is in: of most characters in use one byte is zero."""
    if head.count(0) <= len(head) // 4:
        return None
    return "utf-16-le" if head[1::2].count(0) >= head[::2].count(0) else "utf-16-be"


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
