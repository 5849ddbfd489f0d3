"""How long a training is: steps that learn from so many tokens, and the steps after which validation is looked at."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

from compressor.contracts import Batch
from compressor.errors import PluginError


def steps_for(budget: int, batches: Callable[[int], Iterable[Batch]], weight: Callable[[Batch], float]) -> int:
    """Steps until a budget is learned from, by what the batches of epoch after epoch weigh.

    Raises:
        PluginError: an epoch weighs nothing.
    """
    steps, left = 0, float(budget)
    for epoch in itertools.count():
        before = left
        for batch in batches(epoch):
            steps, left = steps + 1, left - weight(batch)
            if left <= 0:
                return steps
        if left == before:
            break
    raise PluginError(f"an epoch has nothing that counts, and {budget} are to be learned from")


def looked_at(total: int, looks: int | None) -> frozenset[int] | None:
    """The steps of a training, counted from 1, after which validation is looked at; None where that is after each epoch."""
    return None if looks is None else frozenset(-(-total * look // looks) for look in range(1, looks + 1))
