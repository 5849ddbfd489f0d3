"""Where a file leaves the encoding that a plan says: the line, and the byte counted in the file."""

from __future__ import annotations

import codecs

import pytest

from compressor.errors import SourceError
from compressor.tasks.encodings import decoded, encoding_of, encodings_in, misfit

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


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_what_a_mark_says_is_read_and_nothing_else(tmp_path, encoding):
    """A single-byte encoding takes every mark for letters, and all that follows."""
    content, path = "caf\u00e9\n".encode(encoding), tmp_path / "x.txt"
    path.write_bytes(content)
    name = encoding.removesuffix("-sig")
    for wanted in (name, ["cp1252", name], f"{name}-le" if name != "utf-8" else name):
        assert path.read_text(encoding_of(path, wanted)) == decoded(path, content, wanted) == "caf\u00e9\n"
    for read in (lambda: encoding_of(path, ["latin-1", "cp1252"]), lambda: decoded(path, content, "cp1252")):
        with pytest.raises(SourceError, match=f"begins with the mark of {name.upper()}.* say `encoding: {name}`"):
            read()


def test_two_bytes_a_character_without_a_mark_are_told(tmp_path):
    for name in ("utf-16-le", "utf-16-be"):
        (tmp_path / name).write_bytes("text,label\nwords,a\n".encode(name))
        with pytest.raises(SourceError, match=f"holds zero bytes.*`encoding: {name}`"):
            encoding_of(tmp_path / name, None)
        assert encoding_of(tmp_path / name, name) == name


def test_encodings_go_by_any_of_their_names(tmp_path):
    (tmp_path / "x").write_bytes("text".encode("utf-16"))
    for name in ("u16", "UTF_16", "utf16"):
        assert encoding_of(tmp_path / "x", name) == "utf-16"


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (("utf-8",), None),
        (("utf-8-sig",), None),
        (("utf-16",), "utf-16"),
        (("cp1252",), "cp1252"),
        (("utf-8", "cp1252", "utf-16"), ["utf-8", "utf-16", "cp1252"]),
        (("utf-16-le", "utf-8"), ["utf-8", "utf-16-le"]),
    ],
)
def test_what_a_plan_has_to_say_reads_every_file(tmp_path, written, said):
    text = "the caf\u00e9\n"
    for number, name in enumerate(written):
        (tmp_path / f"{number}.txt").write_bytes(text.encode(name))
    paths = sorted(tmp_path.iterdir())
    assert encodings_in(paths) == said
    assert [path.read_text(encoding_of(path, said)) for path in paths] == [text] * len(paths)
