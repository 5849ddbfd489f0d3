"""What a distillation says of how alike student and teacher answer, by what the task's outputs are."""

from __future__ import annotations

import numpy as np
import pytest

from compressor.tasks.audio_features import AudioFeatures
from compressor.tasks.text_classification import TextClassification
from compressor.tasks.text_regression import TextRegression
from passes.distillation.teachers import agreement

CLASSES, LABELS = TextClassification(), TextClassification(multi_label=True)


def array(*rows):
    return np.asarray(rows, dtype=np.float32)


def test_numbers_agree_as_far_as_they_go_together():
    true = array([1], [2], [3], [4])
    assert agreement(TextRegression(), 3 * true - 7, true).value == pytest.approx(1)
    found = agreement(TextRegression(), array([1], [-1], [-1], [1]), true)
    assert found.value == pytest.approx(0, abs=1e-6)
    assert found.told.format(found.value, rows=4, before=0.5) == (
        "tell numbers with a correlation of 0.000 on 4 validation rows, 0.500 before"
    )


def test_classes_agree_where_they_are_the_same():
    assert agreement(CLASSES, array([1, 0], [0, 1]), array([2, 1], [3, 2])).value == 0.5


def test_sets_of_labels_agree_where_all_of_them_are_the_same():
    mine, theirs = array([2, 1], [2, -1], [-1, -1]), array([2, -1], [1, -2], [-1, -2])
    assert agreement(LABELS, mine, theirs).value == pytest.approx(2 / 3)


def test_features_agree_by_their_direction():
    found = agreement(AudioFeatures(), array([1, 0], [0, 2]), array([2, 0], [1, 0]))
    assert found.value == pytest.approx(0.5)
    assert "mean cosine" in found.told
