"""A context whose clock knows what narrower blocks take, so that what is measured is known beforehand."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tensor_rows import Context

from compressor.contracts import Workload
from compressor.model.anatomy import anatomy_of
from compressor.model.model import Model


@dataclass(frozen=True)
class Timed(Context):
    """What is measured takes what `clock` says, and is remembered."""

    clock: Callable[[Model], float] = lambda model: 0.0
    measured: list[int] = field(default_factory=list)
    """Numbers of models that were measured side by side."""
    asked: list[tuple[str, Workload]] = field(default_factory=list)
    known: dict[str, Any] = field(default_factory=dict)

    def measure(self, models, target, workload):
        self.measured.append(len(models))
        self.asked.append((target, workload))
        return [self.clock(model) for model in models]

    def remember(self, what, make):
        key = json.dumps(what, sort_keys=True)
        if key not in self.known:
            self.known[key] = make()
        return self.known[key]


def counted(model):
    """Heads and neurons of all blocks."""
    blocks = anatomy_of(model.module).blocks
    return (
        sum(block.attention.heads for block in blocks if block.attention),
        sum(block.feed_forward.width for block in blocks if block.feed_forward),
    )


def straight(model):
    """1 ms, half of one for each head, and a fiftieth of one for each neuron."""
    heads, neurons = counted(model)
    return 1 + 0.5 * heads + 0.02 * neurons
