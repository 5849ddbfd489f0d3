"""What a deployed model takes and gives: read from the files beside it, written as `spec.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from compressor.contracts import Deployment, Graph, Port, Runtime, Target, registry
from compressor.contracts.model import BLUEPRINT, CONFIG
from compressor.contracts.records import Candidate
from compressor.contracts.registry import TORCH
from compressor.deploy.graphs import TASK_FILE, graphs_of
from compressor.errors import PluginError, StoreError
from compressor.files import json_in

CLASSIFIED = {"text": "Sequence", "image": "Image", "audio": "Audio"}
"""What classes of transformers classify, by what a user has."""
OURS = "compressor.model.Model"
"""What opens a model whose structure no stock configuration says."""
DTYPES = ("int64", "int32", "int8", "float32", "float16")


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
    per_layer_config: Mapping[str, Any] = field(default_factory=dict)
    """Of such a model, how its layers differ from its configuration, as transformers spells it; empty where it cannot say it all."""
    tolerance: float = Target.tolerance
    """How far its outputs may differ between two sessions."""
    target: type[Target] | None = None
    """Whose files they are."""
    former_files: bool = False
    """Whether its files have names of earlier versions, under which no loader of the ecosystem looks."""

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
        if sizes := self.candidate.facts.get("sizes"):
            return f"the file takes {sizes} and nothing else, which whoever calls it has to fill up to"
        if not self.runtime.name:
            return "the target says no `runtime` by which an example could load it"
        if len(self.graphs) > 1 and self.how.draws is None:
            names = ", ".join(graph.name for graph in self.graphs)
            return f"the model has several graphs ({names}), and only its task knows how they follow each other"
        if self.graphs[0].state and self.how.generates is None:
            return "the model has a state that goes round from call to call, and only its task knows when a loop ends"
        if self.file == BLUEPRINT:
            return "the model is a folder of components, which `compressor.model.Model.load` opens"
        told = self.classes or self.how.number or self.how.generates is not None
        if self.eager and not told and self.how.kind != "audio":
            return "only its task knows what the torch model answers"
        return ""

    @property
    def loader(self) -> str:
        """The class of the ecosystem whose `from_pretrained` opens it (`load` where it is ours); empty where none does."""
        if self.needs_this_project:
            return OURS
        if self.how.generates is not None:  # other loaders ask for inputs of their own beside a cache
            return f"{self.runtime.loaders}CausalLM" if self.eager else ""
        what = CLASSIFIED.get(self.how.kind) or _classified_by(self.config.get("architectures"))
        one_call = not (self.no_example or self.graphs[0].state) and (self.classes or bool(self.how.number))
        known = bool(self.runtime.loaders and self.config.get("model_type")) and not self.former_files
        return f"{self.runtime.loaders}{what}Classification" if what and one_call and known else ""

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """What `config.json` beside it says; empty where there is none."""
        path = self.folder / CONFIG
        found = json_in(path) if path.is_file() else {}
        return found if isinstance(found, dict) else {}

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
        task = json_in(built / TASK_FILE)
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
    beyond, layers = _beyond_stock(built) if eager else (False, {})
    return Deployed(
        candidate,
        built,
        runtime,
        name,
        labels,
        graphs,
        files,
        how,
        eager,
        needs_this_project=beyond,
        per_layer_config=layers,
        tolerance=kind.tolerance,
        target=kind,
        former_files=not eager and any(file != kind.file_of(name) for name, file in files.items()),
    )


def _runtime(built: Path, candidate: Candidate, graphs: Sequence[Graph]) -> tuple[type[Target], Runtime]:
    """The target whose files lie in a folder, and what they need elsewhere."""
    files, unsaid = [], None
    for name in registry.names("target"):
        try:
            kind: type[Target] = registry.load("target", name)
        except PluginError:  # broken, which its own checks tell
            continue
        files.append(_file_of(kind, graphs[0], built))
        if not (built / files[-1]).is_file():
            continue
        if runtime := kind.runtime(candidate.facts):
            return kind, runtime
        unsaid = unsaid or kind
    if unsaid:
        return unsaid, Runtime(name="", packages=unsaid.requires)
    raise StoreError(f"{built} holds none of {', '.join(dict.fromkeys(files))}, which targets that are installed open")


def _file_of(kind: type[Target], graph: Graph, built: Path) -> str:
    """The file that holds a graph; for torch the whole model, in parts or not."""
    if kind.dialect.format == TORCH:
        return kind.file if (built / kind.file).is_file() else BLUEPRINT
    return kind.file_of(graph.name, built)


def _check_known(port: Port) -> None:
    if port.dtype not in DTYPES:
        raise ValueError(f"dtype '{port.dtype}' is none of {', '.join(DTYPES)}")


def _beyond_stock(built: Path) -> tuple[bool, Mapping[str, Any]]:
    """Whether no stock configuration expresses a stored model; and what one can say of its layers then."""
    from compressor.model.model import Model, per_layer_config, plain

    model = Model.load(built)
    return (False, {}) if plain(model) else (True, per_layer_config(model))


def _classified_by(architectures: Any) -> str:
    """What a class of transformers classifies, by its name."""
    name = str((architectures or ("",))[0])
    return next((what for what in CLASSIFIED.values() if name.endswith(f"For{what}Classification")), "")


def _port(port: Port) -> dict[str, Any]:
    return {name: value for name, value in asdict(port).items() if name != "fill" and (name != "default" or value)}


def _graph(graph: Graph, file: str) -> dict[str, Any]:
    ports = {"inputs": [_port(port) for port in graph.inputs], "outputs": [_port(port) for port in graph.outputs]}
    return {**asdict(graph), **ports, "file": file}


def spec_of(deployed: Deployed) -> dict[str, Any]:
    """The content of `spec.json`: JSON values only."""
    return {
        "task": deployed.task,
        "model": deployed.file,
        "runtime": deployed.runtime.name,
        "settings": dict(deployed.runtime.settings),
        "inputs": [_port(port) for port in deployed.inputs],
        "outputs": [_port(port) for port in deployed.outputs],
        "graphs": [_graph(graph, deployed.files[graph.name]) for graph in deployed.graphs],
        "loader": deployed.loader,
        **({"per_layer_config": dict(deployed.per_layer_config)} if deployed.per_layer_config else {}),
        "takes": deployed.how.kind,
        **({"pair": True} if deployed.how.pair else {}),
        "preprocessing": dict(deployed.preprocessing),
        **({"labels": "labels.json"} if deployed.classes else {}),
        **({} if deployed.how.threshold is None else {"threshold": deployed.how.threshold}),
        **({} if deployed.how.generates is None else {"generates": dict(deployed.how.generates)}),
        **({} if deployed.how.draws is None else {"draws": dict(deployed.how.draws)}),
        "measured": deployed.candidate.facts,
    }
