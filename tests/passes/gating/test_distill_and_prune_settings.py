"""What parameters of distill-and-prune change in a training, and that none is left unheard."""

from __future__ import annotations

import pytest
import torch
from tensor_rows import Context, bert

from passes.gating import distill_and_prune
from passes.gating import initialisation as gate_starts
from passes.gating.distill_and_prune import LEAST_RATE, LINEAR, QUADRATIC, DistillAndPrune

STUDENT = 9
QUICK = {
    "teacher": "source",
    "sparsity": 0.5,
    "epochs": 2,
    "batch_size": 4,
    "learning_rate": 1e-3,
    "precision": "fp32",
    "round_to": 8,
    "objectives": {"layer-to-layer": 1.0},
}


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """Runs the step; what each stage was trained with, and the small model."""

    def run(**settings):
        stages = []
        train = distill_and_prune.train

        def spy(training, ctx, **given):
            gates = [gate.log_alpha.detach().clone() for gate in training.trained.modules() if hasattr(gate, "log_alpha")]
            stages.append({**vars(training), "gates": gates})
            return train(training, ctx, **given)

        monkeypatch.setattr(distill_and_prune, "train", spy)
        step = DistillAndPrune.model_validate({**QUICK, **settings})
        ctx = Context(tmp_path, {"source": bert(STUDENT)})
        return stages, step.apply(bert(STUDENT), ctx), ctx

    return run


def test_gates_start_by_importance_unless_they_are_to_start_open(trained):
    (by_importance, _), *_ = trained()
    (opened, _), *_ = trained(start="open")
    (paper, _), *_ = trained(start="paper")
    assert torch.cat(by_importance["gates"]).std() == pytest.approx(gate_starts.SPREAD, rel=0.3), "spread over cost, not units"
    assert torch.cat(opened["gates"]).std() < 0.1
    heads, neurons = paper["gates"][0], paper["gates"][1]
    assert float(neurons.mean()) == pytest.approx(0.0, abs=0.1), "half of the neurons are off in the recipe"
    assert float(heads.mean()) > 4


@pytest.mark.parametrize(("given", "rate"), [({}, max(LEAST_RATE, distill_and_prune.TRAVEL / 18)), ({"gate_rate": 0.5}, 0.5)])
def test_rate_of_gates_is_as_given_or_by_the_number_of_steps(trained, given, rate):
    (first, _), *_ = trained(**given)
    gates, linear, quadratic = first["learners"]
    assert [gates.learning_rate, linear.learning_rate, quadratic.learning_rate] == pytest.approx(
        [rate, LINEAR * rate, QUADRATIC * rate]
    )
    assert [each.maximize for each in first["learners"]] == [False, True, True]


@pytest.mark.parametrize(
    ("given", "rate", "epochs"), [({}, 5e-4, 1), ({"recovery_rate": 2e-3, "recovery_epochs": 3, "checkpoint": "last"}, 2e-3, 3)]
)
def test_second_stage_has_a_rate_and_epochs_of_its_own(trained, given, rate, epochs):
    (first, second), *_ = trained(**given)
    assert (first["settings"].learning_rate, first["settings"].epochs, first["settings"].checkpoint) == (1e-3, 2, "last")
    assert (second["settings"].learning_rate, second["settings"].epochs) == (rate, epochs)
    assert second["settings"].checkpoint == given.get("checkpoint", "best")


def test_answers_that_are_kept_teach_both_stages_what_a_teacher_that_runs_does(trained):
    *_, student, ctx = trained(dropout=False)
    *_, kept, told = trained(dropout=False, cache_teacher=True)
    for mine, other in zip(student.module.parameters(), kept.module.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)
    assert not any("was computed once" in getattr(note, "text", "") for note in ctx.notes)
    assert any("source makes of the training rows was computed once" in getattr(note, "text", "") for note in told.notes)
