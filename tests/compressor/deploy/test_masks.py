"""Masks of padding go to attention by key; masks that ask the query stay."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from transformers import BertConfig, BertForSequenceClassification

from compressor.contracts import Artifact, Graph
from compressor.deploy.fusion import fuse
from compressor.deploy.onnx import Onnx
from compressor.deploy.openvino import OpenVinoIr, core
from compressor.model.model import Model
from compressor.tasks.text_classification import TextClassification
from compressor.testing.tiny import tiny_run
from targets.onnxruntime import OnnxRuntime
from targets.openvino import OpenVino

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 100}
SHAPES = [(1, 1), (1, 9), (2, 16), (3, 31)]


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    torch.manual_seed(0)
    module = BertForSequenceClassification(BertConfig(**SIZES, num_labels=3)).eval()
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    folder = tmp_path_factory.mktemp("masked")
    Model.wrap(module, tiny_run().model().files).save(folder / "torch")
    (folder / "onnx").mkdir()
    Onnx().lower(Artifact("torch", folder / "torch"), folder / "onnx", task=TextClassification(), dialect=OnnxRuntime.dialect)
    return folder / "onnx" / "model.onnx"


def feed(batch, length):
    draw = np.random.default_rng(batch * 100 + length)
    mask = (draw.uniform(size=(batch, length)) < 0.7).astype(np.int64)
    mask[0] = batch == 1  # of several rows the first has no token at all
    return {"input_ids": draw.integers(1, 100, (batch, length)), "attention_mask": mask, "token_type_ids": np.zeros_like(mask)}


def outputs(graph, fed):
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, fed)[0]


def inputs_of_attention(graph):
    return [list(node.input) for node in graph.graph.node if node.op_type == "MultiHeadAttention"]


def test_attention_takes_keys_and_gives_the_same_when_batch_and_length_vary(graph):
    given, pairs = fuse(onnx.load(graph), Graph()), fuse(onnx.load(graph), Graph(), leaves=("keys of padding",))
    assert [len(each) for each in inputs_of_attention(given)] == [5, 5]
    assert [len(each) for each in inputs_of_attention(pairs)] == [6, 6]
    assert len({each[4] for each in inputs_of_attention(given)}) == 1, "the mask is converted more than once"
    assert not {"GatherND", "Where", "Expand"} & {node.op_type for node in given.graph.node}
    for shape in SHAPES:
        fed = feed(*shape)
        np.testing.assert_allclose(outputs(given, fed), outputs(pairs, fed), rtol=0, atol=1e-6)


def test_mask_that_asks_the_query_too_stays(graph):
    asks = onnx.load(graph)
    (held,) = [node for node in asks.graph.node if node.op_type == "GreaterOrEqual"]
    asks.graph.initializer.append(numpy_helper.from_array(np.array(1, np.int64), "one"))
    held.input[1] = "one"  # the first query attends to nobody
    given, pairs = fuse(asks, Graph()), fuse(asks, Graph(), leaves=("keys of padding",))
    assert [len(each) for each in inputs_of_attention(given)] == [6, 6]
    np.testing.assert_array_equal(outputs(given, feed(2, 16)), outputs(pairs, feed(2, 16)))


def in_openvino(graph, folder, *leaves):
    """Names of operators, and what it gives for a feed."""
    out = folder / ("-".join(leaves) or "narrowed")
    out.mkdir(parents=True)
    dialect = replace(OpenVino.dialect, leaves=leaves)
    OpenVinoIr().lower(Artifact("onnx", graph), out, task=TextClassification(), dialect=dialect)
    compiled = core().compile_model(str(out / "model.xml"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    kinds = [node.get_type_name() for node in core().read_model(str(out / "model.xml")).get_ops()]
    return kinds, lambda fed: compiled(fed)[0]


def test_mask_is_one_row_in_openvino_and_gives_the_same_when_batch_and_length_vary(graph, tmp_path):
    (kinds, narrowed), (of_pairs, pairs) = (
        in_openvino(graph.parent, tmp_path),
        in_openvino(graph.parent, tmp_path, "keys of padding"),
    )
    assert "GatherND" in of_pairs
    assert "GatherND" not in kinds
    assert len(kinds) < len(of_pairs)
    for shape in SHAPES:
        np.testing.assert_allclose(narrowed(feed(*shape)), pairs(feed(*shape)), rtol=0, atol=1e-6)


def test_mask_that_asks_the_query_too_stays_in_openvino(graph, tmp_path):
    asks = onnx.load(graph)
    (held,) = [node for node in asks.graph.node if node.op_type == "GreaterOrEqual"]
    asks.graph.initializer.append(numpy_helper.from_array(np.array(1, np.int64), "one"))
    held.input[1] = "one"
    (tmp_path / "asks").mkdir()
    onnx.save(asks, tmp_path / "asks" / "model.onnx")
    kinds, _ = in_openvino(tmp_path / "asks", tmp_path)
    assert "GatherND" in kinds
