"""Decoding with a cache is a full pass at every position, on every target, for prompts of several lengths padded on either side."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from compressor.contracts import Workload
from compressor.errors import UnsupportedModel
from compressor.tasks.language.decoding import decoded, filled, sampling
from compressor.tasks.language.scoring import fed, padded

from .conftest import TARGETS

STEPS = 6
PROMPTS = ([5, 9, 30, 41, 77, 12, 8], [100, 3, 61], [44])


def ragged(side: str):
    ids, mask = padded([np.array(each) for each in PROMPTS])
    if side == "left":
        ids, mask = (
            np.stack([np.roll(row, len(row) - len(each)) for row, each in zip(array, PROMPTS, strict=True)])
            for array in (ids, mask)
        )
    return {**fed(ids, mask), "logits_at": np.array([ids.shape[1] - 1])}


def plain_logits(module, tokens):
    """Of every position of one text alone, by the library's own call."""
    with torch.no_grad():
        return module(input_ids=torch.tensor([tokens])).logits[0].numpy()


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_cached_decoding_is_the_full_pass_at_every_position(name, side, llama):
    session = llama.session(name)
    start = filled(session, ragged(side))
    made = decoded(session, start, STEPS)
    assert made.shape == (len(PROMPTS), STEPS)
    for row, prompt in enumerate(PROMPTS):
        whole = plain_logits(llama.model.module, [*prompt, *made[row].tolist()])
        np.testing.assert_allclose(start[0][row], whole[len(prompt) - 1], atol=2e-4)
        assert made[row].tolist() == whole[len(prompt) - 1 : -1].argmax(-1).tolist()


@pytest.mark.parametrize("name", TARGETS)
def test_logits_of_each_cached_step_are_those_of_the_full_pass(name, llama):
    """Also where a text goes in by parts, and where several places of one call are wanted."""
    session, ids = llama.session(name), np.array([[5, 9, 30, 41, 77, 12, 8, 3, 61]])
    expected, state, at = plain_logits(llama.model.module, ids[0].tolist()), None, 0
    for size in (4, 1, 3, 1):
        part = {**fed(ids[:, at : at + size], np.ones((1, at + size), dtype=np.int64))}
        found, state = session.run(part, state=state)
        np.testing.assert_allclose(found["logits"][0], expected[at : at + size], atol=2e-4)
        at += size


@pytest.mark.parametrize("name", TARGETS)
def test_logits_come_of_the_places_that_are_wanted(name, llama):
    ids = np.array([[5, 9, 30, 41, 77]])
    found, _ = llama.session(name).run({**fed(ids, np.ones_like(ids)), "logits_at": np.array([3, 1])})
    np.testing.assert_allclose(found["logits"][0], plain_logits(llama.model.module, ids[0].tolist())[[3, 1]], atol=2e-4)


@pytest.mark.parametrize("name", TARGETS)
def test_scores_are_those_of_the_plain_loss_on_every_target(name, llama, task, rows):
    session = llama.session(name)
    found = task.evaluate(lambda feed: task.call(session, feed), rows, llama.candidate(name).built, split="test")
    for row, text in enumerate(rows["text"]):
        cost = tokens = 0.0
        for batch in task.batches(rows.select([row]), llama.files, batch_size=1):
            with torch.no_grad():
                loss = task.loss(task.forward(llama.model.module, batch), batch)
            cost, tokens = cost + float(loss) * task.weight(batch), tokens + task.weight(batch)
        assert found.outputs["nats"][row] * tokens == pytest.approx(cost, rel=1e-4), text
        assert found.outputs["tokens"][row] == tokens


def test_a_row_that_has_ended_repeats_its_end(llama):
    session = llama.session("pytorch")
    start = filled(session, ragged("left"))
    free = decoded(session, start, STEPS)
    end = int(free[0, 1])
    found = decoded(session, start, STEPS, ends=[end])
    first = [row.tolist().index(end) if end in row else STEPS for row in free]
    for row, place in enumerate(first):
        assert found[row, : place + 1].tolist() == free[row, : min(place + 1, found.shape[1])].tolist()
        assert set(found[row, place:].tolist()) <= {end}


def test_samples_are_those_of_their_seed_and_follow_the_logits(llama):
    session = llama.session("pytorch")
    start = filled(session, ragged("left"))
    runs = [decoded(session, start, STEPS, choose=sampling(seed, {"temperature": 0.8, "top_k": 5})) for seed in (1, 1, 2)]
    assert runs[0].tolist() == runs[1].tolist() != runs[2].tolist()
    best = np.argsort(-start[0], axis=-1)[:, :5]
    assert all(runs[0][row, 0] in best[row] for row in range(len(PROMPTS)))
    logits = np.log(np.array([[0.5, 0.3, 0.15, 0.05]]))
    draw = sampling(0, {"top_p": 0.6})
    counts = np.bincount([int(draw(logits)[0]) for _ in range(4000)], minlength=4) / 4000
    np.testing.assert_allclose(counts, [0.625, 0.375, 0, 0], atol=0.03)


def test_what_ends_the_process_in_openvino_is_refused(llama):
    from compressor.deploy.openvino import core

    if "BF16" not in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this processor does not compute in bf16")
    candidate = llama.candidate("openvino")
    for precision in ("bf16", "default"):
        with pytest.raises(UnsupportedModel, match="threads: 2, or precision: f32"):
            candidate.runtime.model_copy(update={"precision": precision}).open(candidate.built)


def test_timed_calls_prepare_a_cache_once(llama, task, rows):
    session = llama.session("pytorch")
    workload = Workload(kind="decode", batch=2, length=9, steps=STEPS - 1)
    (feed,) = task.feeds(rows, llama.files, workload, count=1)
    assert feed["input_ids"].shape == (2, 9)
    start = task.prepare(session, feed, workload)
    calls, run = [], session.run
    session.run = lambda *given, **named: calls.append(1) or run(*given, **named)
    made = [task.call(session, feed, workload, start)["tokens"].tolist() for _ in range(2)]
    assert len(calls) == 2 * workload.steps, "a token of a throughput is a call of the graph"
    whole = task.call(session, feed, Workload(kind="generate", batch=2, length=9, steps=STEPS))["tokens"].tolist()
    assert made == [[each[1:] for each in whole]] * 2, "the first one is there with the cache"
