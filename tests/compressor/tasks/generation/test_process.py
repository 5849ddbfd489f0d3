"""Parametrisations are converted exactly into one another, and say what they are defined to say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from compressor.errors import SourceError
from compressor.tasks.generation.process import Process

PREDICTIONS = ("epsilon", "v", "x0", "flow", "edm")
PROCESSES = {
    "flow": Process(),
    "cosine": Process(kind="cosine", prediction="v"),
    "betas": Process(kind="betas", prediction="epsilon"),
    "edm": Process(kind="edm", prediction="edm"),
}
MIDDLE = np.linspace(0.05, 0.95, 7)


def of(process, prediction):
    return process.model_copy(update={"prediction": prediction})


def rows_and_noise(count=7):
    draw = np.random.default_rng(0)
    return draw.standard_normal((count, 2, 3, 3)), draw.standard_normal((count, 2, 3, 3))


def noised(rows, noise, levels):
    alpha, sigma = (each[:, None, None, None] for each in (levels.alpha, levels.sigma))
    return alpha * rows + sigma * noise


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_row_follows_from_the_target_of_every_prediction(name, prediction):
    process, (rows, noise) = of(PROCESSES[name], prediction), rows_and_noise()
    levels = process.at(MIDDLE)
    x, target = noised(rows, noise, levels), process.target(rows, noise, levels)
    skip, gain = (each[:, None, None, None] for each in process.clean(levels))
    np.testing.assert_allclose(skip * x + gain * target, rows, atol=1e-9)


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("first", PREDICTIONS)
@pytest.mark.parametrize("second", PREDICTIONS)
def test_predictions_are_converted_into_one_another(name, first, second):
    process, (rows, noise) = PROCESSES[name], rows_and_noise()
    levels = process.at(MIDDLE)
    x = noised(rows, noise, levels)
    told, wanted = (of(process, each).target(rows, noise, levels) for each in (first, second))
    found = of(process, first).converted(told, x, levels, second)
    np.testing.assert_allclose(found, wanted, atol=1e-8, rtol=1e-8)
    as_tensors = of(process, first).converted(torch.from_numpy(told), torch.from_numpy(x), levels, second)
    np.testing.assert_allclose(as_tensors.numpy(), found, atol=1e-12)


def test_definitions_of_v_and_edm():
    """v at a quarter turn, and what the network of EDM tells, by the formulas of its paper."""
    rows, noise = rows_and_noise(1)
    v = of(PROCESSES["cosine"], "v").target(rows, noise, PROCESSES["cosine"].at([0.5]))
    np.testing.assert_allclose(v, (noise - rows) / np.sqrt(2), atol=1e-12)
    process = PROCESSES["edm"]
    levels, data = process.at([0.3]), 0.5
    sigma = levels.sigma[0]
    skip, gain = process.clean(levels)
    assert skip[0] == pytest.approx(data**2 / (sigma**2 + data**2))
    assert gain[0] == pytest.approx(sigma * data / np.sqrt(sigma**2 + data**2))
    assert process.scale(levels)[0] == pytest.approx(1 / np.sqrt(sigma**2 + data**2))
    assert levels.time[0] == pytest.approx(np.log(sigma) / 4)


def test_chain_of_betas_is_that_of_diffusers():
    diffusers = pytest.importorskip("diffusers")
    for betas in ("linear", "scaled_linear", "squaredcos_cap_v2"):
        process = Process(kind="betas", prediction="v", betas=betas)
        theirs = diffusers.DDIMScheduler(beta_schedule=betas).alphas_cumprod.numpy()
        found = process.at((np.arange(1000) + 1) / 1000)
        np.testing.assert_allclose(found.alpha**2, theirs, atol=1e-5)
        assert found.time.tolist() == list(range(1000))


def test_grids_end_in_the_clean_row():
    for process in PROCESSES.values():
        for steps in (1, 4, 50):
            grid = process.grid(steps)
            assert grid.alpha.shape == grid.sigma.shape == grid.time.shape == (steps + 1,)
            assert (grid.alpha[-1], grid.sigma[-1]) == (1, 0)
            assert (np.diff(grid.sigma / np.maximum(grid.alpha, 1e-9)) < 0).all()


def test_a_chain_has_as_many_steps_as_levels_at_most():
    """More would repeat levels, and one below the cleanest is the noisiest."""
    chain = Process(kind="betas", prediction="epsilon", levels=10)
    assert chain.grid(10).time.tolist() == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 0]
    with pytest.raises(SourceError, match="steps: 11: the model's chain has 10 levels"):
        chain.grid(11)


def test_weights_make_one_loss_of_another():
    """Whatever the network tells, the weighted error is the one that is named."""
    rows, noise = rows_and_noise()
    other = rows + 0.1 * noise  # a guess of the rows
    for by in ("flow", "edm"):
        errors = []
        for prediction in PREDICTIONS:
            process = of(PROCESSES["betas"], prediction)
            levels = process.at(MIDDLE)
            x = noised(rows, noise, levels)
            skip, gain = (each[:, None, None, None] for each in process.clean(levels))
            told = (other - skip * x) / gain
            apart = ((told - process.target(rows, noise, levels)) ** 2).mean((1, 2, 3))
            errors.append(process.weight(levels, by) * apart)
        np.testing.assert_allclose(errors, [errors[0]] * len(errors), rtol=1e-6)
    process = PROCESSES["betas"]
    levels = process.at(np.array([0.05, 0.9]))
    ratio = (levels.alpha / levels.sigma) ** 2
    np.testing.assert_allclose(process.weight(levels, "min-snr"), np.minimum(ratio, 5) / ratio)


def test_noise_cannot_be_told_where_nothing_else_is_left():
    with pytest.raises(ValidationError, match="nothing but noise is left"):
        Process(kind="flow", prediction="epsilon")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"levels": 50}, "levels is of the kind betas"),
        ({"kind": "betas", "prediction": "v", "sigma_max": 40}, "sigma_max is of the kind edm"),
        ({"kind": "edm", "prediction": "v", "sigma_data": 1}, "sigma_data is of the prediction edm"),
    ],
)
def test_what_a_process_does_not_heed_is_refused(given, said):
    with pytest.raises(ValidationError, match=said):
        Process.model_validate(given)
    written = Process().model_dump()
    assert Process.model_validate(written) == Process()


def test_times_are_in_the_unit_interval():
    draw = np.random.default_rng(0)
    for process in PROCESSES.values():
        for spread in ("uniform", "logit-normal"):
            found = process.times(draw, 500, spread=spread)
            assert found.min() >= 0
            assert found.max() <= 1
            assert found.std() > 0.05
