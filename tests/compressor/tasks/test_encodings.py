"""Where a file leaves the encoding that a plan says: the line, and the byte counted in the file."""

from __future__ import annotations

import codecs

import pytest

from compressor.tasks.encodings import decoded, misfit

LONE = b"\x00\xdc"
"""Half of a pair, which UTF-16 takes nowhere by itself."""
WIDE = codecs.BOM_UTF16_LE + "a\u0a0d\u010a\nb\n".encode("utf-16-le")
"""Characters whose bytes look like line ends."""
CASES = {
    "plain": (b"a\nb\xe9c\n", "utf-8", ", line 2: byte 3 of the file is 0xe9, not UTF-8"),
    "mark": (codecs.BOM_UTF8 + b"ab\xe9c\n", "utf-8", ", line 1: byte 5 of the file is 0xe9, not UTF-8"),
    "mark, later line": (codecs.BOM_UTF8 + b"ab\n\xe9c\n", "utf-8", ", line 2: byte 6 of the file is 0xe9, not UTF-8"),
    "cut": (b"a\nb\xe2\x82", "utf-8", ", line 2: byte 3 of the file is 0xe2, not UTF-8"),
    "wide": (WIDE + LONE + b"c\0", "utf-16", f": byte {len(WIDE)} of the file is 0x00, not UTF-16"),
    "wide, cut": (WIDE + b"c", "utf-16", f": byte {len(WIDE)} of the file is 0x63, not UTF-16"),
    "two bytes a character": (
        "\u65e5\n".encode("shift_jis") + b"\x85\n",
        "shift_jis",
        ", line 2: byte 3 of the file is 0x85, not",
    ),
}


@pytest.mark.parametrize(("content", "encoding", "told"), CASES.values(), ids=CASES.keys())
def test_first_byte_that_does_not_fit_is_told_by_its_place_in_the_file(tmp_path, content, encoding, told):
    path = tmp_path / "x.txt"
    path.write_bytes(content)
    with pytest.raises(UnicodeError) as found:
        content.decode(encoding)
    assert str(misfit(path, encoding, found.value)).startswith(f"{path}{told}")


def test_characters_of_two_bytes_are_not_split_at_what_looks_like_the_end_of_a_line(tmp_path):
    path = tmp_path / "x.txt"
    path.write_bytes(WIDE)
    assert decoded(path, WIDE, "utf-16") == "a\u0a0d\u010a\nb\n"
    assert f"{path}: the file" in str(misfit(path, "utf-16", UnicodeError("the file")))
