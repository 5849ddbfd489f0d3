"""Ranges by level of noise, and what one scale for all levels costs, measured on a network whose activations grow with the level."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compressor.tasks.generation.image_generation import ImageGeneration
from passes.quantization.levels import COSTLY, grouped, notes_of
from passes.quantization.quantizers import onnxruntime as ort

TASK = ImageGeneration()
WIDTH = 32
DRAW = np.random.default_rng(0)
WEIGHTS = [DRAW.standard_normal((WIDTH, WIDTH)).astype(np.float32) for _ in range(2)]


def network(folder, *, twin=False):
    """Two products; what the first one reads has the size of the call's level, what the second one reads is between -1 and 1. A twin reads what
    the first one does."""
    twins = [
        helper.make_node("MatMul", ["grown", "w1"], ["other"], "twin/MatMul_5"),
        helper.make_node("Sub", ["first", "other"], ["apart"], "apart/Sub_6"),
    ]
    nodes = [
        helper.make_node("Mul", ["sample", "time"], ["grown"], "grow/Mul_0"),
        helper.make_node("MatMul", ["grown", "w0"], ["first"], "first/MatMul_1"),
        *(twins if twin else []),
        helper.make_node("Tanh", ["apart" if twin else "first"], ["small"], "squash/Tanh_2"),
        helper.make_node("MatMul", ["small", "w1"], ["second"], "second/MatMul_3"),
        helper.make_node("Add", ["first", "second"], ["predicted"], "add/Add_4"),
    ]
    given = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, size]) for name, size in (("sample", WIDTH), ("time", 1))
    ]
    found = [helper.make_tensor_value_info("predicted", TensorProto.FLOAT, [None, WIDTH])]
    weights = [numpy_helper.from_array(each, f"w{number}") for number, each in enumerate(WEIGHTS)]
    model = helper.make_model(helper.make_graph(nodes, "g", given, found, weights), opset_imports=[helper.make_opsetid("", 20)])
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def calls(levels, count=32):
    draw = np.random.default_rng(1)
    return [
        {
            "sample": draw.uniform(-1, 1, (1, WIDTH)).astype(np.float32),
            "time": np.full((1, 1), levels[at % len(levels)], np.float32),
        }
        for at in range(count)
    ]


def noted(path, feeds, name=""):
    def again(rows):
        return ort.quantize_static(path, rows)

    return list(notes_of(again(feeds), again, feeds, Timed(), name))


class Timed(ImageGeneration):
    def level(self, call):
        return float(call["time"].ravel()[0])


def test_layers_whose_ranges_move_are_named_and_what_it_costs_is_warned_of(tmp_path):
    path = network(tmp_path)
    moving, costs, warning = noted(path, calls([0.01, 0.1, 1.0, 10.0]), "model-3")
    assert moving.columns == ("layer", "0.01", "0.1", "1", "10", "bits")
    (first, *_, bits), (second, *_, fewer) = moving.rows
    assert (first, second) == ("first", "second")
    assert 9 < bits < 11  # 1000 times
    assert fewer < 4
    assert ", graph model-3:" in moving.title
    assert [row[:2] for row in costs.rows] == [("0.01", 8), ("0.1", 8), ("1", 8), ("10", 8)]
    times = [row[4] for row in costs.rows]
    assert times[0] > times[1] > COSTLY > times[3] == pytest.approx(1, abs=0.2)
    assert warning.warns
    assert "levels 0.01 (" in warning.text
    assert " 10 (" not in warning.text


def test_levels_that_are_alike_cost_nothing(tmp_path):
    *notes, costs = noted(network(tmp_path), calls([1.0, 1.01]))
    assert len(notes) == 1
    assert all(0.7 < row[4] < COSTLY for row in costs.rows)


def test_ranges_are_those_of_float_calls(tmp_path):
    feeds = calls([1.0, 4.0], 6)
    found = ort.quantize_static(network(tmp_path), feeds).ranges(feeds)
    grown = np.concatenate([feed["sample"] * feed["time"] for feed in feeds])
    small = np.tanh(grown @ WEIGHTS[0])
    for layer, read in (("first", grown), ("second", small)):
        np.testing.assert_allclose(found[layer], np.stack([read.min(1), read.max(1)], axis=1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("twin", [False, True])
def test_both_runtimes_tell_the_same_ranges_and_exact_outputs(tmp_path, twin):
    openvino = pytest.importorskip("openvino")
    from compressor.deploy.openvino import save_representation
    from passes.quantization.quantizers import nncf

    feeds, path = calls([0.1, 1.0], 8), network(tmp_path, twin=twin)
    save_representation(openvino.convert_model(str(path)), tmp_path / "model.xml")
    mine, theirs = ort.quantize_static(path, feeds), nncf.quantize_static(tmp_path / "model.xml", feeds)
    np.testing.assert_allclose(theirs.outputs(feeds, exact=True), mine.outputs(feeds, exact=True), rtol=1e-4, atol=1e-4)
    assert np.abs(theirs.outputs(feeds) - theirs.outputs(feeds, exact=True)).max() > 1e-3
    found, wanted = theirs.ranges(feeds), mine.ranges(feeds)
    assert len(found) == len(wanted) == 2 + twin
    for one, other in zip(found.values(), wanted.values(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_groups_are_of_neighbouring_levels_and_nothing_is_said_of_calls_without(tmp_path):
    found = grouped([float(each) for each in (5, 1, 3, 2, 4, 0, 5, 4, 3, 2, 1, 0)])
    assert [(group.low, group.high, len(group.calls)) for group in found] == [(0, 0, 2), (1, 2, 4), (3, 3, 2), (4, 5, 4)]
    assert grouped([1.0, 2.0, 2.0])[0].low == 2.0  # one call says nothing
    path, feeds = network(tmp_path), calls([1.0])
    assert noted(path, feeds) == []
    from compressor.tasks.text_classification import TextClassification

    made = ort.quantize_static(path, feeds)
    assert list(notes_of(made, lambda _: made, feeds, TextClassification(), "")) == []
