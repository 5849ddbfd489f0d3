"""Whether the file of a sound is all there, by its container: decoders play what they find of a file that was cut, and say nothing.

Sources: RIFF and RF64 (EBU Tech 3306), AIFF, Ogg pages (RFC 3533), frames of MPEG audio (ISO/IEC 11172-3) and the count that LAME's Xing or Info
header holds.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from typing import Literal, NamedTuple

UNKNOWN_LENGTH = (0, 2**32 - 1)
"""What programs write into a wave file's head that do not know yet how long it gets."""
CONTINUED, LAST_PAGE = 26, 4
"""Of an Ogg page: where its count of segments stands, and the flag of a stream's last one."""
REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
BITRATES = {
    (1, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""Kilobits a second by version and layer of MPEG audio; layer 3 of version 2 has those of layer 2."""
RATES = (44100, 48000, 32000)
TAGS = re.compile(rb"TAG|APETAGEX|LYRICSBEGIN|ID3|\0*\Z")
"""What may stand behind the last frame."""
HEAD_BYTES = 64
"""Of the first frame, within which the count of frames stands."""


def what_is_missing(content: bytes) -> str | None:
    """How a sound is seen to be cut or damaged; None where it is whole, or its container is none that is known here."""
    if content[:4] in (b"RIFF", b"RF64") and content[8:12] == b"WAVE":
        return _bytes_missing(content, b"data", "little")
    if content[:4] == b"FORM" and content[8:12] in (b"AIFF", b"AIFC"):
        return _bytes_missing(content, b"SSND", "big")
    if content[:4] == b"OggS":
        return _of_pages(content)
    start = _behind_tag(content)
    return _of_frames(content, start) if _frame(content, start) else None


# ------------------------------------------------------------------ RIFF and its kin


def _bytes_missing(content: bytes, samples: bytes, order: Literal["little", "big"]) -> str | None:
    """What the chunk of samples promises and is not there."""
    at = 12
    while at + 8 <= len(content):
        name, size = content[at : at + 4], int.from_bytes(content[at + 4 : at + 8], order)
        if name == samples:
            if content[:4] == b"RF64":  # the length stands in the first chunk, in 8 bytes
                size = int.from_bytes(content[28:36], order)
            lacking = 0 if size in UNKNOWN_LENGTH else at + 8 + size - len(content)
            return f"ends early: {lacking} bytes are missing" if lacking > 0 else None
        at += 8 + size + size % 2
    return None


# ------------------------------------------------------------------ Ogg


def _of_pages(content: bytes) -> str | None:
    at, ended = 0, dict[bytes, bool]()
    while content[at : at + 4] == b"OggS":
        body = at + CONTINUED + 1 + (content[at + CONTINUED] if at + CONTINUED < len(content) else 0)
        end = body + sum(content[at + CONTINUED + 1 : body])
        if end > len(content):
            return f"ends early: its last page lacks {end - len(content)} bytes"
        if _page_sum(content[at:end]) != int.from_bytes(content[at + 22 : at + 26], "little"):
            return f"is damaged: the page at byte {at} has another checksum"
        ended[content[at + 14 : at + 18]] = bool(content[at + 5] & LAST_PAGE)
        at = end
    if all(ended.values()):
        return None
    return "ends early: its last page is not there" if at == len(content) else f"is damaged: no page begins at byte {at}"


def _page_sum(page: bytes) -> int:
    """The checksum of a page, its own field taken as 0: zlib's polynomial, of the bits the other way round and without its ends."""
    plain = (page[:22] + bytes(4) + page[26:]).translate(REVERSED)
    return int(f"{zlib.crc32(plain, 0xFFFFFFFF) ^ 0xFFFFFFFF:032b}"[::-1], 2)


# ------------------------------------------------------------------ MPEG audio


class _Frame(NamedTuple):
    """Of a frame of MPEG audio: what all frames of a file share, and its length in bytes."""

    kind: tuple[int, int, int]
    size: int


def _of_frames(content: bytes, start: int) -> str | None:
    count, at, declared = 0, start, _declared(content[start : start + HEAD_BYTES])
    for at, size in _frames(content, start):
        if at + size > len(content):
            return f"ends early: its last frame lacks {at + size - len(content)} bytes"
        count += size > 0
    if declared and count < declared:
        return f"ends early or is damaged: {count} of {declared} frames are there"
    # the first frame, which says how many there are, counts itself or does not
    return None if count > declared > 0 or TAGS.match(content, at) else f"is damaged: no frame begins at byte {at}"


def _frames(content: bytes, at: int) -> Iterator[tuple[int, int]]:
    """Begin and length of each frame, and at last where none begins, with 0."""
    first = _frame(content, at)
    while (found := _frame(content, at)) and first and found.kind == first.kind:
        yield at, found.size
        at += found.size
    yield at, 0


def _frame(content: bytes, at: int) -> _Frame | None:
    """The frame that begins at a byte; None where none does, or its length is not said."""
    head = content[at : at + 4]
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version, layer = {3: 1, 2: 2, 0: 4}.get(head[1] >> 3 & 3, 0), 4 - (head[1] >> 1 & 3)
    bits, rate, padding = head[2] >> 4, head[2] >> 2 & 3, head[2] >> 1 & 1
    if not version or layer == 4 or bits in (0, 15) or rate == 3:
        return None
    kilobits = BITRATES[min(version, 2), layer if version == 1 or layer == 1 else 2][bits - 1]
    per_second = RATES[rate] // version
    if layer == 1:
        return _Frame((version, layer, rate), (12000 * kilobits // per_second + padding) * 4)
    return _Frame((version, layer, rate), (72000 if layer == 3 and version > 1 else 144000) * kilobits // per_second + padding)


def _declared(head: bytes) -> int:
    """How many frames the first one says that there are; 0 where it does not."""
    if found := re.search(rb"(?:Xing|Info)(....)(....)", head, re.DOTALL):
        return int.from_bytes(found[2], "big") if found[1][3] & 1 else 0
    return 0


def _behind_tag(content: bytes) -> int:
    """Where a tag ends that a file may begin with: its length stands in 4 times 7 bits."""
    if content[:3] != b"ID3" or len(content) < 10:
        return 0
    size = sum((byte & 127) << shift for byte, shift in zip(content[6:10], (21, 14, 7, 0), strict=True))
    return 10 + size + (10 if content[5] & 16 else 0)
