"""A model of llama.cpp as a source: its file is read as data, and what comes of it is a model like others."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest
import torch

from compressor.errors import MissingDependency, SourceError
from compressor.model import Model
from compressor.model.sources import check_weights
from compressor.tasks.language.causal_lm import CausalLM
from compressor.tasks.language.documents import Encoder
from compressor.tasks.tiny import MERGES, language_model
from compressor.tasks.tokenization import tokenization

TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def turned(weight, heads):
    """Rows of queries and keys as llama.cpp keeps them: halves of a head next to each other."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def write(source, path):
    """A Llama in the layout of transformers as a file of llama.cpp."""
    import gguf

    module = Model.read(source).module
    config, tokenizer = module.config, json.loads((source / "tokenizer.json").read_text())
    out = gguf.GGUFWriter(path, "llama")
    out.add_name("tiny")
    out.add_context_length(config.max_position_embeddings)
    out.add_embedding_length(config.hidden_size)
    out.add_block_count(config.num_hidden_layers)
    out.add_feed_forward_length(config.intermediate_size)
    out.add_head_count(config.num_attention_heads)
    out.add_head_count_kv(config.num_key_value_heads)
    out.add_rope_dimension_count(config.head_dim)
    out.add_layer_norm_rms_eps(config.rms_norm_eps)
    out.add_vocab_size(config.vocab_size)
    out.add_tokenizer_model("gpt2")
    vocabulary = {**tokenizer["model"]["vocab"], **{each["content"]: each["id"] for each in tokenizer["added_tokens"]}}
    words = sorted(vocabulary, key=vocabulary.get)
    out.add_token_list(words)
    out.add_token_types([3 if word.startswith("<|") else 1 for word in words])
    out.add_token_merges(list(MERGES))
    out.add_eos_token_id(0)
    out.add_pad_token_id(1)
    out.add_chat_template(TEMPLATE)
    for name, tensor in module.state_dict().items():
        values, parts = tensor.numpy(), name.split(".")
        if "layers" in parts:
            inner = ".".join(parts[3:-1])
            heads = {"self_attn.q_proj": config.num_attention_heads, "self_attn.k_proj": config.num_key_value_heads}.get(inner)
            values = turned(values, heads) if heads else values
            name = f"blk.{parts[2]}.{NAMES[inner]}.weight"
        else:
            names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
            name = f"{names[name.removesuffix('.weight')]}.weight"
        out.add_tensor(name, np.ascontiguousarray(values))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("gguf")
    language_model(made / "source")
    (made / "packed").mkdir()
    write(made / "source", made / "packed" / "tiny.F32.gguf")
    return made


def test_a_model_of_llama_cpp_is_the_model_that_it_was_made_from(folder, tmp_path):
    task, source = CausalLM(max_length=48), folder / "packed"
    check_weights(source, None)
    assert task.examine(source, ()) == ("language model of 2 layers, 4 heads on 2 of keys and values, 269 tokens",)
    model = task.load(source, None, seed=0)
    model.save(tmp_path / "kept")
    again, ids = Model.load(tmp_path / "kept").module, torch.tensor([[5, 9, 30, 41]])
    with torch.no_grad():
        torch.testing.assert_close(again(input_ids=ids).logits, Model.read(folder / "source").module(input_ids=ids).logits)
    assert "quantization_config" not in json.loads((tmp_path / "kept" / "config.json").read_text())
    texts = ["word1 red é, word2", " blue  "]
    ours, theirs = (Encoder(tokenization(each)).encoded(texts) for each in (tmp_path / "kept", folder / "source"))
    assert [each.ids for each in ours] == [each.ids for each in theirs]
    assert (tmp_path / "kept" / "chat_template.jinja").read_text() == TEMPLATE
    assert json.loads((tmp_path / "kept" / "generation_config.json").read_text()) == {"eos_token_id": [0]}


def test_several_models_of_llama_cpp_in_one_folder_are_refused(folder, tmp_path):
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes((folder / "packed" / "tiny.F32.gguf").read_bytes())
    with pytest.raises(SourceError, match=r"holds 2 models of llama.cpp \(a.gguf, b.gguf\)"):
        check_weights(tmp_path, None)


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGUF\x03\x00\x00\x00" + b"\xff" * 64])
def test_what_is_no_model_of_llama_cpp_is_refused(content, tmp_path):
    (tmp_path / "a.gguf").write_bytes(content)
    with pytest.raises(SourceError, match=r"cannot be read as a model of llama\.cpp"):
        CausalLM().examine(tmp_path, ())


def test_without_the_package_it_is_said_how_to_have_it(tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *where: None if name == "gguf" else found(name, *where))
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    with pytest.raises(MissingDependency, match=r"a.gguf is read by the package gguf.*\[llm\]"):
        CausalLM().examine(tmp_path, ())
