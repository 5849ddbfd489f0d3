"""What a library raises while rows go through a model, told with the number of the row; and while a model is lowered, built or opened."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from compressor.contracts.graph import Feed
from compressor.errors import CompressorError, OutOfMemory, RowFailed, UnsupportedModel
from compressor.foreign import told

OUT_OF_MEMORY = re.compile("out of memory|can't allocate memory|alloc_cpu")
"""In what torch says where a processor or GPU has no memory left."""


@contextmanager
def of_split(split: str) -> Iterator[None]:
    """Add the split to what fails on a row."""
    try:
        yield
    except RowFailed as failed:
        raise RowFailed(failed.rows, failed.why, of=failed.of or split) from failed.__cause__


@contextmanager
def placed(place: Callable[[str, int], str]) -> Iterator[None]:
    """Add to what fails on rows of a split where they stand in the user's files: `Data.place`."""
    try:
        yield
    except RowFailed as failed:
        if not (failed.of and failed.rows):
            raise
        places = [place(failed.of, row) for row in failed.rows]
        raise RowFailed(failed.rows, failed.why, of=failed.of, places=places) from failed.__cause__


@contextmanager
def rows_told(rows: Iterable[Any], where: str, *, of: str = "train") -> Iterator[None]:
    """Tell what a library raises while it works on these rows of a split.

    Raises:
        RowFailed: something was raised that is none of this program's errors; where no rows are known, it is raised as it is.
    """
    try:
        yield
    except CompressorError:
        raise
    except Exception as error:  # a forward pass can raise anything
        if not (named := _numbers(rows)):
            raise
        raise RowFailed(named, f"{where}: {told(error, kind=True)}", of=of) from error


@contextmanager
def library_told(what: str) -> Iterator[None]:
    """Tell what an exporter or a runtime raises on a model; `what` it was to do begins the sentence.

    Raises:
        OutOfMemory: memory ran out.
        UnsupportedModel: something else was raised that is none of this program's errors, nor a matter of files.
    """
    try:
        yield
    except (CompressorError, OSError):
        raise
    except Exception as error:  # an exporter can raise anything
        first = error
        while isinstance(first.__cause__, Exception):  # exporters wrap what was raised in advice
            first = first.__cause__
        if isinstance(first, CompressorError | OSError):
            raise first from error
        if isinstance(first, MemoryError) or OUT_OF_MEMORY.search(str(first)):
            raise OutOfMemory(f"{what}: out of memory") from error
        raise UnsupportedModel(f"{what}: {told(first, kind=True)}") from error


def told_by_row(predict: Callable[[Feed], Feed], feed: Feed, rows: Sequence[int]) -> Feed:
    """What a model answers to a feed of these rows.

    Raises:
        RowFailed: a library raised something; the row that it raises on by itself, or all rows of the feed where none does.
    """
    try:
        return predict(feed)
    except CompressorError:
        raise
    except Exception as error:  # a forward pass can raise anything
        at = next((at for at in range(len(rows)) if len(rows) > 1 and _fails(predict, feed, at)), None)
        raise RowFailed(rows if at is None else (rows[at],), told(error, kind=True)) from error


def made_by_row(make: Callable[[Sequence[int]], Feed], rows: Sequence[int]) -> Feed:
    """Inputs of these rows.

    Raises:
        RowFailed: a library raised something; the row that cannot be made by itself, or all rows where each can.
    """
    try:
        return make(rows)
    except CompressorError:
        raise
    except Exception as error:  # a decoder can raise anything
        if len(rows) > 1:
            for row in rows:
                made_by_row(make, (row,))
        raise RowFailed(rows, told(error, kind=True)) from error


def _numbers(rows: Iterable[Any]) -> list[int]:
    """Numbers of rows, also where several are put into one and what is left is filled up with -1."""
    found = [int(number) for row in rows for number in (row.flatten() if hasattr(row, "flatten") else (row,))]
    return [number for number in dict.fromkeys(found) if number >= 0]


def _fails(predict: Callable[[Feed], Feed], feed: Feed, at: int) -> bool:
    try:
        count = len(next(iter(feed.values())))  # what is not of the rows (places whose logits are wanted) stays as it is
        predict({name: array[at : at + 1] if len(array) == count else array for name, array in feed.items()})
    except Exception:  # whatever it was in the batch
        return True
    return False
