"""Losses over a vocabulary in chunks are the plain ones, and keep no logits."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy as plain

from compressor.contracts import LikeliestLogits, Outputs, TokenLogits
from compressor.model import token_losses
from compressor.model.token_losses import cross_entropy, mean_cross_entropy, token_means

WORDS, SIZE = 23, 6


def drawn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(token_losses, "CHUNK_BYTES", 4 * WORDS * 3)


@pytest.fixture
def logits():
    labels = torch.randint(0, WORDS, (3, 7), generator=torch.Generator().manual_seed(4))
    labels[0, 4:], labels[2, 0] = -100, -100
    parts = (drawn(0, 3, 7, SIZE).requires_grad_(), drawn(1, WORDS, SIZE).requires_grad_(), drawn(2, WORDS).requires_grad_())
    return TokenLogits(*parts, labels)


def gradients(loss, logits):
    return torch.autograd.grad(loss, (logits.states, logits.weight, logits.bias))


def test_chunked_cross_entropy_is_the_plain_one_with_its_gradients(logits, small_chunks):
    whole = plain((logits.states @ logits.weight.T + logits.bias).flatten(0, 1), logits.labels.flatten(), ignore_index=-100)
    found = mean_cross_entropy(logits)
    assert found.item() == pytest.approx(whole.item(), rel=1e-12)
    for mine, theirs in zip(gradients(3 * found, logits), gradients(3 * whole, logits), strict=True):
        torch.testing.assert_close(mine, theirs)
    with torch.no_grad():
        assert mean_cross_entropy(logits).item() == pytest.approx(whole.item(), rel=1e-12)


def test_several_losses_are_learned_from_together_and_never_apart(logits, small_chunks):
    other = Outputs(TokenLogits(drawn(5, 3, 7, 4), drawn(6, WORDS, 4)))

    def apart(chunk):
        return (chunk.logits - chunk.of(other)).square().sum(-1)

    found = token_means(logits, {"words": cross_entropy, "apart": apart}, {"apart": 0.5})
    counted = logits.labels >= 0
    whole = (logits.states @ logits.weight.T + logits.bias)[counted]
    squares = (whole - other.main[counted]).square().sum(-1).mean()
    assert found["apart"].item() == pytest.approx(0.5 * squares.item(), rel=1e-12)
    wanted = plain(whole, logits.labels[counted]) + 0.5 * squares
    for mine, theirs in zip(gradients(sum(found.values()), logits), gradients(wanted, logits), strict=True):
        torch.testing.assert_close(mine, theirs)
    with pytest.raises(RuntimeError, match="only the sum"):
        token_means(logits, {"words": cross_entropy, "apart": apart})["words"].backward()


def test_where_no_token_counts_the_loss_is_zero_and_so_are_gradients(logits):
    found = mean_cross_entropy(replace(logits, labels=torch.full((3, 7), -100)))
    assert found.item() == 0
    assert all(each.eq(0).all() for each in gradients(found, logits))


def test_low_precision_is_that_of_the_product_and_losses_are_in_full(logits):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        states, weight = drawn(0, 3, 7, SIZE).float().requires_grad_(), drawn(1, WORDS, SIZE).float().requires_grad_()
        low = TokenLogits(states, weight, labels=logits.labels, dtype=torch.bfloat16)
        found = mean_cross_entropy(low)
    found.backward()
    whole = (states.bfloat16() @ weight.bfloat16().T).float()
    assert found.item() == pytest.approx(plain(whole.flatten(0, 1), logits.labels.flatten()).item(), rel=1e-6)
    assert (found.dtype, weight.grad.dtype) == (torch.float32, torch.float32)
    torch.testing.assert_close(low.whole(), whole)


def test_outputs_compute_what_is_put_off_when_it_is_read_and_once(logits):
    made = Outputs(logits, mask=torch.ones(3, 7))
    assert made.having("hidden-state", {"block": drawn(8, 1)}).tokens is logits
    assert made.main is made.logits
    torch.testing.assert_close(made.main, logits.states @ logits.weight.T + logits.bias)
    there = Outputs(drawn(0, 2, 3))
    assert (there.later, there.tokens, there.main.shape, there.device.type) == (None, None, (2, 3), "cpu")
    torch.testing.assert_close(replace(made, mask=None).main, made.main)


def test_a_step_keeps_neither_logits_nor_their_gradients(monkeypatch):
    monkeypatch.setattr(token_losses, "CHUNK_BYTES", 4 * 5000 * 8)
    states, weight = torch.randn(64, 4, 8, requires_grad=True), torch.randn(5000, 8, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: (kept.append(tensor.numel()), tensor)[1], lambda tensor: tensor):
        loss = mean_cross_entropy(TokenLogits(states, weight, labels=torch.randint(0, 5000, (64, 4))))
    loss.backward()
    assert max(kept, default=0) < 256 * 5000 / 10
    assert weight.grad.abs().sum() > 0


# ------------------------------------------------------------------ the likeliest words


def likeliest(logits, kept):
    logs = logits.log_softmax(-1)
    best = logs.topk(kept, dim=-1)
    rest = logs.exp().scatter(-1, best.indices, 0).sum(-1).log()
    return LikeliestLogits(best.indices, best.values, rest, logits.shape[-1])


def kl(log_p, log_q):
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def test_the_likeliest_words_give_a_divergence_that_is_too_small_by_what_the_others_diverge():
    teacher, student = 2 * drawn(0, 2, 3, WORDS), 2 * drawn(1, 2, 3, WORDS)
    held, every = likeliest(teacher, 5), torch.arange(6)
    mine, theirs = (each.flatten(0, 1).log_softmax(-1) for each in (student, teacher))
    found = kl(held.at(every, mine), mine)
    others = torch.ones_like(mine).scatter(-1, held.words.flatten(0, 1), 0).bool()
    among = [each.masked_fill(~others, -1e9).log_softmax(-1) for each in (theirs, mine)]
    short = held.rest.flatten().exp() * kl(*among)
    torch.testing.assert_close(found + short, kl(theirs, mine))
    assert (short > 0).all()
    torch.testing.assert_close(kl(held.at(every, theirs), theirs), torch.zeros(6, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(likeliest(teacher, WORDS).at(every, mine), theirs)
    torch.testing.assert_close(held.whole().exp().sum(-1), torch.ones(2, 3, dtype=torch.float64))


@pytest.mark.parametrize("kept", [5, 7])
def test_words_that_a_teacher_rules_out_count_nothing(kept):
    teacher, student = drawn(0, 2, 3, WORDS), drawn(1, 2, 3, WORDS)
    teacher[..., 5:] = -torch.inf
    mine, theirs = (each.flatten(0, 1).log_softmax(-1) for each in (student, teacher))
    found = likeliest(teacher, kept).at(torch.arange(6), mine)
    torch.testing.assert_close(kl(found, mine), kl(theirs[:, :5], mine[:, :5]))
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(6, dtype=torch.float64))
