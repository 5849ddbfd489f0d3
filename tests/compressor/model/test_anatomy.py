"""Where the parts of every family are, and how a model that no row fits is refused."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import transformers
from families import ALL, HIDDEN, LAYERS

from compressor.contracts import registry
from compressor.contracts.anatomy import Row
from compressor.errors import UnsupportedModel
from compressor.model.anatomy import anatomy_of
from compressor.model.edits import KeepHeads, KeepNeurons


@pytest.mark.parametrize("name", ALL)
def test_anatomy_names_modules_that_are_there(name):
    module = ALL[name].make()
    anatomy = anatomy_of(module)
    assert anatomy.family == ALL[name].row
    assert [block.id for block in anatomy.blocks] == [f"{anatomy.stack}.{index}" for index in range(LAYERS)]
    for block in anatomy.blocks:
        assert block.attention is not None
        assert block.feed_forward is not None
        assert (block.attention.heads, block.attention.head_size, block.attention.key_value_groups) == (4, 8, 1)
        projections = (block.attention.query, block.attention.key, block.attention.value, block.attention.output)
        inner = (block.feed_forward.up, block.feed_forward.down, *filter(None, [block.feed_forward.gate]))
        assert all(type(module.get_submodule(path)) is torch.nn.Linear for path in (*projections, *inner))
        assert all(type(module.get_submodule(path)) is torch.nn.LayerNorm for path in block.norms)
        assert len(block.norms) == 2
        assert module.get_submodule(block.feed_forward.up).out_features == block.feed_forward.width
    assert anatomy.hidden_size == HIDDEN


@pytest.mark.parametrize("name", ALL)
def test_part_of_covers_every_parameter(name):
    module = ALL[name].make()
    anatomy = anatomy_of(module)
    parts = {parameter: anatomy.part_of(parameter) for parameter, _ in module.named_parameters()}
    layers = [f"layer {index} {part}" for index in range(LAYERS) for part in ("attention", "feed-forward")]
    assert {"embeddings", *layers} <= set(parts.values()) <= {"embeddings", "head", "other", *layers}
    first = anatomy.blocks[0]
    assert parts[f"{first.attention.query}.weight"] == parts[f"{first.norms[0]}.weight"] == "layer 0 attention"
    assert parts[f"{first.feed_forward.down}.bias"] == parts[f"{first.norms[1]}.weight"] == "layer 0 feed-forward"


@pytest.mark.parametrize(
    ("name", "embeddings", "head", "convolutions"),
    [
        ("bert", ("bert.embeddings",), ("bert.pooler", "classifier"), ()),
        ("bert-bare", ("embeddings",), ("pooler",), ()),
        ("vit", ("vit.embeddings",), ("classifier",), ("vit.embeddings.patch_embeddings.projection",)),
        ("whisper", ("conv1", "conv2", "embed_positions"), (), ("conv1", "conv2")),
        (
            "hubert",
            (
                "hubert.feature_extractor",
                "hubert.feature_projection",
                "hubert.masked_spec_embed",
                "hubert.encoder.pos_conv_embed",
            ),
            ("projector", "classifier"),
            (
                "hubert.feature_extractor.conv_layers.0.conv",
                "hubert.feature_extractor.conv_layers.1.conv",
                "hubert.encoder.pos_conv_embed.conv",
            ),
        ),
    ],
)
def test_anatomy_finds_embeddings_head_and_convolutions(name, embeddings, head, convolutions):
    anatomy = anatomy_of(ALL[name].make())
    assert (anatomy.embeddings, anatomy.head, anatomy.convolutions) == (embeddings, head, convolutions)


def test_anatomy_reads_sizes_from_the_modules_when_blocks_differ():
    module = ALL["bert"].make()
    ids = [block.id for block in anatomy_of(module).blocks]
    KeepHeads(block=ids[1], heads=(0, 2, 3)).apply(module)
    KeepNeurons(block=ids[2], neurons=(5,)).apply(module)
    KeepHeads(block=ids[0], heads=()).apply(module)
    KeepNeurons(block=ids[0], neurons=()).apply(module)
    empty, narrow, thin = anatomy_of(module).blocks
    assert (empty.attention, empty.feed_forward) == (None, None)
    assert (narrow.attention.heads, narrow.attention.head_size, narrow.feed_forward.width) == (3, 8, 64)
    assert (thin.attention.heads, thin.feed_forward.width) == (4, 1)


def test_gated_feed_forward_is_recognised():
    feed_forward = anatomy_of(ALL["dinov2-gated"].make()).blocks[0].feed_forward
    assert feed_forward.gate == "dinov2.encoder.layer.0.mlp.gate_proj"
    assert feed_forward.up == "dinov2.encoder.layer.0.mlp.up_proj"


def test_block_is_refused_with_a_near_name_when_unknown():
    with pytest.raises(
        UnsupportedModel, match=r"no block 'bert\.encoder\.layer\.7' \(did you mean 'bert\.encoder\.layer\.\d'\?\)"
    ):
        anatomy_of(ALL["bert"].make()).block("bert.encoder.layer.7")


def test_model_is_refused_with_the_closest_rows_when_none_fits():
    config = transformers.DebertaV2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=20
    )
    with pytest.raises(UnsupportedModel, match=r"DebertaV2Model \(model type 'deberta-v2'\); closest: .*bert"):
        anatomy_of(transformers.DebertaV2Model(config))


def test_module_without_config_is_refused_with_all_rows():
    with pytest.raises(
        UnsupportedModel, match=r"no anatomy row fits Linear; closest: albert, beit, bert, deit, diffusers-dit, dinov2"
    ):
        anatomy_of(torch.nn.Linear(2, 2))


def test_every_installed_row_is_a_row():
    assert {"bert", "whisper-encoder", "hubert"} <= set(registry.names("anatomy"))
    for name in registry.names("anatomy"):
        row = registry.load("anatomy", name)
        assert isinstance(row, Row)
        assert row.family == name


@pytest.mark.parametrize("module", ["compressor.model.anatomy", "compressor.model.families", "compressor.model.edits"])
def test_import_loads_no_heavy_library(module):
    code = f"import {module}, sys; print([name for name in ('torch', 'transformers', 'numpy', 'onnx') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
