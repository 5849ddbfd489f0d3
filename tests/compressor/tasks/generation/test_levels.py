"""Errors by noise level: what the loop gives of one evaluation, for any way to tell a picture."""

from __future__ import annotations

import numpy as np
import pytest

from compressor.contracts import Evaluation
from compressor.contracts.records import Metric, Scores
from compressor.tasks.generation.description import Description
from compressor.tasks.generation.levels import DENOISING, LEVELS, by_level, errors_of, mean_of, middle_of
from compressor.tasks.generation.process import Process
from compressor.tasks.inputs.sampling import drawn, noise_of

SHAPE = (1, 4, 4)
REAL = np.random.default_rng(0).uniform(-1, 1, (21, *SHAPE)).astype(np.float32)
NOISE = noise_of(range(len(REAL)), SHAPE)
PROCESSES = [Process(kind="flow", prediction=each) for each in ("flow", "v", "x0")]
PROCESSES += [Process(kind="edm", prediction="edm"), Process(kind="betas", prediction="epsilon")]


def of(process, network):
    how = Description(shape=SHAPE, classes=3, empty=3, process=process)
    return errors_of(
        lambda feed: {"pictures": drawn(network, feed, feed["table"])}, REAL, [0] * len(REAL), how, gives="pictures", batch=2
    )


@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: f"{process.kind}-{process.prediction}")
def test_a_network_that_knows_the_rows_has_no_error_whatever_it_tells(process):
    def network(given):
        levels = process.at(np.array([_time_of(process, given["time"][0])]))
        x = given["sample"] / process.scale(levels)[0]
        known = REAL[[_nearest(each, levels) for each in x]]
        skip, gain = process.clean(levels)
        return (known - skip[0] * x) / gain[0]

    assert of(process, network).max() < 1e-8


def _time_of(process, told):
    """The middle of the level that a network is told, in the units that it is told."""
    return min((middle_of(level) for level in range(LEVELS)), key=lambda t: abs(process.at(np.array([t])).time[0] - told))


def _nearest(x, levels):
    return int(np.abs(levels.alpha[0] * REAL + levels.sigma[0] * NOISE - x).reshape(len(REAL), -1).mean(1).argmin())


def test_a_network_that_tells_no_velocity_errs_by_what_noise_hides():
    asked = []

    def network(given):
        asked.append((float(given["time"][0]), float(given["span"][0]), len(given["sample"])))
        return np.zeros_like(given["sample"])

    found = of(Process(), network)
    times = np.array([middle_of(row % LEVELS) for row in range(len(REAL))])
    hidden = times[:, None, None, None] * (NOISE - REAL)  # flow: the noisy row is row + t (noise - row)
    np.testing.assert_allclose(found, np.square(hidden).reshape(len(REAL), -1).mean(1), rtol=1e-5)
    assert {span for _, span, _ in asked} == {0.0}
    assert sum(count for *_, count in asked) == len(REAL)
    assert len({time for time, *_ in asked}) == LEVELS


def evaluation(errors):
    scores = Scores(split="test", metric="x", metrics=(Metric(name="x", value=0.0, n=len(errors)),))
    return Evaluation(scores, {}, {DENOISING.name: -np.asarray(errors)})


def test_table_tells_each_model_by_level_and_pairs_it_with_the_first():
    draw = np.random.default_rng(1)
    levels = np.arange(80) % LEVELS
    first = 0.1 * (levels + 1) + draw.uniform(0, 0.01, 80)
    (table,) = by_level({"source": evaluation(first), "student": evaluation(1.5 * first)}, "test")
    assert table.columns == ("time", "source", "student")
    assert [row[0] for row in table.rows] == [f"{middle_of(level):.2f}" for level in range(LEVELS)]
    for level, row in enumerate(table.rows):
        assert float(row[1]) == pytest.approx(first[levels == level].mean(), abs=1e-4)
        assert "(+50.0 %, +" in row[2]
        assert float(row[2].split()[0]) == pytest.approx(1.5 * first[levels == level].mean(), abs=1e-4)
    assert mean_of(first).value == pytest.approx(first.mean())
    assert mean_of(first).interval.low < first.mean()


def test_table_is_none_of_models_without_errors_and_survives_what_is_not_finite():
    assert list(by_level({"source": Evaluation(evaluation([1.0]).scores, {})}, "test")) == []
    (table,) = by_level({"source": evaluation(np.ones(16)), "broken": evaluation(np.full(16, np.nan))}, "test")
    assert table.rows[0][2] == "nan"
    assert len(table.rows) == LEVELS
