"""Candidates timed side by side for the run itself: for a gate, for a budget of latency, for two runs held against each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from compressor.contracts import Candidate, Event, Feed, Probe, Workload, registry
from compressor.contracts.records import LatencyRecord
from compressor.deploy.bench import ProcessBench
from compressor.errors import MissingDependency


def latency_probe() -> Probe:
    """The first installed probe that measures latency, with its default parameters.

    Raises:
        MissingDependency: there is none.
    """
    names = registry.latency_probes()
    if not names:
        raise MissingDependency("no installed probe measures latency: install compressor-toolchain anew, its own does")
    found: Probe = registry.load("probe", names[0])()
    return found


def time_candidates(
    candidates: Sequence[Candidate],
    feeds: Sequence[Feed],
    workload: Workload,
    *,
    folder: Path,
    seconds: float,
    seed: int,
    tell: Callable[[Event], None],
    probe: Probe | None = None,
) -> LatencyRecord:
    """Time candidates at one workload in about `seconds`; by `probe` as it is where one is given.

    Raises:
        WorkerFailed: a measuring process died or hangs.
    """
    probe = probe or latency_probe().only(workload, seconds=seconds)
    with ProcessBench(folder, tell=tell) as bench:
        record = probe.measure(candidates, dict.fromkeys(probe.workloads(), feeds), bench, seed=seed)
    assert isinstance(record, LatencyRecord), f"{type(probe).__name__} says that it measures latency"
    return record
