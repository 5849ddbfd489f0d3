"""Bytes of a built file by part of the model."""

from __future__ import annotations

import pytest

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


def diamonds(count, end):
    """Values that are read twice and added, one diamond after the other, as residual connections are; only `end` may name a module."""
    for number in range(count):
        yield Operator(f"left_{number}", (f"v{number}", f"w{number}"), (f"a{number}",))
        yield Operator(f"right_{number}", (f"v{number}",), (f"b{number}",))
        yield Operator(f"sum_{number}", (f"a{number}", f"b{number}"), (f"v{number + 1}",))
    yield Operator(end, (f"v{count}",), ("out",))


@pytest.mark.parametrize(("end", "part"), [("head.dense/MatMul_1", "head.dense"), ("nowhere", "other")])
def test_operators_of_no_module_are_passed_once_however_many_ways_lead_through_them(end, part):
    constants = {f"w{number}": 1 for number in range(200)}
    assert bytes_by_part(constants, diamonds(200, end)) == {part: 200}


def test_of_operators_at_one_distance_the_first_is_taken_and_a_nearer_one_before_it():
    operators = [
        Operator("far", ("w",), ("a",)),
        Operator("other", ("w",), ("b",)),
        Operator("second.dense/Add_1", ("b",), ("d",)),
        Operator("first.dense/Add_2", ("a",), ("c",)),
        Operator("third.dense/Add_3", ("e",), ("f",)),
        Operator("again", ("u",), ("w", "e")),
    ]
    assert bytes_by_part({"w": 1, "u": 2}, operators) == {"first.dense": 1, "third.dense": 2}
