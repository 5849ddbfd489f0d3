"""Files of OpenVINO with fixed sizes: the answers of dynamic ones, and no to what does not fit."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from compressor.contracts import Artifact, Graph, Port, Workload
from compressor.deploy.fixed import FixedSession, require_axes
from compressor.errors import UnsupportedModel
from compressor.plan.bound import load_plan
from compressor.run.preflight import check_lengths
from compressor.run.preview import preview
from compressor.store.store import Store
from compressor.testing.tiny import tiny_run
from targets.openvino import OpenVino

SIZES = {"batch": 2, "length": 16}
PLAN = """
model: {{folder: pretrained}}
task: {{text-classification: {{max_length: 32}}}}
data: {{files: rows.jsonl, split: {{validation: 8, test: 8}}}}
passes: [quantize-dynamic]
targets: [{{openvino: {{sizes: {sizes}}}}}]
probes: [{{latency: {{batch: [1], length: [16]}}}}]
"""


@pytest.fixture(scope="module")
def sessions(tmp_path_factory):
    """On the same model: dynamic, and of fixed sizes."""
    run, made = tiny_run(), {}
    for name, target in (("dynamic", OpenVino()), ("fixed", OpenVino(sizes=SIZES))):
        candidate, _ = run.builder.build(
            run.lowered(target), stage=name, name="openvino", target=target, out=tmp_path_factory.mktemp("sizes") / name
        )
        made[name] = target.open(candidate.built)
    return SimpleNamespace(**made, built=candidate.built, target=target)


def feed(batch, length):
    draw = np.random.default_rng(batch * 100 + length)
    mask = np.ones((batch, length), np.int64)
    for row in range(1, batch):
        mask[row, max(1, length - 2 * row) :] = 0
    return {
        "input_ids": draw.integers(5, 50, (batch, length)) * mask,
        "attention_mask": mask,
        "token_type_ids": np.zeros_like(mask),
    }


@pytest.mark.parametrize(("batch", "length"), [(2, 16), (1, 16), (2, 9), (1, 3), (5, 12)])
def test_answers_are_those_of_the_dynamic_file(sessions, batch, length):
    given = feed(batch, length)
    fixed, dynamic = (each.run(given)[0]["logits"] for each in (sessions.fixed, sessions.dynamic))
    assert fixed.shape == dynamic.shape
    np.testing.assert_allclose(fixed, dynamic, rtol=0, atol=1e-5)


def test_file_is_static_and_says_so(sessions):
    shapes = sessions.target._compiled(sessions.built, Graph()).inputs
    assert {tuple(port.get_shape()) for port in shapes} == {(2, 16)}
    assert sessions.fixed.facts()["sizes"] == "batch 2, length 16"
    assert OpenVino.runtime(sessions.fixed.facts()) is None
    assert OpenVino.runtime(sessions.dynamic.facts()) is not None


def test_what_is_longer_is_refused(sessions):
    with pytest.raises(UnsupportedModel, match="the file takes length 16, found 17"):
        sessions.fixed.run(feed(1, 17))


def test_sounds_are_not_padded():
    graph = Graph(inputs=(Port("sound", "float32", ("batch", "frames")),), outputs=(Port("y", "float32", ("batch",)),))
    session = FixedSession(None, [graph], {"frames": 8})
    with pytest.raises(UnsupportedModel, match="takes frames 8, found 5, and what is shorter cannot be padded"):
        session.run({"sound": np.zeros((1, 5), np.float32)})


def test_axes_that_no_input_has_and_states_are_refused():
    graph = Graph(inputs=(Port("ids", "int64", ("batch", "length")),))
    require_axes([graph], {"length": 8})
    with pytest.raises(UnsupportedModel, match="no input has an axis 'lenght'; its inputs have batch, length"):
        require_axes([graph], {"lenght": 8})
    kept = Graph(inputs=graph.inputs, outputs=graph.inputs, state=(("ids", "ids"),))
    with pytest.raises(UnsupportedModel, match="keeps something between calls"):
        require_axes([kept], {"length": 8})


def test_build_refuses_an_axis_that_no_input_has(tmp_path):
    run, target = tiny_run(), OpenVino(sizes={"frames": 100})
    source = Artifact("openvino", run.lowered(target).path)
    with pytest.raises(UnsupportedModel, match="no input has an axis 'frames'"):
        target.build(source, tmp_path, graphs=run.task.graphs(source.path))


def test_profile_of_a_file_of_fixed_sizes(sessions):
    given = feed(2, 16)
    found = sessions.target.profile(sessions.built, lambda session: lambda: session.run(given), calls=3)
    assert any(each.family == "product" for each in found.operators)


def test_a_dry_run_says_what_files_take_and_longer_texts_are_not_timed(tmp_path):
    shutil.copytree(tiny_run().folder / "pretrained", tmp_path / "pretrained")
    shutil.copyfile(tiny_run().folder / "rows.jsonl", tmp_path / "rows.jsonl")
    told = {}
    for length in (16, 8):
        (tmp_path / "plan.yaml").write_text(PLAN.format(sizes=f"{{batch: 1, length: {length}}}"))
        told[length] = load_plan(tmp_path / "plan.yaml")
    check_lengths(told[16], tmp_path / "pretrained")
    with pytest.raises(UnsupportedModel, match="latency: target openvino takes length 8, found 16"):
        check_lengths(told[8], tmp_path / "pretrained")
    lines = list(preview(told[16], Store(tmp_path / "store")))
    assert "openvino: ready; its files take batch 1, length 16 and no longer inputs" in lines
    assert OpenVino().takes() == OpenVino().refuses(Workload(length=999)) == ""
