"""What is written beside every built model: its task, its labels, and the graphs it is made of."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from compressor.contracts import Graph, Task, registry
from compressor.contracts.graph import graph_from
from compressor.contracts.model import CONFIG
from compressor.errors import StoreError
from compressor.files import json_in

TASK_FILE = "task.json"
"""Written beside every built model: task, its parameters, labels and graphs."""


def describe(out: Path, task: Task, name: str, labels: tuple[str, ...]) -> None:
    """Write `task.json` into the folder of a built model."""
    description = {
        "task": name,
        "parameters": task.model_dump(mode="json"),
        "labels": list(labels),
        "graphs": [asdict(graph) for graph in task.graphs(out)],
    }
    (out / TASK_FILE).write_text(json.dumps(description, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def graphs_of(built: Path) -> tuple[Graph, ...]:
    """The graphs of a built model; one without state where `task.json` is of an earlier version, and without ports where there is none.

    Raises:
        StoreError: `task.json` is malformed.
    """
    if not (built / TASK_FILE).is_file():
        return (Graph(),)
    description = _described(built)
    try:
        return tuple(graph_from(values) for values in description.get("graphs") or [description])
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{built / TASK_FILE} cannot be read: {error}") from error


def task_of(built: Path) -> Task:
    """The task that a built model is for.

    Raises:
        StoreError: `task.json` is missing or malformed.
        PluginError: no such task is installed.
    """
    description = _described(built)
    try:
        found: Task = registry.load("task", description["task"]).written(description["parameters"])
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{built / TASK_FILE} cannot be read: {error}") from error
    return found


def _described(built: Path) -> dict[str, Any]:
    try:
        description = json_in(built / TASK_FILE)
    except (OSError, ValueError) as error:
        raise StoreError(f"{built / TASK_FILE} cannot be read: {error}") from error
    if not isinstance(description, dict):
        raise StoreError(f"{built / TASK_FILE} cannot be read: it is no object")
    return description


def model_type(folder: Path) -> str:
    """What a stored model says it is: `a model of type bert`; `this model` where it says nothing."""
    try:
        kind = json_in(folder / CONFIG).get("model_type")
    except (OSError, ValueError, AttributeError):
        kind = None
    return f"a model of type {kind}" if isinstance(kind, str) else "this model"
