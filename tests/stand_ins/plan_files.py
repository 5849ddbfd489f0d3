"""Plan files of any content, read in bounded time."""

from __future__ import annotations

import time
from pathlib import Path

from compressor.errors import PlanError
from compressor.foreign import one_line
from compressor.plan.bound import Bound, load_plan

SECONDS_A_PLAN = 5.0
"""A plan of the greatest size takes about a second; one that takes longer than this hangs."""


def loaded(folder: Path, text: str | bytes, *settings: str) -> Bound | PlanError:
    """The outcome of reading a plan, in bounded time."""
    path = folder / "plan.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    start = time.process_time()
    try:
        outcome: Bound | PlanError = load_plan(path, settings=settings)
    except PlanError as error:
        outcome = error
    if isinstance(outcome, PlanError):
        assert outcome.faults
        assert all(fault.line >= 1 and fault.what and one_line(str(fault)) == str(fault) for fault in outcome.faults)
    assert time.process_time() - start < SECONDS_A_PLAN
    return outcome
