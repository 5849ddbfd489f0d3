"""Text of others, made safe to show: labels, column names, rows, a stranger's report. One place for terminal, page and Markdown."""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]"
)
"""What a terminal acts upon (ESC and other controls), what turns the direction of the text after it, and what XML cannot hold."""
ADDRESS = re.compile(r" ?<_io\.BytesIO[^>]*>")
"""What a library calls bytes that it was given."""
MOST_TOLD = 300
"""Characters of an error."""
MARKDOWN = re.compile(r"([\\`*_\[\]<>|#])")

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)


def printable(text: str) -> str:
    """Text in which nothing acts: each such character is written as its escape, `\\x1b`; line ends and tabs stay."""
    return UNSAFE.sub(lambda found: ascii(found[0])[1:-1], text.replace("\r\n", "\n"))


def printable_json(text: str) -> str:
    """The same of a text of JSON, which stays JSON of the same values."""
    return UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def is_text(text: str) -> bool:
    """Whether UTF-8 can write it: names of files and arguments that are in another encoding hold halves of characters."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def one_line(text: str) -> str:
    """The same in one line: a line end is written as `\\n`."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def told(error: Exception, *, kind: bool = False) -> str:
    """An error of a library in one line of bounded length, with its kind where that is wanted or the text alone does not say it."""
    text = textwrap.shorten(ADDRESS.sub("", str(error)), width=MOST_TOLD, placeholder=" ...")
    plain = isinstance(error, OSError | ValueError | RuntimeError | SyntaxError)
    return text if plain and text and not kind else f"{type(error).__name__}: {text}".removesuffix(": ")


def alike(one: str, other: str) -> str:
    """Why two different texts look the same, in words; empty where they do not, or are the same."""
    if one == other or plain(one) != plain(other):
        return ""
    if " ".join(one.casefold().split()) == " ".join(other.casefold().split()):
        return f"{one!r} and {other!r} differ by blanks or letter case alone"
    if NUMBER.fullmatch(one.strip()):
        return f"{one!r} and {other!r} are one number"
    return f"{one!a} and {other!a} look the same, and are spelled in different code points"


def plain(text: str) -> str:
    """Without case, with one blank where there are any, one form of each letter and number, and no characters that nobody sees."""
    if NUMBER.fullmatch(text.strip()):
        try:
            number = Decimal(text.strip()).as_tuple()  # computing with it would round it, or refuse it
        except ArithmeticError:  # an exponent of 19 digits
            return text.strip().casefold()
        digits = "".join(map(str, number.digits)).lstrip("0")
        exponent = int(number.exponent) + len(digits) - len(digits.rstrip("0"))
        return f"{'-' if number.sign and digits else ''}{digits.rstrip('0')}e{exponent}" if digits else "0"
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join("".join(sign for sign in folded if unicodedata.category(sign) != "Cf").split())


def markdown(text: object) -> str:
    """One line without power over a Markdown document: no HTML, no table cells, no emphasis."""
    return MARKDOWN.sub(r"\\\1", " ".join(printable(str(text)).split()))


def shown(value: Any) -> Any:
    """A value of mappings, lists and tuples with every text in it printable, keys too."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {shown(key): shown(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(shown, value))
    return value
