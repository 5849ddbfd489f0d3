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
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compressor.contracts import registry
from compressor.plan.bound import load_plan
from compressor.plan.yaml_source import write_yaml
from compressor.run.pipeline import run_plan
from compressor.store.store import Store
from demos.record import ANSWERED, GIVEN, REFUSED

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
MILLISECONDS = 60_000
"""What a browser waits for, as Playwright counts."""
HOLDS = "[aria-label='Remove Image'], [data-testid^='waveform']"
"""Is there once a panel holds a picture or a sound."""


def make_run(name: str, folder: Path, **given: Any) -> Path:
    """A run of the tiny model of a task, which `TASKS` names or a plug-in with the parameters given, quantised.

    That of texts is trained and loses a layer before, so that rows change.
    """
    task, parameters = TASKS.get(name, (name, given))
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
    said: str
    """What it said up to its address."""
    log: Path
    """What the server or its models asked of other machines; is not there where they asked nothing."""

    def end(self) -> int:
        """Ctrl-C."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(30)


@contextmanager
def serving(what: Path, *words: str, log: Path, plugins: Path | None = None) -> Iterator[Served]:
    """`compressor demo WHAT`, in a process that gets at nothing but loopback, whatever the environment asks gradio to do; `plugins` is a
    folder of further distributions."""
    log.with_suffix(".tmp").mkdir()  # takes what users upload
    environment = {
        **os.environ,
        **dict.fromkeys(("GRADIO_SHARE", "GRADIO_ANALYTICS_ENABLED", "GRADIO_MCP_SERVER"), "True"),
        "PYTHONPATH": os.pathsep.join(map(str, filter(None, (LOOPBACK_ONLY, plugins)))),
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
            yield Served(next(word for word in line.split() if word.startswith("http")), process, said, log)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    process.kill()


# ------------------------------------------------------------------ what people do in a browser


@contextmanager
def visiting(browser: Any, address: str, wired: str = "#status[aria-live=polite]", **look: Any) -> Iterator[Any]:
    """A tab of the browser, from when all is drawn that `wired` selects; it asks nothing of another machine, and reports no error."""
    page = browser.new_page(**{"viewport": {"width": 1100, "height": 900}, **look})
    page.set_default_timeout(MILLISECONDS)
    asked: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address)
    page.wait_for_selector(wired)
    try:
        yield page
    finally:
        page.close()
    assert [url for url in asked if not url.startswith(("http://127.0.0.1:", "data:", "blob:"))] == []
    assert errors == []


def upload(page: Any, path: Any) -> None:
    """Choose a file of a panel, and wait until it holds it."""
    page.locator("input[type=file]").first.set_input_files(path if isinstance(path, dict) else str(path))
    page.wait_for_selector(HOLDS)


def filled(page: Any) -> None:
    """Wait until a panel holds what was chosen of its examples."""
    page.wait_for_function(GIVEN)


def compared(page: Any) -> None:
    """Ask, and wait until both were timed."""
    page.locator("#compare").click()
    answered(page)


def answered(page: Any) -> None:
    """Wait until both were timed."""
    page.wait_for_selector(f"{ANSWERED}, {REFUSED}")
    assert page.locator(REFUSED).count() == 0, page.locator(REFUSED).inner_text()


def trouble(page: Any) -> str:
    """Ask, and wait for why not."""
    page.locator("#compare").click()
    return str(page.locator(REFUSED).inner_text())


def told(page: Any, side: str) -> str:
    """What a model answered."""
    return str(page.locator(f"#answer-{side} .told").inner_text())
