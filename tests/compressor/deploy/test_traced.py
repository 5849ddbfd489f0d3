"""Models of one structure are traced once, and never a model that computes otherwise."""

import copy
from functools import partial

import numpy as np
import onnxruntime
import pytest
import torch
from families import ALL
from transformers import BertConfig, BertForSequenceClassification

from compressor.contracts import Graph, Port
from compressor.deploy import onnx as lowering
from compressor.deploy.traced import Traced, structure
from compressor.tasks.text_classification import TextClassification

SHAPE = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 50,
    "num_labels": 3,
}
PORTS = tuple(Port(name, "int64", ("batch", "length")) for name in ("input_ids", "attention_mask"))
GRAPH = Graph(inputs=PORTS, outputs=(Port("logits", "float32", ("batch", 3)),))


def bert(seed=0, **more):
    torch.manual_seed(seed)
    return BertForSequenceClassification(BertConfig(**SHAPE | more, attn_implementation="eager")).eval()


def feed(length=8):
    ids = np.random.default_rng(0).integers(5, 50, (2, length), dtype=np.int64)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


@pytest.fixture
def exported(monkeypatch):
    """Exports by a fresh set of kept graphs, and counts how often something is traced."""
    kept, traced, export = Traced(most=2), [], torch.onnx.export
    monkeypatch.setattr(lowering, "TRACED", kept)
    monkeypatch.setattr(torch.onnx, "export", lambda *given, **more: traced.append(1) or export(*given, **more))

    def made(module, graph=GRAPH, opset=20):
        return lowering.Onnx._exported(module, TextClassification(), graph, feed(), opset)

    return made, traced, kept


def test_models_of_one_structure_are_traced_once_and_bring_their_own_weights(exported):
    made, traced, kept = exported
    first, second = made(bert(0)), made(bert(1))
    assert len(traced) == 1
    (bare,) = kept._kept.values()
    assert all(value.const_value is None for name, value in bare.graph.initializers.items() if name.endswith(".weight"))
    session = onnxruntime.InferenceSession(second.SerializeToString(), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        exact = bert(1)(**{name: torch.as_tensor(array) for name, array in feed(5).items()}).logits.numpy()
    assert np.abs(session.run(None, feed(5))[0] - exact).max() < 1e-5
    assert first.SerializeToString() != second.SerializeToString()
    for opset in (21, 22):
        made(bert(), opset=opset)
    assert (len(traced), len(kept._kept)) == (3, 2), "few are kept"
    assert made(bert(1)).SerializeToString() == second.SerializeToString(), "as if it were the first one"


class Other(torch.nn.GELU):
    """Of another class."""


def renamed(model):
    model.config._name_or_path = "elsewhere"


def fewer_heads(model):
    model.bert.encoder.layer[0].attention.self.scaling = 0.1


def other_activation(model):
    model.bert.encoder.layer[0].intermediate.intermediate_act_fn = Other()


def other_forward(model):
    model.dropout.forward = lambda states: states * 2


def other_buffer(model):
    model.bert.embeddings.position_ids = model.bert.embeddings.position_ids.flip(-1)


def narrower(model):
    model.bert.encoder.layer[0].intermediate.dense = torch.nn.Linear(16, 24)
    model.bert.encoder.layer[0].output.dense = torch.nn.Linear(24, 16)


def shared(model):
    model.bert.encoder.layer[0].attention.self.key.weight = model.bert.encoder.layer[0].attention.self.query.weight


def hooked(model):
    model.classifier.register_forward_hook(lambda module, given, answer: answer + 1)


def undeclared(model):
    model.config.is_causal = False


def closure(model):
    scale = model.classifier.weight
    model.dropout.act = lambda states: states * scale.mean()


def stranger(model):
    model.dropout.held = object()


def of_a_subclass(model):
    model.classifier.weight = torch.nn.Parameter(model.classifier.weight.detach().as_subclass(Scaled))


class Scaled(torch.Tensor):
    """Holds more than shapes tell."""


def sparse(model):
    model.dropout.register_buffer("mask", torch.eye(3).to_sparse(), persistent=False)


@pytest.mark.parametrize("change", [fewer_heads, other_activation, other_forward, other_buffer, narrower, shared, undeclared])
def test_models_that_compute_otherwise_have_other_structures(change):
    plain, changed = bert(), bert()
    assert structure(plain) == structure(changed)
    change(changed)
    assert structure(plain) != structure(changed)


@pytest.mark.parametrize("name", ALL)
def test_models_of_every_family_are_like_others_of_their_structure(name):
    one, other = structure(ALL[name].make().eval()), structure(ALL[name].make().eval())
    assert one is not None
    assert one == other


def test_where_a_model_came_from_is_no_part_of_its_structure():
    model = bert(1)
    renamed(model)
    assert structure(model) == structure(bert())


@pytest.mark.parametrize(
    "change",
    [
        hooked,
        stranger,
        closure,
        of_a_subclass,
        sparse,
        lambda model: setattr(model.dropout, "held", torch.empty(2, device="meta")),
    ],
)
def test_what_nobody_can_tell_apart_is_like_nothing(change):
    model = bert()
    change(model)
    assert structure(model) is None


def test_copies_and_partial_functions_are_told():
    one, other = bert(), bert(1)
    for model in (one, other):
        vars(model.dropout)["forward"] = partial(torch.mul, other=2.0)
    assert structure(one) == structure(other) == structure(copy.deepcopy(one))
    vars(other.dropout)["forward"] = partial(torch.mul, other=3.0)
    assert structure(one) != structure(other)


class Scale(torch.nn.Module):
    """Answers a parameter as it is."""

    def __init__(self, value):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor([value, value + 1]))

    def forward(self, states):
        return states * 2


class Scaling(TextClassification):
    """Its second output is a parameter, which takes the name of the output in the graph."""

    def answer(self, module, graph, inputs):
        return {"logits": module(inputs["states"]), "scale": module.scale}


def test_parameters_that_are_outputs_are_those_of_the_model(exported):
    graph = Graph(
        inputs=(Port("states", "float32", ("batch", 2)),),
        outputs=(Port("logits", "float32", ("batch", 2)), Port("scale", "float32", (2,))),
    )
    states = {"states": np.ones((2, 2), np.float32)}
    for value in (1.0, 5.0):
        made = lowering.Onnx._exported(Scale(value).eval(), Scaling(), graph, states, 20)
        session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
        assert session.run(["scale"], states)[0].tolist() == [value, value + 1]
