"""The plan that the page shows, run as it stands: from a folder and rows to files for two runtimes that compute what was trained."""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from pathlib import Path

import pytest
from furnished import rows, write_model

from compressor.contracts import Pass
from compressor.errors import PlanError, UnsupportedModel
from compressor.model.model import Model
from compressor.model.quantization.layers import quantized_layers
from compressor.plan.bound import load_plan
from compressor.run.pipeline import run_plan
from compressor.run.preflight import check_sharded
from compressor.store.store import FILES, Store
from compressor.training.launch import Processes

PAGE = Path(__file__).parents[3] / "docs" / "quantization-aware.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the plan names: a tiny BERT with a head of two classes, and rows that it can learn."""
    folder = tmp_path_factory.mktemp("page")
    write_model(folder, ("blue", "red"), max_position_embeddings=64).rename(folder / "my-model")
    with (folder / "rows.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, ("text", "label"))
        table.writeheader()
        table.writerows(rows(100))
    (plan,) = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    (folder / "plan.yaml").write_text(plan)
    return folder


@pytest.fixture(scope="module")
def report(folder):
    bound = load_plan(folder / "plan.yaml")
    return run_plan(bound, store=Store(folder / "store"), folder=folder / "run", command="", tell=lambda _: None)


def test_plan_of_the_page_runs_to_files_that_compute_what_was_trained(report):
    final = {each.target: each for each in report.candidates if each.stage == "final"}
    assert set(final) == {"onnxruntime", "openvino"}
    for each in final.values():
        assert each.facts["precision"] == "int2 + fp32"
        assert each.parity.agreement >= 0.99
        assert each.parity.cosine > 0.999
        source = next(other for other in report.candidates if other.id == f"source@{each.target}")
        assert each.bytes < source.bytes


def test_report_of_the_plan_says_what_was_quantised_and_where_quality_went(report):
    stage = next(each for each in report.stages if each.name == "distill-and-quantize")
    titles = [note.title for note in stage.notes if hasattr(note, "title")]
    assert "Quantised layers" in titles
    assert "accuracy on validation" in titles
    assert [each for each in titles if each.startswith("Attention of the input model")]
    assert [line for line in stage.edits if "weights ternary, a step for 32 inputs" in line]
    assert stage.bytes < 0.5 * next(each for each in report.stages if each.name == "source").bytes


def test_stored_student_is_found_again_with_its_quantisers(report, folder):
    stage = next(each for each in report.stages if each.name == "distill-and-quantize")
    model = Model.load(Store(folder / "store").entry(stage.key) / FILES)
    assert len(quantized_layers(model.module)) == 1 + 2 * 6 + 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("passes.distill-and-quantize.group=64",), "target 'openvino': it has no kernels for"),
        (
            ("passes.distill-and-quantize.weights=8", "passes.distill-and-quantize.ranges=dynamic"),
            "target 'openvino': it has no kernels for",
        ),
        (("passes.distill-and-quantize.weights=8", "passes.distill-and-quantize.activations=4"), "with int4 activations"),
        (("passes.distill-and-quantize.weight=8",), "no such parameter"),
    ],
)
def test_scheme_without_kernels_is_refused_before_anything_runs(folder, settings, said):
    with pytest.raises(PlanError, match=said):
        load_plan(folder / "plan.yaml", settings=settings)


def test_step_that_needs_layers_in_float_is_refused_after_one_that_quantises(folder):
    text = (folder / "plan.yaml").read_text()
    (folder / "after.yaml").write_text(text.replace("\ntargets:", "\n  - rotate: {}\ntargets:"))
    with pytest.raises(PlanError, match="put 'rotate' before 'distill-and-quantize'") as caught:
        load_plan(folder / "after.yaml")
    (fault,) = caught.value.faults
    assert fault.where == "passes.rotate"
    (folder / "before.yaml").write_text(text.replace("passes:\n", "passes:\n  - rotate: {}\n"))
    load_plan(folder / "before.yaml")


@pytest.mark.parametrize(("target", "refused"), [("pytorch", True), ("onnxruntime", False)])
def test_bits_are_not_chosen_by_the_time_that_a_simulation_takes(folder, target, refused):
    text = (folder / "plan.yaml").read_text().replace("targets:\n", "targets:\n  - pytorch: {}\n")
    bits = f"mixed: {{latency: {{target: {target}, ratio: 0.9}}}}"
    (folder / "timed.yaml").write_text(re.sub(r"weights: ternary.*", bits, text))
    if not refused:
        load_plan(folder / "timed.yaml")
        return
    with pytest.raises(PlanError, match="times what it quantises on 'pytorch'") as caught:
        load_plan(folder / "timed.yaml")
    (fault,) = caught.value.faults
    assert fault.where.endswith("mixed.latency.target")


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (
            "finetune: {epochs: 1, lora: {rank: 2}}",
            "small matrices are added to layers in float, and 'distill-and-quantize' has quantised them",
        ),
        (
            "distill: {teacher: source, epochs: 1, lora: {rank: 2}}",
            "small matrices are added to layers in float, and 'distill-and-quantize' has quantised them",
        ),
    ],
)
def test_small_matrices_beside_quantised_layers_are_refused_before_anything_runs(folder, after, said):
    text = (folder / "plan.yaml").read_text().replace("\ntargets:", f"\n  - {after}\ntargets:")
    (folder / "after.yaml").write_text(text)
    with pytest.raises(PlanError, match=said) as caught:
        load_plan(folder / "after.yaml")
    (fault,) = caught.value.faults
    assert "lora" in fault.where


def test_quantised_model_is_not_spread_over_processes(folder):
    (folder / "spread.yaml").write_text(
        (folder / "plan.yaml").read_text().replace("\ntargets:", "\n  - finetune: {epochs: 1}\ntargets:")
    )
    bound = load_plan(folder / "spread.yaml", settings=("passes.distill-and-quantize.epochs=1",))
    quantised = replace(bound, passes=bound.passes[1:])
    check_sharded(quantised, Processes(each=2, sharded=True))
    with pytest.raises(UnsupportedModel, match="distill-and-quantize cannot be trained with --sharded"):
        check_sharded(bound, Processes(each=2, sharded=True))
    held = replace(bound, passes=(replace(bound.passes[0], step=Rounds()), *bound.passes[1:]))
    with pytest.raises(
        UnsupportedModel, match="finetune cannot be trained with --sharded: 'distill-and-quantize' has quantised its layers"
    ):
        check_sharded(held, Processes(each=2, sharded=True))


class Rounds(Pass):
    """Quantises, and trains nothing."""

    quantizes = True

    def apply(self, model, ctx):
        return model


@pytest.mark.parametrize(("level", "refused"), [("none", True), ("basic", True), ("extended", False), ("all", False)])
def test_pairs_that_a_target_brings_back_to_float_are_refused(folder, level, refused):
    text = (folder / "plan.yaml").read_text()
    begin, _ = text.split("passes:")
    targets = f"targets:\n  - onnxruntime: {{graph_optimization: {level}}}\n"
    (folder / "static.yaml").write_text(f"{begin}passes:\n  - quantize-static: {{calibration: 4}}\n{targets}")
    if not refused:
        load_plan(folder / "static.yaml")
        return
    with pytest.raises(PlanError, match="as the plan sets it up it has no kernels for int8 weights"):
        load_plan(folder / "static.yaml")
