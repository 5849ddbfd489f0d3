"""What a deployed model takes and gives: read from the files beside it, written as `spec.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from compressor.contracts import Deployment, Port, Runtime, Target, registry
from compressor.contracts.records import Candidate
from compressor.contracts.registry import TORCH
from compressor.deploy.graphs import TASK_FILE, graphs_of
from compressor.errors import PluginError, StoreError, UnsupportedModel

DTYPES = ("int64", "int32", "float32", "float16")


@dataclass(frozen=True)
class Deployed:
    """A built candidate with what is needed to feed it and to read its outputs."""

    candidate: Candidate
    folder: Path
    file: str
    """The main file of the model."""
    runtime: Runtime
    task: str
    labels: list[str]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    how: Deployment
    """How inputs are made of what a user has."""
    needs_this_project: bool = False
    """True for an eager model whose structure no stock configuration expresses."""

    @property
    def preprocessing(self) -> Mapping[str, Any]:
        return self.how.preprocessing

    @property
    def classes(self) -> bool:
        """Whether its outputs are logits of classes."""
        return self.how.classes


def read_deployed(built: Path, candidate: Candidate) -> Deployed:
    """Read `task.json` and the tokenizer's or processor's files.

    Raises:
        StoreError: one of them is missing or malformed.
        UnsupportedModel: the inputs are not those of a text, image or audio classifier.
    """
    try:
        task = json.loads((built / TASK_FILE).read_text(encoding="utf-8"))
        name, parameters, labels = task["task"], task["parameters"], [str(label) for label in task["labels"]]
        graph, *others = graphs_of(built)
        inputs, outputs = tuple(map(_known, graph.inputs)), tuple(map(_known, graph.outputs))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{built / TASK_FILE} cannot be read: {error}") from error
    kind, runtime = _runtime(built, candidate)
    if others or graph.state:
        raise UnsupportedModel(f"no example can be written for a model of several graphs or with a state, as {built} holds")
    how = registry.load("task", name).written(parameters).deployment(built, inputs)
    beyond_stock = kind.dialect.format == TORCH and not _opens_without_us(built)
    return Deployed(candidate, built, kind.file, runtime, name, labels, inputs, outputs, how, needs_this_project=beyond_stock)


def _runtime(built: Path, candidate: Candidate) -> tuple[type[Target], Runtime]:
    """The target whose files lie in a folder, and what they need elsewhere."""
    files = []
    for name in registry.names("target"):
        try:
            kind: type[Target] = registry.load("target", name)
        except PluginError:  # broken, which its own checks tell
            continue
        files.append(kind.file)
        if (built / kind.file).is_file() and (runtime := kind.runtime(candidate.facts)):
            return kind, runtime
    raise StoreError(f"{built} holds none of {', '.join(dict.fromkeys(files))}, for which an example can be written")


def _known(port: Port) -> Port:
    if port.dtype not in DTYPES:
        raise ValueError(f"dtype '{port.dtype}' is none of {', '.join(DTYPES)}")
    return port


def _opens_without_us(built: Path) -> bool:
    from compressor.model.model import Model, plain

    return plain(Model.load(built))


def spec_of(deployed: Deployed) -> dict[str, Any]:
    """The content of `spec.json`: JSON values only."""
    return {
        "task": deployed.task,
        "model": deployed.file,
        "runtime": deployed.runtime.name,
        "settings": dict(deployed.runtime.settings),
        "inputs": [asdict(port) for port in deployed.inputs],
        "outputs": [asdict(port) for port in deployed.outputs],
        "preprocessing": dict(deployed.preprocessing),
        **({"labels": "labels.json"} if deployed.classes else {}),
        "measured": deployed.candidate.facts,
    }
