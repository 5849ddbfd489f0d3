"""Models that a run comes to later, lowered by a process beside it: an export keeps one core busy with Python, and there are others.

Both go through the store. Whoever comes to a model first makes it; the other one finds it, or waits for it.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compressor.contracts import Target
from compressor.deploy.build import Builder
from compressor.deploy.worker import die_with
from compressor.run.state import StageState
from compressor.store.store import Store, StoredResult

LEAST_WEIGHTS = 1_000_000
"""Of each model: smaller ones are exported before a process has imported what that takes."""
FEWEST = 3
"""Models that are still to be lowered, for the same reason."""


@contextmanager
def lowered_ahead(builder: Builder, target: Target, states: Sequence[StageState]) -> Iterator[None]:
    """Have a process lower torch models to a target's format meanwhile, the last one first, where that pays.

    It ends with the context, and with this process however that ends (Linux). What fails there is told when the run comes to it.
    """
    left = [state.made for state in states if not builder.is_lowered(state.made, state.format, target)]
    small = any((state.stage.weights or 0) < LEAST_WEIGHTS for state in states)
    if len(left) < FEWEST or small or (os.cpu_count() or 1) < 2:
        yield
        return
    known = {name: value for name, value in vars(builder).items() if name != "store"}
    process = multiprocessing.get_context("spawn").Process(
        target=_lower, args=(os.getpid(), builder.store.root, builder.store.plan, known, target, left[::-1]), daemon=True
    )
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


def _lower(parent: int, root: Path, plan: str, known: Mapping[str, Any], target: Target, models: Sequence[StoredResult]) -> None:
    """Lower with a builder that knows this, in a process that says nothing."""
    die_with(parent)
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(null, stream)
    from compressor.deploy.telemetry import quiet

    quiet()
    builder = Builder(Store(root, plan=plan), **known)
    for made in models:
        builder.lower(made, "torch", target.dialect.format, target)
