"""What a deployed model takes and gives: read from the files beside it, written as `spec.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from compressor.contracts import Deployment, Graph, Port, Runtime, Target, registry
from compressor.contracts.model import BLUEPRINT
from compressor.contracts.records import Candidate
from compressor.contracts.registry import TORCH
from compressor.deploy.graphs import TASK_FILE, graphs_of
from compressor.errors import PluginError, StoreError

DTYPES = ("int64", "int32", "float32", "float16")


@dataclass(frozen=True)
class Deployed:
    """A built candidate with what is needed to feed it and to read its outputs."""

    candidate: Candidate
    folder: Path
    runtime: Runtime
    task: str
    labels: list[str]
    graphs: tuple[Graph, ...]
    files: Mapping[str, str]
    """The file that holds each graph, by the graph's name; an eager model is one file for all."""
    how: Deployment
    """How inputs are made of what a user has."""
    eager: bool = False
    """True for a torch model that is run without export."""
    needs_this_project: bool = False
    """True for an eager model whose structure no stock configuration expresses."""
    tolerance: float = Target.tolerance
    """How far its outputs may differ between two sessions."""

    @property
    def file(self) -> str:
        """The main file of the model."""
        return self.files[self.graphs[0].name]

    @property
    def inputs(self) -> tuple[Port, ...]:
        return self.graphs[0].inputs

    @property
    def outputs(self) -> tuple[Port, ...]:
        return self.graphs[0].outputs

    @property
    def no_example(self) -> str:
        """Why there is no example, which is one call of one graph on what a user has; empty where there is one."""
        if len(self.graphs) > 1:
            names = ", ".join(graph.name for graph in self.graphs)
            return f"the model has several graphs ({names}), and only its task knows how they follow each other"
        if self.graphs[0].state:
            return "the model has a state that goes round from call to call, and only its task knows when a loop ends"
        if self.file == BLUEPRINT:
            return "the model is a folder of components, which `compressor.model.Model.load` opens"
        if self.eager and not (self.classes or self.how.number) and self.how.kind != "audio":
            return "only its task knows what the torch model answers"
        return ""

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
        UnsupportedModel: it is fed in a way that no example can do.
    """
    try:
        task = json.loads((built / TASK_FILE).read_text(encoding="utf-8"))
        name, parameters, labels = task["task"], task["parameters"], [str(label) for label in task["labels"]]
        graphs = graphs_of(built)
        for port in (port for graph in graphs for port in (*graph.inputs, *graph.outputs)):
            _check_known(port)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{built / TASK_FILE} cannot be read: {error}") from error
    kind, runtime = _runtime(built, candidate, graphs)
    how = registry.load("task", name).written(parameters).deployment(built, graphs[0].fed)
    files = {graph.name: _file_of(kind, graph, built) for graph in graphs}
    eager = kind.dialect.format == TORCH
    beyond = eager and not _opens_without_us(built)
    return Deployed(
        candidate, built, runtime, name, labels, graphs, files, how, eager, needs_this_project=beyond, tolerance=kind.tolerance
    )


def _runtime(built: Path, candidate: Candidate, graphs: Sequence[Graph]) -> tuple[type[Target], Runtime]:
    """The target whose files lie in a folder, and what they need elsewhere."""
    files = []
    for name in registry.names("target"):
        try:
            kind: type[Target] = registry.load("target", name)
        except PluginError:  # broken, which its own checks tell
            continue
        files.append(_file_of(kind, graphs[0], built))
        if (built / files[-1]).is_file() and (runtime := kind.runtime(candidate.facts)):
            return kind, runtime
    raise StoreError(f"{built} holds none of {', '.join(dict.fromkeys(files))}, which targets that are installed open")


def _file_of(kind: type[Target], graph: Graph, built: Path) -> str:
    """The file that holds a graph; for torch the whole model, in parts or not."""
    if kind.dialect.format == TORCH:
        return kind.file if (built / kind.file).is_file() else BLUEPRINT
    return kind.file_of(graph.name, built)


def _check_known(port: Port) -> None:
    if port.dtype not in DTYPES:
        raise ValueError(f"dtype '{port.dtype}' is none of {', '.join(DTYPES)}")


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
        "graphs": [{**asdict(graph), "file": deployed.files[graph.name]} for graph in deployed.graphs],
        "preprocessing": dict(deployed.preprocessing),
        **({"labels": "labels.json"} if deployed.classes else {}),
        **({} if deployed.how.threshold is None else {"threshold": deployed.how.threshold}),
        "measured": deployed.candidate.facts,
    }
