"""Targets that build for workloads and keep their builds, and formats that read the dialect: somebody else's, by public doors."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from compressor.contracts import Dialect, Workload, registry
from compressor.deploy import build
from compressor.deploy.build import read_by
from compressor.errors import PluginError
from compressor.testing.tiny import tiny_run

HERE = Path(__file__).parents[1] / "stand_ins" / "deployment"
WORKLOADS = (Workload(length=8), Workload(batch=4, length=16))


@pytest.fixture
def plugins(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    import deployment

    return deployment


@pytest.fixture
def built(plugins, tmp_path):
    """Builds the tiny model on a target; tells the shapes it was built for and how often anything was built so far."""
    run, log = tiny_run(), tmp_path / "builds.txt"

    def make(name, workloads=WORKLOADS, kind=plugins.Shaped, **parameters):
        target = kind(builds=str(log), **parameters)
        builder = replace(run.builder, workloads=workloads)
        candidate, files = builder.build(run.lowered(target), stage="final", name="shaped", target=target, out=tmp_path / name)
        assert sorted(file.name for file in files) == ["model.onnx", "shapes.json"]
        found = json.loads((candidate.built / "shapes.json").read_text())
        return found, len(log.read_text().splitlines()), candidate

    return make


def test_a_target_is_built_for_the_workloads_of_the_run(built):
    found, builds, candidate = built("one")
    assert found == {"graphs": ["model"], "shapes": [["forward", 1, 8], ["forward", 4, 16]]}
    assert builds == 1
    feed = tiny_run().task.feeds(tiny_run().data.split("test"), candidate.built, WORKLOADS[0], count=1)[0]
    assert candidate.runtime.open(candidate.built).run(feed)[0]["logits"].shape == (1, 3)


def test_a_kept_build_is_made_again_only_where_something_it_depends_on_changed(built):
    assert built("one")[1] == 1
    again, builds, candidate = built("two")
    assert (again["shapes"], builds) == ([["forward", 1, 8], ["forward", 4, 16]], 1)
    assert (candidate.built / "task.json").is_file()
    assert built("other-workloads", (Workload(length=8),))[1] == 2
    assert built("other-parameters", effort=2)[1] == 3
    assert built("one")[1] == 3


def test_a_build_for_one_machine_is_made_again_on_another(built, plugins, monkeypatch):
    here = build.machine()
    assert built("here", kind=plugins.ShapedHere)[1] == 1
    assert built("here-again", kind=plugins.ShapedHere)[1] == 1
    monkeypatch.setattr(build, "machine", lambda: here.model_copy(update={"fingerprint": "another"}))
    assert built("there", kind=plugins.ShapedHere)[1] == 2
    assert built("anywhere")[1] == 3
    assert built("anywhere-again")[1] == 3


def test_a_format_is_lowered_anew_for_a_target_that_differs_in_what_it_reads(plugins):
    run = tiny_run()
    signed, unsigned = (run.lowered(target()) for target in (plugins.Signed, plugins.Unsigned))
    found = [json.loads((made.path / plugins.SIGNS).read_text()) for made in (signed, unsigned)]
    assert found == ["signed", "unsigned"]
    assert signed.key != unsigned.key


def test_a_format_that_reads_what_is_not_in_its_key_is_told(plugins):
    dialect = Dialect("greedy-onnx", opset=20)
    assert read_by(plugins.GreedyOnnx, dialect).opset == 20
    with pytest.raises(PluginError, match="'greedy-onnx' reads 'activations' of the dialect and does not say so"):
        _ = read_by(plugins.GreedyOnnx, dialect).activations
    assert registry.lowering("greedy-onnx") == ("onnx", "greedy-onnx")
