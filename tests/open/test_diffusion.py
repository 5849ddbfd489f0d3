"""A pipeline of diffusers by a stand-in task: sampled in its own loop on every target, scored as a set, trained, timed, exported."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from furnished import command

from compressor.contracts import Workload, registry
from compressor.deploy.session import predictor
from compressor.model import Model
from compressor.plan.specs import DataSpec
from compressor.report import read_report
from compressor.tasks.data import load_data
from targets.eager import EagerTorch
from targets.onnxruntime import OnnxRuntime
from targets.openvino import OpenVino

HERE = Path(__file__).parents[1] / "stand_ins" / "diffusion"
NAME = "image-generation-stand-in"
TARGETS = {"pytorch": EagerTorch, "onnxruntime": OnnxRuntime, "openvino": OpenVino}
PLAN = f"""
name: pictures
stages: quality
model: {{folder: pretrained}}
task:
  {NAME}: {{steps: 4}}
data: {{files: rows.jsonl, split: {{validation: 8, test: 12}}, calibration: 4}}
passes:
  - finetune: {{steps: 4, batch_size: 8, precision: fp32, learning_rate: 1.0e-3}}
    gate: {{max_drop: 100}}
targets:
  - onnxruntime: {{}}
  - openvino: {{}}
  - pytorch: {{}}
probes:
  - latency: {{kinds: [sample], steps: 2, rounds: 5, seconds: 2, warm_up_seconds: 0.05, control_limit: 0.9}}
accept:
  - {{target: onnxruntime, max_drop: 100}}
  - {{target: openvino, max_drop: 0, on_fail: warn}}
"""
BUILT = ("onnxruntime", "openvino")
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
    """As the plan splits them."""
    spec = DataSpec.model_validate({"files": "rows.jsonl", "split": {"validation": 8, "test": 12}})
    return load_data(spec, columns=task.columns(), seed=0, folder=folder)


@pytest.fixture(scope="module")
def finished(folder):
    """The folder of a run from the command line: trained for four steps, built for three targets, timed by the picture."""
    (folder / "plan.yaml").write_text(PLAN, encoding="utf-8")
    command(folder, "run", "plan.yaml", "--out", "run")
    return folder / "run"


@pytest.fixture(scope="module")
def built(finished):
    """Where the pipeline lies as it came, built for every target."""
    return {name: finished / "artifacts" / f"source@{name}" for name in TARGETS}


@pytest.fixture(scope="module")
def sessions(built):
    return {name: kind().open(built[name]) for name, kind in TARGETS.items()}


def test_loop_is_that_of_diffusers(task, folder, sessions, built):
    """The scheduler of diffusers, spaced as the task spaces the levels, makes the same pictures of the same noise."""
    import diffusers
    import torch

    scheduler = diffusers.DDIMScheduler.from_pretrained(folder / "pretrained", subfolder="scheduler", timestep_spacing="trailing")
    scheduler.set_timesteps(SAMPLE.steps)
    unet = Model.read(folder / "pretrained").module
    feed = task._feed([3, 4], built["pytorch"])
    sample = torch.from_numpy(feed["sample"])
    with torch.no_grad():
        for level in scheduler.timesteps:
            sample = scheduler.step(unet(sample, level).sample, level, sample).prev_sample
    found = task.call(sessions["pytorch"], feed, SAMPLE)["pictures"]
    assert scheduler.timesteps.tolist() == [19, 14, 9, 4]
    np.testing.assert_allclose(found, sample.numpy(), atol=1e-4)


@pytest.mark.parametrize("name", BUILT)
def test_same_noise_gives_the_same_pictures_on_every_target(name, task, rows, sessions, built):
    for feed in task.feeds(rows.split("test"), built[name], SAMPLE, count=2):
        expected = task.call(sessions["pytorch"], feed, SAMPLE)["pictures"]
        found = task.call(sessions[name], feed, SAMPLE)["pictures"]
        assert found.shape == (2, 1, 8, 8)
        assert np.ptp(expected) > 0.5
        np.testing.assert_allclose(found, expected, atol=2e-3)


def test_score_of_the_set_is_the_same_on_every_target_and_has_no_interval(task, rows, sessions, built):
    found = {
        name: task.evaluate(predictor(task, session), rows.split("test"), built[name], split="test")
        for name, session in sessions.items()
    }
    held = found["pytorch"]
    for evaluation in found.values():
        assert evaluation.scores.main.value == pytest.approx(held.scores.main.value, rel=1e-2)
        assert (evaluation.gains, evaluation.scores.main.interval, evaluation.scores.main.n) == ({}, None, 12)
    changed = task.compare(found["openvino"], held, metric=task.metric, name="source", seed=0)
    assert (changed.unit, changed.interval, changed.changed) == ("percent", None, None)
    assert task.score(held.truth, held.truth, split="test").scores.main.value == pytest.approx(0, abs=1e-6)


def test_a_seed_becomes_noise_and_a_picture_is_told(task, sessions, built):
    feed = task.feed("7", built["onnxruntime"])
    again = task.feed(7, built["pytorch"])
    assert all(np.array_equal(feed[name], again[name]) for name in feed)
    (told,) = task.tell(task.call(sessions["onnxruntime"], feed), ())
    assert [len(line) for line in told.text.splitlines()] == [8] * 8


# ------------------------------------------------------------------ a whole plan, from the command line


def test_plan_trains_times_and_judges_a_score_of_the_set(finished):
    report = read_report(finished)
    assert (report.version, report.outcome, report.task) == (2, "accepted", NAME)
    (losses,) = (note for note in report.stages[1].notes if note.title.startswith("Training loss"))
    assert [step for step, _ in losses.curves["task"]] == [1, 2, 3, 4]
    (source, final) = (candidate for candidate in report.candidates if candidate.target == "openvino")
    assert final.scores.main.value != source.scores.main.value
    for candidate in report.candidates:
        assert (candidate.scores.main.interval, candidate.scores.main.better, candidate.scores.main.n) == (None, "lower", 12)
        assert candidate.parity.max_abs < 2e-3
    assert final.difference.interval is None
    assert final.difference.change == pytest.approx(100 * (1 - final.scores.main.value / source.scores.main.value), abs=1e-4)
    met = {verdict.candidate: verdict for verdict in report.verdicts}
    assert met["final@openvino"].value == pytest.approx(-final.difference.change)
    assert met["final@openvino"].outcome == ("met" if final.difference.change >= 0 else "not met")
    assert {(each.unit, each.metric) for each in met.values()} == {("percent", "frechet-distance")}
    assert report.stages[1].verdicts[0].outcome == met["final@onnxruntime"].outcome == "met"


def test_pictures_are_timed_in_samples_by_processes_of_their_own(finished):
    (record,) = read_report(finished).probes
    assert {row.candidate for row in record.rows} >= {f"{stage}@{name}" for stage in ("source", "final") for name in TARGETS}
    for row in record.rows:
        assert (row.workload, row.unit) == (Workload(kind="sample", steps=2), "samples")
        assert row.throughput_per_s == pytest.approx(1e3 / row.median_ms)


def test_score_and_throughput_are_shown(finished, capsys):
    command(finished.parent, "show", "run")
    shown = capsys.readouterr().out
    report = (finished / "report.md").read_text()
    assert "samples/s" in report
    for page in (shown, report, (finished / "report.html").read_text()):
        assert "frechet-distance" in page
        assert "sample," in page


# ------------------------------------------------------------------ export


@pytest.mark.parametrize("name", BUILT)
def test_export_calls_the_denoiser_once_and_says_what_it_takes(finished, tmp_path, name):
    """The loop is the task's; what is shipped is its graph, under its own name, with the files that a loop reads."""
    out = tmp_path / "out"
    command(finished.parent, "export", "run", str(out), "--target", name)
    spec = json.loads((out / "spec.json").read_text())
    (graph,) = spec["graphs"]
    file = {"onnxruntime": "denoiser.onnx", "openvino": "openvino_denoiser.xml"}[name]
    assert (graph["name"], graph["component"], graph["state"], graph["file"]) == ("denoiser", "unet", [], file)
    assert (spec["model"], [port["name"] for port in spec["inputs"]]) == (file, ["sample", "timestep"])
    assert (out / file).is_file()
    assert (out / "scheduler" / "scheduler_config.json").is_file()
    feed = {"sample": np.ones((1, 1, 8, 8), np.float32), "timestep": np.array([5])}
    np.savez(tmp_path / "inputs.npz", **feed)
    done = subprocess.run([sys.executable, "-I", out / "example.py", tmp_path / "inputs.npz"], capture_output=True, text=True)
    expected = TARGETS[name]().open(finished / "artifacts" / f"final@{name}").run(feed, graph="denoiser")[0]["noise"][0]
    np.testing.assert_allclose(json.loads(done.stdout), expected, atol=1e-5)


def test_export_of_the_pipeline_itself_has_no_example_and_says_why(finished, tmp_path):
    """Its components stay apart; this project opens them, and so does diffusers."""
    out = tmp_path / "out"
    command(finished.parent, "export", "run", str(out), "--target", "pytorch")
    readme = (out / "README.md").read_text()
    assert "There is no `example.py`: the model is a folder of components" in readme
    assert "python example.py" not in readme
    assert not (out / "example.py").exists()
    assert json.loads((out / "spec.json").read_text())["graphs"][0]["component"] == "unet"
    assert list(Model.load(out).components) == ["unet", "vae"]
