import numpy as np
import pytest
import torch

from compressor.store import Store
from compressor.tasks.generated.adaptive import Drawn, Refined, Regenerated, Threshold, adaptive, by_class, by_shares
from compressor.tasks.generated.classifier import Rows, Training, classifier_of
from compressor.tasks.generated.kernel_distance import Gaussian, kernel_distance

BY_ROW = ("noise", "seed", "label")
CENTRES = np.array([[2.0, 0.0], [-2.0, 0.0], [0.0, 2.0], [0.0, -2.0]])
NARROW = 0.2
"""Deviation of each of four normal distributions in the plane: the data, whose score is known."""
LEVELS = 12


def clean(x, alpha, sigma):
    """The mean of rows by what they have become, exactly: what a perfect network tells."""
    spread = (alpha * NARROW) ** 2 + sigma**2
    apart = x[:, None] - alpha * CENTRES
    weights = np.exp(-0.5 * (np.square(apart).sum(-1) - np.square(apart).sum(-1).min(1, keepdims=True)) / spread)
    weights /= weights.sum(1, keepdims=True)
    means = CENTRES + alpha * NARROW**2 / spread * apart
    return (weights[..., None] * means).sum(1)


def sampler(steps, start=1.0):
    """Euler's method from time `start` down, as rows become noise by `(1 - t) * row + t * noise`."""
    asked = []

    def draw(feed):
        x = feed["noise"].astype(np.float64)
        for here, there in zip(times := np.linspace(start, 0, steps + 1), times[1:], strict=False):
            asked.append(len(x))
            found = clean(x, 1 - here, here)
            x = there / here * x + (1 - there - (1 - here) * there / here) * found
        return x.astype(np.float32)

    return draw, asked


def feed(first, n):
    seeds = np.arange(first, first + n)
    noise = np.stack([np.random.default_rng(seed).normal(size=2) for seed in seeds]).astype(np.float32)
    return {"noise": noise, "seed": seeds, "label": seeds % 4, "table": np.zeros((n, 3))}


def likely(_, rows):
    """An oracle: how near the next centre is."""
    return -np.square(rows[:, None] - CENTRES).sum(-1).min(1).astype(np.float64)


def real(n):
    draw = np.random.default_rng(99)
    return CENTRES[draw.integers(0, 4, n)] + NARROW * draw.normal(size=(n, 2))


@pytest.fixture(scope="module")
def student():
    return Drawn(sampler(2)[0], 2)


def menders():
    return {
        "regenerate": Regenerated(sampler(LEVELS)[0], LEVELS),
        "refine": Refined(sampler(6, start=0.5)[0], 6, alpha=0.5, sigma=0.5),
    }


@pytest.mark.parametrize("kind", ["regenerate", "refine"])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_mean_evaluations_are_those_of_the_formula_and_those_that_were_made(student, kind, share):
    calibration = likely({}, student.draw(feed(0, 500)))
    threshold = Threshold.calibrated(calibration, share)
    draw, asked = sampler(6 if kind == "refine" else LEVELS, start=0.5 if kind == "refine" else 1.0)
    first, few = sampler(2)
    mender = Refined(draw, 6, alpha=0.5, sigma=0.5) if kind == "refine" else Regenerated(draw, LEVELS)
    found = adaptive(feed(500, 800), Drawn(first, 2), mender, oracle=likely, threshold=threshold, by_row=BY_ROW)
    assert found.evaluations == pytest.approx((sum(asked) + sum(few)) / 800)
    assert found.evaluations == pytest.approx(2 + found.sent.mean() * mender.evaluations)
    assert found.sent.mean() == pytest.approx(share, abs=0.06)  # three deviations of both sets of rows


def test_a_share_of_none_is_the_student_and_of_all_is_the_teacher(student):
    given = feed(0, 50)
    for share, expected in ((0.0, student.draw(given)), (1.0, sampler(LEVELS)[0](given))):
        threshold = Threshold.calibrated(likely({}, student.draw(given)), share)
        found = adaptive(given, student, menders()["regenerate"], oracle=likely, threshold=threshold, by_row=BY_ROW)
        np.testing.assert_array_equal(found.rows, expected)


def test_only_rows_that_are_liked_least_change_and_each_as_it_would_alone(student):
    given = feed(0, 60)
    threshold = Threshold.calibrated(likely({}, student.draw(given)), 0.25)
    for mender in menders().values():
        found = adaptive(given, student, mender, oracle=likely, threshold=threshold, by_row=BY_ROW)
        kept = ~found.sent
        np.testing.assert_array_equal(found.rows[kept], student.draw(given)[kept])
        assert found.liked[found.sent].max() < found.liked[kept].min()
        one = int(np.flatnonzero(found.sent)[0])
        alone = {name: array[one : one + 1] if name in BY_ROW else array for name, array in given.items()}
        again = adaptive(alone, student, mender, oracle=likely, threshold=threshold, by_row=BY_ROW)
        np.testing.assert_allclose(again.rows[0], found.rows[one], rtol=1e-6)


@pytest.mark.parametrize("kind", ["regenerate", "refine"])
def test_more_rows_that_are_mended_are_better_and_cost_more(student, kind):
    thresholds = [Threshold.calibrated(likely({}, student.draw(feed(5000, 1000))), share) for share in (0.0, 0.3, 0.6)]
    given, theirs = feed(0, 600), real(600)
    found = by_shares(given, student, menders()[kind], oracle=likely, thresholds=thresholds)
    distances = [kernel_distance(each.rows, theirs, Gaussian(0.5)).value for each in found]
    assert distances[2] < distances[1] < distances[0]
    assert distances[2] < 0.5 * distances[0]
    assert [each.evaluations for each in found] == sorted(each.evaluations for each in found)
    for threshold, each in zip(thresholds, found, strict=True):
        alone = adaptive(given, student, menders()[kind], oracle=likely, threshold=threshold, by_row=BY_ROW)
        np.testing.assert_allclose(alone.rows, each.rows, rtol=1e-6)
        assert alone.evaluations == pytest.approx(each.evaluations)


def test_refined_rows_stay_near_where_little_noise_is_added(student):
    given = feed(0, 200)
    rows, moved = student.draw(given), []
    for start in (0.1, 0.8):
        refined = Refined(sampler(6, start=start)[0], 6, alpha=1 - start, sigma=start).of(given, rows)
        moved.append(np.linalg.norm(refined - rows, axis=1).mean())
    assert 3 * moved[0] < moved[1]


def test_an_oracle_of_few_values_sends_the_share_that_was_asked_for():
    liked = np.repeat([0.0, 1.0], [100, 900])
    threshold = Threshold.calibrated(liked, 0.4)
    assert (threshold.limit, threshold.tied) == (1.0, pytest.approx(0.3 / 0.9))
    sent = threshold.sends(liked, np.arange(1000))
    assert sent[:100].all()
    assert sent.mean() == pytest.approx(0.4, abs=0.05)
    np.testing.assert_array_equal(threshold.sends(liked[::-1], np.arange(1000)[::-1])[::-1], sent)


def test_a_classifier_likes_rows_that_are_surely_of_their_class(tmp_path):
    pictures, labels = np.random.default_rng(0).integers(0, 256, (24, 1, 8, 8), dtype=np.uint8), np.arange(24) % 3
    rows = Rows(pictures, labels)
    classifier = classifier_of(Store(tmp_path), rows, rows, classes=3, training=Training(least_steps=3, batch=8))
    liked = by_class(classifier)({"label": labels}, pictures)
    told = torch.log_softmax(torch.from_numpy(classifier.seen(pictures)[1]).double(), -1)
    np.testing.assert_allclose(liked, told[torch.arange(24), torch.from_numpy(labels)].numpy())
    assert (liked < 0).all()


def test_oracles_and_shares_that_say_nothing_are_refused(student):
    with pytest.raises(ValueError, match=r"a share of 1\.2 of the rows"):
        Threshold.calibrated(np.arange(3.0), 1.2)
    for liked in (np.array([]), np.array([1.0, np.nan])):
        with pytest.raises(ValueError, match="an oracle that told"):
            Threshold.calibrated(liked, 0.5)
    threshold = Threshold.calibrated(np.arange(3.0), 0.5)
    for oracle in (lambda _, rows: rows, lambda _, rows: np.full(len(rows), np.nan)):
        with pytest.raises(ValueError, match="of 4 rows: one finite number for each"):
            adaptive(feed(0, 4), student, menders()["refine"], oracle=oracle, threshold=threshold, by_row=BY_ROW)
