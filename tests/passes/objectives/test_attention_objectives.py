"""Attention's output and scores as losses: their formulas written out, valid tokens alone, and what they refuse."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from tensor_rows import Context, Rows, bert

from compressor.contracts import Feature, Outputs, Want
from compressor.errors import UnsupportedModel
from compressor.model.anatomy import anatomy_of
from compressor.model.edits import KeepHeads
from passes.distillation.distill import Distill
from passes.objectives.attention_output import AttentionOutput
from passes.objectives.attention_scores import AttentionScores, attention_score_loss


def drawn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def anatomy(blocks, hidden_size=8, blind=()):
    made = tuple(SimpleNamespace(id=f"layer.{at}", attention=None if at in blind else at) for at in range(blocks))
    return SimpleNamespace(blocks=made, hidden_size=hidden_size, stack="stack")


def test_score_loss_is_a_mean_over_heads_valid_keys_and_valid_queries():
    student, teacher = drawn(0, 2, 3, 5, 5), drawn(1, 2, 3, 5, 5)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    total, queries = 0.0, 0
    for row, valid in enumerate(mask.sum(1).tolist()):
        for query in range(valid):
            apart = student[row, :, query, :valid] - teacher[row, :, query, :valid]
            total, queries = total + float(apart.square().mean()), queries + 1
    assert attention_score_loss(student, teacher, mask).item() == pytest.approx(total / queries, rel=1e-12)
    assert attention_score_loss(student, teacher).item() == pytest.approx((student - teacher).square().mean().item())
    assert attention_score_loss(teacher, teacher, mask).item() == 0
    few = attention_score_loss(student[:, :2], teacher, mask)
    means = [each.mean(1, keepdim=True) for each in (student[:, :2], teacher)]
    assert few.item() == pytest.approx(attention_score_loss(*means, mask).item())


def test_output_loss_is_the_mean_square_of_valid_tokens():
    student, teacher, mask = drawn(0, 2, 4, 8), drawn(1, 2, 4, 8), torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])
    sides = [Outputs(torch.zeros(2, 3), mask=mask).having("attention-norm", {"a": each}) for each in (student, teacher)]
    expected = (student - teacher).square()[mask.bool()].mean()
    assert AttentionOutput().loss(*sides, {}).item() == pytest.approx(expected.item())


@pytest.mark.parametrize("kind", [AttentionOutput, AttentionScores])
def test_padding_changes_nothing(kind):
    models = [bert(seed) for seed in (0, 1)]
    for each in models:
        each.module.double()
    sides = [anatomy_of(each.module) for each in models]
    wants = kind().wants(*sides)
    found = []
    for padding in (0, 7):
        ids = torch.arange(1, 13).reshape(2, 6)
        mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
        batch = {"input_ids": ids, "attention_mask": mask}
        batch = {name: torch.nn.functional.pad(each, (0, padding)) for name, each in batch.items()}
        outputs = [Rows().forward(model.module.eval(), batch, want) for model, want in zip(models, wants, strict=True)]
        found.append(kind().loss(*outputs, batch).item())
    assert found[1] == pytest.approx(found[0], rel=1e-12)
    assert found[0] > 0


def test_what_they_want_is_by_pairs_of_layers():
    for kind, feature in ((AttentionOutput, "attention-norm"), (AttentionScores, "attention-score")):
        mine, theirs = kind().wants(anatomy(2), anatomy(4))
        assert mine == Want(Feature(feature, f"layer.{at}") for at in (0, 1))
        assert theirs == Want(Feature(feature, f"layer.{at}") for at in (1, 3))
        with pytest.raises(UnsupportedModel, match=r"layer\.1 has no attention heads; give `layers` that have"):
            kind().wants(anatomy(2, blind=(1,)), anatomy(4))
    with pytest.raises(UnsupportedModel, match="the student is 8 wide and the teacher 16; it has no projection"):
        AttentionOutput().wants(anatomy(2), anatomy(2, hidden_size=16))


def test_students_of_other_heads_learn_from_both(tmp_path):
    student = bert(9)
    student.apply(KeepHeads(block="bert.encoder.layer.0", heads=(0, 2)))
    ctx = Context(tmp_path, {"source": bert(0)})
    objectives = {"attention-output": 1.0, "attention-scores": 0.1}
    Distill.model_validate(
        {"teacher": "source", "epochs": 8, "batch_size": 12, "learning_rate": 3e-3, "precision": "fp32", "objectives": objectives}
    ).apply(student, ctx)
    curves = next(note for note in ctx.notes if getattr(note, "kind", "") == "series").curves
    assert set(curves) == set(objectives)
    for curve in curves.values():
        assert curve[-1][1] < 0.8 * curve[0][1]


def test_kept_answers_hold_what_tokens_have_inside_of_any_kind(tmp_path):
    objectives = {"attention-output": 1.0, "query-key-value-relations": 1.0, "hidden-states": 1.0}
    given = {
        "teacher": "source",
        "epochs": 2,
        "batch_size": 12,
        "learning_rate": 1e-3,
        "precision": "fp32",
        "objectives": objectives,
    }
    students = [
        Distill.model_validate({**given, "cache_teacher": kept}).apply(
            bert(9), Context(tmp_path / str(kept), {"source": bert(0)})
        )
        for kept in (True, False)
    ]
    one, other = (each.module.state_dict() for each in students)
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=1e-4, atol=1e-5)


def test_scores_of_a_teacher_are_not_kept():
    with pytest.raises(ValueError, match="cache_teacher keeps no attention maps, and attention-scores looks at them"):
        Distill(teacher="source", objectives={"attention-scores": 1.0}, cache_teacher=True)
