from dataclasses import replace

import numpy as np
import pytest

from compressor.store import Store
from compressor.tasks.generated import classifier
from compressor.tasks.generated.classifier import Rows, Training, classifier_of

CLASSES = 3
QUICK = Training(least_steps=40, passes=1, batch=32)


def rows(seed, n=96, edge=12, channels=1):
    """Noise with a bright stripe, whose place is the class."""
    draw = np.random.default_rng(seed)
    labels = np.arange(n) % CLASSES
    pictures = draw.integers(0, 120, (n, channels, edge, edge), dtype=np.uint8)
    for at, label in enumerate(labels):
        pictures[at, :, 1 + 4 * label : 3 + 4 * label] = 230
    return Rows(pictures, labels)


def alike(seed):
    return Rows(rows(seed).pictures, np.zeros(96, int))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def trained(store):
    return classifier_of(store, rows(0), rows(1), classes=CLASSES, training=QUICK)


def test_it_learns_and_says_how_well(trained):
    features, logits = trained.seen(rows(2).pictures)
    assert (logits.argmax(-1) == rows(2).labels).mean() > 0.8
    assert features.rows.shape == (96, trained.space.width)
    assert trained.space.accuracy.n == 96
    assert trained.space.accuracy.value == pytest.approx((trained.seen(rows(1).pictures)[1].argmax(-1) == rows(1).labels).mean())
    assert trained.space.accuracy.interval.method == "Wilson"


def test_another_run_finds_the_same_one_and_other_rows_or_settings_make_another(store, trained, monkeypatch):
    made = []
    monkeypatch.setattr(classifier, "_trained", lambda *given: made.append(given) or pytest.fail("trained again"))
    again = classifier_of(store, rows(0), rows(1), classes=CLASSES, training=QUICK)
    assert again.space == trained.space
    np.testing.assert_array_equal(again.seen(rows(2).pictures)[0].rows, trained.seen(rows(2).pictures)[0].rows)
    for other in ({"train": rows(5)}, {"held_out": rows(5)}, {"training": replace(QUICK, seed=1)}):
        given = {"train": rows(0), "held_out": rows(1), "training": QUICK, **other}
        with pytest.raises(pytest.fail.Exception, match="trained again"):
            classifier_of(store, **given, classes=CLASSES)


def test_training_is_the_same_each_time_and_leaves_random_states_as_they_were(tmp_path, trained):
    import torch

    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    again = classifier_of(Store(tmp_path), rows(0), rows(1), classes=CLASSES, training=QUICK)
    assert again.space.digest == trained.space.digest
    assert torch.equal(before, torch.random.get_rng_state())


def test_numbers_are_seen_as_the_bytes_that_files_would_hold(trained):
    given = rows(2).pictures
    numbers = given.astype(np.float32) / 127.5 - 1
    np.testing.assert_array_equal(trained.seen(numbers)[0].rows, trained.seen(given)[0].rows)
    brighter = np.where(numbers > 0.7, 3.0, numbers)
    np.testing.assert_array_equal(trained.seen(brighter)[0].rows, trained.seen(np.where(numbers > 0.7, 1.0, numbers))[0].rows)


def test_colours_are_looked_at_too(store):
    found = classifier_of(
        store, rows(0, channels=3), rows(1, channels=3), classes=CLASSES, training=replace(QUICK, least_steps=2)
    )
    assert found.seen(rows(2, channels=3).pictures)[0].rows.shape == (96, 128)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"classes": 1, "train": alike(0), "held_out": alike(1)}, "1 classes: a classifier tells 2 or more apart"),
        ({"classes": 4}, r"of 4 classes \[3\] have no training row"),
        ({"classes": 2}, "training rows have labels from 0 to 2, and there are 2 classes"),
        ({"train": Rows(rows(0).pictures, rows(0).labels[:5])}, r"training rows have labels int64 \[5\]"),
        ({"held_out": Rows(rows(1).pictures, rows(1).labels * 1.0)}, "held-out rows have labels float64"),
        ({"held_out": rows(1, edge=14)}, r"training pictures are \[1, 12, 12\], held-out ones \[1, 14, 14\]"),
    ],
)
def test_rows_that_nothing_can_be_learned_from_are_refused(store, given, told):
    with pytest.raises(ValueError, match=told):
        classifier_of(store, **{"train": rows(0), "held_out": rows(1), "classes": CLASSES, "training": QUICK, **given})


def test_small_pictures_and_those_of_another_size_are_refused(store, trained):
    small = [Rows(each.pictures[..., :7], each.labels) for each in (rows(0), rows(1))]
    with pytest.raises(ValueError, match=r"pictures are \[1, 12, 7\]: a classifier needs 8 pixels each way"):
        classifier_of(store, *small, classes=CLASSES, training=QUICK)
    with pytest.raises(ValueError, match=r"pictures are \[1, 14, 14\], the classifier learned from \[1, 12, 12\]"):
        trained.seen(rows(2, edge=14).pictures)
