"""A table and one loop make the same rows of the same noise as the schedulers of diffusers."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from compressor.tasks.generation.process import Process
from compressor.tasks.generation.samplers import Sampling
from compressor.tasks.inputs.sampling import drawn, noise_of

diffusers = pytest.importorskip("diffusers")

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of diffusers with numpy 2

FLOW = Process()
CHAIN = Process(kind="betas", prediction="epsilon")
EDM = Process(kind="edm", prediction="edm")
SHAPE = (1, 4, 4)
CLOSE = {"atol": 1e-5, "rtol": 1e-5}
CLOSE_TO_80 = {"atol": 80e-5, "rtol": 1e-5}  # of rows that begin 80 times as large


def network(sample, time):
    """Something smooth that depends on both."""
    told = 0.3 * torch.tanh(sample * 1.7 + 0.01 * time) - 0.1 * sample
    return told + 0.2 * sample.roll(1, -1)


def called(given):
    sample, time = torch.from_numpy(given["sample"]), float(given["time"][0])
    return network(sample, time).numpy()


def ours(process, sampler, steps, *, start=1.0):
    seeds = np.arange(3)
    label = np.zeros(3, np.int64)
    feed = {"noise": np.float32(start) * noise_of(seeds, SHAPE), "seed": seeds, "label": label, "empty": label}
    return drawn(called, feed, Sampling(sampler=sampler, steps=steps).table(process))


def theirs(scheduler, *, start=1.0):
    sample = torch.from_numpy(np.float32(start) * noise_of(np.arange(3), SHAPE))
    for time in scheduler.timesteps:
        given = scheduler.scale_model_input(sample, time) if hasattr(scheduler, "scale_model_input") else sample
        sample = scheduler.step(network(given, float(time)), time, sample).prev_sample
    return sample.numpy()


@pytest.mark.parametrize("steps", [1, 4, 10])
@pytest.mark.parametrize("prediction", [("epsilon", "epsilon"), ("v", "v_prediction"), ("x0", "sample")])
def test_ddim_is_that_of_diffusers(steps, prediction):
    mine, other = prediction
    scheduler = diffusers.DDIMScheduler(timestep_spacing="trailing", clip_sample=False, prediction_type=other)
    scheduler.set_timesteps(steps)
    process = CHAIN.model_copy(update={"prediction": mine})
    expected = theirs(scheduler)
    np.testing.assert_allclose(ours(process, "ddim", steps), expected, atol=1e-5 * max(1, np.abs(expected).max()), rtol=1e-5)


@pytest.mark.parametrize("steps", [2, 4, 10, 20])
def test_multistep_is_that_of_diffusers(steps):
    scheduler = diffusers.DPMSolverMultistepScheduler(
        timestep_spacing="trailing", final_sigmas_type="zero", prediction_type="v_prediction"
    )
    scheduler.set_timesteps(steps)
    process = CHAIN.model_copy(update={"prediction": "v"})
    assert scheduler.timesteps.tolist() == process.grid(steps).time[:-1].tolist()
    np.testing.assert_allclose(ours(process, "dpm++2m", steps), theirs(scheduler), **CLOSE)


@pytest.mark.parametrize("steps", [2, 8])
def test_edm_is_that_of_diffusers(steps):
    """Euler's method and the second-order one on the levels of Karras et al."""
    euler = diffusers.EDMEulerScheduler()
    euler.set_timesteps(steps)
    np.testing.assert_allclose(ours(EDM, "ddim", steps, start=80), theirs(euler, start=80), **CLOSE_TO_80)
    multistep = diffusers.EDMDPMSolverMultistepScheduler(final_sigmas_type="zero")
    multistep.set_timesteps(steps)
    np.testing.assert_allclose(ours(EDM, "dpm++2m", steps, start=80), theirs(multistep, start=80), **CLOSE_TO_80)


@pytest.mark.parametrize("steps", [2, 3, 8])
def test_heun_is_that_of_diffusers(steps):
    """Theirs knows no preconditioning by EDM: it is given our levels, and the noise in what our network tells."""
    scheduler = diffusers.HeunDiscreteScheduler()
    scheduler.set_timesteps(steps)
    levels = EDM.grid(steps)
    scheduler.sigmas = torch.cat([torch.from_numpy(levels.sigma[:1]), torch.from_numpy(np.repeat(levels.sigma[1:], 2))])
    at = [0, *np.repeat(np.arange(1, steps), 2)]
    (skip, gain), scale = EDM.clean(levels[:steps]), EDM.scale(levels)
    sample = torch.from_numpy(80 * noise_of(np.arange(3), SHAPE)).double()
    scheduler._step_index = 0
    for number, time in zip(at, scheduler.timesteps, strict=True):
        clean = skip[number] * sample + gain[number] * network((sample * scale[number]).float(), levels.time[number])
        sample = scheduler.step((sample - clean) / levels.sigma[number], time, sample).prev_sample
    np.testing.assert_allclose(ours(EDM, "heun", steps, start=80), sample.numpy(), **CLOSE_TO_80)


@pytest.mark.parametrize("steps", [1, 4, 10])
def test_euler_of_flows_is_that_of_diffusers(steps):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps))
    np.testing.assert_allclose(ours(FLOW, "ddim", steps), theirs(scheduler), **CLOSE)


def test_heun_of_flows_is_the_trapezoid():
    """The mean of both velocities at every step but the last."""
    x, steps = torch.from_numpy(noise_of(np.arange(3), SHAPE)), 5
    times = np.linspace(1, 0, steps + 1)
    for here, there in pairwise(times):
        first = network(x, 1000 * here)
        ahead = x + (there - here) * first
        x = ahead if there == 0 else x + (there - here) * (first + network(ahead, 1000 * there)) / 2
    np.testing.assert_allclose(ours(FLOW, "heun", steps), x.numpy(), **CLOSE)


def test_consistency_is_that_of_diffusers(monkeypatch):
    """With the noise that ours draws: rows are noised anew to the next level."""
    drawing = iter(range(1, 5))
    fresh = lambda *_, **__: torch.from_numpy(noise_of(np.arange(3), SHAPE, next(drawing)))  # noqa: E731
    monkeypatch.setattr("diffusers.schedulers.scheduling_lcm.randn_tensor", fresh)
    scheduler = diffusers.LCMScheduler(
        1000, 1e-4, 0.02, "linear", clip_sample=False, prediction_type="sample", timestep_scaling=1e9
    )
    process = CHAIN.model_copy(update={"prediction": "x0"})
    scheduler.set_timesteps(timesteps=process.grid(4).time[:-1].astype(int).tolist(), original_inference_steps=1000)
    np.testing.assert_allclose(ours(process, "consistency", 4), theirs(scheduler), **CLOSE)


def test_higher_orders_are_nearer_to_the_solution():
    """Of a process whose rows are known: for normal rows the best network is a formula, and so is where noise ends."""

    def ended(sampler, steps):
        process, spread = Process(prediction="x0"), 0.5

        def best(given):
            level = process.at(given["time"] / 1000)
            alpha, sigma = (each[:, None, None, None] for each in (level.alpha, level.sigma))
            kept = alpha * spread**2 / ((alpha * spread) ** 2 + sigma**2)
            return (kept * given["sample"]).astype(np.float32)

        seeds, label = np.arange(4), np.zeros(4, np.int64)
        feed = {"noise": noise_of(seeds, SHAPE), "seed": seeds, "label": label, "empty": label}
        return np.abs(drawn(best, feed, Sampling(sampler=sampler, steps=steps).table(process)) - spread * feed["noise"]).max()

    assert ended("heun", 20) < ended("ddim", 40) / 5
    assert ended("dpm++2m", 40) < ended("ddim", 40) / 2
    assert ended("ddim", 1000) < 5e-3


def test_guidance_moves_away_from_what_is_told_without_a_label():
    def told(given):
        return given["sample"] * 0 + given["label"].astype(np.float32)[:, None, None, None]

    label = np.array([1, 2, 3])
    feed = {"noise": noise_of(label, SHAPE), "seed": label, "label": label, "empty": np.full(3, 10)}
    process = Process(prediction="x0")
    alone, guided = (
        drawn(told, feed, Sampling(sampler="ddim", steps=1, guidance=w).table(process))[:, 0, 0, 0] for w in (1.0, 3.0)
    )
    assert alone.tolist() == [1, 2, 3]
    assert guided.tolist() == [10 + 3 * (each - 10) for each in (1, 2, 3)]


def test_evaluations_are_counted():
    for sampler in ("ddim", "heun", "dpm++2m", "consistency"):
        for guidance in (1.0, 2.0):
            sampling = Sampling(sampler=sampler, steps=6, guidance=guidance)
            label = np.zeros(2, np.int64)
            feed = {"noise": noise_of([0, 1], SHAPE), "seed": label, "label": label, "empty": label}
            assert evaluated(feed, sampling.table(FLOW)) / 2 == sampling.evaluations()


def evaluated(feed, table):
    """Rows that the network was asked of."""
    asked = []

    def counted(given):
        asked.append(len(given["sample"]))
        return given["sample"]

    drawn(counted, feed, table)
    return sum(asked)
