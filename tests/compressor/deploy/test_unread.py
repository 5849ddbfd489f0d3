"""Rows that nobody reads are not computed, and what is read stays the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import transformers
from onnx import TensorProto, helper, numpy_helper

from compressor.contracts import Artifact, Graph
from compressor.deploy.fusion import fuse
from compressor.deploy.onnx import Onnx
from compressor.deploy.openvino import core
from compressor.deploy.unread import skip_unread_rows
from compressor.model.model import Model
from compressor.tasks.text_classification import TextClassification
from compressor.testing.tiny import tiny_run
from targets.onnxruntime import OnnxRuntime

SHAPES = [(1, 1), (1, 5), (2, 16), (3, 31)]
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "num_labels": 3,
    "vocab_size": 100,
}
FAMILIES = {
    "bert": transformers.BertForSequenceClassification,
    "roberta": transformers.RobertaForSequenceClassification,
    "electra": transformers.ElectraForSequenceClassification,
}


@pytest.fixture(scope="module", params=FAMILIES)
def graphs(request, tmp_path_factory):
    """A classifier with all rows, and with those alone that are read."""
    torch.manual_seed(0)
    kind = FAMILIES[request.param]
    module = kind(kind.config_class(**SIZES, pad_token_id=1)).eval()
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    folder, task = tmp_path_factory.mktemp("unread"), TextClassification()
    Model.wrap(module, tiny_run().model().files).save(folder / "torch")
    made = []
    for leaves in (("unread rows",), ()):
        out = folder / str(len(leaves))
        out.mkdir()
        Onnx().lower(Artifact("torch", folder / "torch"), out, task=task, dialect=replace(OnnxRuntime.dialect, leaves=leaves))
        made.append(onnx.load(out / "model.onnx"))
    return made


def feed(batch, length):
    draw = np.random.default_rng(batch * 100 + length)
    mask = np.ones((batch, length), np.int64)
    for row in range(1, batch):
        mask[row, max(1, length - 3 * row) :] = 0
    return {"input_ids": draw.integers(2, 100, (batch, length)), "attention_mask": mask, "token_type_ids": np.zeros_like(mask)}


def outputs(graph, fed):
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    known = {each.name for each in session.get_inputs()}
    return session.run(None, {name: array for name, array in fed.items() if name in known})[0]


def test_last_block_computes_one_row(graphs):
    whole, read = graphs
    assert [count(each, "LayerNormalization", rows=1) for each in graphs] == [0, 2]
    assert len(read.graph.node) - len(whole.graph.node) <= 3, "more than the cuts was added"


def count(graph, kind, rows):
    onnx.checker.check_model(graph, full_check=True)
    sizes = {each.name: [axis.dim_value for axis in each.type.tensor_type.shape.dim] for each in graph.graph.value_info}
    return sum(node.op_type == kind and sizes[node.output[0]][1] == rows for node in graph.graph.node)


@pytest.mark.parametrize("shape", SHAPES)
def test_outputs_are_the_same_when_batch_and_length_vary(graphs, shape):
    whole, read = (outputs(each, feed(*shape)) for each in graphs)
    np.testing.assert_allclose(read, whole, rtol=0, atol=1e-6)


def test_fusions_still_find_every_attention(graphs):
    whole, read = (fuse(each, Graph()) for each in graphs)
    kinds = [[node.op_type for node in each.graph.node] for each in (whole, read)]
    assert kinds[0].count("MultiHeadAttention") == kinds[1].count("MultiHeadAttention") == 2
    for shape in SHAPES:
        np.testing.assert_allclose(outputs(read, feed(*shape)), outputs(whole, feed(*shape)), rtol=0, atol=1e-6)


def test_openvino_takes_the_graph(graphs, tmp_path):
    onnx.save(graphs[1], tmp_path / "model.onnx")
    compiled = core().compile_model(str(tmp_path / "model.onnx"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    known = {name for port in compiled.inputs for name in port.get_names()}
    for shape in SHAPES:
        found = compiled({name: array for name, array in feed(*shape).items() if name in known})[0]
        np.testing.assert_allclose(found, outputs(graphs[0], feed(*shape)), rtol=0, atol=1e-5)


# ------------------------------------------------------------------ what stays as it is


def graph_of(nodes, constants, *, given="y", sizes=()):
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "length", 4])],
        [helper.make_tensor_value_info(given, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
        value_info=[helper.make_tensor_value_info(name, TensorProto.FLOAT, each) for name, each in sizes],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


WEIGHT = np.arange(16, dtype=np.float32).reshape(4, 4) / 7
ROWS = ["batch", "length", 4]
PRODUCT = helper.make_node("MatMul", ["x", "w"], ["h"])
READ = helper.make_node("Gather", ["h", "place"], ["y"], axis=1)


def read_one(nodes=(PRODUCT, READ), place=0, sizes=(("h", ROWS),), **more):
    constants = {"w": WEIGHT, "place": np.array(place, np.int64)}
    graph = graph_of(list(nodes), constants | more.pop("constants", {}), sizes=sizes, **more)
    before = graph.SerializeToString()
    skip_unread_rows(graph)
    x = np.random.default_rng(0).normal(size=(2, 5, 4)).astype(np.float32)
    session = [
        onnxruntime.InferenceSession(each, providers=["CPUExecutionProvider"]) for each in (before, graph.SerializeToString())
    ]
    np.testing.assert_allclose(*(each.run(None, {"x": x})[0] for each in session), rtol=1e-5, atol=1e-6)
    return graph.SerializeToString() != before


@pytest.mark.parametrize("place", [0, 2, -1])
def test_any_constant_row_is_read_alone(place):
    assert read_one(place=place)


def test_rows_that_an_output_gives_are_computed():
    nodes = (PRODUCT, READ, helper.make_node("ReduceSum", ["h"], ["s"], keepdims=0), helper.make_node("Add", ["y", "s"], ["z"]))
    assert not read_one(nodes, given="z")


def test_several_rows_are_left():
    assert not read_one(place=[0, 1])


def test_rows_of_unknown_sizes_are_left():
    assert not read_one(sizes=())


def test_norms_over_rows_are_left():
    nodes = (
        PRODUCT,
        helper.make_node("Softmax", ["h"], ["n"], axis=1),
        helper.make_node("Gather", ["n", "place"], ["y"], axis=1),
    )
    assert not read_one(nodes, sizes=(("h", ROWS), ("n", ROWS)))


def test_value_that_is_also_read_whole_by_what_is_narrowed_is_computed_whole():
    """Tokens are mixed by a product that has them on its right, and the sum behind it reads each of them too."""
    mixed = (helper.make_node("MatMul", ["mix", "h"], ["m"]), helper.make_node("Add", ["m", "h"], ["a"]))
    nodes = (PRODUCT, *mixed, helper.make_node("Gather", ["a", "place"], ["y"], axis=1))
    mix = {"mix": np.arange(25, dtype=np.float32).reshape(5, 5) / 9}
    assert read_one(nodes, place=2, sizes=[(name, ["batch", 5, 4]) for name in "hma"], constants=mix)


def test_two_heads_on_one_value_cut_it_each_for_itself():
    other = (helper.make_node("MatMul", ["x", "w"], ["k"]), helper.make_node("Gather", ["k", "last"], ["l"], axis=1))
    nodes = (PRODUCT, READ, *other, helper.make_node("Sub", ["y", "l"], ["z"]))
    assert read_one(nodes, given="z", sizes=[(name, ROWS) for name in "hk"], constants={"last": np.array(-1, np.int64)})


def test_rows_that_a_branch_reads_are_computed():
    """What an `If` reads stands in no list of its inputs."""
    total = helper.make_node("ReduceSum", ["h"], ["s"], keepdims=0)
    branch = helper.make_graph([total], "b", [], [helper.make_tensor_value_info("s", TensorProto.FLOAT, [])])
    asks = helper.make_node("If", ["yes"], ["c"], then_branch=branch, else_branch=branch)
    nodes = (PRODUCT, READ, asks, helper.make_node("Add", ["y", "c"], ["z"]))
    assert not read_one(nodes, given="z", constants={"yes": np.array(True)})


def test_products_with_a_vector_are_left():
    halves = helper.make_node("Reshape", ["x", "halves"], ["r"])
    nodes = (halves, helper.make_node("MatMul", ["r", "v"], ["p"]), helper.make_node("Gather", ["p", "place"], ["y"], axis=1))
    constants = {"halves": np.array([0, 0, 2, 2], np.int64), "v": np.array([1, -2], np.float32)}
    sizes = (("r", ["batch", "length", 2, 2]), ("p", ["batch", "length", 2]))
    assert not read_one(nodes, place=1, sizes=sizes, constants=constants)


def test_sums_with_what_may_be_one_for_all_rows_are_left():
    mean = helper.make_node("ReduceMean", ["x", "axis"], ["m"], keepdims=1)
    nodes = (PRODUCT, mean, helper.make_node("Add", ["h", "m"], ["a"]), helper.make_node("Gather", ["a", "place"], ["y"], axis=1))
    sizes = (("h", ROWS), ("m", ["batch", "other", 4]), ("a", ROWS))
    assert not read_one(nodes, place=2, sizes=sizes, constants={"axis": np.array([1], np.int64)})


@pytest.mark.parametrize("rows", [[2, 10, 2], [None, None, 4]])
def test_reshapes_that_mix_rows_are_left(rows):
    mixed = helper.make_node("Reshape", ["h", "shape"], ["r"])
    nodes = (PRODUCT, mixed, helper.make_node("Gather", ["r", "place"], ["y"], axis=1))
    shape = {"shape": np.array([5, 2, 4] if rows[0] is None else rows, np.int64)}
    before = ROWS if rows[0] else rows
    assert not read_one(nodes, sizes=(("h", before), ("r", rows)), constants=shape)
