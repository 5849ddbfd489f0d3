"""States imitated layer to layer: closed forms of the loss, which states are paired, what several targets of one state need."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from pydantic import ValidationError

from compressor.contracts import Outputs
from compressor.errors import UnsupportedModel
from passes.distillation.losses import lessons
from passes.objectives.layer_to_layer import LayerToLayer, layer_to_layer_loss


def drawn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def anatomy(blocks, hidden_size=8):
    made = tuple(SimpleNamespace(id=f"layer.{at}", attention=None) for at in range(blocks))
    return SimpleNamespace(blocks=made, hidden_size=hidden_size, stack="stack")


def outputs(states, mask=None):
    return Outputs(torch.zeros(len(next(iter(states.values()))), 2), mask=mask).having("hidden-state", states)


@pytest.mark.parametrize("form", ["raw", "log-sigmoid"])
def test_loss_is_zero_for_equal_states_and_positive_otherwise(form):
    states = drawn(0, 3, 4, 8)
    assert layer_to_layer_loss(states, states, mse=1.0, form=form).item() == pytest.approx(0, abs=1e-12)
    assert layer_to_layer_loss(states, drawn(1, 3, 4, 8), mse=1.0, form=form) > 0.1


def test_parts_are_what_they_are_called():
    one, other = drawn(0, 2, 3, 8), drawn(1, 2, 3, 8)
    only = {"l1": 0.0, "cosine": 0.0, "mse": 0.0}
    assert layer_to_layer_loss(one, other, **{**only, "l1": 2.0}).item() == pytest.approx(2 * (one - other).abs().mean().item())
    assert layer_to_layer_loss(one, other, **{**only, "mse": 3.0}).item() == pytest.approx(3 * (one - other).pow(2).mean().item())
    dots = (one * other).sum(-1) / one.norm(dim=-1) / other.norm(dim=-1)
    assert layer_to_layer_loss(one, other, **{**only, "cosine": 1.0}).item() == pytest.approx(1 - dots.mean().item())
    forms = torch.tensor(1.0, dtype=torch.float64).sigmoid().log() - dots.sigmoid().log()
    found = layer_to_layer_loss(one, other, **{**only, "cosine": 1.0}, form="log-sigmoid")
    assert found.item() == pytest.approx(forms.mean().item())


def test_padding_does_not_count():
    one, other = drawn(0, 2, 3, 8), drawn(1, 2, 3, 8)
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    changed = other + 100 * (1 - mask[..., None])
    assert layer_to_layer_loss(one, changed, mask) == pytest.approx(layer_to_layer_loss(one, other, mask).item())


def test_depths_that_are_equal_pair_the_entry_and_every_third():
    student, teacher = LayerToLayer().wants(anatomy(12), anatomy(12))
    assert student.hidden_states == teacher.hidden_states == ("stack", "layer.3", "layer.7", "layer.11")


def test_shared_projection_is_one_module_but_for_the_entry():
    made = LayerToLayer().projections(anatomy(12), anatomy(12))
    assert made[1] is made[2] is made[3]
    assert made[0] is not made[1]
    assert torch.equal(made[0].weight, torch.eye(8))


def test_one_state_imitates_several_layers_each_by_its_own_projection():
    lesson = LayerToLayer.model_validate_json(
        '{"layers": {"0": 0, "1": [2, 4]}, "projection": "own", "cosine": 0, "mse": 1, "l1": 0}'
    )
    student, teacher = lesson.wants(anatomy(1), anatomy(4))
    assert student.hidden_states == ("stack", "layer.0")
    assert teacher.hidden_states == ("stack", "layer.1", "layer.3")
    made = lesson.projections(anatomy(1), anatomy(4))
    assert len({id(each) for each in made}) == 3
    mine = {"stack": drawn(0, 2, 3, 8).float(), "layer.0": drawn(1, 2, 3, 8).float()}
    theirs = {"stack": drawn(2, 2, 3, 8).float(), "layer.1": drawn(3, 2, 3, 8).float(), "layer.3": drawn(4, 2, 3, 8).float()}
    found = lesson.loss(lesson.project(outputs(mine), made), outputs(theirs), {})
    pairs = [("stack", "stack"), ("layer.0", "layer.1"), ("layer.0", "layer.3")]
    expected = sum((mine[one] - theirs[other]).square().mean() for one, other in pairs) / 3
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("projection", ["shared", "none"])
def test_one_state_cannot_be_several_layers_without_projections_of_their_own(projection):
    with pytest.raises(ValidationError, match="projection: own"):
        LayerToLayer(layers={1: (2, 4)}, projection=projection)


@pytest.mark.parametrize(
    ("layers", "depths", "message"),
    [
        (None, (2, 4), "give pairs"),
        ((0, 5), (4, 4), "0 to 4"),
        ({1: 3, 2: 3}, (2, 4), "each once"),
        ({1: (2, 2)}, (2, 4), "each once"),
    ],
)
def test_layers_that_do_not_fit_are_refused(layers, depths, message):
    with pytest.raises(UnsupportedModel, match=message):
        LayerToLayer(layers=layers, projection="own").wants(anatomy(depths[0]), anatomy(depths[1]))


def test_projections_run_in_the_precision_of_the_training_and_losses_in_float32():
    lesson, sides = LayerToLayer(layers=(1,), projection="own"), (anatomy(1), anatomy(1))
    (only,) = lessons(*sides, {"layer-to-layer": lesson})
    mine, theirs = (outputs({"layer.0": drawn(seed, 2, 3, 8).float()}) for seed in (0, 1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        projected = only.projected(mine)
        assert projected.hidden_states["0"].dtype == torch.bfloat16
    found = only.loss(projected, theirs, {})
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(lesson.loss(lesson.project(mine, only.projections), theirs, {}).item(), rel=1e-2)
