"""What a deployed model takes and gives: read from the files beside it, written as `spec.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from compressor.contracts import Deployment, Port, registry
from compressor.contracts.records import Candidate
from compressor.deploy.graphs import TASK_FILE, graphs_of
from compressor.errors import StoreError, UnsupportedModel

Runtime = Literal["onnxruntime", "openvino", "torch"]
RUNTIMES: dict[str, Runtime] = {"model.onnx": "onnxruntime", "model.xml": "openvino", "model.safetensors": "torch"}
DTYPES = ("int64", "int32", "float32", "float16")
OPENVINO_PRECISIONS = {"fp32": "f32", "f32": "f32", "bf16": "bf16", "fp16": "f16", "f16": "f16"}
"""The hint that makes OpenVINO compute in a precision, by the name that facts give it."""


@dataclass(frozen=True)
class Deployed:
    """A built candidate with what is needed to feed it and to read its outputs."""

    candidate: Candidate
    folder: Path
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

    @property
    def file(self) -> str:
        return next(name for name, runtime in RUNTIMES.items() if runtime == self.runtime)


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
    runtime = next((runtime for file, runtime in RUNTIMES.items() if (built / file).is_file()), None)
    if runtime is None:
        raise StoreError(f"{built} holds none of {', '.join(RUNTIMES)}")
    if others or graph.state:
        raise UnsupportedModel(f"no example can be written for a model of several graphs or with a state, as {built} holds")
    how = registry.load("task", name).model_validate(parameters).deployment(built, inputs)
    beyond_stock = runtime == "torch" and not _opens_without_us(built)
    return Deployed(candidate, built, runtime, name, labels, inputs, outputs, how, needs_this_project=beyond_stock)


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
        "runtime": deployed.runtime,
        "settings": settings_of(deployed),
        "inputs": [asdict(port) for port in deployed.inputs],
        "outputs": [asdict(port) for port in deployed.outputs],
        "preprocessing": dict(deployed.preprocessing),
        **({"labels": "labels.json"} if deployed.classes else {}),
        "measured": deployed.candidate.facts,
    }


def settings_of(deployed: Deployed) -> dict[str, str]:
    """Settings that change outputs: the precision in which OpenVINO computed what is not quantised (`int8 + fp32`)."""
    precision = deployed.candidate.facts.get("precision", "").rpartition("+")[2].strip()
    if deployed.runtime == "openvino" and precision in OPENVINO_PRECISIONS:
        return {"INFERENCE_PRECISION_HINT": OPENVINO_PRECISIONS[precision]}
    return {}
