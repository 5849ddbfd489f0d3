"""SmoothQuant: the model computes the same, outliers of activations cost less, and what cannot be scaled is told."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from rounded_students import context, step, wide

from compressor.contracts import registry
from compressor.contracts.notes import Remark
from compressor.errors import UnsupportedModel
from compressor.testing.tiny import run_of
from passes.quantization_aware.smooth import smoothed


@cache
def run(task: str):
    kind = registry.load("task", task)
    return run_of(task, kind.model_validate(dict(kind.examples[0])))


def loud():
    """A decoder in whose normed states one channel stands out fifty times."""
    model = run("causal-lm").model()
    for layer in model.module.model.layers:
        for norm in (layer.input_layernorm, layer.post_attention_layernorm):
            norm.weight.data[5] *= 50
        for path in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj"):
            layer.get_submodule(path).weight.data[:, 5] /= 50
    return model


def logits(model) -> np.ndarray:
    ids = torch.from_numpy(np.random.default_rng(1).integers(2, 269, (8, 24)))
    with torch.no_grad():
        return model.module(ids).logits.numpy()


def test_smoothed_decoder_computes_the_same(tmp_path):
    model, ctx = loud(), run("causal-lm").context(tmp_path)
    found = smoothed(model, step(smooth=0.5), ctx)
    np.testing.assert_allclose(logits(found), logits(model), atol=1e-5 * np.abs(logits(model)).max())
    (told,) = (note.text for note in ctx.notes if isinstance(note, Remark))
    assert told == "Smoothed by 0.5: 4 norms, folded into the 10 layers that read them."
    before, after = (each.module.model.layers[0].input_layernorm.weight.detach() for each in (model, found))
    assert after.abs().max() / after.abs().mean() < 0.3 * before.abs().max() / before.abs().mean()


@pytest.mark.parametrize("given", [{}, {"weights": 4}], ids=["static", "by block"])
def test_outliers_of_activations_cost_less_once_they_are_smoothed(tmp_path, given):
    model, off = loud(), {}
    exact = logits(model)
    for smooth in (0.0, 0.5):
        (tmp_path / str(smooth)).mkdir()
        ctx, one = run("causal-lm").context(tmp_path / str(smooth)), step(smooth=smooth, **given)
        student = smoothed(model, one, ctx) if smooth else model.copy()
        one._quantise(student, ctx)
        off[smooth] = float(((logits(student) - exact) ** 2).mean())
    assert off[0.5] < 0.8 * off[0.0]


def test_trained_student_is_smoothed(tmp_path):
    ctx = run("causal-lm").context(tmp_path)
    model = loud()
    one = step(smooth=0.5, epochs=1, objectives={"soft-targets": 1.0})
    student = one.apply(model, ctx)
    norms = [each.module.model.layers[0].input_layernorm.weight[5].item() for each in (model, student)]
    assert norms[1] < 0.5 * norms[0]
    assert [note for note in ctx.notes if isinstance(note, Remark) and note.text.startswith("Smoothed by 0.5")]


def test_pictures_are_smoothed_too(tmp_path):
    """Norms with a bias."""
    found = run("image-classification")
    model, ctx = found.model(), found.context(tmp_path)
    other = smoothed(model, step(smooth=0.7), ctx)
    rows = [ctx.outputs(each, "validation", limit=8) for each in (model, other)]
    np.testing.assert_allclose(rows[1], rows[0], atol=1e-5 * np.abs(rows[0]).max())


def test_norms_on_the_residual_stream_are_refused(tmp_path):
    """BERT's: what they give is added to what comes later."""
    source = wide()
    with pytest.raises(UnsupportedModel, match="no norm of this model is read by linear layers alone"):
        step(smooth=0.5).apply(source, context(tmp_path, source))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"smooth": 0.5, "activations": "none"}, "nothing would heed smooth"),
        ({"smooth": 0.5, "objectives": {"attention-output": 1.0}}, "attention-output looks at what norms give"),
        ({"smooth": 1.0}, "less than 1"),
    ],
)
def test_smoothing_that_has_no_part_is_refused(given, said):
    with pytest.raises(ValidationError, match=said):
        step(**given)
