"""Rotations are folded exactly, spread what single channels hold, and are refused where a model computes otherwise."""

from __future__ import annotations

import copy
from functools import cache

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from compressor.contracts.notes import Table
from compressor.errors import UnsupportedModel
from compressor.tasks.language.causal_lm import CausalLM
from compressor.tasks.tiny import language_model
from compressor.testing.tiny import run_of, tiny_run
from passes.quantization_aware.rotate import Rotate, rotation


@cache
def run(kind: str = "llama", *, tied: bool = False):
    class Task(CausalLM):
        def tiny(self, folder):
            rows = super().tiny(folder)
            language_model(folder / "pretrained", kind, tie_word_embeddings=tied)
            return rows

    return run_of("causal-lm", Task(max_length=64))


def source(kind: str = "llama", *, tied: bool = False):
    """With gains that are not 1."""
    model, draw = run(kind, tied=tied).model(), torch.Generator().manual_seed(3)
    for name, each in model.module.named_parameters():
        if name.endswith("norm.weight") and "_norm" not in name:
            each.data = 0.5 + 1.5 * torch.rand(each.shape, generator=draw)
    return model


def logits(model) -> np.ndarray:
    ids = torch.from_numpy(np.random.default_rng(1).integers(2, 269, (4, 24)))
    with torch.no_grad():
        return copy.deepcopy(model.module).double()(ids).logits.numpy()


@pytest.mark.parametrize("size", [1, 8, 48, 64, 72])
def test_rotations_are_orthogonal_and_spread_one_channel_over_all(size):
    turn = rotation(size, 5)
    np.testing.assert_allclose(turn @ turn.T, np.eye(size), atol=1e-12)
    assert np.abs(turn).max() <= np.sqrt(1 / (size & -size)) + 1e-12
    assert not size > 1 or not np.array_equal(turn, rotation(size, 6))


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "mistral"])
@pytest.mark.parametrize("settings", [{}, {"residual": False}, {"values": False}])
def test_rotated_model_computes_the_same(kind, settings, tmp_path):
    model = source(kind)
    rotated = Rotate(**settings).apply(model, run(kind).context(tmp_path))
    for name, each in rotated.module.named_parameters():
        moved = not torch.equal(each, model.module.get_parameter(name))
        kept = ("q_norm", "k_norm", "k_proj.bias", "q_proj.bias")
        assert moved or settings or name.endswith(("gate_proj.bias", "down_proj.bias")) or any(part in name for part in kept), (
            name
        )
    found, expected = logits(rotated), logits(model)
    np.testing.assert_allclose(found, expected, atol=3e-6 * np.abs(expected).max(), err_msg="weights are kept in float32")
    rotated.save(tmp_path / "a")
    Rotate(**settings).apply(source(kind), run(kind).context(tmp_path)).save(tmp_path / "b")
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()


def test_a_channel_that_stands_out_no_longer_does(tmp_path):
    model = source()
    model.module.model.embed_tokens.weight.data[:, 3] += 40
    ctx = run().context(tmp_path)
    Rotate().apply(model, ctx)
    (table,) = (note for note in ctx.notes if isinstance(note, Table))
    read = {row[0]: row[1:] for row in table.rows}
    before, after = read["model.layers.*.self_attn.q_proj"]
    assert after < 0.7 * before


def test_head_that_is_the_table_keeps_its_basis(tmp_path):
    model = source(tied=True)
    with pytest.raises(UnsupportedModel, match=r"one matrix, and the gain .* say residual: false"):
        Rotate().apply(model, run(tied=True).context(tmp_path))
    rotated = Rotate(residual=False).apply(model, run(tied=True).context(tmp_path))
    assert rotated.module.lm_head.weight is rotated.module.model.embed_tokens.weight
    np.testing.assert_allclose(logits(rotated), logits(model), atol=1e-4)


def test_other_models_are_refused(tmp_path):
    tiny = tiny_run()
    with pytest.raises(UnsupportedModel, match="this is of family bert"):
        Rotate().apply(tiny.model(), tiny.context(tmp_path))
    with pytest.raises(ValidationError, match="nothing is rotated"):
        Rotate(residual=False, values=False)


def test_model_that_computes_otherwise_than_is_known_is_refused(tmp_path):
    """A norm whose gain is added to 1, say, which no check of names sees."""
    model = source()
    norm = model.module.model.layers[0].input_layernorm
    plain = type(norm).forward

    class Norm(type(norm)):
        def forward(self, states):
            return plain(self, states) + states

    norm.__class__ = Norm
    model.module.model.norm.weight.data += 1
    ctx = run().context(tmp_path)
    with pytest.raises(UnsupportedModel, match="it computes otherwise than is known"):
        Rotate(values=False).apply(model, ctx)
