"""What each edit does to the outputs of every family, on real tensors and on meta, and what it refuses."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import transformers
from families import ALL
from pydantic import ValidationError

from compressor.errors import UnsupportedModel
from compressor.model.anatomy import anatomy_of
from compressor.model.blueprint import blueprint_of
from compressor.model.edits import KeepBlocks, KeepHeads, KeepNeurons


def ids(module):
    return [block.id for block in anatomy_of(module).blocks]


def silence(module, path, columns):
    """Zero the columns of a projection: what its producers compute there no longer counts."""
    with torch.no_grad():
        module.get_submodule(path).weight[:, columns] = 0


def shapes(module):
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("heads", [(1,), (0, 3), (0, 1, 2, 3), ()])
@pytest.mark.parametrize("name", ALL)
def test_keep_heads_equals_silencing_the_others(name, heads):
    tiny = ALL[name]
    module, silenced = tiny.make(), tiny.make()
    before = tiny.outputs(module)
    attention = anatomy_of(module).blocks[1].attention
    silence(silenced, attention.output, [c for c in range(32) if c // 8 not in heads])
    KeepHeads(block=ids(module)[1], heads=heads).apply(module)
    torch.testing.assert_close(tiny.outputs(module), tiny.outputs(silenced), rtol=1e-4, atol=1e-5)
    assert torch.allclose(tiny.outputs(module), before) == (len(heads) == 4)


@pytest.mark.parametrize("neurons", [(1,), tuple(range(0, 40, 3)), ()])
@pytest.mark.parametrize("name", ALL)
def test_keep_neurons_equals_silencing_the_others(name, neurons):
    tiny = ALL[name]
    module, silenced = tiny.make(), tiny.make()
    feed_forward = anatomy_of(module).blocks[1].feed_forward
    silence(silenced, feed_forward.down, [n for n in range(feed_forward.width) if n not in neurons])
    KeepNeurons(block=ids(module)[1], neurons=neurons).apply(module)
    torch.testing.assert_close(tiny.outputs(module), tiny.outputs(silenced), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [name for name, tiny in ALL.items() if name not in ("whisper-classifier", "wav2vec2-large")])
def test_keep_blocks_equals_passing_by_the_others(name):
    tiny = ALL[name]
    module, bypassed = tiny.make(), tiny.make()
    bypassed.get_submodule(ids(bypassed)[1]).forward = lambda hidden_states, *_, **__: hidden_states
    KeepBlocks(blocks=(ids(module)[0], ids(module)[2])).apply(module)
    assert torch.equal(tiny.outputs(module), tiny.outputs(bypassed))
    assert len(ids(module)) == module.config.num_hidden_layers == 2


@pytest.mark.parametrize("name", ["whisper-classifier", "wav2vec2-large"])
def test_keep_blocks_cuts_the_weights_of_a_weighted_sum(name):
    module = ALL[name].make()
    old = module.layer_weights.detach().clone()
    KeepBlocks(blocks=(ids(module)[0], ids(module)[2])).apply(module)
    assert torch.equal(module.layer_weights, old[[0, 1, 3]])
    assert ALL[name].outputs(module).shape == (2, 5)


def test_keep_blocks_renumbers_layers_and_cuts_layer_types():
    module = ALL["bert"].make()
    module.config.layer_types = ["full", "sliding", "full"]
    KeepBlocks(blocks=(ids(module)[1], ids(module)[2])).apply(module)
    assert [layer.attention.self.layer_idx for layer in module.bert.encoder.layer] == [0, 1]
    assert module.config.layer_types == ["sliding", "full"]


def test_keep_blocks_keeps_dinov2_stages_in_step():
    module = ALL["dinov2"].make()
    KeepBlocks(blocks=(ids(module)[1],)).apply(module)
    assert (module.config.stage_names, module.config.out_indices) == (["stem", "stage1"], [1])


@pytest.mark.parametrize("name", ALL)
def test_edits_on_meta_give_the_shapes_of_edits_on_tensors(name):
    module = ALL[name].make()
    meta = blueprint_of(module).build()
    assert all(parameter.is_meta for parameter in meta.parameters())
    for number, edit in enumerate(some_edits(ids(module))):
        edit.apply(module)
        edit.apply(meta)
        assert shapes(meta) == shapes(module), number
    assert all(parameter.is_meta for parameter in meta.parameters())


def some_edits(blocks):
    return (
        KeepHeads(block=blocks[0], heads=(1, 3)),
        KeepNeurons(block=blocks[0], neurons=(0, 7, 9)),
        KeepHeads(block=blocks[0], heads=(1,)),
        KeepHeads(block=blocks[1], heads=()),
        KeepNeurons(block=blocks[1], neurons=()),
        KeepBlocks(blocks=blocks[:2]),
    )


def test_edits_keep_dtype_and_requires_grad():
    module = ALL["roberta"].make().to(torch.bfloat16)
    block = anatomy_of(module).blocks[0]
    query, up = module.get_submodule(block.attention.query), module.get_submodule(block.feed_forward.up)
    query.weight.requires_grad_(False)
    KeepHeads(block=block.id, heads=(2,)).apply(module)
    KeepNeurons(block=block.id, neurons=(2, 3)).apply(module)
    assert {parameter.dtype for parameter in module.parameters()} == {torch.bfloat16}
    assert (query.weight.requires_grad, query.bias.requires_grad, up.weight.requires_grad) == (False, True, True)
    assert (query.out_features, up.out_features, module.get_submodule(block.feed_forward.down).in_features) == (8, 2, 2)


def test_gradients_reach_what_is_left():
    tiny = ALL["bert"]
    module = tiny.make().train()
    for edit in some_edits(ids(module)):
        edit.apply(module)
    module(**tiny.inputs()).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
    assert all(part.training for part in module.modules())


def test_attention_attributes_follow_the_heads():
    module = ALL["bert"].make()
    KeepHeads(block=ids(module)[0], heads=(0, 1, 2)).apply(module)
    attention = module.bert.encoder.layer[0].attention.self
    assert (attention.num_attention_heads, attention.all_head_size) == (3, 24)
    whisper = ALL["whisper"].make()
    KeepHeads(block="layers.2", heads=(0, 1)).apply(whisper)
    assert whisper.layers[2].self_attn.num_heads == 2


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_hidden_states_still_come_out_of_every_block(implementation):
    tiny = ALL["vit"]
    module = tiny.make()
    module.set_attn_implementation(implementation)
    with torch.no_grad():
        module(**tiny.inputs(), output_hidden_states=True)
    changed = copy.deepcopy(module)
    KeepHeads(block=ids(changed)[1], heads=()).apply(changed)
    KeepBlocks(blocks=tuple(ids(changed)[:2])).apply(changed)
    with torch.no_grad():
        outputs = changed(**tiny.inputs(), output_hidden_states=True)
    assert len(outputs.hidden_states) == 3
    assert len(module(**tiny.inputs(), output_hidden_states=True).hidden_states) == 4


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning")
def test_emptied_layers_export_to_onnx(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    tiny = ALL["bert"]
    module = tiny.make()
    for edit in some_edits(ids(module)):
        edit.apply(module)
    axes = {name: {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")} for name in tiny.inputs()}
    program = torch.onnx.export(module, (), kwargs=tiny.inputs(), dynamo=True, dynamic_shapes=axes, verbose=False)
    program.save(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    feed = {name: tensor[:1, :6].repeat(3, 1) for name, tensor in tiny.inputs().items()}
    with torch.no_grad():
        expected = module(**feed).logits.numpy()
    np.testing.assert_allclose(session.run(None, {name: tensor.numpy() for name, tensor in feed.items()})[0], expected, atol=1e-5)


@pytest.mark.parametrize("indices", [(1, 0), (1, 1), (-1, 0)])
def test_indices_are_refused_when_they_do_not_ascend(indices):
    with pytest.raises(ValidationError):
        KeepHeads(block="encoder.layer.0", heads=indices)
    with pytest.raises(ValidationError):
        KeepNeurons(block="encoder.layer.0", neurons=indices)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            KeepHeads(block="encoder.layer.0", heads=(0, 4)),
            r"heads of encoder\.layer\.0: 4 is out of range, there are 4 \(0 to 3\)",
        ),
        (KeepNeurons(block="encoder.layer.0", neurons=(64,)), r"64 is out of range, there are 64"),
        (
            KeepHeads(block="encoder.layers.0", heads=(0,)),
            r"no block 'encoder\.layers\.0' \(did you mean 'encoder\.layer\.0'\?\)",
        ),
        (KeepBlocks(blocks=("encoder.layer.3",)), r"no block 'encoder\.layer\.3' \(did you mean"),
        (KeepBlocks(blocks=("encoder.layer.1", "encoder.layer.0")), r"in their order and once each"),
        (KeepBlocks(blocks=("encoder.layer.1", "encoder.layer.1")), r"in their order and once each"),
        (KeepBlocks(blocks=()), r"at least one of the 3 blocks of encoder\.layer must stay"),
    ],
)
def test_edit_is_refused_and_changes_nothing_when_it_does_not_fit(edit, message):
    module = ALL["bert-bare"].make()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.raises(UnsupportedModel, match=message):
        edit.apply(module)
    after = module.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_emptied_sub_layers_refuse_further_cuts():
    module = ALL["bert-bare"].make()
    KeepHeads(block="encoder.layer.0", heads=()).apply(module)
    KeepNeurons(block="encoder.layer.0", neurons=()).apply(module)
    with pytest.raises(UnsupportedModel, match="no attention heads left"):
        KeepHeads(block="encoder.layer.0", heads=(0,)).apply(module)
    with pytest.raises(UnsupportedModel, match="no feed-forward neurons left"):
        KeepNeurons(block="encoder.layer.0", neurons=(0,)).apply(module)


def test_edits_refuse_a_model_without_anatomy():
    config = transformers.DebertaV2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=20
    )
    with pytest.raises(UnsupportedModel, match="no anatomy row fits DebertaV2Model"):
        KeepBlocks(blocks=("a",)).apply(transformers.DebertaV2Model(config))


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        (KeepHeads(block="encoder.layer.0", heads=(0,)), "encoder.layer.0: keep 1 head"),
        (KeepHeads(block="encoder.layer.0", heads=()), "encoder.layer.0: keep no heads"),
        (KeepNeurons(block="encoder.layer.0", neurons=(1, 2)), "encoder.layer.0: keep 2 feed-forward neurons"),
        (KeepBlocks(blocks=("encoder.layer.0", "encoder.layer.4")), "keep 2 blocks: 0, 4"),
    ],
)
def test_describe_tells_what_stays(edit, text):
    assert edit.describe() == text
