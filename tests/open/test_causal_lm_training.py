"""The stand-in's language model learns: its parts weigh by tokens, and a plan takes it from training to verdicts in per cent."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from furnished import write_rows
from safetensors.torch import load_file

from compressor.plan.bound import load_plan
from compressor.run.pipeline import run_plan
from compressor.store.store import Store
from compressor.training.launch import ALONE, Processes

HERE = Path(__file__).parents[1] / "stand_ins" / "language"
WORDS = ("over the lazy dog", "a fox", "and", "the quick brown fox", "jumps")
PLAN = """
task:
  causal-lm: {max_length: 24}
data: {files: rows.jsonl, split: {validation: 8, test: 12}, calibration: 4}
model: {folder: model}
stages: quality
passes:
  - finetune: {epochs: 3, batch_size: 5, learning_rate: 0.01, precision: fp32}
targets:
  - pytorch
"""
STEPS = 24
APART = {"rtol": 1e-3, "atol": 2e-4}
"""Sums in another order differ in the last bits, and an optimiser that divides by roots of squares makes them more."""


@pytest.fixture(scope="module")
def plugin():
    """The stand-in's task, installed here and in processes that train and measure."""
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(str(HERE))
    patch.setenv("PYTHONPATH", str(HERE))
    from causal_lm import CausalLM

    yield CausalLM
    patch.undo()


@pytest.fixture(scope="module")
def folder(plugin, tmp_path_factory):
    """A tiny random Llama and 60 rows of unequal lengths."""
    from causal_lm import tiny_llama

    made = tmp_path_factory.mktemp("language")
    tiny_llama().save_pretrained(made / "model")
    write_rows(made / "rows.jsonl", ({"text": f"{number:02} {WORDS[number % len(WORDS)]}"} for number in range(60)))
    (made / "plan.yaml").write_text(PLAN)
    return made


def trained(folder, name, *settings, processes=ALONE):
    """Loss by step and the weights that a training ends with."""
    bound, store = load_plan(folder / "plan.yaml", settings=list(settings)), folder / f"store-{name}"
    report = run_plan(bound, store=Store(store), folder=folder / "runs" / name, command="", tell=[].append, processes=processes)
    (stage,) = [stage for stage in report.stages if stage.name == "finetune"]
    (made,) = [
        path.parent for path in store.rglob("entry.json") if json.loads(path.read_text())["parts"].get("step") == "finetune"
    ]
    (weights,) = made.rglob("model.safetensors")
    return np.array(stage.notes[0].curves["task"])[:, 1], load_file(weights)


@pytest.fixture(scope="module")
def whole(folder):
    return trained(folder, "whole")


def same(found, expected):
    return np.allclose(found[0], expected[0], **APART) and all(
        torch.allclose(tensor, expected[1][name], **APART) for name, tensor in found[1].items()
    )


def test_training_in_parts_of_unequal_tokens_is_training_in_one(folder, whole):
    assert len(whole[0]) == STEPS
    assert whole[0][-3:].mean() < whole[0][:3].mean() - 1
    assert same(trained(folder, "parts", "passes.finetune.accumulate=2"), whole)


def test_parts_weighed_by_rows_would_train_otherwise(folder, whole, plugin, monkeypatch):
    monkeypatch.setattr(plugin, "weight", lambda self, batch: len(batch["input_ids"]))
    monkeypatch.setattr(plugin, "loss", mean_loss)
    assert not same(trained(folder, "rows", "passes.finetune.accumulate=2"), whole)


def mean_loss(task, outputs, batch):
    told, ahead = outputs.logits[:, :-1].flatten(0, 1), batch["input_ids"][:, 1:].flatten()
    return torch.nn.functional.cross_entropy(told, ahead, ignore_index=0)


def test_two_processes_train_as_one_does(folder, whole):
    assert same(trained(folder, "together", processes=Processes(each=2)), whole)
