"""Networks that draw lose heads, neurons and blocks: what is left is trained, saved, lowered and draws as what was masked."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from furnished import lowered

from compressor.contracts import Artifact
from compressor.model import Model
from compressor.model.anatomy import anatomy_of
from compressor.model.edits import KeepHeads, KeepNeurons
from compressor.tasks.generation.description import described
from compressor.tasks.generation.image_generation import ImageGeneration
from compressor.testing.tiny import run_of
from passes.gating.distill_and_prune import DistillAndPrune
from passes.pruning.prune_structure import PruneStructure
from targets.onnxruntime import OnnxRuntime

QUICK = {"steps": 4, "batch_size": 8, "precision": "fp32", "validations": 1, "attention": "sdpa"}


@pytest.fixture(scope="module")
def run():
    return run_of("image-generation", ImageGeneration(steps=2))


@pytest.mark.parametrize("importance", ["taylor", "activation", "magnitude"])
def test_heads_and_neurons_go_by_importance(run, tmp_path, importance):
    step = PruneStructure.model_validate({"keep": 0.5, "round_to": 8, "rows": 16, "importance": importance})
    model = run.model()
    small = step.apply(model, run.context(tmp_path))
    assert small.weights < model.weights
    units = anatomy_of(small.module).units(("heads", "neurons"))
    assert sum(each.count for each in units if each.kind == "neurons") < 2 * 64
    small.save(tmp_path / "small")
    assert described(tmp_path / "small") == described(model)
    assert Model.load(tmp_path / "small").weights == small.weights


def test_a_block_goes(run, tmp_path):
    step = PruneStructure.model_validate({"keep": {"layers": 0.5}, "rows": 16})
    small = step.apply(run.model(), run.context(tmp_path))
    assert (len(small.module.blocks), small.module.config["blocks"]) == (1, 1)
    small.save(tmp_path / "small")
    assert len(Model.load(tmp_path / "small").module.blocks) == 1


@pytest.mark.parametrize("start", ["importance", "paper"])
def test_gates_are_learned_and_cut(run, tmp_path, start):
    learned = {"objectives": {"hidden-states": 1.0}, "task_loss": 1.0}
    given = {**QUICK, **learned, "teacher": "source", "sparsity": 0.3, "round_to": 8, "start": start}
    small = DistillAndPrune.model_validate(given).apply(run.model(), run.context(tmp_path))
    assert small.weights < run.model().weights
    assert {edit.kind for edit in small.edits} & {"keep-heads", "keep-neurons"}


def test_a_cut_network_is_lowered_and_computes_the_same(run, tmp_path):
    """One block has no attention left, the other fewer heads and neurons."""
    model = run.model()
    for edit in (
        KeepHeads(block="blocks.0", heads=()),
        KeepHeads(block="blocks.1", heads=(1,)),
        KeepNeurons(block="blocks.1", neurons=tuple(range(0, 64, 3))),
    ):
        model.apply(edit)
    model.save(tmp_path / "torch")
    (tmp_path / "built").mkdir()
    target = OnnxRuntime()
    made = lowered(
        Artifact("torch", tmp_path / "torch"), "onnxruntime", tmp_path / "formats", task=run.task, dialect=target.dialect
    )
    target.build(made, tmp_path / "built")
    (graph,) = run.task.graphs(tmp_path / "torch")
    given = run.task.example(tmp_path / "torch", graph, batch=3, length=1)
    found = target.open(tmp_path / "built").run(given)[0]["predicted"]
    with torch.no_grad():
        named = {name: torch.from_numpy(array) for name, array in given.items()}
        wanted = run.task.answer(Model.load(tmp_path / "torch").module, graph, named)
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-4, atol=1e-5)
