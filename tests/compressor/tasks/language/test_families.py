"""Every family that is taken is scored and decodes alike in torch, ONNX Runtime and OpenVINO; what is not taken is told before anything is loaded."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from compressor.errors import SourceError
from compressor.model import Model
from compressor.tasks.language.causal_lm import CausalLM
from compressor.tasks.language.decoding import decoded, filled
from compressor.tasks.language.scoring import fed, padded
from compressor.tasks.tiny import byte_tokenizer, language_model, shaken

from .conftest import Subject

PROMPTS = ([5, 9, 30, 41, 77, 12, 8], [100, 3, 61])
STEPS = 5
CLOSE = 1e-4
FAMILIES = {
    "gpt2": {},
    "qwen2": {},
    "qwen3": {},
    "mistral": {"sliding_window": 4},
    "gemma": {},
    "gemma2": {"sliding_window": 4, "query_pre_attn_scalar": 8},
    "phi3": {},
    "olmo2": {},
}
"""Fields that make a model of the family tiny, beside those of a Llama."""
OFTEN = ("gpt2",)
CASES = [
    pytest.param(family, target, marks=[] if family in OFTEN and target == "onnxruntime" else [pytest.mark.long])
    for family in FAMILIES
    for target in ("pytorch", "onnxruntime", "openvino")
]


@pytest.fixture(scope="module")
def subjects(tmp_path_factory):
    made = {}

    def subject(family):
        if family not in made:
            made[family] = Subject(tmp_path_factory.mktemp(family), CausalLM(max_length=48), family, **FAMILIES[family])
        return made[family]

    return subject


@pytest.mark.parametrize(("family", "target"), CASES)
def test_a_family_decodes_as_by_full_passes(family, target, subjects, rows):
    subject = subjects(family)
    session = subject.session(target)
    start = filled(session, fed(*padded([np.array(each) for each in PROMPTS])))
    made = decoded(session, start, STEPS)
    for row, prompt in enumerate(PROMPTS):
        with torch.no_grad():
            ids = torch.tensor([[*prompt, *made[row].tolist()]])
            whole = subject.model.module(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].numpy()
        best = np.sort(whole, axis=-1)
        clear = best[:, -1] - best[:, -2] > CLOSE
        assert clear.sum() >= STEPS - 1
        assert made[row][clear].tolist() == whole.argmax(-1)[clear].tolist()
        np.testing.assert_allclose(start[0][row], whole[0], atol=5e-4)
    task = subject.task
    found = task.evaluate(lambda feed: task.call(session, feed), rows, subject.files, split="test")
    (batch,) = task.batches(rows, subject.files, batch_size=9)
    with torch.no_grad():
        plain = float(task.loss(task.forward(subject.model.module, batch), batch))
    total = found.outputs["nats"] @ found.outputs["tokens"] / found.outputs["tokens"].sum()
    assert total == pytest.approx(plain, rel=1e-3)


STRANGE = {
    "bert": (
        {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 32, "vocab_size": 280},
        "sees what comes after each token",
    ),
    "mamba": ({"hidden_size": 32, "num_hidden_layers": 1, "vocab_size": 280, "state_size": 4}, "does not keep a key"),
    "vit": ({"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 32}, "no language model"),
}


@pytest.mark.parametrize("kind", STRANGE)
def test_a_model_that_keeps_something_else_is_refused_by_check(kind, tmp_path):
    import transformers

    fields, what = STRANGE[kind]
    config = transformers.AutoConfig.for_model(kind, **fields)
    auto = transformers.AutoModel if kind == "vit" else transformers.AutoModelForCausalLM
    shaken(lambda: auto.from_config(config)).save_pretrained(tmp_path)
    byte_tokenizer(tmp_path)
    with pytest.raises(SourceError, match=what):
        CausalLM(max_length=16).examine(tmp_path, ())


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_an_end_of_texts_that_no_model_can_write_is_refused(name, tmp_path):
    language_model(tmp_path)
    for path in tmp_path.glob("*config.json"):
        values = json.loads(path.read_text())
        if "eos_token_id" in values or path.name == name:
            path.write_text(json.dumps({**values, "eos_token_id": [0, 9999] if path.name == name else None}))
    with pytest.raises(SourceError, match=rf"{name}: eos_token_id is 9999, and the model knows tokens 0 to \d+: its texts would"):
        CausalLM(max_length=16).examine(tmp_path, ())


def test_weights_of_another_shape_are_told_by_name(tmp_path):
    language_model(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**values, "vocab_size": 5}))
    with pytest.raises(SourceError, match=r"\w+\.weight is \[269, 32\] in the weights and \[5, 32\] by config\.json"):
        CausalLM(max_length=16).examine(tmp_path, ())


def test_a_model_with_two_tables_is_not_said_to_have_one(tmp_path):
    """Its configuration says that its output is tied: whoever believes it would drop what its file holds."""
    language_model(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**values, "tie_word_embeddings": True}))
    (said,) = CausalLM(max_length=16).examine(tmp_path, ())
    assert "tied" not in said
    assert CausalLM(max_length=16).load(tmp_path, None, seed=0).module.config.tie_word_embeddings is False


def test_more_tokens_than_positions_are_refused(llama):
    with pytest.raises(SourceError, match=r"max_length 300 is beyond what .* has positions for: 256 tokens fit"):
        CausalLM(max_length=300).examine(llama.root / "source", ())
    assert CausalLM().refuses(300, llama.files) == "300 is beyond what the model has positions for: 256 tokens fit"
    assert Model.load(llama.files).module.config.max_position_embeddings == 256


@pytest.mark.long
@pytest.mark.parametrize("family", FAMILIES)
def test_attention_of_a_family_over_its_cache_is_one_operator(family, subjects):
    """gemma2 bounds its scores by a hyperbolic tangent, which the rewrites leave in plain operators."""
    import onnx

    subject = subjects(family)
    graph = onnx.load(subject.candidate("onnxruntime").built / "model.onnx", load_external_data=False).graph
    kinds = [node.op_type for node in graph.node]
    layers = subject.model.module.config.num_hidden_layers
    assert kinds.count("GroupQueryAttention") == (0 if family == "gemma2" else layers)
    assert kinds.count("RotaryEmbedding") == (0 if family in ("gpt2", "gemma2") else 2 * layers)
