"""Keys of stored results change with what can change a result: targets that are measured on, machines, versions of libraries."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest

from compressor.contracts import Task, registry
from compressor.contracts import step as step_module
from compressor.deploy.build import Builder
from compressor.deploy.machine import machine
from compressor.deploy.onnx import Onnx
from compressor.plan.bound import load_plan
from compressor.run.keys import Keys, brought, source_digest
from compressor.store.store import StoredResult
from compressor.tasks.audio_classification import AudioClassification
from compressor.tasks.image_classification import ImageClassification
from compressor.tasks.language.causal_lm import CausalLM
from compressor.tasks.text_classification import TextClassification
from compressor.tasks.text_regression import TextRegression
from compressor.tasks.tiny import audio_model, image_model, language_model, text_model
from targets.llama_cpp import LlamaCpp
from targets.onnxruntime import OnnxRuntime
from targets.openvino import OpenVino

WHOLE = """
model: {folder: model}
task: {text-classification: {text: [premise, hypothesis]}}
data: {files: rows.csv}
seed: 7
passes:
  - finetune: {epochs: 4}
  - distill: {teacher: source, objectives: {soft-targets: {}, hidden-states: {}}}
  - prune-structure: {latency: {target: ort, ratio: 0.5}}
  - quantize-static
targets:
  - onnxruntime: {threads: 1}
    name: ort
  - openvino
probes:
  - latency: {batch: [2], length: [8, 16]}
"""
COMMON = {
    "versions": {name: f"{name} 1" for name in ("compressor-toolchain", "torch", "transformers", "onnx", "onnxscript")},
    "task": {
        "text-classification": {
            "text": ["premise", "hypothesis"], "label": "label", "max_length": 128, "multi_label": False, "threshold": None,
        },
        "version": TextClassification.version,
        "requires": {"tokenizers": "tokenizers 1"},
    },
    "data": "rows",
    "seed": 7,
    "device": "cpu",
}  # fmt: skip
ORT = {
    "version": OnnxRuntime.version,
    "requires": {"onnxruntime": "onnxruntime 1"},
    "parameters": {"threads": 1, "provider": "cpu", "graph_optimization": "all"},
}
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
    assert '"quantizer": {"nncf": "99", "onnx-ir": "1", "openvino": "1"}' in after
    assert after != before


@pytest.mark.parametrize(("target", "library"), [(LlamaCpp, "gguf"), (OpenVino, "openvino"), (OnnxRuntime, "onnxruntime")])
def test_whatever_library_quantises_is_in_the_key_with_its_version(target, library, bound, monkeypatch):
    before = key(bound(), 1, target.dialect)
    monkeypatch.setattr(step_module, "version", lambda name: "99" if name == library else "1")
    after = key(bound(), 1, target.dialect)
    assert json.loads(after)["quantizer"][library] == "99"
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
    assert [set(each["requires"]) for each in asked] == [{"torch", "onnx", "onnxscript", "onnx-ir"}, {"openvino", "onnx-ir"}]
    assert asked[0]["version"] == Onnx.version


def test_digest_of_a_folder_without_subfolders_is_that_of_earlier_versions(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "README.md").write_text("not read")
    assert source_digest(tmp_path) == "9ec0cdbf409d290232d4880f3811897c2575ea24bc891a672ba9b1e4b6e9d9f5"


READINGS = {
    "text": (text_model, TextClassification(max_length=16)),
    "language": (language_model, CausalLM(max_length=32, messages="turns")),
    "images": (image_model, ImageClassification(size=16)),
    "audio": (audio_model, AudioClassification(seconds=0.5)),
}


@pytest.mark.parametrize("name", READINGS)
def test_digest_of_a_source_holds_every_file_that_a_task_opens_in_it(name, tmp_path):
    write, task = READINGS[name]
    write(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 0}')
    opened, listening = set[Path](), [True]

    def hear(event, arguments):
        if event == "open" and listening and isinstance(arguments[0], str | os.PathLike):
            opened.add(Path(arguments[0]))

    sys.addaudithook(hear)  # it cannot be taken away again
    try:
        task.load(tmp_path, SimpleNamespace(labels=("a", "b")), seed=0)
    finally:
        listening.clear()
    read = {path for path in opened if path.parent == tmp_path and path.is_file()}
    assert len(read) > 1
    for path in sorted(read):
        before, content = source_digest(tmp_path), path.read_bytes()
        path.write_bytes(content + b" ")
        assert source_digest(tmp_path) != before, path.name
        path.write_bytes(content)


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


# ------------------------------------------------------------------ everything that is in a key


@pytest.fixture
def whole(bound, monkeypatch):
    """A plan of several kinds of steps, where installed versions, processor and machine are known."""
    monkeypatch.setattr(step_module, "version", lambda name: f"{name} 1")
    monkeypatch.setattr("compressor.run.keys.read_cpuinfo", lambda: {"flags": "sse avx2 fma"})
    here = machine().model_copy(update={"fingerprint": "here"})
    monkeypatch.setattr("compressor.run.keys.machine", lambda: here)
    return bound(PLAN, WHOLE)


@pytest.fixture
def keys(whole):
    return Keys(whole, "rows", ("a", "b"), "cpu", 2)


def test_key_of_a_source_holds_its_files_the_labels_and_all_that_results_of_a_run_share(keys):
    assert keys.common == COMMON
    assert keys.source("files") == {**COMMON, "step": "source", "files": "files", "labels": ["a", "b"]}


def test_key_of_a_source_and_of_scores_holds_the_versions_of_those_who_bring_libraries_and_networks(whole, monkeypatch, tmp_path):
    assert brought() == {}
    for version in ("1.2", "1.3"):
        folder = tmp_path / version
        (folder / "acme.dist-info").mkdir(parents=True)
        (folder / "acme.dist-info" / "METADATA").write_text(f"Metadata-Version: 2.1\nName: acme-nets\nVersion: {version}\n")
        (folder / "acme.dist-info" / "entry_points.txt").write_text("[compressor.network]\nAcmeNet = acme:Net\n")
        with monkeypatch.context() as patch:
            patch.syspath_prepend(str(folder))
            keys = Keys(whole, "rows", ("a", "b"), "cpu")
            for found in (keys.source("files"), keys.evaluation("digest", "torch", "test", None)):
                assert found["brought"] == {"network:AcmeNet": f"acme-nets {version}"}


def expected(step, **others):
    return {
        **COMMON,
        "step": step.plugin,
        "version": step.step.version,
        "parameters": step.step.model_dump(mode="json"),
        "requires": {name: f"{name} 1" for name in step.step.requires},
        "parent": "parent",
        "teachers": {},
        "measured": {},
        "plugins": {},
        "dialect": None,
        "quantizer": {},
        "processes": 2,
        "group": {"accelerate": "accelerate 1"},
        "processor": ["fma", "avx2"],
        **others,
    }


def test_key_of_a_training_holds_what_it_learns_from_and_by_what(whole, keys):
    finetune, distill = whole.passes[:2]
    found = keys.step(finetune, "parent", {}, None)
    assert found == expected(finetune, measured={"machine": "here"})
    assert found["parameters"]["epochs"] == 4
    plugins = {
        f"{kind}:{name}": {"version": registry.load(kind, name).version, "requires": {}}
        for kind, name in (("edit", "keep-blocks"), ("objective", "hidden-states"), ("objective", "soft-targets"))
    }
    assert keys.step(distill, "parent", {"source": "digest"}, None) == expected(
        distill, measured={"machine": "here"}, teachers={"source": "digest"}, plugins=plugins
    )


def test_scores_whose_intervals_were_drawn_otherwise_are_made_anew(whole, monkeypatch):
    task = SimpleNamespace(**{**vars(whole), "task": TextRegression(), "probes": ()})
    parts = Keys(task, "rows", (), "cpu").evaluation("digest", "torch", "test", None)
    assert parts["task"]["version"] == 4, "3 drew rows one after the other"


def alone(parts):
    return {name: value for name, value in parts.items() if name != "group"} | {"processes": 1}


def test_key_of_a_step_that_measures_holds_its_target_and_the_machine(whole, keys):
    step = whole.passes[2]
    found = keys.step(step, "parent", {}, None)
    assert found["measured"] == {"ort": {"step": "onnxruntime", **ORT}, "machine": "here"}
    assert found == alone(expected(step, measured=found["measured"], plugins=found["plugins"]))


def test_key_below_torch_holds_the_dialect_and_its_quantiser_and_no_group(whole, keys):
    step, dialect = whole.passes[3], OpenVino.dialect
    found = keys.step(step, "parent", {}, dialect)
    quantised = {"dialect": asdict(dialect), "quantizer": {"nncf": "nncf 1", "openvino": "openvino 1", "onnx-ir": "onnx-ir 1"}}
    assert found == alone(expected(step, **quantised))
    assert keys.step(step, "parent", {}, OnnxRuntime.dialect)["quantizer"].items() >= {"onnxruntime": "onnxruntime 1"}.items()
    assert keys.step(whole.passes[0], "parent", {}, dialect)["quantizer"] == {}, "it does not quantise"


def test_one_process_is_not_a_group_and_is_what_keys_begin_with(whole):
    step = whole.passes[0]
    assert Keys(whole, "rows", ("a", "b"), "cpu").step(step, "parent", {}, None) == alone(
        expected(step, measured={"machine": "here"})
    )


def test_measure_that_quality_is_held_by_is_in_the_key_where_it_is_not_the_first_of_the_task(bound):
    plan = bound()
    other = bound("data:", "metric: macro-F1\ndata:")
    assert "metric" not in Keys(plan, "rows", (), "cpu").step(plan.passes[0], "parent", {}, None)
    assert Keys(other, "rows", (), "cpu").step(other.passes[0], "parent", {}, None)["metric"] == "macro-F1"


class Building(OnnxRuntime):
    """Keeps its builds, which are for the shapes that are timed."""

    keeps_builds: ClassVar[bool] = True


def test_key_of_scores_holds_the_target_and_what_it_was_built_for(whole, keys):
    common = {**COMMON, "step": "evaluate", "parent": "digest", "format": "onnx", "split": "test"}
    assert keys.evaluation("digest", "onnx", "test", None) == {**common, "target": None}
    target = whole.targets[0].target
    assert keys.evaluation("digest", "onnx", "test", target) == {**common, "target": {"step": "OnnxRuntime", **ORT}}
    found = keys.evaluation("digest", "onnx", "test", Building(threads=1))
    timed = [(each["kind"], each["batch"], each["length"]) for each in found.pop("workloads")]
    assert timed == [("forward", 2, 8), ("forward", 2, 16)]
    assert found == {**common, "target": {"step": "Building", **ORT}}


def test_keys_of_outputs_and_descriptions_hold_what_these_are_of(keys):
    assert keys.outputs("digest", "test", 3) == {**COMMON, "step": "outputs", "parent": "digest", "split": "test", "rows": 3}
    anatomies = {name: registry.distribution("anatomy", name) for name in registry.names("anatomy")}
    assert anatomies
    assert keys.description("digest") == {
        "step": "describe", "versions": COMMON["versions"], "anatomies": anatomies, "parent": "digest",
    }  # fmt: skip
