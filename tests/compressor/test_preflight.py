"""What is refused before the first step: heads that were only just drawn are nobody's teacher and no measure of quality."""

from __future__ import annotations

import pytest
from furnished import rows, write_model, write_rows

from compressor.errors import UnsupportedModel
from compressor.plan import load_plan
from compressor.preflight import check_steps

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
ACCEPT = "accept: [{target: onnxruntime, max_drop: 1}]"
FINETUNE = "  - finetune:"


@pytest.fixture
def checked(tmp_path):
    def check(*passes, reference="", accept="", trained=False):
        folder = write_model(tmp_path)
        if trained:
            config = folder / "config.json"
            config.write_text(config.read_text().replace('"BertModel"', '"BertForSequenceClassification"'))
        write_rows(tmp_path / "rows.jsonl", rows())
        plan = tmp_path / "plan.yaml"
        plan.write_text(PLAN.format(passes="\n".join(passes), reference=reference, accept=accept))
        check_steps(load_plan(plan), dict.fromkeys(("source", "other"), folder))

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
    with pytest.raises(UnsupportedModel, match=r"learns what \w+ answers, which has a head that was only just drawn at random"):
        checked(step)
    checked(step, trained=True)


def test_inner_states_are_learned_whatever_the_head(checked):
    checked("  - distill: {teacher: source, objectives: {hidden-states: 1.0}, task_loss: 1.0}")


def test_pruning_trains_no_head_and_finetuning_does(checked):
    teacher = "  - distill: {teacher: prune-structure}"
    with pytest.raises(UnsupportedModel, match="learns what prune-structure answers"):
        checked("  - prune-structure: {keep: 0.5}", teacher)
    checked(FINETUNE, "  - prune-structure: {keep: 0.5}", teacher)


def test_quality_is_not_held_against_a_head_that_was_only_drawn(checked):
    with pytest.raises(UnsupportedModel, match=r"max_drop is held against source, .* and name that as `reference`"):
        checked(FINETUNE, accept=ACCEPT)
    with pytest.raises(UnsupportedModel, match="max_drop is held against source"):
        checked(FINETUNE + "\n    gate: {max_drop: 1}")
    checked(FINETUNE, reference="reference: finetune", accept=ACCEPT)
    checked(FINETUNE, accept=ACCEPT, trained=True)
    checked(FINETUNE)
