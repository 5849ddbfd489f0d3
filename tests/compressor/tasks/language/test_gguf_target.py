"""A GGUF file says what the model folder says, and llama.cpp computes and splits texts as the model does (`-m long`: it has a wheel of its own)."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
import torch

from compressor.contracts import Artifact
from compressor.deploy.graphs import describe
from compressor.errors import UnsupportedModel
from compressor.tasks.language.decoding import decoded, filled
from compressor.tasks.language.scoring import fed, padded

from .conftest import Subject

PROMPTS = ([5, 9, 30, 41, 77, 12, 8], [100, 3, 61], [44])


@pytest.fixture(scope="module")
def written(llama, tmp_path_factory):
    from compressor.deploy.gguf import Gguf

    folder = tmp_path_factory.mktemp("gguf")
    Gguf().lower(Artifact("torch", llama.files), folder, task=llama.task, dialect=None)
    return folder


def built(written, llama, tmp_path, weights):
    from targets.llama_cpp import LlamaCpp

    target = LlamaCpp(weights=weights, context=512)
    target.build(Artifact("gguf", written), tmp_path)
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((llama.files / name).read_bytes())
    describe(tmp_path, llama.task, "causal-lm", ())
    return target, tmp_path


def test_sizes_tokens_and_merges_stand_in_the_file(written, llama):
    import gguf

    reader, config = gguf.GGUFReader(written / "model.gguf"), llama.model.module.config
    fields = {name: each.contents() for name, each in reader.fields.items()}
    assert fields["general.architecture"] == "llama"
    assert (fields["llama.block_count"], fields["llama.attention.head_count_kv"]) == (
        config.num_hidden_layers,
        config.num_key_value_heads,
    )
    assert len(fields["tokenizer.ggml.tokens"]) == config.vocab_size
    held = {tensor.name: tensor.data for tensor in reader.tensors}
    state = llama.model.module.state_dict()
    np.testing.assert_array_equal(held["blk.1.ffn_up.weight"], state["model.layers.1.mlp.up_proj.weight"])
    query = state["model.layers.0.self_attn.q_proj.weight"].numpy()
    half = config.head_dim // 2
    np.testing.assert_array_equal(held["blk.0.attn_q.weight"][[0, 1, 2]], query[[0, half, 1]])


@pytest.mark.parametrize("weights", ["f16", "q8_0"])
def test_matrices_are_written_in_their_type(written, llama, tmp_path, weights):
    import gguf

    _, folder = built(written, llama, tmp_path, weights)
    plain, found = (gguf.GGUFReader(path / "model.gguf") for path in (written, folder))
    kinds = {tensor.name: tensor.tensor_type.name for tensor in found.tensors}
    assert kinds["blk.0.attn_norm.weight"] == "F32"
    assert kinds["blk.0.attn_q.weight"] == weights.upper()
    for before, after in zip(plain.tensors, found.tensors, strict=True):
        restored = gguf.quants.dequantize(after.data, after.tensor_type)
        np.testing.assert_allclose(restored, before.data, atol=0.005 * np.abs(before.data).max())
    assert {name for name in plain.fields if not name.startswith("GGUF")} == {
        name for name in found.fields if not name.startswith("GGUF")
    }


def test_other_architectures_are_refused(llama, tmp_path):
    from compressor.deploy.gguf import Gguf
    from compressor.model import Model
    from compressor.tasks.tiny import language_model

    language_model(tmp_path / "source", "gpt2")
    llama.task.load(tmp_path / "source", None, seed=0).save(tmp_path / "saved")
    assert isinstance(Model.load(tmp_path / "saved").module, torch.nn.Module)
    with pytest.raises(UnsupportedModel, match="'gpt2' cannot be written as GGUF"):
        Gguf().lower(Artifact("torch", tmp_path / "saved"), tmp_path, task=llama.task, dialect=None)


@pytest.mark.parametrize(
    ("said", "refused"), [({"sliding_window": 16}, True), ({"sliding_window": 16, "use_sliding_window": False}, False)]
)
def test_windows_of_attention_are_refused(llama, said, refused):
    from compressor.deploy.gguf import _check_layers

    config = {**llama.model.module.config.to_dict(), **said}
    if refused:
        with pytest.raises(UnsupportedModel, match="a window of 16 tokens cannot be written as GGUF"):
            _check_layers(llama.model.module, config)
    else:
        _check_layers(llama.model.module, config)


# ------------------------------------------------------------------ run by llama.cpp


@pytest.fixture(scope="module")
def session(written, llama, tmp_path_factory):
    assert find_spec("cyllama"), "pip install cyllama"
    target, folder = built(written, llama, tmp_path_factory.mktemp("built"), "f32")
    return target.open(folder)


@pytest.mark.long
def test_llama_cpp_gives_the_logits_of_the_model_at_every_step_of_ragged_prompts(session, llama):
    ids, mask = padded([np.array(each) for each in PROMPTS])
    feed = {**fed(ids, mask), "logits_at": np.array([ids.shape[1] - 1])}
    start, plain = filled(session, feed), filled(llama.session("pytorch"), feed)
    np.testing.assert_allclose(start[0], plain[0], atol=1e-3)
    assert decoded(session, start, 8).tolist() == decoded(llama.session("pytorch"), plain, 8).tolist()
    assert session.facts() == {"precision": "fp32", "device": "CPU", "threads": "1", "cache": "fp32"}


@pytest.mark.long
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize("weights", ["f32", "f16", "q8_0"])
def test_llama_cpp_takes_each_architecture(kind, tied, weights, task, tmp_path):
    from compressor.deploy.gguf import Gguf

    of_kind = Subject(tmp_path / "subject", task, kind, hidden_size=32, intermediate_size=64, tie_word_embeddings=tied)
    (tmp_path / "built").mkdir()
    Gguf().lower(Artifact("torch", of_kind.files), tmp_path, task=task, dialect=None)
    target, folder = built(tmp_path, of_kind, tmp_path / "built", weights)
    ids, mask = padded([np.array(each) for each in PROMPTS])
    feed = {**fed(ids, mask), "logits_at": np.array([ids.shape[1] - 1])}
    found, plain = (filled(session, feed)[0] for session in (target.open(folder), of_kind.session("pytorch")))
    np.testing.assert_allclose(found, plain, atol={"f32": 1e-3, "f16": 0.05, "q8_0": 0.3}[weights] * plain.std())


@pytest.mark.long
def test_states_of_llama_cpp_are_values(session):
    ids = np.array([[5, 9, 30, 41, 77, 12]])

    def part(start, end, of=ids):
        return fed(of[:, start:end], np.ones((1, end), dtype=np.int64))

    _, state = session.run(part(0, 3))
    expected, longer = session.run(part(3, 5), state=state)
    other = ids[:, ::-1].copy()
    session.run(part(3, 6, other), state=state)
    again, branch = session.run(part(3, 5), state=state)
    np.testing.assert_allclose(again["logits"], expected["logits"], atol=1e-5)  # cells lie elsewhere
    after, _ = session.run(part(5, 6), state=longer)
    elsewhere, _ = session.run(part(5, 6), state=session.cut(branch, 5))
    whole, _ = session.run(part(0, 6))
    np.testing.assert_allclose(after["logits"], whole["logits"][:, 5:], atol=1e-4)
    np.testing.assert_allclose(elsewhere["logits"], whole["logits"][:, 5:], atol=1e-4)
    for _ in range(100):  # sequences of states that nobody holds are used again
        session.run(part(0, 3))


@pytest.mark.long
def test_llama_cpp_splits_texts_as_the_tokenizer_does(session, llama):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(llama.files / "tokenizer.json"))
    vocabulary = session._context.model.get_vocab()
    for text in ("word1 red word2", "é and  more,\n\n of 12 them!", "I'll go"):
        assert list(vocabulary.tokenize(text, False, False)) == tokenizer.encode(text, add_special_tokens=False).ids
