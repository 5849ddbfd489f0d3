"""What is written of weights that several layers read, and of biases that int32 does not hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from furnished import lowered
from rounded_students import Task, context, deployed, outputs, step, wide
from transformers import BertConfig, BertForMaskedLM

from compressor.contracts import Artifact
from compressor.deploy.quantized import ROOM, whole_bias
from compressor.deploy.session import eager
from compressor.model.model import Model
from compressor.model.quantization.grids import InputGrid, WeightGrid
from compressor.model.quantization.layers import quantized_layers
from compressor.model.quantization.quantize import Quantize
from targets.onnxruntime import OnnxRuntime
from targets.openvino import OpenVino

TABLE, HEAD = "bert.embeddings.word_embeddings", "cls.predictions.decoder"


@pytest.mark.parametrize("target", [OnnxRuntime(), OpenVino()], ids=["onnxruntime", "openvino"])
def test_tied_table_and_head_are_written_each_in_its_layout(tmp_path, target):
    """As many words as features: both layouts of the one matrix have one shape."""
    torch.manual_seed(0)
    config = BertConfig(vocab_size=64, hidden_size=64, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64)
    model = Model.wrap(BertForMaskedLM(config).eval(), {"tokenizer.json": b"{}"})
    model.module.get_input_embeddings().weight.data.mul_(20)
    model.apply(Quantize(layers=((TABLE,),), weights=WeightGrid()))
    model.apply(Quantize(layers=((HEAD,),), weights=WeightGrid(), inputs=InputGrid()))
    layers = quantized_layers(model.module)
    assert layers[HEAD].weight_quantizer is layers[TABLE].weight_quantizer
    layers[HEAD].input_quantizer.start(-4.0, 4.0, 1.0)
    model.save(tmp_path / "torch")
    made = lowered(Artifact("torch", tmp_path / "torch"), target.dialect.format, tmp_path, task=Task(), dialect=target.dialect)
    (tmp_path / "built").mkdir()
    target.build(made, tmp_path / "built")
    ids = np.random.default_rng(0).integers(1, 64, (4, 6), dtype=np.int64)
    feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    found, expected = target.open(tmp_path / "built").run(feed)[0]["logits"], eager(Task(), model, "cpu")(feed)["logits"]
    assert np.sqrt(((found - expected) ** 2).mean()) < 0.02 * expected.std()


@pytest.mark.parametrize("bias", [1.2345, 3e6])
@pytest.mark.parametrize("target", [OnnxRuntime(), OpenVino()], ids=["onnxruntime", "openvino"])
def test_bias_of_a_row_of_zeros_or_a_large_one_stays_what_it_is(tmp_path, target, bias):
    source = wide()
    head = source.module.classifier
    head.weight.data[1] = 0
    head.bias.data[1] = bias
    head.bias.data[2] = -bias
    student = source.copy()
    step(head=True)._quantise(student, context(tmp_path, source))
    found = deployed(student, target, tmp_path)[0]
    np.testing.assert_allclose(found[:, 1], bias, rtol=1e-6)
    expected = outputs(student)
    apart = np.sqrt(((found - expected) ** 2).mean(0))
    assert apart[0] < 0.02 * expected[:, 0].std()
    assert apart[2] < 0.02 * expected[:, 0].std() + 1e-6 * bias


def test_whole_bias_is_off_by_less_than_a_step_or_not_given():
    live = np.array([True, True, False])
    bias, scale = np.array([0.5, -0.25, 0.0], np.float32), np.array([0.01, 0.02, 1.0], np.float32)
    found = whole_bias(bias, scale, live)
    assert found.dtype == np.int32
    assert np.abs(found * scale - bias).max() <= 0.01
    assert whole_bias(bias + np.float32(0.3), scale, live) is None, "a row of zeros has a step of 1"
    assert whole_bias(bias * np.float32(1e9), scale, live) is None, "no room"
    assert whole_bias(np.full(3, ROOM, np.float32), np.float32([1.0]), live).max() == ROOM
    assert whole_bias(bias + np.float32(0.3), scale[0], live) is not None, "one step of all rows is small for the others"
    assert whole_bias(bias, scale, ~live & False) is None
