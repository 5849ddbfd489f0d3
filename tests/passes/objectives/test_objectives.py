from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from compressor.contracts import Outputs
from compressor.errors import UnsupportedModel
from compressor.tasks.text_classification import TextClassification
from compressor.tasks.text_regression import TextRegression
from passes.objectives.attention_maps import AttentionMaps, attention_map_loss
from passes.objectives.hidden_states import HiddenStates, hidden_state_loss
from passes.objectives.layer_maps import layer_pairs, spread
from passes.objectives.relations import Relations, angle_loss, distance_loss, similarity_loss
from passes.objectives.soft_targets import SoftTargets, soft_label_loss, soft_target_values

seeds = st.integers(0, 2**31 - 1)
divergences = st.sampled_from(["forward", "reverse", "jensen-shannon"])
few = settings(max_examples=30, deadline=None, derandomize=True)


def drawn(seed: int, *shape: int, scale: float = 2.0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


def maps(seed: int, batch: int, heads: int, length: int) -> torch.Tensor:
    return drawn(seed, batch, heads, length, length).softmax(dim=-1)


def anatomy(blocks: int, hidden_size: int = 8, *, blind: int | None = None) -> SimpleNamespace:
    return SimpleNamespace(
        blocks=tuple(SimpleNamespace(id=f"layer.{at}", attention=None if at == blind else at) for at in range(blocks)),
        hidden_size=hidden_size,
    )


# ------------------------------------------------------------------ soft targets


def soft_target_loss(student, teacher, **given):
    return soft_target_values(student, teacher, **given).mean()


@few
@given(seeds, divergences, st.floats(0.5, 20), st.floats(0.01, 0.99))
def test_soft_targets_are_zero_when_student_equals_teacher_up_to_a_shift(seed, divergence, temperature, beta):
    logits = drawn(seed, 5, 4)
    shifted = logits + drawn(seed + 1, 5, 1)
    loss = soft_target_loss(shifted, logits, temperature=temperature, divergence=divergence, beta=beta)
    assert loss.item() == pytest.approx(0.0, abs=1e-10)


@few
@given(seeds, divergences, st.floats(0.5, 20), st.floats(0.01, 0.99))
def test_soft_targets_are_positive_when_they_differ(seed, divergence, temperature, beta):
    loss = soft_target_loss(drawn(seed, 5, 4), drawn(seed + 1, 5, 4), temperature=temperature, divergence=divergence, beta=beta)
    assert loss.item() > 1e-9


@few
@given(seeds, st.floats(0.5, 20))
def test_soft_targets_of_labels_are_cross_entropy_of_each_by_itself(seed, temperature):
    student, teacher = drawn(seed, 5, 4).requires_grad_(), drawn(seed + 1, 5, 4)
    likely = (teacher / temperature).sigmoid()
    entropy = -(likely * likely.log() + (1 - likely) * (1 - likely).log()).mean()
    plain = torch.nn.functional.binary_cross_entropy_with_logits(student / temperature, likely)
    loss = soft_label_loss(student, teacher, temperature=temperature)
    assert loss.item() == pytest.approx(temperature**2 * (plain - entropy).item(), rel=1e-9, abs=1e-12)
    (gradient,) = torch.autograd.grad(loss, student)
    assert torch.allclose(gradient, temperature * ((student / temperature).sigmoid() - likely) / 20)
    assert soft_label_loss(teacher, teacher, temperature=temperature).item() == pytest.approx(0, abs=1e-12)


def test_soft_targets_follow_what_a_task_answers():
    one, other = Outputs(main=drawn(0, 5, 4)), Outputs(main=drawn(1, 5, 4))
    given = SoftTargets(temperature=3.0, divergence="reverse", weight=0.5)
    classes, labels, numbers = (
        given.of(task) for task in (TextClassification(), TextClassification(multi_label=True), TextRegression())
    )
    assert classes is given
    assert labels.loss(one, other, {}) == soft_label_loss(one.main, other.main, temperature=3.0, divergence="reverse")
    assert numbers.loss(one, other, {}) == ((one.main - other.main) ** 2).mean()
    assert labels.weight == numbers.weight == 0.5


def test_what_is_said_of_logits_does_nothing_to_numbers():
    given = SoftTargets(temperature=3.0, weight=0.5)
    assert given.idle(TextRegression()) == ("temperature",)
    assert given.idle(TextClassification()) == given.idle(TextClassification(multi_label=True)) == ()
    assert SoftTargets(weight=0.5).idle(TextRegression()) == ()


@few
@given(seeds)
def test_jensen_shannon_tends_to_forward_and_reverse_at_its_ends(seed):
    student, teacher = drawn(seed, 5, 4), drawn(seed + 1, 5, 4)
    forward = soft_target_loss(student, teacher, divergence="forward")
    reverse = soft_target_loss(student, teacher, divergence="reverse")
    low, high = 1e-7, 1 - 1e-7
    assert soft_target_loss(student, teacher, divergence="jensen-shannon", beta=low) / low == pytest.approx(
        forward.item(), rel=1e-3
    )
    mixed = soft_target_loss(student, teacher, divergence="jensen-shannon", beta=high) / (1 - high)
    assert mixed == pytest.approx(reverse.item(), rel=1e-3)


@few
@given(seeds)
def test_jensen_shannon_is_symmetric_and_bounded_at_one_half(seed):
    student, teacher = drawn(seed, 5, 4), drawn(seed + 1, 5, 4)
    one = soft_target_loss(student, teacher, divergence="jensen-shannon", beta=0.5)
    other = soft_target_loss(teacher, student, divergence="jensen-shannon", beta=0.5)
    assert one.item() == pytest.approx(other.item())
    assert one.item() <= torch.log(torch.tensor(2.0)).item()


@few
@given(seeds)
def test_forward_and_reverse_swap_their_arguments(seed):
    student, teacher = drawn(seed, 5, 4), drawn(seed + 1, 5, 4)
    assert soft_target_loss(student, teacher, divergence="forward") == soft_target_loss(teacher, student, divergence="reverse")


def test_forward_is_the_known_value_of_a_hand_computed_case():
    teacher, student = torch.tensor([[0.75, 0.25]]).log(), torch.tensor([[0.5, 0.5]]).log()
    expected = 0.75 * torch.log(torch.tensor(1.5)) + 0.25 * torch.log(torch.tensor(0.5))
    assert soft_target_loss(student, teacher).item() == pytest.approx(expected.item(), abs=1e-6)


@few
@given(seeds, st.floats(0.5, 8))
def test_forward_gradient_is_temperature_times_the_difference_of_probabilities(seed, temperature):
    student, teacher = drawn(seed, 5, 4).requires_grad_(), drawn(seed + 1, 5, 4)
    soft_target_loss(student, teacher, temperature=temperature).backward()
    expected = temperature * ((student / temperature).softmax(-1) - (teacher / temperature).softmax(-1)) / len(student)
    torch.testing.assert_close(student.grad, expected.detach())


@few
@given(seeds, divergences)
def test_a_step_against_the_gradient_brings_the_student_nearer(seed, divergence):
    student, teacher = drawn(seed, 5, 4).requires_grad_(), drawn(seed + 1, 5, 4)
    before = soft_target_loss(student, teacher, divergence=divergence)
    before.backward()
    assert student.grad is not None
    after = soft_target_loss(student.detach() - 1e-3 * student.grad, teacher, divergence=divergence)
    assert after.item() < before.item()


@few
@given(seeds)
def test_forward_tends_to_half_the_square_of_centred_logits_when_the_temperature_grows(seed):
    student, teacher = drawn(seed, 5, 4), drawn(seed + 1, 5, 4)
    difference = (student - student.mean(-1, keepdim=True)) - (teacher - teacher.mean(-1, keepdim=True))
    loss = soft_target_loss(student, teacher, temperature=1e4)
    assert loss.item() == pytest.approx(0.5 * difference.square().mean().item(), rel=1e-2)


def test_soft_targets_are_a_mean_over_the_batch():
    student, teacher = drawn(0, 3, 4), drawn(1, 3, 4)
    twice = soft_target_loss(student.repeat(2, 1), teacher.repeat(2, 1))
    assert twice.item() == pytest.approx(soft_target_loss(student, teacher).item())


@pytest.mark.parametrize(
    "parameters", ['{"beta": -0.1}', '{"skew": 1}', '{"temperature": 0}', '{"temprature": 2}', '{"divergence": "kl"}']
)
def test_soft_targets_refuse_parameters_that_mean_nothing(parameters):
    with pytest.raises(ValidationError):
        SoftTargets.model_validate_json(parameters, strict=True)


# ------------------------------------------------------------------ hidden states


@few
@given(seeds, st.sampled_from(["mse", "cosine", "l1"]))
def test_hidden_states_are_zero_when_equal_and_positive_otherwise(seed, distance):
    states = drawn(seed, 3, 5, 8)
    assert hidden_state_loss(states, states.clone(), distance=distance).item() == pytest.approx(0.0, abs=1e-12)
    assert hidden_state_loss(states, drawn(seed + 1, 3, 5, 8), distance=distance).item() > 0


@few
@given(seeds, st.sampled_from(["mse", "cosine", "l1"]), st.integers(1, 4))
def test_hidden_states_do_not_see_padding(seed, distance, padding):
    student, teacher = drawn(seed, 3, 5, 8), drawn(seed + 1, 3, 5, 8)
    mask = torch.ones(3, 5, dtype=torch.long)
    mask[1, 3:] = 0
    expected = hidden_state_loss(student, teacher, mask, distance=distance)
    student, teacher = (torch.cat([states, 100 * drawn(seed + 2, 3, padding, 8)], 1) for states in (student, teacher))
    student[1, 3:5] = 7.0
    mask = torch.cat([mask, torch.zeros(3, padding, dtype=torch.long)], 1)
    assert hidden_state_loss(student, teacher, mask, distance=distance).item() == pytest.approx(expected.item())


def test_hidden_states_through_a_fresh_projection_equal_those_without_when_sizes_agree():
    student, teacher = anatomy(2), anatomy(4)
    mine, theirs = ({f"layer.{at}": drawn(at + seed, 2, 3, 8).float() for at in range(2)} for seed in (0, 9))
    outputs = [Outputs(torch.zeros(2, 2)).having("hidden-state", states) for states in (mine, theirs)]
    plain, projected = HiddenStates(projection="none"), HiddenStates(projection="linear")
    assert plain.projections(student, teacher) is None
    projections = projected.projections(student, teacher)
    assert projections is not None
    loss = projected.loss(projected.project(outputs[0], projections), outputs[1], {})
    torch.testing.assert_close(loss, plain.loss(outputs[0], outputs[1], {}))


def test_hidden_states_project_only_when_sizes_differ():
    assert HiddenStates().projections(anatomy(2, 8), anatomy(4, 8)) is None
    projections = HiddenStates().projections(anatomy(2, 8), anatomy(4, 12))
    assert isinstance(projections, torch.nn.ModuleList)
    assert [tuple(layer.weight.shape) for layer in projections] == [(12, 8), (12, 8)]
    with pytest.raises(UnsupportedModel, match="8 wide and the teacher 12"):
        HiddenStates(projection="none").projections(anatomy(2, 8), anatomy(4, 12))


# ------------------------------------------------------------------ layer maps


@pytest.mark.parametrize(
    ("count", "total", "expected"),
    [(3, 6, (1, 3, 5)), (2, 6, (2, 5)), (4, 6, (1, 2, 4, 5)), (1, 6, (5,)), (6, 6, (0, 1, 2, 3, 4, 5))],
)
def test_spread_is_even_and_ends_with_the_last(count, total, expected):
    assert spread(count, total) == expected


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("uniform", (("layer.0", "layer.1"), ("layer.1", "layer.3"))),
        ("last", (("layer.1", "layer.3"),)),
        (((0, 0), (-1, 2)), (("layer.0", "layer.0"), ("layer.1", "layer.2"))),
        ({1: 3}, (("layer.1", "layer.3"),)),
    ],
)
def test_layer_pairs_are_as_the_map_says(layers, expected):
    assert layer_pairs(layers, anatomy(2), anatomy(4)) == expected


@pytest.mark.parametrize("layers", [((2, 0),), ((0, 4),), ((0, 1), (-2, 2)), ((0, 1), (1, -3))])
def test_layer_pairs_are_refused_when_a_block_is_missing_or_named_twice(layers):
    with pytest.raises(UnsupportedModel, match="block"):
        layer_pairs(layers, anatomy(2), anatomy(4))


@pytest.mark.parametrize(
    ("text", "expected"), [('{"layers": [[0, 1], [1, -1]]}', ((0, 1), (1, -1))), ('{"layers": {"0": 1}}', {0: 1})]
)
def test_layer_maps_are_read_strictly_from_a_plan(text, expected):
    assert HiddenStates.model_validate_json(text, strict=True).layers == expected


# ------------------------------------------------------------------ attention maps


@few
@given(seeds)
def test_attention_maps_are_zero_when_equal_and_positive_otherwise(seed):
    teacher = maps(seed, 2, 3, 5)
    assert attention_map_loss(teacher.clone(), teacher).item() == pytest.approx(0.0, abs=1e-12)
    assert attention_map_loss(maps(seed + 1, 2, 3, 5), teacher).item() > 0


@few
@given(seeds)
def test_attention_maps_are_the_kl_of_teacher_to_student(seed):
    student, teacher = maps(seed, 2, 3, 5), maps(seed + 1, 2, 3, 5)
    expected = torch.nn.functional.kl_div(student.log(), teacher, reduction="sum") / (2 * 3 * 5)
    assert attention_map_loss(student, teacher).item() == pytest.approx(expected.item())


@few
@given(seeds)
def test_attention_maps_compare_means_over_heads_when_the_student_has_fewer(seed):
    student, teacher = maps(seed, 2, 2, 5), maps(seed + 1, 2, 3, 5)
    expected = attention_map_loss(student.mean(1, keepdim=True), teacher.mean(1, keepdim=True))
    assert attention_map_loss(student, teacher).item() == pytest.approx(expected.item())
    assert attention_map_loss(teacher.mean(1, keepdim=True), teacher).item() == pytest.approx(0.0, abs=1e-12)


@few
@given(seeds, st.integers(1, 4))
def test_attention_maps_do_not_see_padding(seed, padding):
    student, teacher = maps(seed, 2, 3, 5), maps(seed + 1, 2, 3, 5)
    expected = attention_map_loss(student, teacher)
    padded = [torch.nn.functional.pad(given, (0, padding, 0, padding)) for given in (student, teacher)]
    padded[0][:, :, 5:] = 0.3
    mask = torch.cat([torch.ones(2, 5), torch.zeros(2, padding)], 1).long()
    assert attention_map_loss(*padded, mask).item() == pytest.approx(expected.item())


def test_attention_maps_ask_for_both_sides():
    mine, theirs = AttentionMaps(layers="uniform").wants(anatomy(2), anatomy(4))
    assert (mine.attention_maps, theirs.attention_maps) == (("layer.0", "layer.1"), ("layer.1", "layer.3"))


def test_attention_maps_are_refused_when_a_block_has_no_attention():
    with pytest.raises(UnsupportedModel, match=r"layer\.1 has no attention heads"):
        AttentionMaps().wants(anatomy(2, blind=1), anatomy(4))


# ------------------------------------------------------------------ relations


@few
@given(seeds)
def test_relations_are_zero_for_a_rotated_and_scaled_teacher(seed):
    teacher = drawn(seed, 6, 4)
    rotation = torch.linalg.qr(drawn(seed + 1, 4, 4)).Q
    student = 3.0 * teacher @ rotation
    for loss in (distance_loss, angle_loss, similarity_loss):
        assert loss(student, teacher).item() == pytest.approx(0.0, abs=1e-9)


@few
@given(seeds)
def test_relations_are_positive_for_another_geometry_and_another_size(seed):
    for loss in (distance_loss, angle_loss, similarity_loss):
        assert loss(drawn(seed, 6, 3), drawn(seed + 1, 6, 4)).item() > 0


@pytest.mark.parametrize("loss", [distance_loss, angle_loss, similarity_loss])
def test_relations_keep_finite_gradients_when_rows_coincide(loss):
    student = drawn(0, 1, 4).repeat(4, 1).requires_grad_()
    loss(student, drawn(1, 4, 4)).backward()
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()


def test_relations_of_a_single_row_are_zero_and_still_differentiable():
    states = drawn(0, 1, 3, 8).requires_grad_()
    outputs = Outputs(torch.zeros(1, 2)).having("hidden-state", {"layer.1": states})
    loss = Relations().loss(outputs, outputs, {})
    loss.backward()
    assert loss.item() == 0.0


@few
@given(seeds, st.sampled_from(["distance-angle", "similarity"]))
def test_relations_of_pooled_states_do_not_see_padding(seed, relation):
    objective = Relations(relation=relation)
    mask = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 0, 0]])
    student, teacher = drawn(seed, 3, 3, 8), drawn(seed + 1, 3, 3, 8)

    def loss() -> float:
        sides = [
            Outputs(torch.zeros(3, 2), mask=mask).having("hidden-state", {"layer.1": states}) for states in (student, teacher)
        ]
        return objective.loss(sides[0], sides[1], {}).item()

    expected = loss()
    student[mask == 0] = 50.0
    assert loss() == pytest.approx(expected)
