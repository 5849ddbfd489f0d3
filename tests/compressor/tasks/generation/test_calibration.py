"""Quantisation of a network that draws is calibrated at the levels of noise that its sampler asks at."""

from __future__ import annotations

import numpy as np
import pytest
from furnished import command

from compressor.report import read_report
from compressor.tasks.generation.calibration import levels_of
from compressor.tasks.generation.description import GRAPH, Description, described
from compressor.tasks.generation.image_generation import ImageGeneration
from compressor.tasks.generation.samplers import Sampling
from compressor.tasks.inputs.sampling import COLUMNS
from compressor.testing.tiny import run_of

PLAN = """
name: int8
model: {folder: pretrained}
task:
  image-generation: {steps: 4, guidance: 1.5}
data: {files: images, format: imagefolder, split: {validation: 12, test: 12}, calibration: 16}
passes:
  - quantize-static: {sensitivity: false}
targets:
  - TARGET: {}
"""


@pytest.fixture(scope="module")
def run():
    return run_of("image-generation", ImageGeneration(steps=4, guidance=1.5))


def test_calibration_rows_are_noisy_at_every_level_with_and_without_label(run):
    rows, files = run.data.split("train"), run.source.path
    feeds = run.task.calls(rows, files, count=16)
    (graph,) = run.task.graphs(files)
    assert len(feeds) == 16
    for feed in feeds:
        assert {name: str(array.dtype) for name, array in feed.items()} == {port.name: port.dtype for port in graph.inputs}
        assert feed["sample"].shape == (1, 3, 16, 16)
    how = described(files)
    times = how.process.grid(4).time[:-1]
    assert sorted({float(feed["time"][0]) for feed in feeds}) == sorted(times.tolist())
    empty = [feed["label"][0] == how.empty for feed in feeds]
    assert sum(empty) == 8
    noisiest = np.concatenate([feed["sample"] for feed in feeds if feed["time"][0] == times[0]])
    cleanest = np.concatenate([feed["sample"] for feed in feeds if feed["time"][0] == times[-1]])
    assert noisiest.std() > cleanest.std()
    assert len(run.task.calls(rows, files, count=5)) == 5


@pytest.mark.parametrize("sampler", ["ddim", "consistency", "dpm++2m"])
def test_a_network_is_told_the_steps_that_its_sampler_tells_it(sampler):
    how = Description(shape=(1, 4, 4), classes=3, spans=True, sampling=Sampling(sampler=sampler, steps=3))
    levels, spans = levels_of(GRAPH, how)
    table = how.table()
    np.testing.assert_allclose(levels.time, table[:, COLUMNS.index("time")])
    np.testing.assert_allclose(spans, table[:, COLUMNS.index("span")])


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_network_is_quantised_and_draws_nearly_the_same(tmp_path, target):
    ImageGeneration().tiny(tmp_path)
    (tmp_path / "plan.yaml").write_text(PLAN.replace("TARGET", target), encoding="utf-8")
    command(tmp_path, "run", "plan.yaml", "--out", "run")
    report = read_report(tmp_path / "run")
    final = next(each for each in report.candidates if each.stage == "final")
    assert "int8" in final.facts["precision"]
    assert final.parity.max_abs > 0
    assert final.parity.cosine > 0.9
