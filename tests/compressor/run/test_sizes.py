"""Gates on size judge what is stored and deployed: a packed trunk by its own account, a branch by the files of its target."""

from __future__ import annotations

from pathlib import Path

import pytest
from furnished import rows, write_model, write_rows

from compressor.plan.bound import load_plan
from compressor.report.changes import layers
from compressor.report.findings import Findings
from compressor.run.pipeline import run_plan
from compressor.store.store import Store

PLAN = """
model: {folder: model}
task: {text-classification: {max_length: 16}}
data: {files: rows.jsonl, split: {validation: 12, test: 16}, calibration: 8}
reference: source
passes:
  - ternarise
    gate: {max_size: 10, on_fail: warn}
  - quantize-dynamic: {}
    gate: {max_size: 10, on_fail: warn}
targets: [onnxruntime]
accept:
  - {target: onnxruntime, max_size: 10}
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Of a plan whose trunk is fake-quantised and whose branch is quantised."""
    folder = tmp_path_factory.mktemp("sizes")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[2] / "stand_ins" / "diffusion"))
        write_model(folder, ("blue", "red"))
        write_rows(folder / "rows.jsonl", rows())
        (folder / "plan.yaml").write_text(PLAN.replace("  - ternarise\n", "  - ternarise: {}\n"))
        bound = load_plan(folder / "plan.yaml")
        return run_plan(bound, store=Store(folder / "store"), folder=folder / "run", command="", tell=lambda _: None)


def deployed(report, name):
    return next(sum(file.bytes for file in each.files) for each in report.candidates if each.id == f"{name}@onnxruntime")


def test_packed_trunk_is_judged_by_what_it_is_stored_as_and_the_gate_says_so(report):
    source, ternary = (next(each for each in report.stages if each.name == name) for name in ("source", "ternarise"))
    assert ternary.weights == source.weights
    assert ternary.bytes == sum(ternary.layer_bytes.values()) < source.bytes
    (verdict,) = ternary.verdicts
    assert verdict.value == ternary.bytes / source.bytes
    assert verdict.why == "bytes of the torch model, not of what onnxruntime will deploy"


def test_bytes_by_layer_are_those_of_the_quantised_file(report):
    source, final = (next(each for each in report.candidates if each.id == f"{name}@onnxruntime") for name in ("source", "final"))
    for each in (source, final):
        assert set(each.layer_bytes) >= {"bert.embeddings", "bert.encoder.layer.0.attention", "classifier"}
        assert 0.5 * each.bytes < sum(each.layer_bytes.values()) <= each.bytes
    assert final.layer_bytes["bert.embeddings"] < 0.35 * source.layer_bytes["bert.embeddings"]
    chart = layers(Findings(report), "onnxruntime")
    assert chart.title == "Deployed on onnxruntime, by layer"
    assert "bert.encoder.layer.0.attention" in chart.svg


def test_branch_is_judged_by_the_files_that_its_target_deploys(report):
    quantised = next(each for each in report.stages if each.name == "quantize-dynamic")
    (verdict,) = quantised.verdicts
    assert verdict.value == deployed(report, "final") / deployed(report, "source")
    assert verdict.why == "bytes of what onnxruntime deploys"
    assert [each.value for each in report.verdicts] == [verdict.value]
