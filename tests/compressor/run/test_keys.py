"""Keys of stored results change with what can change a result: targets that are measured on, machines, versions of libraries."""

from __future__ import annotations

import json

import pytest

from compressor.contracts import Task
from compressor.contracts import step as step_module
from compressor.deploy.build import Builder
from compressor.deploy.machine import machine
from compressor.deploy.onnx import Onnx
from compressor.plan.bound import load_plan
from compressor.run.keys import Keys, source_digest
from compressor.store.store import StoredResult
from compressor.tasks.text_classification import TextClassification
from targets.openvino import OpenVino

PLAN = """
model: {folder: model}
task: text-classification
data: {files: rows.csv}
passes:
  - prune-structure: {latency: {target: ort, ratio: 0.5}}
  - quantize-static
targets:
  - onnxruntime: {threads: 1}
    name: ort
  - openvino
"""


@pytest.fixture
def bound(tmp_path):
    """Reads the plan with texts replaced."""
    (tmp_path / "model").mkdir()
    (tmp_path / "rows.csv").write_text("text,label\na,b\n")

    def bound(old="", new=""):
        (tmp_path / "plan.yaml").write_text(PLAN.replace(old, new))
        return load_plan(tmp_path / "plan.yaml")

    return bound


def key(bound, number, dialect=None):
    return json.dumps(Keys(bound, "rows", ("a", "b"), "cpu").step(bound.passes[number], "parent", {}, dialect), sort_keys=True)


def test_step_that_measures_on_a_target_is_another_one_where_that_target_or_the_machine_changes(bound, monkeypatch):
    before, quantised = key(bound(), 0), key(bound(), 1)
    other = bound("threads: 1", "threads: 2")
    assert key(other, 0) != before
    assert key(other, 1) == quantised, "it measures nothing"
    elsewhere = machine().model_copy(update={"fingerprint": "another"})
    monkeypatch.setattr("compressor.run.keys.machine", lambda: elsewhere)
    assert key(bound(), 0) != before
    assert key(bound(), 1) == quantised


def test_quantiser_of_the_branch_is_in_the_key_with_its_version(bound, monkeypatch):
    before = key(bound(), 1, OpenVino.dialect)
    monkeypatch.setattr(step_module, "version", lambda name: "99" if name == "nncf" else "1")
    after = key(bound(), 1, OpenVino.dialect)
    assert '"quantizer": {"nncf": "99"}' in after
    assert after != before


def test_lowering_depends_on_every_format_on_the_way(tmp_path):
    asked = []

    class Listening:
        def obtain(self, parts, _make):
            asked.append(parts)
            return StoredResult("", "", tmp_path, {}, 0.0, found=True)

    task: Task = TextClassification()
    builder = Builder(Listening(), task, "text-classification", ("a", "b"), {})
    builder.lower(StoredResult("", "digest", tmp_path, {}, 0.0, found=True), "torch", "openvino", OpenVino())
    assert [(each["from"], each["to"]) for each in asked] == [("torch", "onnx"), ("onnx", "openvino")]
    assert [set(each["requires"]) for each in asked] == [{"torch", "onnx", "onnxscript"}, {"openvino"}]
    assert asked[0]["version"] == Onnx.version


def test_digest_of_a_folder_without_subfolders_is_that_of_earlier_versions(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "README.md").write_text("not read")
    assert source_digest(tmp_path) == "9ec0cdbf409d290232d4880f3811897c2575ea24bc891a672ba9b1e4b6e9d9f5"


def test_digest_of_a_source_sees_what_lies_in_subfolders_linked_ones_too(tmp_path):
    (tmp_path / "source" / "unet").mkdir(parents=True)
    (tmp_path / "source" / ".cache").mkdir()
    (tmp_path / "source" / "vae").symlink_to(".cache")
    (tmp_path / "source" / "unet" / "around").symlink_to(tmp_path / "source")
    found = [source_digest(tmp_path / "source")]
    for name in ("unet/model.safetensors", ".x/x.json", ".cache/model.safetensors", "unet/notes.md"):
        (tmp_path / "source" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "source" / name).write_bytes(b"changed")
        found.append(source_digest(tmp_path / "source"))
    empty, unet, hidden, linked, notes = found
    assert len({empty, unet, linked}) == 3
    assert (hidden, notes) == (unet, linked), "nobody reads them"


def test_key_of_a_step_of_several_processes_holds_the_version_of_what_makes_them_a_group(bound, monkeypatch):
    def parts(processes):
        plan = bound("  - quantize-static\n", "  - finetune\n")
        return Keys(plan, "rows", ("a", "b"), "cpu", processes).step(plan.passes[1], "parent", {}, None)

    alone, together = parts(1), parts(2)
    assert set(alone) < set(together)
    monkeypatch.setattr(step_module, "version", lambda name: "0.1" if name == "accelerate" else "1")
    assert parts(2)["group"] == {"accelerate": "0.1"} != together["group"]
