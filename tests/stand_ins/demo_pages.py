"""Runs of tiny models, one for each kind of task, and pages of demos that the command line serves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compressor.contracts import registry
from compressor.plan.bound import load_plan
from compressor.plan.yaml_source import write_yaml
from compressor.run.pipeline import run_plan
from compressor.store.store import Store

LOOPBACK_ONLY = Path(__file__).with_name("loopback_only")
TARGET = "onnxruntime"
TRAINED = {"finetune": {"epochs": 4, "batch_size": 4, "learning_rate": 0.003, "precision": "fp32"}}
LATENCY = {"latency": {"rounds": 5, "seconds": 0.5, "warm_up_seconds": 0.02, "inputs": 2, "controls": 1, "control_limit": 0.99}}
TASKS = {
    "text": ("text-classification", {"max_length": 16}),
    "pair": ("text-classification", {"text": ["premise", "hypothesis"], "max_length": 24}),
    "labels": ("text-classification", {"label": "labels", "multi_label": True, "max_length": 16}),
    "number": ("text-regression", {"text": ["first", "second"], "label": "score", "max_length": 24}),
    "image": ("image-classification", {}),
    "audio": ("audio-classification", {"seconds": 0.5}),
    "features": ("audio-features", {"seconds": 0.5, "linear_probes": {"label": {"label": "label"}}}),
    "language": ("causal-lm", {"max_length": 64}),
    "drawing": ("image-generation", {"steps": 2}),
}
START_SECONDS = 120


def make_run(name: str, folder: Path) -> Path:
    """A run of the tiny model of a task, quantised; that of texts is trained and loses a layer before, so that rows change."""
    task, parameters = TASKS[name]
    kind = registry.load("task", task)
    data = (kind.written(parameters) if parameters else kind()).tiny(folder)
    whole = name == "text"
    plan = {
        "name": f"tiny-{name}",
        "model": {"folder": "pretrained"},
        "task": {task: parameters or None},
        "data": dict(data),
        "reference": "finetune" if whole else "source",
        "passes": [*([TRAINED, {"take-layers": {"layers": 1}}] if whole else []), {"quantize-dynamic": None}],
        "targets": [TARGET],
        **({"probes": [LATENCY], "accept": [{"target": TARGET, "max_drop": 100, "on_fail": "warn"}]} if whole else {}),
    }
    path = folder / "plan.yaml"
    path.write_text(write_yaml(json.loads(json.dumps(plan))), encoding="utf-8")
    command = f"compressor run {path}"
    report = run_plan(load_plan(path), store=Store(folder / "store"), folder=folder / "run", command=command, tell=lambda _: None)
    assert report.error is None, report.error
    return folder / "run"


def example_says(folder: Path, *words: str) -> str:
    """What the example of an export prints."""
    done = subprocess.run([sys.executable, "example.py", *words], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.rstrip("\n")


DRAWS = "import json, example; print(json.dumps(example.outputs(example.inputs([({label}, {seed})])).tolist()))"


def example_draws(folder: Path, label: int, seed: int) -> NDArray[np.int64]:
    """The picture that the example of an export draws of a class by a seed, alone: levels `[height, width, channels]`."""
    code = DRAWS.format(label=label, seed=seed)
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    light = (np.array(json.loads(done.stdout)).clip(-1, 1) + 1) * 127.5
    return light.round().astype(np.int64).transpose(1, 2, 0)


# ------------------------------------------------------------------ pages


@dataclass
class Served:
    """A page that the command line serves."""

    address: str
    process: subprocess.Popen[str]
    log: Path
    """What the server or its models asked of other machines; is not there where they asked nothing."""

    def end(self) -> int:
        """Ctrl-C."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(30)


@contextmanager
def serving(what: Path, *words: str, log: Path) -> Iterator[Served]:
    """`compressor demo WHAT`, in a process that gets at nothing but loopback."""
    log.with_suffix(".tmp").mkdir()  # takes what users upload
    environment = {
        **os.environ,
        "PYTHONPATH": str(LOOPBACK_ONLY),
        "NETWORK_LOG": str(log),
        "TMPDIR": str(log.with_suffix(".tmp")),
    }
    command = [sys.executable, "-m", "compressor.cli", "demo", str(what), *words]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, cwd=log.parent
    ) as process:
        try:
            assert process.stdout is not None
            line, said, start = "", "", time.monotonic()
            while "http" not in line and time.monotonic() - start < START_SECONDS:
                line = process.stdout.readline()
                said += line
                assert line, f"it ended: {said}"
            yield Served(next(word for word in line.split() if word.startswith("http")), process, log)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    process.kill()
