"""Settings come back equal from what is written of them, also where some refuse to be said beside others."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from compressor.plan.validation import validated
from compressor.plan.yaml_source import read_yaml, write_yaml
from passes.diffusion.distill_layers import DistillLayers
from passes.diffusion.distill_steps import DistillSteps
from passes.distillation.distill import Distill
from passes.finetune import Finetune
from passes.gating.distill_and_prune import DistillAndPrune
from passes.pruning.prune_structure import PruneStructure
from passes.quantization_aware.distill_and_quantize import DistillAndQuantize
from targets.llama_cpp import LlamaCpp

BUDGET = {"target": "onnxruntime", "ms": 3.0}
SETTINGS = [
    (Finetune, {}),
    (Finetune, {"epochs": 3}),
    (Finetune, {"steps": 40}),
    (Finetune, {"tokens": 4000}),
    (Distill, {"teacher": "source", "steps": 40}),
    (Distill, {"teacher": "source", "tokens": 40}),
    (DistillSteps, {"teacher": "source", "method": "boot", "to": [1], "steps": 40}),
    (DistillLayers, {"steps": 40}),
    (DistillAndPrune, {"teacher": "source", "sparsity": 0.5, "steps": 40}),
    (DistillAndPrune, {"teacher": "source", "latency": BUDGET, "steps": 40}),
    (DistillAndQuantize, {"teacher": "source", "steps": 40, "mixed": {"bytes": 100}}),
    (DistillAndQuantize, {"teacher": "source", "mixed": {"latency": BUDGET}}),
    (PruneStructure, {"latency": BUDGET}),
    (PruneStructure, {"latency": {**BUDGET, "kind": "decode", "steps": 3}}),
    (PruneStructure, {"keep": {"layers": 0.5, "heads": 0.5}}),
    (PruneStructure, {"keep": {"layers": 0.5}, "units": ["layers"]}),
    (PruneStructure, {"widths": {"neurons": [8, 16]}}),
    (LlamaCpp, {}),
    (LlamaCpp, {"weights": "f16"}),
]


@pytest.mark.parametrize(("kind", "given"), SETTINGS)
def test_settings_come_back_from_json_and_from_a_plan(kind, given):
    step = kind.model_validate(given)
    assert kind.model_validate_json(step.model_dump_json(), strict=True) == step
    located, _ = read_yaml(write_yaml(step.model_dump(mode="json")), "parameters.yaml")
    assert validated(kind, located, "step", what="parameter") == (step, ())


def test_what_is_not_heeded_is_not_written_and_still_refused_where_it_is_said():
    assert "epochs" not in Finetune(steps=40).model_dump()
    assert Finetune(epochs=5).model_dump()["epochs"] == 5
    for kind, given in ((Finetune, {"steps": 4, "epochs": 3}), (PruneStructure, {"latency": {**BUDGET, "steps": 16}})):
        with pytest.raises(ValidationError, match=r"leave (one of them|it) out"):
            kind.model_validate(given)


def test_a_target_read_from_a_report_has_the_dialect_that_it_had():
    for given in ({}, {"weights": "f16"}):
        target = LlamaCpp.model_validate(given)
        assert LlamaCpp.written(target.model_dump(mode="json")).own_dialect() == target.own_dialect()
    assert LlamaCpp().own_dialect() != LlamaCpp(weights="f16").own_dialect()
