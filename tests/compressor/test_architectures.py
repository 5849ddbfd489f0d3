"""Any architecture with a plain task head is read, exported, folded, quantised, measured and scored; no anatomy row is needed for that."""

from __future__ import annotations

import json

import numpy as np
import pytest
from architectures import ARCHITECTURES, ORDER, PARAMETERS, TASKS

from compressor.contracts import Artifact, registry
from compressor.deploy.session import eager, opened
from compressor.export import export
from compressor.plan.bound import load_plan
from compressor.run import rehearsal
from compressor.run.pipeline import run_plan
from compressor.store.store import Store
from compressor.tasks.tiny import LABELS
from compressor.testing.tiny import ready_target
from passes.fold import Fold
from passes.quantization.quantize_dynamic import QuantizeDynamic

CLOSE = 1e-4
ROUNDED = 0.15
"""Error of int8 weights, of the range of the logits: the weights are drawn at random and have no margin."""

PLAN = """
model: {{folder: pretrained}}
task: {task}
data: {data}
reference: finetune
passes:
  - finetune: {{epochs: 1, precision: fp32, learning_rate: 1e-5}}
  - fold:
  - quantize-dynamic:
targets: [onnxruntime, openvino]
probes:
  - latency: {{batch: [1], length: [{length}], seconds: 1}}
accept:
  - {{target: onnxruntime, max_drop: 100}}
"""


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architecture_is_exported_and_quantised(name, tmp_path):
    run, target = ARCHITECTURES[name].run(), ready_target("onnxruntime")
    model, rows = run.model(), run.data.split("test")
    assert tuple(model.module.config.id2label.values()) == LABELS != ORDER
    expected = run.task.predicted(eager(run.task, model, "cpu"), rows, run.source.path)["logits"]
    lowered = run.lowered(target)

    def errors(files, folder):
        folder.mkdir()
        target.build(Artifact("onnxruntime", files), folder)
        found = run.task.predicted(opened(run.task, target, folder), rows, files)["logits"]
        return float(np.abs(found - expected).max() / np.ptp(expected))

    assert errors(lowered.path, tmp_path / "built") < CLOSE
    folded = Fold().apply(Artifact("onnxruntime", lowered.path), run.context(tmp_path / "fold", target=target))
    assert errors(folded.path, tmp_path / "built-folded") < CLOSE
    quantized = QuantizeDynamic().apply(folded, run.context(tmp_path / "quantize", target=target))
    assert CLOSE / 100 < errors(quantized.path, tmp_path / "built-quantized") < ROUNDED


def test_a_model_that_keeps_tensors_is_trained_after_it_was_scored():
    run = ARCHITECTURES["beit"].run()
    model, rows = run.model(), run.data.split("train").select(range(4))
    run.task.predicted(eager(run.task, model, "cpu"), rows, run.source.path)
    batch = next(iter(run.task.batches(rows, run.source.path, batch_size=4)))
    run.task.loss(run.task.forward(model.module, batch), batch).backward()
    assert model.module.classifier.weight.grad is not None


TRAINED = """
model: {folder: pretrained}
task: {text-classification: {max_length: 16}}
data: {files: rows.jsonl, split: {validation: 12, test: 12}, calibration: 8}
models: {teacher: {folder: pretrained}}
passes:
  - finetune: {epochs: 1, precision: fp32}
  - distill: {teacher: teacher, epochs: 1, precision: fp32}
targets: [torch]
accept:
  - {target: torch, max_drop: 100}
"""


def test_a_model_that_no_row_fits_is_trained_distilled_reported_and_rehearsed_whole(tmp_path):
    run = ARCHITECTURES["deberta-v2"].run()
    plan = run.folder / "plan.yaml"
    plan.write_text(TRAINED)
    bound = load_plan(plan)
    report = run_plan(bound, store=Store(tmp_path / "store"), folder=tmp_path / "run", command="test", tell=lambda _: None)
    assert (report.exit_code, report.model.family) == (0, "deberta-v2")
    assert set(report.stages[0].layer_bytes) == {"deberta", "pooler", "classifier"}
    survey = rehearsal.survey(plan, (), tmp_path / "models", tell=lambda _: None)
    assert all(source.folder is None for depth in (2, 4) for source in survey.models(depth).values())
    assert survey.whole.models["source"].blocks == 1


CALIBRATED = """
model: {folder: pretrained}
task: {text-classification: {max_length: 16}}
data: {files: rows.jsonl, split: {validation: 12, test: 12}, calibration: 8}
reference: finetune
passes:
  - finetune: {epochs: 1, precision: fp32, learning_rate: 1e-5}
  - quantize-static: {calibration: 8, activations: 8}
targets: [onnxruntime, openvino]
accept:
  - {target: onnxruntime, max_drop: 100}
  - {target: openvino, max_drop: 100}
"""


def test_a_model_that_no_row_fits_is_quantised_with_calibration_for_both_targets(tmp_path):
    plan = ARCHITECTURES["deberta-v2 with a convolution"].run().folder / "plan.yaml"
    plan.write_text(CALIBRATED)
    report = run_plan(
        load_plan(plan), store=Store(tmp_path / "store"), folder=tmp_path / "run", command="test", tell=lambda _: None
    )
    assert report.outcome == "accepted", report.verdicts
    finals = [each for each in report.candidates if each.stage == "final"]
    assert [(each.target, each.facts["precision"]) for each in finals] == [
        ("onnxruntime", "int8 + fp32"),
        ("openvino", "int8 + fp32"),
    ]


@pytest.mark.long
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architecture_runs_from_plan_to_export(name, tmp_path, record_property):
    architecture = ARCHITECTURES[name]
    run = architecture.run()
    task = {TASKS[architecture.modality]: PARAMETERS[architecture.modality]}
    spec = {
        "text": "{files: rows.jsonl",
        "image": "{files: images, format: imagefolder",
        "audio": "{files: sounds, format: audiofolder",
    }
    data = f"{spec[architecture.modality]}, split: {{validation: 12, test: 12}}, calibration: 8}}"
    length = {"text": 16, "image": 16, "audio": 8000}[architecture.modality]
    (run.folder / "plan.yaml").write_text(PLAN.format(task=json.dumps(task), data=data, length=length))
    bound = load_plan(run.folder / "plan.yaml")
    report = run_plan(bound, store=Store(tmp_path / "store"), folder=tmp_path / "run", command="test", tell=lambda _: None)
    assert (report.exit_code, report.outcome) == (0, "accepted")
    assert report.model.family
    assert {each.candidate.partition("@")[2] for each in report.probes[0].rows} == {"onnxruntime", "openvino"}
    parities = {each.id: each.parity for each in report.candidates if each.parity and each.id.startswith("finetune")}
    assert all(each.max_abs < 0.1 for each in parities.values()), parities
    record_property("family", report.model.family)
    for target in ("onnxruntime", "openvino"):
        record_property(f"parity on {target}", f"{parities[f'finetune@{target}'].max_abs:.1g}")
        export(tmp_path / "run", target, tmp_path / target)
        assert (tmp_path / target / "spec.json").is_file()


def test_every_task_has_architectures():
    assert {TASKS[each.modality] for each in ARCHITECTURES.values()} <= set(registry.names("task"))
