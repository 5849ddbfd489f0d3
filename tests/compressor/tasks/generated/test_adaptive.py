"""A student of few steps and its teacher, both exact, on distributions whose score is known: by the one loop that runs and exports share."""

from __future__ import annotations

import numpy as np
import pytest

from compressor.tasks.generated.adaptive import Threshold
from compressor.tasks.generated.kernel_distance import Gaussian, kernel_distance
from compressor.tasks.generation.description import Description, Policy
from compressor.tasks.generation.process import TIME_SCALE, Process
from compressor.tasks.generation.samplers import Sampling
from compressor.tasks.inputs.sampling import adapted, as_seen, drawn, likes, sends

CENTRES = np.array([[0.6, 0.0], [-0.6, 0.0], [0.0, 0.6], [0.0, -0.6]])
NARROW = 0.06
"""Deviation of each of four normal distributions in the plane: the data, one of them for each label."""
FLOW = Process(kind="flow", prediction="x0")
STUDENT, LEVELS = 2, 12


def clean(given):
    """The mean of rows by what they have become, exactly, of any label: what a perfect network tells."""
    x, sigma = given["sample"][:, :, 0, 0].astype(np.float64), given["time"][:, None, None] / TIME_SCALE
    alpha = 1 - sigma
    spread = (alpha * NARROW) ** 2 + sigma**2
    apart = x[:, None] - alpha * CENTRES
    weights = np.exp(-0.5 * (np.square(apart).sum(-1) - np.square(apart).sum(-1).min(1, keepdims=True)) / spread[..., 0])
    weights /= weights.sum(1, keepdims=True)
    means = CENTRES + alpha * NARROW**2 / spread * apart
    return (weights[..., None] * means).sum(1)[:, :, None, None].astype(np.float32)


def near(rows):
    """An oracle: of two classes the first is the likelier the nearer the next centre is."""
    away = np.square(rows[:, None, :, 0, 0] - CENTRES).sum(-1).min(1)
    return np.stack([-50 * away, np.zeros(len(rows))], axis=1)


def asked():
    """A network that counts the rows that it is asked for."""
    counts = []

    def network(given):
        counts.append(len(given["sample"]))
        return clean(given)

    return network, counts


def described(policy=None, steps=STUDENT):
    sampling = Sampling(sampler="ddim", steps=steps)
    return Description(shape=(2, 1, 1), classes=4, process=FLOW, sampling=sampling, policy=policy)


def feed(how, first, n):
    return how.feed(range(first, first + n), np.zeros(n, np.int64), how.table())


def liked_of_student(first, n):
    given = feed(described(), first, n)
    return likes(near(as_seen(drawn(clean, given, given["table"]))), given["label"]).astype(np.float32)


def policy(share, kind):
    chosen = Threshold.calibrated(liked_of_student(5000, 1000), share)
    return Policy(
        share=share, limit=chosen.limit, tied=chosen.tied, after=6 if kind == "refine" else 0, teacher=described(steps=LEVELS)
    )


@pytest.mark.parametrize("kind", ["regenerate", "refine"])
def test_mean_evaluations_are_those_of_the_formula_and_those_that_were_made(kind):
    how = described(policy(0.3, kind))
    (student, few), (teacher, many) = asked(), asked()
    _, sent = adapted(student, teacher, near, feed(how, 0, 800))
    assert (sum(few) + sum(many)) / 800 == pytest.approx(STUDENT + sent.mean() * how.policy.evaluations)
    assert how.evaluations == pytest.approx(STUDENT + 0.3 * how.policy.evaluations)
    assert sent.mean() == pytest.approx(0.3, abs=0.06)  # three deviations of both sets of rows


@pytest.mark.parametrize("kind", ["regenerate", "refine"])
def test_only_rows_that_are_liked_least_change_and_each_as_it_would_alone(kind):
    how = described(policy(0.25, kind))
    given = feed(how, 0, 60)
    rows, sent = adapted(clean, clean, near, given)
    own, liked = drawn(clean, given, given["table"]), liked_of_student(0, 60)
    np.testing.assert_array_equal(rows[~sent], own[~sent])
    assert liked[sent].max() < liked[~sent].min()
    one = int(np.flatnonzero(sent)[0])
    alone = {
        name: array[one : one + 1] if name in ("noise", "seed", "label", "empty") else array for name, array in given.items()
    }
    np.testing.assert_allclose(adapted(clean, clean, near, alone)[0][0], rows[one], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["regenerate", "refine"])
def test_more_rows_that_are_mended_are_better(kind):
    draw = np.random.default_rng(99)
    real = CENTRES[draw.integers(0, 4, 600)] + NARROW * draw.normal(size=(600, 2))
    own = drawn(clean, feed(described(), 0, 600), described().table())
    found = [own, *(adapted(clean, clean, near, feed(described(policy(share, kind)), 0, 600))[0] for share in (0.3, 0.6))]
    distances = [kernel_distance(each[:, :, 0, 0].astype(np.float64), real, Gaussian(0.15)).value for each in found]
    assert distances[2] < distances[1] < distances[0]
    assert distances[2] < 0.6 * distances[0]


def test_refined_rows_stay_near_where_little_noise_is_added():
    own, moved = drawn(clean, feed(described(), 0, 200), described().table()), []
    for after in (11, 2):
        teacher = described(steps=LEVELS)
        how = described(Policy(share=1.0, limit=0.0, tied=0.0, after=after, teacher=teacher))
        rows, sent = adapted(clean, clean, near, feed(how, 0, 200))
        assert sent.all()
        moved.append(np.linalg.norm((rows - own)[:, :, 0, 0], axis=1).mean())
    assert 1.5 * moved[0] < moved[1]


def test_an_oracle_of_few_values_sends_the_share_that_was_asked_for():
    liked = np.repeat([0.0, 1.0], [100, 900])
    chosen = Threshold.calibrated(liked, 0.4)
    assert (chosen.limit, chosen.tied) == (1.0, pytest.approx(0.3 / 0.9))
    sent = sends(liked, np.arange(1000), chosen.limit, chosen.tied)
    assert sent[:100].all()
    assert sent.mean() == pytest.approx(0.4, abs=0.05)
    np.testing.assert_array_equal(sends(liked[::-1], np.arange(1000)[::-1], chosen.limit, chosen.tied)[::-1], sent)


@pytest.mark.parametrize(("share", "all_or_none"), [(0.0, False), (1.0, True)])
def test_a_share_of_none_and_of_all(share, all_or_none):
    chosen = Threshold.calibrated(np.arange(5.0), share)
    assert (sends(np.arange(-9.0, 9.0), np.arange(18), chosen.limit, chosen.tied) == all_or_none).all()


def test_oracles_and_shares_that_say_nothing_are_refused():
    with pytest.raises(ValueError, match=r"a share of 1\.2 of the rows"):
        Threshold.calibrated(np.arange(3.0), 1.2)
    for liked in (np.array([]), np.array([1.0, np.nan])):
        with pytest.raises(ValueError, match="an oracle that told"):
            Threshold.calibrated(liked, 0.5)
