"""Perplexities with their intervals, differences in per cent, and how near two models' answers are."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressor.tasks.language.causal_lm import CausalLM
from compressor.tasks.language.fidelity import LOOKED_AT, agreement, divergence, likeliest, looked_at
from compressor.tasks.language.likelihood import costs

TASK = CausalLM()


def evaluation(nats, tokens, right=None, size=None, seed=0):
    draw = np.random.default_rng(seed)
    words, logs = likeliest(draw.normal(size=(len(nats) * 4, 30)))
    shape = (len(nats), 4, words.shape[1])
    outputs = {
        "nats": np.asarray(nats, dtype=float),
        "tokens": np.asarray(tokens),
        "right": np.asarray(tokens) // 2 if right is None else right,
        "bytes": 3 * np.asarray(tokens) if size is None else size,
        "words": words.reshape(shape),
        "logs": logs.reshape(shape),
    }
    return TASK.score(outputs, {}, split="test")


def test_costs_are_those_of_the_plain_formula():
    draw = np.random.default_rng(0)
    logits, targets = draw.normal(size=(50, 17)).astype(np.float32) * 4, draw.integers(0, 17, 50)
    plain = -np.log(np.exp(logits) / np.exp(logits).sum(-1, keepdims=True))[np.arange(50), targets]
    cost, right = costs(logits, targets)
    np.testing.assert_allclose(cost, plain, rtol=1e-5, atol=1e-6)
    assert right.tolist() == (logits.argmax(-1) == targets).astype(float).tolist()
    huge, _ = costs(np.array([[3e38, -3e38]], dtype=np.float32), np.array([0]))
    assert huge[0] == 0
    nothing, _ = costs(np.zeros((0, 17), dtype=np.float32), np.zeros(0, dtype=np.int64))
    assert nothing.shape == (0,)


def test_scores_are_over_tokens_bytes_and_documents():
    draw = np.random.default_rng(1)
    tokens = draw.integers(1, 200, 80)
    nats = draw.normal(3, 0.3, 80)
    found = evaluation(nats, tokens).scores
    mean = (nats * tokens).sum() / tokens.sum()
    assert found.main.name == "perplexity"
    assert found.main.value == pytest.approx(math.exp(mean))
    assert found.of("bits per byte").value == pytest.approx(mean / math.log(2) / 3)
    assert found.main.interval.low < found.main.value < found.main.interval.high
    inside = 0
    for seed in range(60):  # the interval holds the truth about as often as it says
        draw = np.random.default_rng(seed)
        tokens = draw.integers(50, 150, 60)
        spread = evaluation(draw.normal(3, 0.3, 60), tokens).scores.main.interval
        inside += spread.low <= math.exp(3) <= spread.high
    assert 50 <= inside <= 60


def test_a_difference_is_in_per_cent_and_paired():
    draw = np.random.default_rng(3)
    tokens, before = draw.integers(1, 200, 200), draw.normal(3, 0.5, 200)
    one, other = evaluation(before, tokens), evaluation(before + draw.normal(0.1, 0.02, 200), tokens)
    found = TASK.compare(other, one, metric="perplexity", name="source", seed=0)
    assert found.change == pytest.approx(100 * (1 - other.scores.main.value / one.scores.main.value), abs=1e-5)
    assert found.interval.low < found.change < found.interval.high < 0
    assert found.interval.high - found.interval.low < 2
    bits = TASK.compare(other, one, metric="bits per byte", name="source", seed=0)
    values = [each.scores.of("bits per byte").value for each in (other, one)]
    assert bits.change == pytest.approx(100 * (1 - values[0] / values[1]), abs=1e-4)
    same = TASK.compare(one, one, metric="perplexity", name="source", seed=0)
    assert (same.change, same.interval.low, same.interval.high, same.agreement, same.divergence) == (0, 0, 0, 1, 0)
    points = TASK.compare(other, one, metric="next-token accuracy", name="source", seed=0)
    assert (points.unit, points.change) == ("points", 0)
    with pytest.raises(ValueError, match="not the same ones"):
        TASK.compare(evaluation(before[:9], tokens[:9]), one, metric="perplexity", name="source", seed=0)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), near=st.floats(0, 2), words=st.integers(3, 60))
def test_divergence_is_a_lower_bound_that_is_met_where_all_words_are_kept(seed, near, words):
    draw = np.random.default_rng(seed)
    theirs = draw.normal(size=(7, words)) * 3
    mine = theirs + near * draw.normal(size=theirs.shape)
    p, q = (each - np.log(np.exp(each).sum(-1, keepdims=True)) for each in (theirs, mine))
    whole = float((np.exp(p) * (p - q)).sum(-1).mean())
    kept = [{"words": w[None], "logs": g[None]} for w, g in map(likeliest, (mine, theirs))]
    found = divergence(*kept)
    assert found is None or -1e-6 <= found <= whole + 1e-5
    if words <= 16:
        assert found == pytest.approx(whole, abs=1e-5)
    assert agreement(*kept) == (mine.argmax(-1) == theirs.argmax(-1)).mean()


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(1, 50), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_tokens_that_are_looked_at_are_spread_over_all_windows(sizes, seed):
    draw = np.random.default_rng(seed)
    windows = [draw.random(size) < 0.7 for size in sizes]
    total, before, found = sum(int(each.sum()) for each in windows), 0, 0
    for each in windows:
        chosen = looked_at(each, before, total)
        assert not (chosen & ~each).any()
        before, found = before + int(each.sum()), found + int(chosen.sum())
    assert found == min(LOOKED_AT, total)
