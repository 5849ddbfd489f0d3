"""Documents of one training row do not see one another, and what is learned does not depend on how they are put together."""

from __future__ import annotations

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compressor.model import Model
from compressor.tasks.language.causal_lm import CausalLM
from compressor.tasks.language.packing import packed
from compressor.tasks.tiny import language_model

KINDS = ("llama", "gpt2", "gemma", "qwen3", "mistral")


@pytest.fixture(scope="module", params=KINDS)
def other(request, task, tmp_path_factory):
    """A model of each family that is taken, with the files beside it."""
    root = tmp_path_factory.mktemp(request.param)
    language_model(root / "source", request.param)
    model = task.load(root / "source", None, seed=0)
    model.save(root / "kept")
    return model, root / "kept"


def two(text):
    """A text, and another one that may change."""
    return datasets.Dataset.from_dict({"text": ["word1 red word2 blue", text]})


def the_packed_row(task, rows, files):
    (batch,) = task.batches(rows, files, batch_size=4, shuffle_seed=0)
    assert batch["row"].tolist() in ([[0, 1]], [[1, 0]])
    return batch


def of_row(batch, number):
    """Places of a document in its training row."""
    starts = [*np.flatnonzero(batch["position_ids"][0].numpy() == 0), batch["input_ids"].shape[1]]
    place = batch["row"][0].tolist().index(number)
    return slice(starts[place], starts[place + 1])


def test_another_document_changes_no_logit_and_no_gradient(other, task):
    model, files = other
    found = []
    for text in ("red word4 green", "blue word9 é a"):
        batch = the_packed_row(task, two(text), files)
        own = of_row(batch, 0)
        mine = {**batch, "labels": torch.full_like(batch["labels"], -100)}
        mine["labels"][:, own] = batch["labels"][:, own]
        model.module.zero_grad()
        outputs = task.forward(model.module, mine)
        task.loss(outputs, mine).backward()
        gradients = {name: each.grad.clone() for name, each in model.module.named_parameters() if each.grad is not None}
        found.append((outputs.main[0, own].detach(), gradients, batch["input_ids"][0, own]))
    (logits, gradients, ids), (others, their_gradients, their_ids) = found
    assert ids.tolist() == their_ids.tolist()
    np.testing.assert_allclose(logits, others, atol=1e-5)
    assert gradients.keys() == their_gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, their_gradients[name], atol=1e-5, rtol=1e-4, msg=name)


def test_a_packed_document_is_the_document_alone(other, task):
    model, files = other
    rows = two("red word4 green")
    batch = the_packed_row(task, rows, files)
    with torch.no_grad():
        together = task.forward(model.module, batch).main[0]
        for number in range(2):
            (alone,) = task.batches(rows.select([number]), files, batch_size=1)
            own = of_row(batch, number)
            valid = int(alone["attention_mask"].sum())
            assert alone["input_ids"][0, :valid].tolist() == batch["input_ids"][0, own][:valid].tolist()
            expected = task.forward(model.module, alone).main[0, :valid]
            np.testing.assert_allclose(together[own][:valid], expected, atol=1e-4)


def test_a_packed_epoch_costs_what_its_documents_cost_alone(llama, task, rows):
    sums = {}
    for name, of in {"packed": task, "alone": task.model_copy(update={"packing": False})}.items():
        with torch.no_grad():
            batches = list(of.batches(rows, llama.files, batch_size=3, shuffle_seed=1))
            sums[name] = [sum(float(of.loss(of.forward(llama.model.module, each), each)) * of.weight(each) for each in batches)]
            sums[name].append(sum(of.weight(each) for each in batches))
            sums[name].append(sum(each["input_ids"].numel() for each in batches))
    assert sums["packed"][1] == sums["alone"][1]
    assert sums["packed"][0] == pytest.approx(sums["alone"][0], rel=1e-5)
    assert sums["packed"][2] <= sums["alone"][2]


def test_batches_are_those_of_their_seed(llama, task, rows):
    def made(seed):
        return [each["input_ids"].tolist() for each in task.batches(rows, llama.files, batch_size=1, shuffle_seed=seed)]

    assert made(1) == made(1)
    assert sorted(made(1)) == sorted(made(2))
    assert len({str(made(seed)) for seed in range(8)}) > 1


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(1, 20), max_size=40), size=st.integers(20, 40))
def test_every_window_is_packed_once_and_no_row_is_too_long(lengths, size):
    rows = packed(lengths, size)
    assert sorted(number for row in rows for number in row) == list(range(len(lengths)))
    assert all(sum(lengths[number] for number in row) <= size for row in rows)
    if sum(lengths):
        assert len(rows) <= 1 + 2 * sum(lengths) // size


def test_parts_of_a_batch_weighed_by_tokens_are_the_whole(llama, task, rows):
    """As accumulation and several processes compute it."""
    from compressor.training.group import parts

    (batch,) = task.model_copy(update={"packing": False}).batches(rows, llama.files, batch_size=16, shuffle_seed=0)
    model = Model.load(llama.files)

    def gradient(pieces):
        model.module.zero_grad()
        total = 0.0
        for part, share in pieces:
            loss = task.loss(task.forward(model.module, part), part) * share
            loss.backward()
            total += float(loss.detach())
        return total, model.module.model.layers[0].mlp.up_proj.weight.grad.clone()

    whole, once = gradient([(batch, 1.0)])
    summed, several = gradient([each for rank in range(2) for each in parts(batch, rank, 2, 2, task.weight)])
    assert summed == pytest.approx(whole, rel=1e-5)
    torch.testing.assert_close(several, once, atol=1e-6, rtol=1e-4)


def test_the_loss_is_the_plain_one(llama, task, rows):
    """However few words are looked at together, it is cross-entropy over all tokens that count."""
    from unittest.mock import patch

    (batch,) = task.model_copy(update={"packing": False}).batches(rows, llama.files, batch_size=16, shuffle_seed=0)
    with torch.no_grad():
        logits = llama.model.module(input_ids=batch["input_ids"]).logits[:, :-1].flatten(0, 1)
        expected = float(torch.nn.functional.cross_entropy(logits, batch["labels"][:, 1:].flatten(), ignore_index=-100))
        for most in (2**25, 4 * 269 * 3):
            with patch("compressor.model.token_losses.CHUNK_BYTES", most):
                assert float(task.loss(task.forward(llama.model.module, batch), batch)) == pytest.approx(expected, rel=1e-5)


def test_without_packing_rows_of_like_lengths_stand_together(llama, rows):
    task = CausalLM(max_length=48, packing=False)
    assert all(each["row"].ndim == 1 for each in task.batches(rows, llama.files, batch_size=2, shuffle_seed=3))
