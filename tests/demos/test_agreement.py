"""What is said of two answers that are hard to set side by side."""

from __future__ import annotations

import pytest

from demos.side.process import Answer
from demos.side.wording import agreement
from demos.side.worker import NOT_FINITE


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        (Answer("", vector=(1.0, 2.0)), Answer("", vector=(1.0,)), "feature vectors of different lengths"),
        (Answer("", vector=(1.0, 2.0)), Answer(NOT_FINITE), "a model gives no answer"),
        (Answer(NOT_FINITE), Answer(NOT_FINITE), "a model gives no answer"),
        (Answer("0.5", number=0.5), Answer(NOT_FINITE), "a model gives no answer"),
    ],
)
def test_agreement_is_not_claimed_where_there_is_nothing_to_compare(before, after, why):
    said = agreement(("Before", "Compressed"), (before, after))
    assert why in said
    assert "Agreement" not in said


def test_no_label_is_said_as_nothing():
    assert "Before says nothing, Compressed says red." in agreement(("Before", "Compressed"), (Answer(""), Answer("red")))
