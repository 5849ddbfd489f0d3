"""What `check` says of a model's family, from its configuration alone."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from compressor.plan.bound import load_plan
from compressor.run.allowance import allowances

PLAN = """
model: {{folder: source}}
models: {{teacher: {{folder: teacher}}}}
task: {{text-classification: {{max_length: 16}}}}
data: {{files: rows.jsonl}}
passes:
{passes}
targets: [onnxruntime]
"""
PRUNE = "  - prune-structure: {keep: 0.5}"
DISTIL = "  - distill: {teacher: teacher, objectives: {hidden-states: 1.0}}"


@pytest.fixture
def said(tmp_path):
    def say(passes, source, teacher="bert"):
        for name, config in (("source", source), ("teacher", teacher)):
            (tmp_path / name).mkdir(exist_ok=True)
            config = {"model_type": config} if isinstance(config, str) else config
            (tmp_path / name / "config.json").write_text(json.dumps(config))
        (tmp_path / "rows.jsonl").write_text("")
        (tmp_path / "plan.yaml").write_text(PLAN.format(passes=passes))
        return list(allowances(load_plan(tmp_path / "plan.yaml")))

    return say


def test_a_family_with_a_whole_row_allows_all_passes(said):
    assert said(PRUNE, "electra") == ["source: electra: all passes", "teacher: bert: all passes"]


def test_a_model_without_a_row_refuses_the_steps_that_look_inside(said):
    limits = "all passes that look at nothing inside, as no anatomy row fits"
    assert (
        said(f"{PRUNE}\n{DISTIL}", "deberta-v2")[0]
        == f"source: deberta-v2: {limits}; prune-structure and distill will be refused"
    )
    assert said(DISTIL, "xlm-roberta", "deberta-v2") == [
        "source: roberta: all passes",
        f"teacher: deberta-v2: {limits}; distill will be refused",
    ]
    assert said("  - finetune:\n  - quantize-dynamic:", "resnet")[0] == f"source: resnet: {limits}"


def test_parts_that_cannot_go_are_said_with_the_reason(said):
    heads = "heads (relative positions have a column for each head), attention scores (relative positions are added to them)"
    assert said(PRUNE, "beit")[0] == f"source: beit: all passes, but none that works on {heads}; prune-structure will be refused"
    assert said("  - prune-structure: {keep: 0.5, units: [neurons]}", "beit")[0].endswith(heads)
    grouped = {"model_type": "llama", "num_attention_heads": 4, "num_key_value_heads": 2}
    scores = "attention scores (positions are turned into queries and keys after they were made)"
    assert said(PRUNE, grouped)[0] == f"source: llama: all passes, but none that works on {scores}"


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_nothing_is_said_where_there_is_no_configuration_of_one_model(said, tmp_path, content):
    said(PRUNE, "bert")
    (tmp_path / "source" / "config.json").write_text(content)
    assert list(allowances(load_plan(tmp_path / "plan.yaml"))) == ["teacher: bert: all passes"]


def test_it_is_said_without_torch():
    code = "import compressor.run.allowance, sys; print([name for name in ('torch', 'transformers') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
