"""What is refused before the first step: heads that were only just drawn are nobody's teacher and no measure of quality."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest
from furnished import rows, write_model, write_rows

from compressor.contracts.anatomy import Anatomy, Block
from compressor.errors import CompressorError, SourceError, UnsupportedModel
from compressor.model.families import BERT
from compressor.plan.bound import load_plan
from compressor.run.pipeline import run_plan
from compressor.run.preflight import check_lengths, check_steps
from compressor.run.preview import previewed
from compressor.store.store import Store
from compressor.tasks.text_classification import TextClassification

PLAN = """
model: {{folder: model}}
models: {{other: {{folder: model}}}}
task: {{text-classification: {{max_length: 16}}}}
data: {{files: rows.jsonl}}
{reference}
passes:
{passes}
targets: [onnxruntime]
{accept}
"""
BARE = Anatomy.bare("some-net", 32)
WHOLE = replace(BARE, family="bert", blocks=(Block("layer.0", None, None),))
FUSED = replace(WHOLE, row=replace(BERT, without={"heads": "they are fused"}))
ACCEPT = "accept: [{target: onnxruntime, max_drop: 1}]"
FINETUNE = "  - finetune:"


@pytest.fixture
def checked(tmp_path):
    def check(*passes, reference="", accept="", trained=False, anatomy=WHOLE):
        folder = write_model(tmp_path)
        write_rows(tmp_path / "rows.jsonl", rows())
        plan = tmp_path / "plan.yaml"
        plan.write_text(PLAN.format(passes="\n".join(passes), reference=reference, accept=accept))
        names = ("source", "other")
        check_steps(load_plan(plan), dict.fromkeys(names, folder), () if trained else names, lambda _: anatomy.insides)

    return check


@pytest.mark.parametrize(
    "step",
    [
        "  - distill: {teacher: source}",
        "  - distill: {teacher: other}",
        "  - distill-and-prune: {teacher: source, sparsity: 0.5, objectives: {hidden-states: 1.0, soft-targets: 1.0}}",
    ],
)
def test_no_step_learns_logits_of_a_head_that_was_only_drawn(checked, step):
    with pytest.raises(UnsupportedModel, match=r"learns from the answers of \w+, whose classification head is newly initialised"):
        checked(step)
    checked(step, trained=True)


def test_inner_states_are_learned_whatever_the_head(checked):
    checked("  - distill: {teacher: source, objectives: {hidden-states: 1.0}, task_loss: 1.0}")


def test_pruning_trains_no_head_and_finetuning_does(checked):
    teacher = "  - distill: {teacher: prune-structure}"
    with pytest.raises(UnsupportedModel, match="learns from the answers of prune-structure"):
        checked("  - prune-structure: {keep: 0.5}", teacher)
    checked(FINETUNE, "  - prune-structure: {keep: 0.5}", teacher)


def test_imitating_inner_states_trains_no_head(checked):
    joint = "  - distill-and-prune: {teacher: source, sparsity: 0.5, objectives: {layer-to-layer: 1.0}TASK}"
    teacher = "  - distill: {teacher: distill-and-prune}"
    with pytest.raises(UnsupportedModel, match="learns from the answers of distill-and-prune"):
        checked(joint.replace("TASK", ""), teacher)
    checked(joint.replace("TASK", ", task_loss: 1.0"), teacher)


def test_quality_is_not_held_against_a_head_that_was_only_drawn(checked):
    with pytest.raises(UnsupportedModel, match=r"max_drop is held against source, .* and name that step as `reference`"):
        checked(FINETUNE, accept=ACCEPT)
    with pytest.raises(UnsupportedModel, match="max_drop is held against source"):
        checked(FINETUNE + "\n    gate: {max_drop: 1}")
    with pytest.raises(UnsupportedModel, match="max_class_drop is held against source"):
        checked(FINETUNE, accept=ACCEPT.replace("max_drop", "max_class_drop"))
    with pytest.raises(UnsupportedModel, match="max_class_drop is held against source"):
        checked(FINETUNE + "\n    gate: {max_class_drop: 1}")
    checked(FINETUNE, reference="reference: finetune", accept=ACCEPT)
    checked(FINETUNE, accept=ACCEPT, trained=True)
    checked(FINETUNE)


@pytest.mark.parametrize("labels", [(), ("blue", "red")])
def test_a_run_knows_whether_its_source_has_a_head(tmp_path, labels):
    write_model(tmp_path, labels)
    write_rows(tmp_path / "rows.jsonl", rows())
    (tmp_path / "plan.yaml").write_text(PLAN.format(passes="  - fold:", reference="", accept=ACCEPT))
    for again in (False, True):  # what a store holds says so too
        told = []
        with nullcontext() if labels else pytest.raises(UnsupportedModel, match="max_drop is held against source"):
            bound = load_plan(tmp_path / "plan.yaml")
            run_plan(bound, store=Store(tmp_path / "store"), folder=tmp_path / str(again), command="", tell=told.append)


def test_lengths_that_the_model_does_not_take_are_refused(checked, monkeypatch):
    monkeypatch.setattr(TextClassification, "refuses", lambda _, length, files=None: "is odd" if files and length % 2 else None)
    slim = "  - prune-structure: {latency: {target: onnxruntime, ratio: 0.5, length: LENGTH}}"
    checked(slim.replace("LENGTH", "16"))
    with pytest.raises(UnsupportedModel, match="prune-structure: length is odd"):
        checked(slim.replace("LENGTH", "15"))


def test_what_a_call_of_the_task_does_not_do_is_not_timed(tmp_path):
    write_rows(tmp_path / "rows.jsonl", rows())
    folder = write_model(tmp_path)
    given = PLAN.format(passes="  - quantize-dynamic", reference="", accept="probes: [{latency: {kinds: [forward, decode]}}]")
    (tmp_path / "plan.yaml").write_text(given)
    with pytest.raises(UnsupportedModel, match=r"latency: a call of text-classification is one pass, it has no 'decode'"):
        check_lengths(load_plan(tmp_path / "plan.yaml"), folder)


def test_batches_to_be_timed_for_which_there_are_too_few_rows_are_refused_before_a_step_runs(tmp_path):
    write_rows(tmp_path / "rows.jsonl", rows())
    write_model(tmp_path, ("blue", "red"))
    given = PLAN.format(passes="  - fold", reference="", accept="probes: [{latency: {batch: [1, 500]}}]")
    (tmp_path / "plan.yaml").write_text(given)
    bound, heard = load_plan(tmp_path / "plan.yaml"), []
    with pytest.raises(SourceError, match=r"\d+ rows are too few for one batch of 500"):
        run_plan(bound, store=Store(tmp_path / "store"), folder=tmp_path / "run", command="", tell=heard.append)
    assert not [each for each in heard if "fold" in str(each)]
    with pytest.raises(SourceError, match=r"latency: \d+ rows of test are too few for one batch of 500"):
        previewed(bound, Store(tmp_path / "other"))


def test_batches_that_a_step_times_are_looked_at_before_any_step_runs(tmp_path):
    write_rows(tmp_path / "rows.jsonl", rows())
    write_model(tmp_path, ("blue", "red"))
    budget = "  - finetune:\n  - prune-structure: {units: [neurons], latency: {target: onnxruntime, ratio: 0.7, batch: 500, length: 8}}"
    (tmp_path / "plan.yaml").write_text(PLAN.format(passes=budget, reference="", accept=""))
    bound = load_plan(tmp_path / "plan.yaml")
    with pytest.raises(SourceError, match=r"prune-structure: \d+ rows of train are too few for one batch of 500"):
        previewed(bound, Store(tmp_path / "store"))
    with pytest.raises(SourceError, match=r"rows are too few for one batch of 500"):
        run_plan(bound, store=Store(tmp_path / "store"), folder=tmp_path / "run", command="", tell=lambda event: None)


@pytest.mark.parametrize(("step", "refused"), [("  - finetune:", True), ("  - fold", False)])
def test_what_the_environment_says_wrongly_is_told_before_a_training(checked, monkeypatch, step, refused):
    monkeypatch.setenv("COMPRESSOR_CHECKPOINT_SECONDS", "soon")
    with pytest.raises(CompressorError, match="expected a number of seconds") if refused else nullcontext():
        checked(step)


JOINT = "  - distill-and-prune: {teacher: other, sparsity: 0.5, objectives: {soft-targets: 1.0}}"


def test_a_model_that_no_row_fits_is_refused_by_the_steps_that_look_inside_and_no_other(checked):
    told = (
        r"source: no anatomy row fits model type 'some-net'; closest: .*\(prune-structure works on heads and neurons; "
        r"distill works on features and layers; steps that look at nothing inside take any model\)"
    )
    inner = "  - distill: {teacher: other, init: first, layers: 1, objectives: {hidden-states: 1.0}}"
    with pytest.raises(UnsupportedModel, match=told):
        checked(FINETUNE, "  - prune-structure: {keep: 0.5}", inner, trained=True, anatomy=BARE)
    with pytest.raises(UnsupportedModel, match="distill-and-prune works on heads and neurons"):
        checked(JOINT, trained=True, anatomy=BARE)
    checked(FINETUNE, "  - distill: {teacher: other}", "  - quantize-dynamic:", trained=True, anatomy=BARE)


def test_parts_that_a_row_says_cannot_go_are_refused_with_its_reason(checked):
    with pytest.raises(UnsupportedModel, match="prune-structure works on heads, and source is of family bert: they are fused"):
        checked("  - prune-structure: {keep: 0.5}", trained=True, anatomy=FUSED)
    checked("  - prune-structure: {keep: 0.5, units: [neurons]}", trained=True, anatomy=FUSED)
