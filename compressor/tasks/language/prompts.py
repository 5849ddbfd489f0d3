"""What a model is asked to go on with: the prompts of rows with what should follow, or the beginnings of texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from compressor.contracts import Feed
from compressor.errors import SourceError
from compressor.tasks.language.documents import Document
from compressor.tasks.language.scoring import fed, padded

if TYPE_CHECKING:
    from numpy.typing import NDArray

ANSWER = "answer"
"""Beside a prompt: the tokens that should follow, `[B, A]`, filled up by `NONE`. No graph has such an input, so sessions pass it over."""
NONE = -1


def prompt_feeds(documents: Sequence[Document], *, batch: int, count: int | None, room: int, answers: bool) -> list[Feed]:
    """Prompts of documents, in full batches: where there are too few rows the first ones come again.

    Args:
        documents: whole.
        batch: rows of a feed.
        count: feeds at most.
        room: tokens of a prompt at most: its last ones stay.
        answers: whether documents answer something: what stands before the answer is the prompt. Of others it is the first half.

    Raises:
        SourceError: no document has two tokens.
    """
    import numpy as np

    pairs = [_answered(each, room) if answers else _half(each, room) for each in documents if len(each.ids) > 1]
    if not pairs:
        raise SourceError("none of these texts has two tokens: there is nothing to go on with")
    order = np.resize(np.arange(len(pairs)), max(len(pairs) // batch, 1) * batch).reshape(-1, batch)[:count]
    return [_feed([pairs[number] for number in numbers], answers=answers) for numbers in order.tolist()]


def answers_in(feed: Feed, ends: Sequence[int]) -> list[tuple[int, ...] | None]:
    """What should follow each prompt, without the tokens that end a text; None where nothing is said."""
    import numpy as np

    if ANSWER not in feed:
        return [None] * len(next(iter(feed.values())))
    return [tuple(row[(row != NONE) & ~np.isin(row, list(ends))].tolist()) for row in feed[ANSWER]]


def _answered(document: Document, room: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """What stands before the first answer, and that answer."""
    import numpy as np

    first = max(1, int(document.counted.argmax()))
    after = np.flatnonzero(~document.counted[first:])
    end = first + int(after[0]) if len(after) else len(document.ids)
    return document.ids[max(0, first - room) : first], document.ids[first:end]


def _half(document: Document, room: int) -> tuple[NDArray[Any], NDArray[Any]]:
    middle = len(document.ids) // 2
    return document.ids[max(0, middle - room) : middle], document.ids[:0]


def _feed(pairs: Sequence[tuple[NDArray[Any], NDArray[Any]]], *, answers: bool) -> Feed:
    import numpy as np

    made = fed(*padded([prompt for prompt, _ in pairs], width=1))
    if not answers:
        return made
    width = max(len(answer) for _, answer in pairs)
    rows = [np.pad(answer.astype(np.int64), (0, width - len(answer)), constant_values=NONE) for _, answer in pairs]
    return {**made, ANSWER: np.stack(rows)}
