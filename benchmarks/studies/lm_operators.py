"""Which operators the time of decoding goes into, by each runtime's own profiler."""

from __future__ import annotations

import json
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.contracts import Feed, Session, Target, registry
from compressor.tasks.language.cache import IDS, KEPT, MASK
from compressor.tasks.language.decoding import decoded, filled

if TYPE_CHECKING:
    import onnxruntime

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


def _decode(session: Session, feed: Feed) -> None:
    decoded(session, filled(session, feed), PASSES + 1)


def _torch(runtime: Target, built: Path, feed: Feed) -> dict[str, float]:
    from torch.profiler import ProfilerActivity, profile

    session = runtime.open(built)
    start = filled(session, feed)
    decoded(session, start, 2)
    with profile(activities=[ProfilerActivity.CPU]) as spent:
        decoded(session, start, PASSES + 1)
    return {each.key: each.self_cpu_time_total / 1e6 / PASSES for each in spent.key_averages()}


def _profiled(runtime: Any, file: Path, **_: object) -> onnxruntime.InferenceSession:
    """A session that writes down what each operator took, with the target's threads."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = runtime.threads, 1
    options.enable_profiling = True
    options.profile_file_prefix = str(Path(tempfile.mkdtemp(prefix="compressor-profile-")) / "spent")
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def _onnxruntime(runtime: Target, built: Path, feed: Feed) -> dict[str, float]:
    """Of calls on one token alone: the prompt's call comes first."""
    kind: Any = type("Profiled", (type(runtime),), {"__module__": __name__, "_session": _profiled})
    session = kind(threads=runtime.threads).open(built)
    _decode(session, feed)
    path = Path(session._graphs["model"].session.end_profiling())
    events = json.loads(path.read_text(encoding="utf-8"))
    runs = sorted(each["ts"] for each in events if each["name"] == "model_run")
    found = defaultdict[str, float](float)
    for each in events:
        if each.get("cat") == "Node" and each["name"].endswith("_kernel_time") and each["ts"] >= runs[1]:
            found[each["args"]["op_name"]] += each["dur"] / 1e6 / (len(runs) - 1)
    path.unlink()
    path.parent.rmdir()
    return found


def _openvino(runtime: Target, built: Path, feed: Feed) -> dict[str, float]:
    """Of the last call."""
    import numpy as np

    core = sys.modules[type(runtime).__module__]._core()
    core.set_property("CPU", {"PERF_COUNT": "YES"})
    session: Any = runtime.open(built)
    _, mask, state = filled(session, feed)
    one = np.zeros((1, 1), np.int64)
    _, state = session.run({IDS: one, MASK: np.concatenate([mask, one + 1], axis=1), KEPT: one[0]}, state=state)
    found = defaultdict[str, float](float)
    for each in state.line.held.get_profiling_info():
        found[each.node_type] += each.real_time.total_seconds()
    return found
