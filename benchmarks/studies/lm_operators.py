"""Which operators the time of decoding goes into, by each runtime's own profiler."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from compressor.contracts import Feed, Session, Target, registry
from compressor.deploy.openvino import core
from compressor.tasks.language.cache import IDS, KEPT, MASK
from compressor.tasks.language.decoding import decoded, filled

PASSES = 8
MOST = 6
"""Kinds of operators that are told."""


def operators(runtime: Target, built: Path, feed: Feed) -> dict[str, float]:
    """Seconds of a pass by kind of operator, the costliest first; empty where the runtime has no profiler that can be reached."""
    profilers = {"pytorch": _torch, "onnxruntime": _onnxruntime, "openvino": _openvino}
    for name, profiler in profilers.items():
        if isinstance(runtime, registry.load("target", name)):
            found = profiler(runtime, built, feed)
            return dict(sorted(found.items(), key=lambda each: -each[1])[:MOST])
    return {}


def _torch(runtime: Target, built: Path, feed: Feed) -> dict[str, float]:
    from torch.profiler import ProfilerActivity, profile

    session = runtime.open(built)
    start = filled(session, feed)
    decoded(session, start, 2)
    with profile(activities=[ProfilerActivity.CPU]) as spent:
        decoded(session, start, PASSES + 1)
    return {each.key: each.self_cpu_time_total / 1e6 / PASSES for each in spent.key_averages()}


def _onnxruntime(runtime: Target, built: Path, feed: Feed) -> dict[str, float]:
    """Of tokens after the prompt."""

    def prepare(session: Session) -> Callable[[], None]:
        start = filled(session, feed)

        def call() -> None:
            decoded(session, start, PASSES + 1)

        return call

    watched, found = runtime.profile(built, prepare, calls=2), defaultdict[str, float](float)
    for each in watched.operators if watched else ():
        found[each.kind] += each.ms / 1e3 / PASSES
    return found


def _openvino(runtime: Target, built: Path, feed: Feed) -> dict[str, float]:
    """Of the token after the prompt: counters are means over all runs of a request, of which the prompt's is the first."""
    import numpy as np

    counters = import_module(f"{type(runtime).__module__}_profile").counters
    core().set_property("CPU", {"PERF_COUNT": "YES"})
    session: Any = runtime.open(built)
    _, mask, state = filled(session, feed)
    before = {each.name: each.seconds for each in counters(state.line.held, 1)}
    one = np.zeros((1, 1), np.int64)
    _, state = session.run({IDS: one, MASK: np.concatenate([mask, one + 1], axis=1), KEPT: one[0]}, state=state)
    found = defaultdict[str, float](float)
    for each in counters(state.line.held, 2):
        found[each.kind] += max(0.0, each.seconds - before.get(each.name, 0.0))
    return found
