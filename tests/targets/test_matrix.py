"""Every task on every target: built, opened and scored, with the outputs that the model gives eagerly."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from compressor.contracts import Missing, registry
from compressor.deploy.session import eager, predictor
from compressor.testing.tiny import run_of, tiny_run

TASKS = [name for name in registry.names("task") if registry.distribution("task", name).startswith("compressor-toolchain ")]
TARGETS = [name for name in registry.names("target") if registry.distribution("target", name).startswith("compressor-toolchain ")]
SETTINGS = {"llama-cpp": {"weights": "f32"}}
"""In which a target computes as the model does eagerly, where it does not by itself."""
SOME = {"llama-cpp": ("causal-lm",)}
"""Targets whose files hold one kind of model, and its tasks."""


@cache
def run(task):
    if task == tiny_run().task_name:
        return tiny_run()
    kind = registry.load("task", task)
    return run_of(task, kind.model_validate(dict(kind.examples[0])))


@cache
def eagerly(task):
    one = run(task)
    return one.task.evaluate(eager(one.task, one.model(), "cpu"), one.data.split("test"), one.source.path, split="test")


def of_all(task, target):
    """A pair of the matrix; one whose runtime the lock has not is tried where all is."""
    return pytest.param(task, target, marks=[pytest.mark.long] if target in SOME else [], id=f"{task}-{target}")


@pytest.mark.parametrize(
    ("task", "target"), [of_all(task, target) for task in TASKS for target in TARGETS if task in SOME.get(target, TASKS)]
)
def test_a_task_runs_on_a_target_as_it_does_eagerly(task, target, tmp_path):
    one, runtime = run(task), registry.load("target", target)(**SETTINGS.get(target, {}))
    assert runtime.missing() == Missing(), "the lock installs every target: one that is missing was not tried"
    candidate, files = one.builder.build(one.lowered(runtime), stage="final", name=target, target=runtime, out=tmp_path / "built")
    session = runtime.open(candidate.built)
    found = one.task.evaluate(predictor(one.task, session), one.data.split("test"), candidate.built, split="test")
    expected = eagerly(task)
    assert set(found.outputs) == set(expected.outputs)
    for name, array in expected.outputs.items():
        np.testing.assert_allclose(found.outputs[name], array, atol=2e-3 * np.abs(array).max())
    assert found.scores.main.value == pytest.approx(expected.scores.main.value, abs=0.1)
    assert files
    if target != "pytorch":
        assert sum(runtime.layer_bytes(candidate.built).values()) > 0.5 * one.model().stored_bytes()
    assert session.facts()["precision"] == "fp32"


def test_the_matrix_is_of_all_that_is_installed():
    assert {"text-classification", "image-classification", "audio-classification"} < set(TASKS)
    assert {"pytorch", "onnxruntime", "openvino"} <= set(TARGETS)
