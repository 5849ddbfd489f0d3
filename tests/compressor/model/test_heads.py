"""Whose head a classifier has: decided by weights, its classes held against the data's; and what is said of a folder that is none."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from compressor.errors import SourceError
from compressor.model.edits import KeepNeurons
from compressor.model.heads import Head, head_in, load_classifier
from compressor.model.model import Model
from compressor.model.quantization.grids import WeightGrid
from compressor.model.quantization.quantize import Quantize
from compressor.tasks.tiny import SIZES, TEXT

AUTO = transformers.AutoModelForSequenceClassification
OWN, DATA = ("red", "green", "blue"), ("blue", "green", "red")
MULTI = "multi_label_classification"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A BERT with a head for `OWN`, and the same without a head."""
    folder = tmp_path_factory.mktemp("heads")
    config = transformers.BertConfig(**TEXT, **SIZES, id2label=dict(enumerate(OWN)), label2id={n: i for i, n in enumerate(OWN)})
    torch.manual_seed(0)
    transformers.BertForSequenceClassification(config).save_pretrained(folder / "headed")
    transformers.BertModel(transformers.BertConfig(**TEXT, **SIZES)).save_pretrained(folder / "bare")
    return folder


@pytest.fixture
def headed(made, tmp_path):
    """A function that copies the model with a head and changes its configuration (None takes a field away) and its weights."""

    def change(weights=lambda tensors: tensors, **fields):
        shutil.copytree(made / "headed", tmp_path / "model", dirs_exist_ok=True)
        config = tmp_path / "model" / "config.json"
        values = json.loads(config.read_text()) | fields
        config.write_text(json.dumps({name: value for name, value in values.items() if value is not None}))
        tensors = weights(load_file(tmp_path / "model" / "model.safetensors"))
        save_file(tensors, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
        return tmp_path / "model"

    return change


def renamed(old, new):
    return lambda tensors: {re.sub(old, new, name): tensor for name, tensor in tensors.items()}


KNOWN = {
    "as it is saved": {},
    "no architectures": {"architectures": None},
    "a class of the trainer's own": {"architectures": ["BertForTopicClassification"]},
    "the class of another head": {"architectures": ["BertForMaskedLM"]},
    "names in label2id only": {"id2label": None},
    "names in id2label only": {"label2id": None},
    "numbers that are floats": {"label2id": {"red": 0.0, "green": 1.0, "blue": 2.0}},
    "made up names in label2id": {"label2id": {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}},
    "single-label by its own word": {"problem_type": "single_label_classification"},
}


@pytest.mark.parametrize("fields", KNOWN.values(), ids=KNOWN)
def test_trained_head_is_known_by_its_weights_and_put_into_order(headed, made, fields):
    folder = headed(**fields)
    kept = load_file(made / "headed" / "model.safetensors")
    module, drawn = load_classifier(AUTO, folder, DATA, seed=0)
    assert drawn == ()
    assert torch.equal(module.classifier.weight, kept["classifier.weight"][[2, 1, 0]])
    assert torch.equal(module.classifier.bias, kept["classifier.bias"][[2, 1, 0]])
    assert str(head_in(AUTO, folder, DATA)[0]) == "has its own head for blue, green, red, put into the data's order"


def test_numbers_are_names(headed):
    folder = headed(id2label={"0": 2, "1": 0, "2": 1}, label2id=None)
    assert head_in(AUTO, folder, ("0", "1", "2"))[0].order == (1, 2, 0)
    assert head_in(AUTO, headed(id2label=None, label2id=None), ("0", "1", "2"))[0].order == (0, 1, 2)


def test_fresh_head_is_told(made):
    head, module = head_in(AUTO, made / "bare", DATA)
    assert str(head) == "has no head: a newly initialised one for blue, green, red is put in, and has to be trained"
    assert head.drawn == ("classifier.bias", "classifier.weight")
    assert all(parameter.is_meta for parameter in module.parameters())


REFUSED = {
    "other names": (
        {"id2label": {"0": "x", "1": "y", "2": "z"}, "label2id": None}, DATA,
        "classifies ['x', 'y', 'z'], the data has ['blue', 'green', 'red']: not the same labels",
    ),
    "names that nobody gave": (
        {"id2label": None, "label2id": None}, DATA, "classifies ['0', '1', '2'], the data has ['blue', 'green', 'red']",
    ),
    "names that nobody gave, with what to do": (
        {"id2label": {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}, "label2id": None}, DATA,
        "its 3 classes have no names: write them into config.json, as id2label",
    ),
    "names in capitals": (
        {"id2label": {"0": "RED", "1": "GREEN", "2": "BLUE"}, "label2id": None}, DATA,
        "('BLUE' and 'blue' differ by blanks or letter case alone)",
    ),
    "names in other code points": (
        {"id2label": {"0": "red", "1": "cafe\u0301", "2": "blue"}, "label2id": None}, ("blue", "caf\u00e9", "red"),
        "('cafe\\u0301' and 'caf\\xe9' look the same, and are spelled in different code points)",
    ),
    "numbers for names": (
        {}, ("0", "1", "2"), "rename those of the data (its head counts 0 red, 1 green, 2 blue; if your numbers mean the same, rename them so)",
    ),
    "numbers that are written otherwise": (
        {"id2label": {"0": "0", "1": "1", "2": "2"}, "label2id": None}, ("0.0", "1.0", "2.0"), "('0' and '0.0' are one number)",
    ),
    "a list of names": (
        {"id2label": ["red", "green", "blue"]}, DATA, "id2label is ['red', 'green', 'blue'], expected an object, as {\"0\": ",
    ),
    "numbers by name": (
        {"id2label": {"red": 0, "green": 1, "blue": 2}}, DATA, "id2label has 'red' where the number of a class stands",
    ),
    "no model type": ({"model_type": None}, DATA, "its config.json names no `model_type` of transformers"),
    "packed weights": (
        {"weights": lambda tensors: {n: t.to(torch.int8) if n == "classifier.weight" else t for n, t in tensors.items()}}, DATA,
        "holds 1 weights of type I8 ('classifier.weight'), which somebody has packed",
    ),
    "a packed bias": (
        {"weights": lambda tensors: {n: t.to(torch.int32) if n == "classifier.bias" else t for n, t in tensors.items()}}, DATA,
        "holds 1 weights of type I32 ('classifier.bias'), which somebody has packed",
    ),
    "a bias of yes and no": (
        {"weights": lambda tensors: {n: t.bool() if n == "bert.pooler.dense.bias" else t for n, t in tensors.items()}}, DATA,
        "holds 1 weights of type BOOL ('bert.pooler.dense.bias'), which somebody has packed",
    ),
    "relative positions, which the library once knew": (
        {"position_embedding_type": "relative_key"}, DATA,
        "position_embedding_type is 'relative_key', which transformers does not compute for model type 'bert'",
    ),
    "weights in a layer that the class does not know": (
        {"weights": lambda tensors: {**tensors, "bert.encoder.layer.0.attention.self.distance_embedding.weight": torch.ones(3, 8)}},
        DATA, "holds 1 weights inside of layers (bert.encoder.layer.0.attention.self.distance_embedding.weight)",
    ),
    "fewer classes in the data": ({}, ("blue", "red"), "classifies ['blue', 'green', 'red'], the data has ['blue', 'red']"),
    "no architectures and other names": ({"architectures": None}, ("a", "b", "c"), "the data has ['a', 'b', 'c']"),
    "two ways of naming": (
        {"label2id": {"red": 1, "green": 0, "blue": 2}}, DATA,
        "id2label says ['red', 'green', 'blue'] and label2id says ['green', 'red', 'blue'] in this order",
    ),
    "numbers from 1 on": (
        {"id2label": {"1": "red", "2": "green", "3": "blue"}, "label2id": None}, DATA,
        "names the classes ['1', '2', '3'] by number, and its head has rows 0 to 2",
    ),
    "a multi-label head": (
        {"problem_type": MULTI}, DATA, "has a head that answers any number of classes of a row (`multi_label: true`)",
    ),
    "under a wrapper's names": (
        {"weights": renamed("^", "module.")}, DATA, "they are there under names that begin with 'module.'",
    ),
    "under the name of an own class": (
        {"weights": renamed("classifier", "topic"), "architectures": ["Topics"]}, DATA,
        "classifies ['red', 'green', 'blue'] by 'topic.weight', which BertForSequenceClassification has no place for",
    ),
    "half a head": (
        {"weights": lambda tensors: {n: t for n, t in tensors.items() if n != "classifier.bias"}, "architectures": None}, DATA,
        "lacks 1 weights of BertForSequenceClassification: classifier.bias",
    ),
}  # fmt: skip


@pytest.mark.parametrize("read", [lambda *given: load_classifier(*given, seed=0), head_in], ids=["load", "check"])
@pytest.mark.parametrize(("change", "labels", "message"), REFUSED.values(), ids=REFUSED)
def test_head_that_does_not_fit_is_refused(headed, change, labels, message, read):
    with pytest.raises(SourceError, match=re.escape(message)):
        read(AUTO, headed(**change), labels)


def test_multi_label_head_is_taken_by_a_multi_label_task(headed):
    module, drawn = load_classifier(AUTO, headed(problem_type=MULTI), DATA, seed=0, problem=MULTI)
    assert (drawn, module.config.problem_type) == ((), MULTI)


def test_head_of_classes_is_none_of_a_number(made):
    with pytest.raises(SourceError, match=re.escape("classifies ['red', 'green', 'blue'], the task asks for a number of a row")):
        load_classifier(AUTO, made / "headed", ("",), seed=0, problem="regression")


def test_every_part_of_a_head_that_has_a_row_for_each_class_is_put_into_order(tmp_path):
    config = transformers.SwiftFormerConfig(
        image_size=32, depths=[1, 1], embed_dims=[8, 8], downsamples=[True, True], id2label=dict(enumerate(OWN))
    )
    kept = transformers.SwiftFormerForImageClassification(config)
    kept.save_pretrained(tmp_path)
    module = load_classifier(transformers.AutoModelForImageClassification, tmp_path, DATA, seed=0)[0]
    for part in ("head", "dist_head"):
        assert torch.equal(getattr(module, part).weight, getattr(kept, part).weight[[2, 1, 0]])


def test_weights_of_layers_that_the_configuration_does_not_count_are_told(headed):
    told = str(head_in(AUTO, headed(num_hidden_layers=1), DATA)[0])
    assert "has its own head" in told
    assert "; 16 weights are not used (bert.encoder.layer.1." in told


def test_unused_weights_are_told(tmp_path):
    transformers.BertForMaskedLM(transformers.BertConfig(**TEXT, **SIZES)).save_pretrained(tmp_path)
    told = str(head_in(AUTO, tmp_path, DATA)[0])
    assert "is put in, and has to be trained; 5 weights are not used (cls.predictions.bias, cls." in told


def test_labels_that_are_called_as_nobody_called_them_are_those_of_the_head(headed):
    """A trainer that gives no names makes some up, and data labelled by its pipeline has them."""
    folder = headed(id2label=None, label2id=None)
    assert head_in(AUTO, folder, ("LABEL_0", "LABEL_1", "LABEL_2"))[0].order == (0, 1, 2)
    assert head_in(AUTO, folder, ("0", "1", "2"))[0].order == (0, 1, 2)


def test_weights_that_a_trained_model_has_no_place_for_are_told(headed):
    told = str(head_in(AUTO, headed(num_hidden_layers=1), DATA)[0])
    assert told.startswith("has its own head")
    assert "; 16 weights are not used (bert.encoder.layer.1." in told


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (lambda content: content[:-100], "ends early: 100 bytes are missing; fetch it again"),
        (lambda _: b"<!DOCTYPE html>", "is no file of safetensors, or is damaged in its first bytes: fetch it again"),
        (lambda _: b"", "is no file of safetensors"),
        (lambda content: content.replace(b'"shape"', b'"shabe"', 1), "is no file of safetensors"),
    ],
)
def test_file_of_weights_that_is_not_whole_is_told(headed, content, says):
    folder = headed()
    path = folder / "model.safetensors"
    path.write_bytes(content(path.read_bytes()))
    with pytest.raises(SourceError, match=re.escape(f"{path} {says}")):
        head_in(AUTO, folder, DATA)


def test_head_that_setfit_pickled_is_not_dropped_in_silence(made, tmp_path):
    shutil.copytree(made / "bare", tmp_path / "setfit")
    (tmp_path / "setfit" / "model_head.pkl").write_bytes(b"x")
    with pytest.raises(SourceError, match="is the head that SetFit trained, a pickle, which is not read"):
        head_in(AUTO, tmp_path / "setfit", DATA)


@pytest.mark.parametrize(
    ("kind", "labels", "problem"), [("TokenClassification", ("0", "1", "2"), None), ("MultipleChoice", ("",), "regression")]
)
def test_head_of_tokens_or_choices_is_none_of_texts_though_its_weights_are_called_so(tmp_path, kind, labels, problem):
    """ModernBERT calls both kinds of heads the same; so does BERT with several texts to choose from."""
    if problem:
        transformers.BertForMultipleChoice(transformers.BertConfig(**TEXT, **SIZES)).save_pretrained(tmp_path)
    else:
        config = transformers.ModernBertConfig(
            **TEXT, **SIZES, num_labels=3, pad_token_id=0, cls_token_id=1, sep_token_id=2, bos_token_id=1, eos_token_id=2
        )
        transformers.ModernBertForTokenClassification(config).save_pretrained(tmp_path)
    more = {"problem": problem} if problem else {}
    with pytest.raises(SourceError, match=f"has the head of a .*For{kind}, which answers (each token|which of several texts)"):
        head_in(AUTO, tmp_path, labels, **more)


def test_head_of_one_output_tells_no_classes(tmp_path):
    transformers.BertForSequenceClassification(transformers.BertConfig(**TEXT, **SIZES, num_labels=1)).save_pretrained(tmp_path)
    with pytest.raises(
        SourceError, match="has a head of one output, which tells a number, or yes and no by a threshold; the task asks"
    ):
        head_in(AUTO, tmp_path, ("no", "yes"))


def test_what_no_task_on_pictures_can_say_is_not_advised(tmp_path):
    sizes = {"image_size": 16, "patch_size": 8, "id2label": dict(enumerate(OWN)), "label2id": {n: i for i, n in enumerate(OWN)}}
    config = transformers.ViTConfig(**SIZES, **sizes, problem_type=MULTI)
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path)
    with pytest.raises(SourceError, match=r"has a head that answers any number of classes of a row, the task asks for one class"):
        head_in(transformers.AutoModelForImageClassification, tmp_path, DATA)


def test_export_that_only_this_program_opens_is_no_source(headed):
    with pytest.raises(SourceError, match="was exported by this program with layers of widths of their own"):
        head_in(AUTO, headed(model_type="compressor-bert"), DATA)


LAYER = "bert.encoder.layer.1"
CHANGED = {
    "cut unevenly": KeepNeurons(block=LAYER, neurons=(0, 2, 3)),
    "quantised": Quantize(layers=((f"{LAYER}.output.dense",),), weights=WeightGrid()),
}
"""A layer that rounds its weights by their greatest magnitude has no weight more than one in float."""


@pytest.mark.parametrize("read", [lambda *given: load_classifier(*given, seed=0), head_in], ids=["load", "check"])
@pytest.mark.parametrize("edit", CHANGED.values(), ids=CHANGED)
def test_model_that_a_run_changed_is_refused_where_its_library_builds_another(made, tmp_path, edit, read):
    model = Model.wrap(load_classifier(AUTO, made / "headed", OWN, seed=0)[0])
    model.save(tmp_path / "plain")
    assert read(AUTO, tmp_path / "plain", OWN)
    model.apply(edit)
    model.save(tmp_path / "changed")
    with pytest.raises(SourceError, match=rf"a run changed \({edit.kind}\).*Put further steps into the plan"):
        read(AUTO, tmp_path / "changed", OWN)


def test_model_whose_layers_a_run_cut_alike_is_taken(made, tmp_path):
    model = Model.wrap(load_classifier(AUTO, made / "headed", OWN, seed=0)[0])
    for number in range(SIZES["num_hidden_layers"]):
        model.apply(KeepNeurons(block=f"bert.encoder.layer.{number}", neurons=(0, 2, 3)))
    model.save(tmp_path / "cut")
    assert load_classifier(AUTO, tmp_path / "cut", OWN, seed=0)[1] == ()


def test_of_many_labels_some_are_told():
    told = str(Head(tuple(map(str, range(300)))))
    assert (
        told
        == f"has no head: a newly initialised one for {', '.join(map(str, range(20)))} and 280 more is put in, and has to be trained"
    )
