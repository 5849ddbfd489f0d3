"""Rows become documents: token ids, which of them count, and how many bytes those spell; and windows that a model takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from compressor.errors import SourceError
from compressor.tasks.language.chats import template_in
from compressor.tasks.tokenization import Tokenization, tokenization

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset
    from numpy.typing import NDArray

    from compressor.tasks.language.columns import Content

AT_ONCE = 1000
"""Texts that are encoded in one call."""
Piece: TypeAlias = tuple[str, bool]
"""Part of a document that is encoded by itself, as it is where a model is asked: a text, and whether its tokens count."""


@dataclass(frozen=True)
class Document:
    """A row as a model reads it."""

    ids: NDArray[np.int32]
    counted: NDArray[np.bool_]
    """Which tokens are to be told from those before them; never the first."""
    bytes: int
    """Of the text, in UTF-8, that the tokens which count spell."""

    def cut(self, start: int, end: int) -> Document:
        """The tokens in between; its first one does not count."""
        counted = self.counted[start:end].copy()
        counted[:1] = False
        total = max(1, int(self._sums[-1]))
        first, last = (round(self.bytes * int(self._sums[min(place, len(self.ids))]) / total) for place in (start + 1, end))
        return Document(self.ids[start:end], counted, last - first)

    @cached_property
    def _sums(self) -> NDArray[np.int64]:
        """How many tokens count before each place, and of all."""
        import numpy as np

        return np.concatenate(([0], np.cumsum(self.counted)))


@dataclass(frozen=True)
class Window:
    """Tokens of one document that a model is given at a time."""

    row: int
    """Number of the row that the document is."""
    document: Document


def documents_of(content: Content, rows: Dataset, files: Path, *, end: bool) -> Sequence[Document]:
    """The document of each row, whole.

    Args:
        content: which columns hold what.
        rows: of a split.
        files: what lies beside the model.
        end: whether the token that ends a text comes after it.

    Raises:
        SourceError: the tokenizer is one that only its library can run, or there is no template for chats.
    """
    template = template_in(files) if content.messages else None
    pieces = tuple(tuple(each) for each in content.pieces(rows, template))
    return _documents(tokenization(files), pieces, end and not template, template is None)


def windows_of(documents: Sequence[Document], length: int, *, whole: bool) -> list[Window]:
    """What a model of this length is given of each document, in order.

    A text that is longer becomes several windows, each beginning with the last token of the one before: every token but the first
    is told once. Where a document answers something (`whole`) it is one window: the beginning of what was asked goes first, then
    the end of the answer.
    """
    return [
        Window(row, document.cut(start, start + length))
        for row, document in enumerate(documents)
        for start in ([_answer_from(document, length)] if whole else range(0, max(1, len(document.ids) - 1), length - 1))
    ]


def _answer_from(document: Document, length: int) -> int:
    """Where a window begins that holds as much as it can of what counts, and before it of what was asked."""
    first = int(document.counted.argmax())
    return max(0, min(len(document.ids) - length, first - 1))


# ------------------------------------------------------------------ encoding


@lru_cache(maxsize=8)
def _documents(found: Tokenization, rows: tuple[tuple[Piece, ...], ...], end: bool, special: bool) -> list[Document]:
    encoder = Encoder(found)
    flat = [text for pieces in rows for text, _ in pieces]
    encoded = iter(encoder.encoded(flat))
    before, after = (encoder.before if special else []), ([encoder.end] if end and encoder.end is not None else [])
    return [_document([(next(encoded), counts) for _, counts in pieces], pieces, before, after) for pieces in rows]


def _document(encoded: Sequence[tuple[Any, bool]], pieces: Sequence[Piece], before: list[int], after: list[int]) -> Document:
    import numpy as np

    ids = [*before, *(token for each, _ in encoded for token in each.ids), *after]
    marks = [*([False] * len(before)), *(counts for each, counts in encoded for _ in each.ids), *([encoded[-1][1]] * len(after))]
    counted = np.asarray(marks, dtype=np.bool_)
    size = sum(len(text.encode()) for text, counts in pieces if counts)
    if not before and encoded[0][1] and len(encoded[0][0].ids):  # nothing stands before the first token, so it is not told
        first, last = encoded[0][0].offsets[0]
        size -= len(pieces[0][0][first:last].encode())
    counted[:1] = False
    return Document(np.asarray(ids, dtype=np.int32), counted, size)


class Encoder:
    """A tokenizer on parts of a text: special tokens are put where a whole text has them, and nowhere else."""

    def __init__(self, found: Tokenization) -> None:
        from tokenizers import Tokenizer

        if not found.source:
            raise SourceError(
                f"the tokenizer ({type(found.library).__name__}) is one that only its library can run: save a fast one beside the "
                "model, which writes tokenizer.json"
            )
        self._tokenizer = Tokenizer.from_str(found.source)
        self._tokenizer.encode_special_tokens = found.settings["split_special_tokens"]
        whole = self._tokenizer.encode("a")
        text = [at for at, special in enumerate(whole.special_tokens_mask) if not special]
        self.before: list[int] = list(whole.ids[: text[0]] if text else whole.ids)
        """Tokens that the tokenizer begins every text with."""
        self.end: int | None = self._tokenizer.token_to_id(found.end) if found.end else None
        """The token that ends a text."""

    def encoded(self, texts: Sequence[str]) -> list[Any]:
        """Encodings without special tokens but those that are spelled in the texts."""
        return [
            each
            for at in range(0, len(texts), AT_ONCE)
            for each in self._tokenizer.encode_batch(list(texts[at : at + AT_ONCE]), add_special_tokens=False)
        ]

    def spelled(self, ids: Sequence[int]) -> str:
        """The text of tokens, special ones left out."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    @property
    def size(self) -> int:
        """How many tokens there are."""
        return int(self._tokenizer.get_vocab_size())
