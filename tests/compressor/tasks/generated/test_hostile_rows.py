import numpy as np
import pytest

from compressor.tasks.generated.classes import class_accuracy
from compressor.tasks.generated.frechet import frechet, frechet_difference
from compressor.tasks.generated.kernel_distance import Gaussian, Polynomial, kernel_difference, kernel_distance
from compressor.tasks.generated.memorisation import memorisation
from compressor.tasks.generated.neighbours import neighbourhood

FIGURES = {
    "frechet": frechet,
    "polynomial": lambda ours, theirs: kernel_distance(ours, theirs, Polynomial()),
    "gaussian": lambda ours, theirs: kernel_distance(ours, theirs, Gaussian(1.0)),
    "neighbours": neighbourhood,
    "copies": lambda ours, theirs: memorisation(ours, theirs, good(2, 200)),
}
PAIRED = {"frechet": frechet_difference, "kernel": lambda *sets: kernel_difference(*sets, Polynomial())}


def good(seed=0, n=20, d=3):
    return np.random.default_rng(seed).normal(size=(n, d))


def with_cell(value):
    rows = good(1)
    rows[4, 1] = value
    return rows


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize(
    ("ours", "theirs", "told"),
    [
        (with_cell(np.nan), good(), r"1 of 20 generated rows hold NaN or infinite features \(first: row 4\)"),
        (good(), with_cell(np.inf), r"1 of 20 (real|training) rows hold NaN"),
        (good(d=4), good(), r"generated rows have 4 features and (real|training) rows 3: not the same features"),
        (good()[:, 0], good(), r"generated rows are float64 \[20\], expected numbers \[rows, features\]"),
        (good()[:, :0], good(), r"generated rows are float64 \[20, 0\]"),
        (good() > 0, good(), r"generated rows are bool"),
        (good(), np.ones((20, 3)), r"the 20 (real|training) rows are all alike: these features tell nothing apart"),
        (with_cell(1e60), good(), r"generated rows hold features as large as 1e\+60"),
        (good(n=0), good(), "0 generated rows: at least"),
    ],
)
def test_rows_that_say_nothing_are_refused_with_what_is_wrong(name, ours, theirs, told):
    with pytest.raises(ValueError, match=told):
        FIGURES[name](ours, theirs)


@pytest.mark.parametrize("name", ["frechet", "polynomial", "gaussian", "neighbours"])
def test_one_row_is_too_few(name):
    with pytest.raises(ValueError, match=r"1 generated rows: at least [23] are needed"):
        FIGURES[name](good(n=1), good())


@pytest.mark.parametrize("name", ["frechet", "polynomial", "gaussian", "copies"])
def test_generated_rows_that_are_all_alike_are_scored(name):
    collapsed, fine = (FIGURES[name](ours, good(3, 200)) for ours in (np.full((200, 3), 2.0), good(4, 200)))
    if name == "copies":
        assert collapsed.share == 0.0
    else:
        assert collapsed.value > fine.value


@pytest.mark.parametrize("name", PAIRED)
def test_pairs_of_other_noise_are_refused(name):
    with pytest.raises(ValueError, match="20 rows of one model against 19 of the other: not the same noise"):
        PAIRED[name](good(), good(n=19), good(2))


def test_class_accuracy_counts_rows_and_classes_and_refuses_what_is_none():
    told, asked = np.array([0, 1, 1, 2, 2, 2]), np.array([0, 1, 2, 2, 2, 0])
    found = class_accuracy(told, asked, classes=4)
    assert (found.value, found.right.tolist()) == (4 / 6, [True, True, False, True, True, False])
    np.testing.assert_array_equal(found.by_class, [0.5, 1.0, 2 / 3, np.nan])
    assert found.interval.low == pytest.approx(0.2999, abs=1e-3)
    for wrong, what in ((told[:5], "5 classes told and 6 asked"), (told - 1, "lie from -1 to 1"), (told * 2, "to 4, and there are 4"),
                        (told * 0.5, "are float64"), (told[:0], r"int64 \[0\]")):  # fmt: skip
        with pytest.raises(ValueError, match=what):
            class_accuracy(wrong, asked, classes=4)


def test_largest_features_that_are_taken_make_numbers():
    huge = 1e20 * np.sign(good())
    for figure in (frechet, FIGURES["polynomial"], FIGURES["gaussian"], neighbourhood):
        figure(huge[::-1], huge)


def test_held_out_rows_are_named():
    with pytest.raises(ValueError, match="1 of 200 held-out rows hold NaN"):
        memorisation(good(), good(1), np.where(np.arange(600).reshape(200, 3) == 7, np.nan, 1.0))
