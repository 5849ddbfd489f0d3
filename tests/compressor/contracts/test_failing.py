"""What a library raises in a forward pass or a decoder is told with the number of the row."""

from __future__ import annotations

import numpy as np
import pytest

from compressor.contracts.failing import of_split, placed, rows_told, told_by_row
from compressor.errors import RowFailed, SourceError
from compressor.tasks.batches import Batches, Feeds


def picky(feed):
    """Fails where a row holds 7."""
    if (feed["x"] == 7).any():
        raise IndexError("7 is out of range")
    return {"logits": feed["x"]}


def test_row_is_found_within_its_feed():
    feed = {"x": np.array([[1], [7], [3]])}
    with pytest.raises(RowFailed, match=r"^row 40 of test: IndexError: 7 is out of range$") as failed, of_split("test"):
        told_by_row(picky, feed, (30, 40, 50))
    assert isinstance(failed.value.__cause__, IndexError)


def test_all_rows_are_named_where_none_fails_alone():
    def crowded(feed):
        if len(feed["x"]) > 1:
            raise ValueError("too many")
        return feed

    with pytest.raises(RowFailed, match=r"^rows 30, 40: ValueError: too many$"):
        told_by_row(crowded, {"x": np.array([[1], [2]])}, (30, 40))


def test_own_errors_stay_as_they_are():
    def refuse(feed):
        raise SourceError("no")

    with pytest.raises(SourceError, match=r"^no$"):
        told_by_row(refuse, {"x": np.array([[1]])}, (0,))


def test_row_that_no_input_can_be_made_of_is_named():
    def make(rows):
        if 4 in rows:
            raise OSError("truncated")
        return {"x": np.zeros((len(rows), 1))}

    batches = Batches(Feeds(make, [(0, 1), (3, 4, 5)]), [0] * 6)
    with pytest.raises(RowFailed, match=r"^row 4: OSError: truncated$"):
        list(batches)


def test_step_is_told_with_its_rows():
    with (
        pytest.raises(RowFailed, match=r"^rows 3, 9 of train \(rows.csv, line 5; rows.csv, line 11\): step: IndexError: x$"),
        placed(lambda split, row: f"rows.csv, line {row + 2}"),
        rows_told((3, 9), "step"),
    ):
        raise IndexError("x")
    with pytest.raises(RowFailed, match=r"^rows 3, 9 of train: step 2 of 5: IndexError: x$"), rows_told((3, 9), "step 2 of 5"):
        raise IndexError("x")
