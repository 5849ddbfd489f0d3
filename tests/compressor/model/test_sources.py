"""What is said of folders that are easily taken for a model's."""

from __future__ import annotations

import re

import pytest

from compressor.errors import SourceError
from compressor.model.sources import check_weights

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
    "llama.cpp": ({"model.gguf": ""}, "is a model of llama.cpp (model.gguf): name the folder of the model that it was made from"),
    "onnx": ({"model.onnx": ""}, "is an exported model (model.onnx)"),
}


@pytest.mark.parametrize(("files", "message"), FOLDERS.values(), ids=FOLDERS)
def test_folder_that_is_no_model_is_told_as_what_it_is(tmp_path, files, message):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    with pytest.raises(SourceError, match=re.escape(f"{tmp_path} {message}")):
        check_weights(tmp_path, None)
