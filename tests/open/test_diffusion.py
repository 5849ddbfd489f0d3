"""A pipeline of diffusers by a stand-in task: sampled in its own loop on every target, scored as a set, trained, timed, exported."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
from furnished import command

from compressor.contracts import Candidate, Workload, registry
from compressor.deploy.build import Builder
from compressor.deploy.session import predictor
from compressor.model import Model
from compressor.plan.specs import DataSpec
from compressor.report import read_report
from compressor.store import Store
from compressor.tasks.data import load_data
from targets.eager import EagerTorch
from targets.onnxruntime import OnnxRuntime
from targets.openvino import OpenVino

HERE = Path(__file__).parents[1] / "stand_ins" / "diffusion"
NAME = "image-generation-stand-in"
TARGETS = {"pytorch": EagerTorch, "onnxruntime": OnnxRuntime, "openvino": OpenVino}
SAMPLE = Workload(kind="sample", batch=2, steps=4)


@pytest.fixture(scope="module")
def generation():
    """The stand-in's module, installed here and in measuring processes."""
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(str(HERE))
    patch.setenv("PYTHONPATH", str(HERE))
    yield importlib.import_module("image_generation")
    patch.undo()


@pytest.fixture(scope="module")
def task(generation):
    return registry.load("task", NAME)()


@pytest.fixture(scope="module")
def folder(task, tmp_path_factory):
    """A pipeline and rows."""
    folder = tmp_path_factory.mktemp("diffusion")
    task.tiny(folder)
    return folder


@pytest.fixture(scope="module")
def rows(task, folder):
    spec = DataSpec.model_validate({"files": "rows.jsonl", "split": {"validation": 8, "test": 12}})
    return load_data(spec, columns=task.columns(), seed=0, folder=folder)


@pytest.fixture(scope="module")
def candidates(task, folder, tmp_path_factory) -> dict[str, Candidate]:
    """The pipeline built for every target."""
    root = tmp_path_factory.mktemp("built")
    store = Store(root / "store")
    builder = Builder(store, task, NAME, (), {})

    def load(out):
        task.load(folder / "pretrained", None, seed=0).save(out)
        return {}

    source, built = store.obtain({"step": "source"}, load), {}
    for name, kind in TARGETS.items():
        lowered = builder.lower(source, "torch", kind.dialect.format, kind())
        built[name] = builder.build(lowered, stage="final", name=name, target=kind(), out=root / name)[0]
    return built


@pytest.fixture(scope="module")
def sessions(candidates):
    return {name: each.runtime.open(each.built) for name, each in candidates.items()}


def test_loop_is_that_of_diffusers(task, folder, sessions, candidates):
    """The scheduler of diffusers, spaced as the task spaces the levels, makes the same pictures of the same noise."""
    import diffusers
    import torch

    scheduler = diffusers.DDIMScheduler.from_pretrained(folder / "pretrained", subfolder="scheduler", timestep_spacing="trailing")
    scheduler.set_timesteps(SAMPLE.steps)
    unet = Model.read(folder / "pretrained").module
    feed = task._feed([3, 4], candidates["pytorch"].built)
    sample = torch.from_numpy(feed["sample"])
    with torch.no_grad():
        for level in scheduler.timesteps:
            sample = scheduler.step(unet(sample, level).sample, level, sample).prev_sample
    found = task.call(sessions["pytorch"], feed, SAMPLE)["pictures"]
    assert scheduler.timesteps.tolist() == [19, 14, 9, 4]
    np.testing.assert_allclose(found, sample.numpy(), atol=1e-4)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_same_noise_gives_the_same_pictures_on_every_target(name, task, rows, sessions, candidates):
    for feed in task.feeds(rows.split("test"), candidates[name].built, SAMPLE, count=2):
        expected = task.call(sessions["pytorch"], feed, SAMPLE)["pictures"]
        found = task.call(sessions[name], feed, SAMPLE)["pictures"]
        assert found.shape == (2, 1, 8, 8)
        assert np.ptp(expected) > 0.5
        np.testing.assert_allclose(found, expected, atol=2e-3)


def test_score_of_the_set_is_the_same_on_every_target_and_has_no_interval(task, rows, sessions, candidates):
    found = {
        name: task.evaluate(predictor(task, session), rows.split("test"), candidates[name].built, split="test")
        for name, session in sessions.items()
    }
    held = found["pytorch"]
    for evaluation in found.values():
        assert evaluation.scores.main.value == pytest.approx(held.scores.main.value, rel=1e-2)
        assert (evaluation.gains, evaluation.scores.main.interval, evaluation.scores.main.n) == ({}, None, 12)
    changed = task.compare(found["openvino"], held, metric=task.metric, name="source", seed=0)
    assert (changed.unit, changed.interval, changed.changed) == ("percent", None, None)
    assert task.score(held.truth, held.truth, split="test").scores.main.value == pytest.approx(0, abs=1e-6)


def test_a_seed_becomes_noise_and_a_picture_is_told(task, sessions, candidates):
    feed = task.feed("7", candidates["onnxruntime"].built)
    again = task.feed(7, candidates["pytorch"].built)
    assert all(np.array_equal(feed[name], again[name]) for name in feed)
    (told,) = task.tell(task.call(sessions["onnxruntime"], feed), ())
    assert [len(line) for line in told.text.splitlines()] == [8] * 8
