"""What is said of two answers that are hard to set side by side."""

from __future__ import annotations

import numpy as np
import pytest

from compressor.tasks.inputs.sampling import shown
from demos.side.panel import given_of
from demos.side.process import Answer
from demos.side.subject import Subject
from demos.side.wording import agreement
from demos.side.worker import NOT_FINITE, pictured


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


def drawing(light, edge=4, channels=1):
    return Answer(**pictured(shown(np.full((channels, edge, edge), light, dtype=np.float32), "pictures")))


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (drawing(0.0), drawing(0.0), "Agreement.</b> Pixels are 0.0 of 255 levels apart"),
        (drawing(-1.0), drawing(-1 + 2 * 3 / 255), "Agreement.</b> Pixels are 3.0 of 255 levels apart"),
        (
            drawing(-1.0, channels=3),
            drawing(-1 + 2 * 20 / 255, channels=3),
            "Difference.</b> Pixels are 20.0 of 255 levels apart",
        ),
        (drawing(-1.0), drawing(7.0), "Difference.</b> Pixels are 255.0 of 255 levels apart"),
        (drawing(0.0), drawing(0.0, edge=5), "Difference.</b> They are pictures of different sizes."),
        (drawing(0.0), Answer(NOT_FINITE), "a model gives no answer"),
    ],
)
def test_pictures_are_held_against_each_other_by_their_pixels(before, after, said):
    assert said in agreement(("Before", "Compressed"), (before, after))


@pytest.mark.parametrize(
    ("values", "given"),
    [
        ([1, 5], {"label": 1, "seed": 5}),
        ([1, 5.0], {"label": 1, "seed": 5}),
        *(
            ([label, seed], None)
            for label, seed in ((2, 0), (-1, 0), (0, -1), (0, 2**31), (0, 0.5), (None, 0), (0, "7"), ([0], {}))
        ),
    ],
)
def test_a_class_and_a_seed_are_taken_as_far_as_they_are_some(values, given):
    assert given_of(Subject("drawn", "seed", (), (), classes=("red", "blue")), values) == given
