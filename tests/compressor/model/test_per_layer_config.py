"""Sizes of layers in the words of transformers: all of a structure, or nothing."""

from __future__ import annotations

import pytest
from families import ALL
from transformers import AutoConfig, GPT2Config, GPT2Model

from compressor.model.anatomy import anatomy_of
from compressor.model.edits import KeepBlocks, KeepHeads, KeepNeurons
from compressor.model.model import Model, per_layer_config, plain


def cut(name, *, heads=None, neurons=None):
    """A tiny model whose first block has these heads and neurons left."""
    model = Model.wrap(ALL[name].make(1))
    block = anatomy_of(model.module).blocks[0].id
    if heads is not None:
        model.apply(KeepHeads(block=block, heads=heads))
    if neurons is not None:
        model.apply(KeepNeurons(block=block, neurons=neurons))
    return model


@pytest.mark.parametrize(
    ("name", "heads", "neurons", "said"),
    [
        ("bert", None, tuple(range(8)), {"0": {"intermediate_size": 8}}),
        ("distilbert", None, tuple(range(8)), {"0": {"hidden_dim": 8}}),
        ("vit", (0, 1), None, {"0": {"num_attention_heads": 2, "head_dim": 8}, "1": {"head_dim": 8}, "2": {"head_dim": 8}}),
    ],
)
def test_configuration_of_the_library_takes_the_sizes_of_a_layer(name, heads, neurons, said):
    model = cut(name, heads=heads, neurons=neurons)
    found = per_layer_config(model)
    assert not plain(model)
    assert found == said
    values = model.module.config.to_dict()
    config = AutoConfig.for_model(values.pop("model_type"), **values, per_layer_config=found)
    first, second = (config.per_layer_config[at] for at in (0, 1))
    field, size = next(iter(said["0"].items()))
    assert getattr(first, field) == size != getattr(second, field)


@pytest.mark.parametrize(
    ("name", "heads", "neurons"),
    [("bert", (0,), None), ("bert", (), tuple(range(8))), ("vit", (0, 1), ()), ("dinov2-gated", None, (0, 1, 2))],
)
def test_nothing_is_said_of_a_structure_that_it_has_no_words_for(name, heads, neurons):
    assert per_layer_config(cut(name, heads=heads, neurons=neurons)) == {}


@pytest.mark.parametrize(("scaled", "said"), [(False, True), (True, False)])
def test_model_whose_parts_go_by_the_number_of_their_layer_is_no_stock_one_once_layers_went(scaled, said):
    config = GPT2Config(n_embd=32, n_layer=3, n_head=4, vocab_size=16, n_positions=8, scale_attn_by_inverse_layer_idx=scaled)
    model = Model.wrap(GPT2Model(config).eval())
    first, _, third = (block.id for block in anatomy_of(model.module).blocks)
    model.apply(KeepBlocks(blocks=(first, third)))
    assert plain(model) is said
