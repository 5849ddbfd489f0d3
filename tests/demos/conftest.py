"""Runs of tiny models, one for each kind of task; each is made once, when a test first asks for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compressor.contracts import registry
from compressor.plan.bound import load_plan
from compressor.plan.yaml_source import write_yaml
from compressor.run.pipeline import run_plan
from compressor.store.store import Store

TRAINED = [{"finetune": {"epochs": 2, "batch_size": 4, "learning_rate": 0.003, "precision": "fp32"}}]
LATENCY = [{"latency": {"rounds": 5, "seconds": 1, "warm_up_seconds": 0.02, "inputs": 2, "controls": 1, "control_limit": 0.99}}]
TASKS = {
    "text": ("text-classification", {"max_length": 16}),
    "pair": ("text-classification", {"text": ["premise", "hypothesis"], "max_length": 24}),
    "labels": ("text-classification", {"label": "labels", "multi_label": True, "max_length": 16}),
    "number": ("text-regression", {"text": ["first", "second"], "label": "score", "max_length": 24}),
    "image": ("image-classification", {}),
    "audio": ("audio-classification", {"seconds": 0.5}),
    "features": ("audio-features", {"seconds": 0.5, "linear_probes": {"label": {"label": "label"}}}),
    "language": ("causal-lm", {"max_length": 64}),
}


def make_run(name: str, folder: Path) -> Path:
    """A run of the tiny model of a task, trained a little and quantised."""
    task, parameters = TASKS[name]
    kind = registry.load("task", task)
    made = kind.written(parameters) if parameters else kind()
    data = made.tiny(folder)
    untrained = name == "features"
    plan = {
        "name": f"tiny-{name}",
        "model": {"folder": "pretrained"},
        "task": {task: parameters or None},
        "data": dict(data),
        "reference": "source" if untrained else "finetune",
        "passes": [*([] if untrained else TRAINED), {"quantize-dynamic": None}],
        "targets": ["onnxruntime"],
        **({"probes": LATENCY} if name == "text" else {}),
    }
    path = folder / "plan.yaml"
    path.write_text(write_yaml(json.loads(json.dumps(plan))), encoding="utf-8")
    report = run_plan(
        load_plan(path),
        store=Store(folder / "store"),
        folder=folder / "run",
        command=f"compressor run {path}",
        tell=lambda _: None,
    )
    assert report.error is None, report.error
    return folder / "run"


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """The folder of a run by the name of its kind of task."""
    made: dict[str, Path] = {}

    def run(name: str) -> Path:
        if name not in made:
            made[name] = make_run(name, tmp_path_factory.mktemp(name))
        return made[name]

    return run
