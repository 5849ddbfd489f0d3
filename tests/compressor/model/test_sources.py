"""What is said of folders that are easily taken for a model's."""

from __future__ import annotations

import re

import pytest

from compressor.errors import SourceError
from compressor.files import POINTER
from compressor.model.sources import inside_package, located, resolve
from compressor.plan.specs import ModelSource

FOLDERS = {
    "an adapter": (
        {"adapter_config.json": '{"base_model_name_or_path": "org/base"}', "adapter_model.safetensors": ""},
        "is a PEFT adapter of org/base, not a model: merge it where you trained it (`merge_and_unload()`",
    ),
    "an adapter beside the base's configuration": (
        {"adapter_config.json": "{}", "adapter_model.safetensors": "", "config.json": "{}"},
        "is a PEFT adapter, not a model",
    ),
    "an adapter beside the base": (
        {"adapter_config.json": "{}", "adapter_model.safetensors": "", "config.json": "{}", "model.safetensors": ""},
        "is a model with a PEFT adapter beside it, which would be left out: merge it where you trained it",
    ),
    "a quantised model": (
        {"config.json": '{"quantization_config": {"quant_method": "gptq"}}', "model.safetensors": ""},
        "is quantised already, by gptq: name the folder of the model before that",
    ),
    "a trainer's folder": (
        {"checkpoint-500/config.json": "{}", "checkpoint-1000/config.json": "{}", "checkpoint-500/model.safetensors": ""},
        "is no model itself, but holds checkpoint-1000, checkpoint-500: name the one you mean, as",
    ),
    "sentence-transformers of before": (
        {"modules.json": "[]", "0_Transformer/config.json": "{}", "0_Transformer/model.safetensors": ""},
        "is a folder of sentence-transformers: its model lies in 0_Transformer/, name that",
    ),
    "a repository in the hub's cache": (
        {"refs/main": "0123", "snapshots/0123/config.json": "{}"},
        "is a repository in the hub's cache: name the model in it, ",
    ),
    "tensorflow": (
        {"tf_model.h5": ""},
        "is a model of TensorFlow (tf_model.h5): name the folder of the model that it was made from",
    ),
    "onnx": ({"model.onnx": ""}, "is an exported model (model.onnx)"),
}


@pytest.mark.parametrize(("files", "message"), FOLDERS.values(), ids=FOLDERS)
def test_folder_that_is_no_model_is_told_as_what_it_is(tmp_path, files, message):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    with pytest.raises(SourceError, match=re.escape(f"{tmp_path} {message}")):
        located(ModelSource(folder=str(tmp_path)), tmp_path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (("openvino_model.xml", "openvino_model.bin"), " is an exported model (openvino_model.xml): name the folder"),
        (("model.onnx",), " is an exported model (model.onnx): name the folder"),
        (("tf_model.h5",), " is a model of TensorFlow (tf_model.h5): name the folder"),
        (("tf_model.h5", "pytorch_model.bin"), "/pytorch_model.bin is a pickle, which could run code when it is read"),
    ],
)
def test_folder_with_a_configuration_and_other_weights_is_told_as_what_it_is(tmp_path, files, message):
    """As optimum writes them; OpenVINO's weights end as pickles do."""
    for name in ("config.json", *files):
        (tmp_path / name).write_text("{}")
    with pytest.raises(SourceError, match=re.escape(f"{tmp_path}{message}")):
        resolve(ModelSource(folder=str(tmp_path)), tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "parts/spiece.model"])
def test_file_that_git_lfs_has_not_fetched_is_told_as_that(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / name).write_bytes(POINTER + b"v1\noid sha256:4d7a\nsize 12345\n")
    with pytest.raises(SourceError, match=re.escape(f"{tmp_path / name}: it is a pointer of Git LFS")):
        located(ModelSource(folder=str(tmp_path)), tmp_path)


@pytest.mark.parametrize(
    ("package", "told"),
    [
        ("__main__", "is a part of the running program and no installed package"),
        ("csv", "is a module and no package"),
        ("/etc", "is not installed, and that is no name of one"),
        ("", "is not installed"),
        ("no_such_package", "is not installed: pip install no-such-package"),
    ],
)
def test_what_is_no_installed_package_is_told(monkeypatch, package, told):
    monkeypatch.setattr("__main__.__spec__", None)  # as where a program is run by its path
    with pytest.raises(SourceError, match=told):
        inside_package(package, "model")
