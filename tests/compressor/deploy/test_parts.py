"""Bytes of a built file by part of the model."""

from __future__ import annotations

from compressor.deploy.parts import Operator, bytes_by_part, part_of


def test_a_constant_belongs_to_the_module_whose_operator_takes_it():
    operators = [
        Operator("val_1_DequantizeLinear", ("val_1_quantized", "val_1_scale"), ("val_1",)),
        Operator("reshaped", ("val_1",), ("val_2",)),
        Operator("bert.encoder.layer.10.attention.self.query/MatMul_7", ("states", "val_2"), ("product",)),
        Operator("bert.encoder.layer.2.output.dense/MatMul_3", ("product", "val_3"), ("out",)),
        Operator("graph/Add_9", ("out", "module.classifier.bias"), ("logits",)),
    ]
    constants = {"val_1_quantized": 100, "val_1_scale": 4, "val_3": 50, "module.classifier.bias": 8, "alone": 1}
    assert list(bytes_by_part(constants, operators).items()) == [
        ("bert.encoder.layer.2.output", 50),
        ("bert.encoder.layer.10.attention", 104),
        ("classifier", 8),
        ("other", 1),
    ]


def test_a_constant_that_no_operator_of_a_module_takes_is_told_by_its_own_name():
    constants = {"encoder.layer.0.attention.self.key/Add_37/fq_output_0/input_low": 4}
    operators = [Operator("loop", ("again",), ("again",))]
    assert bytes_by_part({**constants, "again": 2}, operators) == {"encoder.layer.0.attention": 4, "other": 2}


def test_parts_are_blocks_by_what_is_in_them_and_all_else_by_two_names():
    paths = {
        "bert.embeddings.word_embeddings": "bert.embeddings",
        "classifier": "classifier",
        "": "other",
        "transformer.h.3.attn.c_attn": "transformer.h.3.attn",
        "resnet.encoder.stages.1.layers.0.layer.2.convolution": "resnet.encoder.stages.1.layers",
        "encoder.layers.4": "encoder.layers.4",
    }
    assert {path: part_of(path) for path in paths} == paths
