"""Objectives held against their formulas written out, what they ask for, and what they refuse."""

from __future__ import annotations

import math
import re
from itertools import product
from types import SimpleNamespace

import pytest
import torch
from pydantic import ValidationError

from compressor.contracts import Outputs, Want
from compressor.errors import UnsupportedModel
from compressor.tasks.text_classification import TextClassification
from passes.objectives.attention_maps import AttentionMaps, attention_map_loss
from passes.objectives.hidden_states import HiddenStates, hidden_state_loss, identity_projections
from passes.objectives.layer_maps import layer_pairs
from passes.objectives.layer_to_layer import LayerToLayer, layer_to_layer_loss
from passes.objectives.reductions import mean_over_valid, pooled
from passes.objectives.relations import Relations, angle_loss, distance_loss, similarity_loss
from passes.objectives.soft_targets import SoftLabels, SoftNumbers, SoftTargets, kl, soft_target_values

ALL = (AttentionMaps(), HiddenStates(), LayerToLayer(), Relations(), SoftTargets())


def drawn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def anatomy(blocks, hidden_size=8, *, blind=()):
    made = tuple(SimpleNamespace(id=f"layer.{at}", attention=None if at in blind else at) for at in range(blocks))
    return SimpleNamespace(blocks=made, hidden_size=hidden_size, stack="stack")


def outputs(kind, tensors, mask=None, main=None):
    rows = len(next(iter(tensors.values()))) if tensors else len(main)
    return Outputs(torch.zeros(rows, 2) if main is None else main, mask=mask).having(kind, tensors)


def refused(message):
    return pytest.raises(UnsupportedModel, match=f"^{re.escape(message)}$")


# ------------------------------------------------------------------ means


def test_means_are_over_valid_tokens_and_of_nothing_they_are_zero():
    values, mask = drawn(0, 2, 3), torch.tensor([[2, 1, 0], [1, 0, 0]])
    expected = (values[0, 0] + values[0, 1] + values[1, 0]) / 3
    assert mean_over_valid(values, mask).item() == pytest.approx(expected.item())
    assert mean_over_valid(values, None).item() == pytest.approx(values.mean().item())
    assert mean_over_valid(values * math.inf, torch.zeros(2, 3)).item() == 0
    states = drawn(1, 2, 3, 4)
    torch.testing.assert_close(pooled(states, mask), torch.stack([states[0, :2].mean(0), states[1, 0]]))
    torch.testing.assert_close(pooled(states, None), states.mean(1))
    assert pooled(states, torch.zeros(2, 3)).eq(0).all()


# ------------------------------------------------------------------ soft targets


def softmax(logits, temperature):
    powers = [math.exp(each / temperature) for each in logits]
    return [each / sum(powers) for each in powers]


def divergence(p, q):
    return sum(one * math.log(one / other) for one, other in zip(p, q, strict=True))


@pytest.mark.parametrize("kind", ["forward", "reverse", "jensen-shannon"])
@pytest.mark.parametrize(("temperature", "beta"), [(1.0, 0.5), (3.0, 0.2)])
def test_soft_targets_are_the_divergence_times_the_square_of_the_temperature(kind, temperature, beta):
    student, teacher = drawn(0, 3, 4), drawn(1, 3, 4)
    found = 0.0
    for mine, theirs in zip(student.tolist(), teacher.tolist(), strict=True):
        ours, others = softmax(mine, temperature), softmax(theirs, temperature)
        mixed = [beta * other + (1 - beta) * our for our, other in zip(ours, others, strict=True)]
        found += {
            "forward": divergence(others, ours),
            "reverse": divergence(ours, others),
            "jensen-shannon": beta * divergence(others, mixed) + (1 - beta) * divergence(ours, mixed),
        }[kind] * temperature**2 / 3  # fmt: skip
    given = {"temperature": temperature, "divergence": kind, "beta": beta}
    assert soft_target_values(student, teacher, **given).mean().item() == pytest.approx(found)
    sides = (Outputs(each) for each in (student, teacher))
    assert SoftTargets(**given).loss(*sides, {}).item() == pytest.approx(found)
    if temperature == 1.0:
        assert soft_target_values(student, teacher, divergence=kind).mean().item() == pytest.approx(found), (
            "unless they are given"
        )


def test_soft_targets_are_forward_at_two_unless_they_are_told_otherwise():
    assert SoftTargets().model_dump(exclude={"weight"}) == {
        "temperature": 2.0,
        "divergence": "forward",
        "beta": 0.5,
        "skew": 0.1,
    }
    student, teacher = drawn(0, 3, 4), drawn(1, 3, 4)
    assert (
        soft_target_values(student, teacher).mean()
        == soft_target_values(student, teacher, divergence="forward", temperature=1.0).mean()
    )
    assert kl(teacher.log_softmax(-1), student.log_softmax(-1)).shape == (3,)


@pytest.mark.parametrize("parameters", [{"temperature": 1001}, {"temperature": -1}, {"beta": -0.1}, {"beta": 1.5}, {"skew": 1}])
def test_soft_targets_refuse_what_lies_out_of_range(parameters):
    with pytest.raises(ValidationError):
        SoftTargets(**parameters)
    SoftTargets(temperature=1000, beta=0.999)
    SoftTargets(temperature=0.5, beta=0, skew=0)


class OwnTargets(SoftTargets):
    """A third party's, with a loss of its own."""

    def loss(self, student, teacher, batch):
        return (student.main - teacher.main).abs().mean()


@pytest.mark.parametrize(
    ("kind", "made"), [("classes", SoftTargets), ("labels", SoftLabels), ("numbers", SoftNumbers), (None, SoftTargets)]
)
def test_soft_targets_adapt_to_the_task_and_classes_derived_from_them_stay(kind, made):
    class Answers(TextClassification):
        def imitated(self):
            return kind

    found = SoftTargets(temperature=3, weight=0.5).of(Answers())
    assert (type(found), found.temperature, found.weight) == (made, 3, 0.5)
    own = OwnTargets(temperature=3)
    assert own.of(Answers()) is own


# ------------------------------------------------------------------ states and maps


def test_distances_of_states_are_those_of_their_names():
    one, other = drawn(0, 2, 3, 4), drawn(1, 2, 3, 4)
    dots = (one * other).sum(-1) / one.norm(dim=-1) / other.norm(dim=-1)
    expected = {"mse": (one - other).pow(2).mean(), "l1": (one - other).abs().mean(), "cosine": (1 - dots).mean()}
    for name, value in expected.items():
        assert hidden_state_loss(one, other, distance=name).item() == pytest.approx(value.item())
    assert hidden_state_loss(one, other).item() == pytest.approx(expected["mse"].item())


@pytest.mark.parametrize(
    ("objective", "kind", "loss"),
    [
        (HiddenStates(distance="l1"), "hidden-state", lambda *sides: hidden_state_loss(*sides, distance="l1")),
        (HiddenStates(distance="cosine"), "hidden-state", lambda *sides: hidden_state_loss(*sides, distance="cosine")),
        (
            LayerToLayer(l1=2.0, cosine=3.0, mse=4.0, cosine_form="log-sigmoid"),
            "hidden-state",
            lambda *sides: layer_to_layer_loss(*sides, l1=2.0, cosine=3.0, mse=4.0, form="log-sigmoid"),
        ),
        (LayerToLayer(), "hidden-state", layer_to_layer_loss),
        (AttentionMaps(), "attention-map", attention_map_loss),
    ],
)
def test_loss_is_the_mean_over_pairs_without_padding(objective, kind, loss):
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    shape = (2, 3, 4) if kind == "hidden-state" else (2, 2, 3, 3)
    made = [drawn(seed, *shape) for seed in range(4)]
    made = made if kind == "hidden-state" else [each.softmax(-1) for each in made]
    sides = [{"a": made[0], "b": made[1]}, {"x": made[2], "y": made[3]}]
    found = objective.loss(outputs(kind, sides[0], mask), outputs(kind, sides[1]), {})
    expected = (loss(made[0], made[2], mask) + loss(made[1], made[3], mask)) / 2
    assert found.item() == pytest.approx(expected.item())
    with pytest.raises(ValueError, match="zip"):
        objective.loss(outputs(kind, sides[0], mask), outputs(kind, {"x": made[2]}), {})


def test_layer_to_layer_is_distance_and_angle_unless_it_is_told_otherwise():
    one, other = drawn(0, 2, 3, 8), drawn(1, 2, 3, 8)
    dots = (one * other).sum(-1) / one.norm(dim=-1) / other.norm(dim=-1)
    expected = (one - other).abs().mean() + (1 - dots).mean()
    assert layer_to_layer_loss(one, other).item() == pytest.approx(expected.item())
    assert LayerToLayer().model_dump(exclude={"weight"}) == {
        "layers": None, "projection": "shared", "l1": 1.0, "cosine": 1.0, "mse": 0.0, "cosine_form": "raw",
    }  # fmt: skip


def test_maps_count_heads_tokens_and_keys_as_the_formula_says():
    student, teacher = drawn(0, 2, 2, 3, 3).softmax(-1), drawn(1, 2, 2, 3, 3).softmax(-1)
    teacher[0, 0, 0] = torch.tensor([1.0, 0.0, 0.0])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    total, queries = 0.0, 0
    for row, query in product(range(2), range(3)):
        if mask[row, query]:
            queries += 1
            for head, key in product(range(2), range(3)):
                p, q = teacher[row, head, query, key].item(), student[row, head, query, key].item()
                total += p * math.log(p / q) / 2 if p and mask[row, key] else 0.0
    assert attention_map_loss(student, teacher, mask).item() == pytest.approx(total / queries)
    blind, sees = torch.tensor([[[[0.0, 1.0]] * 2]]), torch.tensor([[[[0.5, 0.5]] * 2]])
    never = 0.5 * math.log(0.5 / 1e-12) + 0.5 * math.log(0.5)
    assert attention_map_loss(blind, sees).item() == pytest.approx(never), "where the student never looks"


# ------------------------------------------------------------------ relations


def huber(difference):
    return difference**2 / 2 if abs(difference) < 1 else abs(difference) - 0.5


def distances(rows):
    pairs = [(one, other) for one, other in product(range(len(rows)), repeat=2) if one != other]
    found = [math.dist(rows[one], rows[other]) for one, other in pairs]
    return [each / (sum(found) / len(found)) for each in found]


def cosines_of_angles(rows):
    def cosine(a, b, i):
        one, other = ([x - y for x, y in zip(rows[each], rows[i], strict=True)] for each in (a, b))
        lengths = math.hypot(*one) * math.hypot(*other)
        return sum(x * y for x, y in zip(one, other, strict=True)) / lengths if lengths else 0.0

    return [cosine(a, b, i) for a, b, i in product(range(len(rows)), repeat=3)]


def similarities(rows):
    pairs = product(rows, repeat=2)
    return [sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b) for a, b in pairs]


def mean(of, *sides, by=huber):
    ours, others = (of(side.tolist()) for side in sides)
    return sum(by(one - other) for one, other in zip(ours, others, strict=True)) / len(ours)


def test_relations_are_those_of_pairs_and_triplets_written_out():
    student, teacher = 3 * drawn(0, 4, 3), drawn(1, 4, 5)
    student[0] *= 20  # far away, where the Huber loss is linear
    distance, angle = mean(distances, student, teacher), mean(cosines_of_angles, student, teacher)
    similarity = mean(similarities, student, teacher, by=lambda difference: difference**2)
    assert distance_loss(student, teacher).item() == pytest.approx(distance, rel=1e-5)
    assert angle_loss(student, teacher).item() == pytest.approx(angle, rel=1e-5)
    assert similarity_loss(student, teacher).item() == pytest.approx(similarity)
    sides = Outputs(student), Outputs(teacher)
    for parameters, expected in (
        ({}, distance + 2 * angle),
        ({"angle_weight": 0.5}, distance + angle / 2),
        ({"angle_weight": 0}, distance),
        ({"relation": "similarity"}, similarity),
    ):
        assert Relations(features="logits", **parameters).loss(*sides, {}).item() == pytest.approx(expected, rel=1e-5)


def test_relations_of_two_rows_are_compared_and_of_one_are_nothing():
    two, others = torch.tensor([[1.0, 2.0], [2.0, 1.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    objective = Relations(features="logits", relation="similarity")
    assert objective.loss(Outputs(two), Outputs(others), {}).item() == pytest.approx(0.8**2 / 2)
    assert objective.loss(Outputs(two[:1]), Outputs(others[:1]), {}).item() == 0


def test_hidden_relations_are_of_pooled_states():
    mask = torch.tensor([[1, 1, 0], [1, 0, 0], [1, 1, 1], [1, 1, 0]])
    student, teacher = drawn(0, 4, 3, 8), drawn(1, 4, 3, 8)
    sides = [outputs("hidden-state", {"a": each}, mask, main=drawn(9, 4, 2)) for each in (student, teacher)]
    expected = similarity_loss(pooled(student, mask), pooled(teacher, mask))
    assert Relations(relation="similarity").loss(*sides, {}).item() == pytest.approx(expected.item())


# ------------------------------------------------------------------ what is asked for


def test_objectives_say_what_they_look_at():
    assert [each.looks_at() for each in ALL] == ["maps", "states", "states", "states", "logits"]
    assert Relations(features="logits").looks_at() == "logits"


def test_versions_are_those_that_keys_hold():
    assert [type(each).version for each in ALL] == [1, 2, 2, 1, 1]


@pytest.mark.parametrize(("name", "words"), [("cosine_form", ("raw", "log-sigmoid")), ("projection", ("shared", "own", "none"))])
def test_words_of_layer_to_layer_are_taken(name, words):
    assert [getattr(LayerToLayer(**{name: word}), name) for word in words] == list(words)


def test_objectives_want_the_places_that_they_compare():
    sides = anatomy(2), anatomy(4)
    nothing = (Want(), Want())
    assert SoftTargets().wants(*sides) == Relations(features="logits").wants(*sides) == nothing
    last = (Want(hidden_states=("layer.2",)), Want(hidden_states=("layer.3",)))
    assert Relations().wants(anatomy(3), anatomy(4)) == last
    assert Relations().wants(anatomy(4), anatomy(3)) == last[::-1]
    assert AttentionMaps().wants(*sides) == (Want(attention_maps=("layer.1",)), Want(attention_maps=("layer.3",)))
    uniform = (Want(hidden_states=("layer.0", "layer.1")), Want(hidden_states=("layer.1", "layer.3")))
    assert HiddenStates().wants(*sides) == uniform
    given = (Want(hidden_states=("stack", "layer.1")), Want(hidden_states=("layer.0", "layer.3")))
    assert LayerToLayer(layers={0: 1, 2: 4}).wants(*sides) == given
    some = Want(hidden_states=("layer.0", "layer.3"))
    assert LayerToLayer(layers=(1, 4)).wants(anatomy(4), anatomy(4)) == (some, some)
    thirds = Want(hidden_states=("stack", "layer.1", "layer.2", "layer.3"))
    assert LayerToLayer().wants(anatomy(4), anatomy(4)) == (thirds, thirds)


def test_defaults_of_states_are_uniform_mean_squares():
    assert HiddenStates().model_dump(exclude={"weight"}) == {"layers": "uniform", "distance": "mse", "projection": "auto"}
    assert AttentionMaps().layers == "last"
    assert Relations().model_dump(exclude={"weight"}) == {"relation": "distance-angle", "features": "hidden", "angle_weight": 2.0}


def test_projections_start_as_the_identity_cut_or_padded():
    wide, narrow = identity_projections([(2, 3), (3, 2)])
    assert wide.weight.tolist() == [[1, 0], [0, 1], [0, 0]]
    assert narrow.weight.tolist() == [[1, 0, 0], [0, 1, 0]]
    assert wide.bias.tolist() == [0, 0, 0]
    assert narrow.bias.tolist() == [0, 0]


def test_projections_are_made_where_they_are_asked_for():
    same, other = (anatomy(2), anatomy(4)), (anatomy(2), anatomy(4, 12))
    assert HiddenStates(projection="none").projections(*same) is None
    assert HiddenStates().projections(*same) is None
    assert len(HiddenStates(projection="linear").projections(*same)) == 2
    assert len(HiddenStates(layers="last").projections(*other)) == 1
    assert LayerToLayer(layers=(1, 2), projection="none").projections(anatomy(2), anatomy(2)) is None
    own = LayerToLayer(layers=(1, 2), projection="own").projections(anatomy(2), anatomy(2, 12))
    assert [tuple(each.weight.shape) for each in own] == [(12, 8), (12, 8)]
    assert own[0] is not own[1]


def test_states_without_projections_stay_what_they_are():
    states = {"a": drawn(0, 2, 3, 8), "b": drawn(1, 2, 3, 8)}
    student = outputs("hidden-state", states)
    assert HiddenStates().project(student, None) is student
    named = LayerToLayer(layers=(1, 2)).project(student, None).hidden_states
    assert list(named) == ["0", "1"]
    assert named["1"] is states["b"]
    halves = torch.nn.ModuleList([torch.nn.Linear(8, 4).double(), torch.nn.Linear(8, 4).double()])
    projected = HiddenStates().project(student, halves).hidden_states
    torch.testing.assert_close(projected["b"], halves[1](states["b"]))
    torch.testing.assert_close(LayerToLayer(layers=(1, 2)).project(student, halves).hidden_states["0"], halves[0](states["a"]))


# ------------------------------------------------------------------ what is refused


def test_layer_maps_say_which_block_is_not_there_or_named_twice():
    sides = anatomy(2), anatomy(4)
    with refused("the layer map names block 2 of the student, which has 2 (0 to 1)"):
        layer_pairs(((2, 0),), *sides)
    with refused("the layer map names block -5 of the teacher, which has 4 (0 to 3)"):
        layer_pairs({0: -5}, *sides)
    with refused("the layer map ((0, 1), (-2, 2)) names a block twice: layer.0, layer.0"):
        layer_pairs(((0, 1), (-2, 2)), *sides)
    with refused("layers: uniform pairs 4 student blocks with 2; give the pairs by number"):
        layer_pairs("uniform", *reversed(sides))
    for empty, message in (((anatomy(0), sides[1]), "0, the teacher 4"), ((sides[0], anatomy(0)), "2, the teacher 0")):
        with refused(f"a layer map needs blocks: the student has {message}"):
            layer_pairs("last", *empty)
    assert layer_pairs(((0, -4), (1, 3)), *sides) == (("layer.0", "layer.0"), ("layer.1", "layer.3"))


def test_maps_of_blocks_without_attention_are_refused_on_either_side():
    for sides in ((anatomy(2, blind=(1,)), anatomy(2)), (anatomy(2), anatomy(2, blind=(1,)))):
        with refused("attention-maps: layer.1 has no attention heads; give `layers` that have"):
            AttentionMaps().wants(*sides)
        assert AttentionMaps(layers={0: 0}).wants(*sides)[0].attention_maps == ("layer.0",)


def test_sizes_that_differ_need_a_projection():
    sides = anatomy(2, 8), anatomy(2, 12)
    with refused("hidden-states: the student is 8 wide and the teacher 12; use projection: auto or linear"):
        HiddenStates(projection="none").projections(*sides)
    with refused("states of 8 and of 12 features need a projection: leave projection out"):
        LayerToLayer(projection="none").projections(*sides)


def test_relations_of_states_need_blocks():
    for sides in ((anatomy(0), anatomy(2)), (anatomy(2), anatomy(0))):
        with refused("relations of hidden states need blocks; use features: logits"):
            Relations().wants(*sides)


@pytest.mark.parametrize(
    ("layers", "depths", "message"),
    [
        (None, (2, 4), "the student has 2 blocks and the teacher 4; give pairs, student: teacher"),
        ((0, 5), (4, 4), "0, 5 of the student: each once, and 0 to 4, as it has 4 blocks"),
        ((-1, 2), (4, 4), "-1, 2 of the student: each once, and 0 to 4, as it has 4 blocks"),
        ((1, 2, 1), (4, 4), "1, 2, 1 of the teacher: each once, and 0 to 4, as it has 4 blocks"),
        ({1: 3, 2: 3}, (2, 4), "3, 3 of the teacher: each once, and 0 to 4, as it has 4 blocks"),
        ({1: 5}, (2, 4), "5 of the teacher: each once, and 0 to 4, as it has 4 blocks"),
        ({3: 4}, (2, 4), "3 of the student: each once, and 0 to 2, as it has 2 blocks"),
    ],
)
def test_layers_that_are_not_there_or_named_twice_are_told(layers, depths, message):
    with refused(f"layer-to-layer: {message}"):
        LayerToLayer(layers=layers).wants(anatomy(depths[0]), anatomy(depths[1]))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"l1": 0, "cosine": 0}, "Value error, l1, cosine and mse are all 0"),
        (
            {"layers": {1: 2, 2: (3, 4)}},
            "Value error, one state (2) cannot be several layers of the teacher but by projection: own",
        ),
    ],
)
def test_layer_to_layer_refuses_what_means_nothing(parameters, message):
    with pytest.raises(ValidationError, match=re.escape(message)):
        LayerToLayer(**parameters)


@pytest.mark.parametrize("part", ["l1", "cosine", "mse"])
def test_any_one_part_of_layer_to_layer_is_enough_and_none_is_negative(part):
    LayerToLayer(**{"l1": 0, "cosine": 0, "mse": 0, part: 0.5})
    LayerToLayer(layers={1: (2,)})
    with pytest.raises(ValidationError):
        LayerToLayer(**{part: -0.5})


@pytest.mark.parametrize(
    "parameters",
    [{"layers": ()}, {"layers": {}}, {"layers": {1: ()}}, {"projection": "linear"}, {"cosine_form": "x"}],
)
def test_layer_to_layer_refuses_layers_and_words_that_are_none(parameters):
    with pytest.raises(ValidationError):
        LayerToLayer(**parameters)


def test_relations_refuse_negative_weights():
    with pytest.raises(ValidationError):
        Relations(angle_weight=-1)
