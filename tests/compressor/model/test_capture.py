"""Features of the inside of a model: queries, keys, values and what attention adds, also where one matrix makes all three."""

from __future__ import annotations

import pytest
import torch
from families import ALL, MORE

from compressor.contracts import Feature, Outputs, Want
from compressor.errors import UnsupportedModel
from compressor.model.anatomy import anatomy_of
from compressor.model.capture import captured
from compressor.model.edits import KeepHeads

BOTH = {**ALL, **MORE}


def features(name, block=1):
    tiny = BOTH[name]
    module = tiny.make()
    module.config._attn_implementation = "eager"
    anatomy = anatomy_of(module)
    kinds = ("query", "key", "value", "attention-map", "attention-update", "hidden-state")
    with captured(module, Want(Feature(kind, anatomy.blocks[block].id) for kind in kinds)) as found:
        tiny.outputs(module)
    return module, anatomy.blocks[block].attention, {feature.kind: tensor for feature, tensor in found.items()}


@pytest.mark.parametrize("name", ["bert", "vit", "siglip", "gpt2"])
def test_maps_and_output_follow_from_queries_keys_and_values(name):
    module, attention, found = features(name)
    query, key, value = (found[kind].unflatten(-1, (4, 8)).transpose(1, 2) for kind in ("query", "key", "value"))
    scores = query @ key.transpose(-1, -2) / 8**0.5
    if name == "gpt2":
        scores = scores.masked_fill(torch.ones(scores.shape[-2:]).triu(1) > 0, -torch.inf)
    row = 0  # the second one is padded where there are texts
    maps = scores[row].softmax(-1)
    torch.testing.assert_close(maps, found["attention-map"][row])
    mixed = (maps @ value[row]).transpose(0, 1).flatten(-2)
    torch.testing.assert_close(
        module.get_submodule(attention.output)(mixed), found["attention-update"][row], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("name", ["bert", "distilbert", "vit", "dinov2", "siglip", "whisper", "hubert", "electra", "gpt2"])
def test_scores_are_what_maps_are_made_of(name):
    tiny = BOTH[name]
    module = tiny.make()
    block = anatomy_of(module).blocks[1].id
    with captured(module, Want([Feature("attention-score", block)], attention_maps=(block,))) as found:
        tiny.outputs(module)
    scores, maps = (found[Feature(kind, block)][0] for kind in ("attention-score", "attention-map"))
    if name == "gpt2":
        scores = scores.masked_fill(torch.ones(scores.shape[-2:]).triu(1) > 0, -torch.inf)
    torch.testing.assert_close(scores.softmax(-1), maps, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "norm"),
    [
        ("bert", "attention.output.LayerNorm"),
        ("distilbert", "sa_layer_norm"),
        ("albert", "albert_layers.0.attention.LayerNorm"),
        ("hubert", "layer_norm"),
        ("wav2vec2-large", "final_layer_norm"),
        ("vit", "layernorm_after"),
        ("dinov2", "norm2"),
        ("whisper", "final_layer_norm"),
        ("llama", "post_attention_layernorm"),
    ],
)
def test_norm_after_attention_is_its_own_or_that_of_what_comes_next(name, norm):
    tiny = BOTH[name]
    module = tiny.make()
    block, seen = anatomy_of(module).blocks[0].id, []
    module.get_submodule(f"{block}.{norm}").register_forward_hook(lambda *given: seen.append(given[2]))
    with captured(module, Want([Feature("attention-norm", block)])) as found:
        tiny.outputs(module)
    assert found[Feature("attention-norm", block)] is seen[-1]


@pytest.mark.parametrize(
    ("name", "kind", "why"),
    [
        ("llama", "attention-score", "positions are turned into queries and keys"),
        ("beit", "attention-score", "relative positions are added to them"),
        ("wavlm", "attention-norm", "its modules are not called one by one"),
    ],
)
def test_families_that_hand_out_no_scores_or_norms_are_refused_with_the_reason(name, kind, why):
    tiny = BOTH[name]
    module = tiny.make()
    block = anatomy_of(module).blocks[0].id
    with pytest.raises(UnsupportedModel, match=why), captured(module, Want([Feature(kind, block)])):
        tiny.outputs(module)


@pytest.mark.parametrize("name", ["modernbert", "llama", "qwen3"])
def test_features_have_the_shapes_of_the_contract(name):
    _, attention, found = features(name)
    keys = attention.heads // attention.key_value_groups * attention.head_size
    assert found["query"].shape == (2, 8, attention.heads * attention.head_size)
    assert found["key"].shape == found["value"].shape == (2, 8, keys)
    assert found["attention-update"].shape == found["hidden-state"].shape == (2, 8, 32)


def test_what_a_model_does_not_hand_out_is_refused_by_name():
    module = BOTH["bert"].make()
    block = anatomy_of(module).blocks[0].id
    with (
        pytest.raises(UnsupportedModel, match="a model of family bert hands out no router"),
        captured(module, Want([Feature("router", block)])),
    ):
        pass
    KeepHeads(block=block, heads=()).apply(module)
    with pytest.raises(UnsupportedModel, match="has no attention left"), captured(module, Want([Feature("query", block)])):
        pass


def test_wants_keep_each_feature_once_and_outputs_give_what_is_wanted_in_order():
    want = Want(hidden_states=("b", "a", "b")) | Want(
        [Feature("hidden-state", "a"), Feature("query", "a")], attention_maps=("a",)
    )
    assert [str(each) for each in want.features] == [
        "hidden-state of b", "hidden-state of a", "query of a", "attention-map of a"
    ]  # fmt: skip
    assert want.of("hidden-state") == ("b", "a")
    assert not Want()
    given = {feature: torch.full((1,), float(at)) for at, feature in enumerate(reversed(want.features))}
    outputs = Outputs(torch.zeros(1), given)
    assert list(outputs.chosen(Want(hidden_states=("b", "a"))).hidden_states) == ["b", "a"]
    assert list(outputs.attention_maps) == ["a"]
    assert outputs.logits is outputs.main
    moved = outputs.having("hidden-state", {"0": torch.ones(1)})
    assert (list(moved.hidden_states), list(moved.of("query"))) == (["0"], ["a"])
