"""Language models whose layers were cut in different ways decode as they did, and an output tied to the embeddings stays so."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open

from compressor.contracts import Artifact
from compressor.deploy.graphs import graphs_of
from compressor.model import Model
from compressor.model.anatomy import anatomy_of
from compressor.model.edits import KeepHeads
from compressor.tasks.language.cache import Layer, layers_of
from compressor.tasks.language.decoding import decoded, filled
from compressor.tasks.language.scoring import fed
from passes.quantization.quantizers import onnxruntime as quantizer

STEPS = 5


def plain_tokens(module, prompt):
    tokens = list(prompt)
    for _ in range(STEPS):
        with torch.no_grad():
            tokens.append(int(module(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, -1].argmax()))
    return tokens[len(prompt) :]


def test_the_cache_is_that_of_the_layers_that_are_left(tied):
    expected = (None, Layer(2, 8), Layer(4, 8))
    assert layers_of(tied.model) == layers_of(tied.files) == expected
    (graph,) = graphs_of(tied.candidate("onnxruntime").built)
    assert [name for _, name in graph.state] == [
        f"past_key_values.{layer}.{what}" for layer in (1, 2) for what in ("key", "value")
    ]


@pytest.mark.parametrize("name", ["pytorch", "onnxruntime"])
def test_a_model_of_uneven_layers_decodes_as_by_full_passes(name, tied):
    session, prompt = tied.session(name), [5, 9, 30, 41, 77]
    ids = np.array([prompt])
    made = decoded(session, filled(session, fed(ids, np.ones_like(ids))), STEPS)
    assert made[0].tolist() == plain_tokens(tied.model.module, prompt)


def test_groups_of_heads_go_whole(tied):
    """What is left computes what the whole model computes without those groups."""
    model = Model.load(tied.files)
    block = anatomy_of(model.module).blocks[2]
    attention, ids = block.attention, torch.tensor([[5, 9, 30, 41]])
    assert (attention.units, attention.key_value_groups) == (4, 2)
    reader = model.module.get_submodule(attention.output)
    size = attention.key_value_groups * attention.head_size
    with torch.no_grad():
        reader.weight[:, size : 2 * size] = 0
        before = model.module(input_ids=ids).logits
        model.apply(KeepHeads(block=block.id, heads=(0, 2, 3)))
        after = model.module(input_ids=ids).logits
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-4)
    key = model.module.get_submodule(attention.key)
    assert (key.weight.shape[0], reader.weight.shape[1]) == (3 * attention.head_size, 3 * size)


def test_models_whose_layers_were_all_cut_alike_are_stock(task, tmp_path):
    from compressor.tasks.tiny import language_model

    language_model(tmp_path, num_attention_heads=8, num_key_value_heads=4)
    model = task.load(tmp_path, None, seed=0)
    for block in anatomy_of(model.module).blocks:
        model.apply(KeepHeads(block=block.id, heads=(0, 3)))
    model.save(tmp_path / "cut")
    config = json.loads((tmp_path / "cut" / "config.json").read_text())
    assert (config["num_attention_heads"], config["num_key_value_heads"]) == (4, 2)
    assert layers_of(tmp_path / "cut") == (Layer(2, 8),) * 2


def test_a_tied_output_is_stored_once(tied):
    with safe_open(tied.files / "model.safetensors", framework="pt") as file:
        assert [name for name in file.keys() if "lm_head" in name] == []  # noqa: SIM118
    module = Model.load(tied.files).module
    assert module.lm_head.weight is module.model.embed_tokens.weight


@pytest.mark.parametrize("by_row", [False, True])
def test_a_tied_output_stays_tied_in_int8(by_row, tied, tmp_path):
    """One matrix of int8 serves both, and answers are near those of the whole model."""
    import onnx

    from compressor.deploy.session import predictor
    from passes.side_files import carry_side_files
    from targets.onnxruntime import OnnxRuntime

    built = tied.candidate("onnxruntime").built
    carry_side_files(built, tmp_path)
    quantizer.quantize_dynamic(built / "model.onnx", by_row=by_row).write(tmp_path)
    graph = onnx.load(tmp_path / "model.onnx").graph
    large = {each.name: each.data_type for each in graph.initializer if list(each.dims) in ([300, 32], [32, 300])}
    assert list(large.values()) == [onnx.TensorProto.INT8]
    ids = np.array([[5, 9, 30, 41, 77]])
    feed = fed(ids, np.ones_like(ids))
    found, exact = (predictor(tied.task, OnnxRuntime().open(folder))(feed)["logits"] for folder in (tmp_path, built))
    assert np.abs(found - exact).max() < 0.1 * np.abs(exact).max()


def test_a_graph_in_int8_has_its_attention_grouped_too(llama, tmp_path):
    """Shapes that the quantiser forgets are those that the target makes `GroupQueryAttention` by."""
    import onnx

    from compressor.contracts.registry import load
    from passes.side_files import carry_side_files

    target, lowered = load("target", "onnxruntime")(), tmp_path / "lowered"
    source = llama.builder.lower(llama.made, "torch", target.dialect.format, target).path
    carry_side_files(source, lowered)
    quantizer.quantize_dynamic(source / "model.onnx", by_row=True).write(lowered)
    target.build(Artifact("onnxruntime", lowered), tmp_path, graphs=llama.task.graphs(lowered))
    kinds = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
    assert kinds.count("GroupQueryAttention") == 2
