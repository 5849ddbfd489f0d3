"""Two models decode as the model alone does: the same most probable tokens, and draws of the same distribution."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from compressor.deploy.session import EagerSession
from compressor.model import Model
from compressor.tasks.inputs.generation import warped
from compressor.tasks.language.decoding import decoded, filled
from compressor.tasks.language.scoring import fed
from compressor.tasks.language.speculation import speculated

from .conftest import TARGETS

STEPS, PROMPT = 12, [5, 9, 30, 41, 77, 12, 8]
DRAWS = 6000


def prompt(padding: int = 0):
    ids, mask = np.array([[0] * padding + PROMPT]), np.array([[0] * padding + [1] * len(PROMPT)])
    return {**fed(ids, mask), "logits_at": np.array([ids.shape[1] - 1])}


@pytest.fixture(scope="module")
def draft(llama):
    """The model with noise on its weights: right often, not always."""
    from copy import deepcopy

    torch.manual_seed(1)
    module = deepcopy(llama.model.module)
    for parameter in module.parameters():
        parameter.data += 0.15 * parameter.data.std() * torch.randn_like(parameter)
    return EagerSession(llama.task, Model.wrap(module), llama.task.graphs(llama.files), "cpu")


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("ahead", [1, 4])
def test_most_probable_tokens_are_exactly_those_of_plain_decoding(name, ahead, llama, draft):
    session = llama.session(name)
    plain = decoded(session, filled(session, prompt()), STEPS)
    found = speculated(session, draft, prompt(padding=3), STEPS, ahead=ahead)
    assert found.tokens.tolist() == plain.tolist()
    assert 0 < found.accepted <= found.proposed
    assert found.calls < STEPS
    assert found.acceptance_length == pytest.approx(STEPS / found.calls)


def test_a_draft_that_is_the_model_is_always_right(llama):
    session = llama.session("onnxruntime")
    found = speculated(session, llama.session("pytorch"), prompt(), 15, ahead=4)
    assert (found.accepted, found.proposed, found.calls) == (12, 12, 3)


def test_nothing_comes_after_the_end(llama, draft):
    session = llama.session("pytorch")
    plain = decoded(session, filled(session, prompt()), STEPS)[0].tolist()
    found = speculated(session, draft, prompt(), STEPS, ends=(plain[4],))
    assert found.tokens[0].tolist() == plain[: plain.index(plain[4]) + 1]


class Bigrams:
    """A model that looks at the newest token alone: what it does can be counted by hand."""

    def __init__(self, seed: int):
        self.logits = 1.5 * np.random.default_rng(seed).standard_normal((4, 4))

    def run(self, feed, *, graph="model", state=None):
        return {"logits": self.logits[feed["input_ids"]][:, feed["logits_at"]]}, feed["attention_mask"].shape[1]

    def cut(self, state, length, *, graph="model"):
        assert length < state
        return length


@pytest.mark.parametrize("how", [{"temperature": 1.0}, {"temperature": 0.7, "top_k": 3}, {"top_p": 0.8}], ids=str)
def test_draws_are_distributed_as_those_of_the_model_alone(how):
    """Pearson's statistic over all sequences of three tokens, against its quantile of 1 in 10,000."""
    from scipy.stats import chi2

    model, other = Bigrams(0), Bigrams(1)
    feed = {**fed(np.array([[1]]), np.array([[1]])), "logits_at": np.array([0])}
    counts = np.zeros((4, 4, 4))
    for seed in range(DRAWS):
        counts[tuple(speculated(model, other, feed, 3, ahead=2, how=how, seed=seed).tokens[0])] += 1
    shares = warped(model.logits, how)
    expected = np.array([shares[1, a] * shares[a, b] * shares[b, c] for a, b, c in product(range(4), repeat=3)]) * DRAWS
    possible = expected > 0
    assert counts.ravel()[~possible].sum() == 0
    statistic = ((counts.ravel() - expected)[possible] ** 2 / expected[possible]).sum()
    assert statistic < chi2.ppf(0.9999, possible.sum() - 1)
    drafted = warped(other.logits, how)
    wrong = np.array([drafted[1, a] * drafted[a, b] * drafted[b, c] for a, b, c in product(range(4), repeat=3)]) * DRAWS
    assert ((counts.ravel() - wrong)[wrong > 0] ** 2 / wrong[wrong > 0]).sum() > 10 * statistic


def test_equal_seeds_draw_equal_tokens(llama, draft):
    session, how = llama.session("pytorch"), {"temperature": 2.0}
    found = [speculated(session, draft, prompt(), 6, how=how, seed=seed).tokens.tolist() for seed in (3, 3, 4)]
    assert found[0] == found[1] != found[2]
