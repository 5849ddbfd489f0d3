"""Runtimes choose the same tokens; ties are counted by themselves."""

from __future__ import annotations

import numpy as np
import pytest

from compressor.tasks.language.agreement import agreement
from compressor.tasks.language.scoring import fed, padded

PROMPTS = ([5, 9, 30, 41, 77, 12, 8], [100, 3, 61], [44])


def prompts():
    ids, mask = padded([np.array(each) for each in PROMPTS])
    return {**fed(ids, mask), "logits_at": np.array([ids.shape[1] - 1])}


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_runtimes_choose_the_tokens_of_torch(name, llama):
    found = agreement(llama.session("pytorch"), llama.session(name), prompts(), 12)
    assert (found.steps, found.different) == (36, 0)


class Nudged:
    """A session that gives some token more than the one it takes for the best."""

    def __init__(self, session, by):
        self.session, self.by = session, by

    def run(self, feed, *, graph="model", state=None):
        outputs, state = self.session.run(feed, graph=graph, state=state)
        logits = outputs["logits"].copy()
        order = np.argsort(logits, axis=-1)
        best = np.take_along_axis(logits, order[..., -1:], axis=-1)
        np.put_along_axis(logits, order[..., -2:-1], best + self.by, axis=-1)
        return {"logits": logits}, state


@pytest.mark.parametrize(("by", "expected"), [(5e-5, (15, 15, 0)), (1e-2, (15, 0, 15))])
def test_what_differs_by_less_than_rounding_is_a_tie(by, expected, llama):
    session = llama.session("pytorch")
    found = agreement(session, Nudged(session, by), prompts(), 5)
    assert (found.steps, found.ties, found.different) == expected
