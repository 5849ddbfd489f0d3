"""What is exported is opened by the programs that people generate text with, and they make the same tokens."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec

import numpy as np
import pytest

from compressor.tasks.language.decoding import decoded, filled
from compressor.tasks.language.scoring import fed
from targets.generation import write_genai, write_openvino_genai

PROMPT, STEPS = [5, 9, 30, 41, 77, 12, 8], 8


@pytest.fixture(scope="module")
def expected(llama):
    session = llama.session("pytorch")
    ids = np.array([PROMPT])
    start = filled(session, {**fed(ids, np.ones_like(ids)), "logits_at": np.array([len(PROMPT) - 1])})
    return decoded(session, start, STEPS)[0].tolist()


@pytest.fixture(scope="module")
def genai(llama, tmp_path_factory):
    """What an export holds for ONNX Runtime GenAI."""
    folder = tmp_path_factory.mktemp("genai") / "export"
    shutil.copytree(llama.candidate("onnxruntime").built, folder)
    write_genai(folder, "model.onnx", llama.task.graphs(llama.files)[0], {"ends": [0]})
    return folder


def test_the_configuration_names_what_the_graph_has(genai, llama):
    import onnx

    decoder = json.loads((genai / "genai_config.json").read_text())["model"]["decoder"]
    graph = onnx.load(genai / decoder["filename"], load_external_data=False).graph
    layers = range(decoder["num_hidden_layers"])
    past = {
        name % layer for layer in layers for name in (decoder["inputs"]["past_key_names"], decoder["inputs"]["past_value_names"])
    }
    assert {value.name for value in graph.input} == {"input_ids", "attention_mask"} | past
    present = {
        name % layer
        for layer in layers
        for name in (decoder["outputs"]["present_key_names"], decoder["outputs"]["present_value_names"])
    }
    assert {value.name for value in graph.output} == {"logits"} | present
    config = llama.model.module.config
    assert (decoder["num_key_value_heads"], decoder["head_size"]) == (config.num_key_value_heads, config.head_dim)
    assert (genai / "genai.onnx").stat().st_size < 0.5 * (genai / "model.onnx.data").stat().st_size


@pytest.mark.long
def test_onnxruntime_genai_makes_the_same_tokens(genai, expected):
    assert find_spec("onnxruntime_genai"), "pip install onnxruntime-genai"
    import onnxruntime_genai

    model = onnxruntime_genai.Model(str(genai))
    parameters = onnxruntime_genai.GeneratorParams(model)
    parameters.set_search_options(max_length=len(PROMPT) + STEPS, do_sample=False)
    generator = onnxruntime_genai.Generator(model, parameters)
    generator.append_tokens(PROMPT)
    while not generator.is_done():
        generator.generate_next_token()
    assert list(generator.get_sequence(0)) == PROMPT + expected


@pytest.mark.long
def test_openvino_genai_makes_the_same_tokens(llama, expected, tmp_path):
    assert find_spec("openvino_genai"), "pip install openvino-genai openvino-tokenizers"
    import openvino
    import openvino_genai

    folder = tmp_path / "export"
    shutil.copytree(llama.candidate("openvino").built, folder)
    write_openvino_genai(folder, "openvino_model.xml", llama.task.graphs(llama.files)[0])
    assert (folder / "genai" / "openvino_model.bin").samefile(folder / "openvino_model.bin")
    pipe = openvino_genai.LLMPipeline(str(folder / "genai"), "CPU", INFERENCE_PRECISION_HINT="f32", KV_CACHE_PRECISION="f32")
    ids = np.array([PROMPT])
    made = pipe.generate(openvino.Tensor(ids), max_new_tokens=STEPS, do_sample=False)
    assert list(made.tokens[0]) == expected
    assert pipe.get_tokenizer().decode(made.tokens[0])
