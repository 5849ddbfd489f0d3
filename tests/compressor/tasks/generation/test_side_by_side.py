"""Strips of pictures: of the same rows, bounded, and read back as what was drawn."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from compressor.contracts import Evaluation
from compressor.contracts.notes import MOST_PICTURES, Images, Remark
from compressor.contracts.records import Metric, Scores
from compressor.tasks.generation.side_by_side import GAP, MOST_DRAWN, MOST_MODELS, first_of_classes, strip, strips

SCORES = Scores(split="test", metric="x", metrics=(Metric(name="x", value=0.0, n=4),))


def read(png):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(png))))


def evaluation(pictures, labels=(2, 0, 2, 1), names=("a", "b", "c")):
    return Evaluation(SCORES, {"pictures": pictures}, truth={"labels": np.array(labels), "names": np.array(names)})


@pytest.mark.parametrize(("gives", "channels"), [("pictures", 1), ("pictures", 3), ("spectra", 1)])
def test_a_strip_holds_the_pictures_from_left_to_right_and_low_frequencies_at_the_bottom(gives, channels):
    pictures = np.random.default_rng(0).uniform(-1.2, 1.2, (4, channels, 6, 5)).astype(np.float32)
    found = read(strip(pictures, gives)).reshape(6, -1, channels)
    assert found.shape == (6, 4 * 5 + 3 * GAP, channels)
    for place, picture in enumerate(pictures):
        cell = found[:, place * (5 + GAP) : place * (5 + GAP) + 5].transpose(2, 0, 1)
        light = ((picture.clip(-1, 1) + 1) * 127.5).round()
        np.testing.assert_array_equal(cell, light[:, ::-1] if gives == "spectra" else light)


def test_rows_are_the_first_of_each_class_in_every_strip():
    pictures = np.linspace(-1, 1, 4)[:, None, None, None] * np.ones((4, 1, 3, 3), np.float32)
    (images,) = strips({"source": evaluation(pictures), "student": evaluation(-pictures)}, "pictures", "validation")
    assert (images.columns, list(images.strips)) == (("a", "b", "c"), ["source", "student"])
    at = [place * (3 + GAP) for place in range(3)]
    np.testing.assert_array_equal(read(images.strips["source"])[0, at], [85, 255, 0])  # rows 1, 3, 0
    np.testing.assert_array_equal(read(images.strips["student"])[0, at], [170, 0, 255])


def test_reports_stay_small_whatever_is_drawn():
    large = np.random.default_rng(0).uniform(-1, 1, (40, 3, 300, 200)).astype(np.float32)
    labels = np.arange(40) % 20
    assert first_of_classes(labels) == list(range(MOST_DRAWN))
    many = {f"step-{number}": evaluation(large, labels, ()) for number in range(MOST_MODELS + 2)}
    images, remark = strips(many, "pictures", "test")
    assert isinstance(images, Images)
    assert isinstance(remark, Remark)
    assert "Of 26 models the first 24" in remark.text
    assert images.columns == tuple(map(str, range(MOST_DRAWN)))
    assert len(images.strips) == MOST_MODELS
    assert max(map(len, images.strips.values())) <= MOST_PICTURES
    assert read(images.strips["step-0"]).shape[0] == 64


def test_what_is_no_number_is_drawn_grey_and_nothing_is_made_of_nothing():
    broken = np.full((1, 1, 2, 2), np.nan, np.float32)
    assert set(read(strip(broken, "pictures")).ravel()) == {128}
    assert list(strips({}, "pictures", "test")) == []
