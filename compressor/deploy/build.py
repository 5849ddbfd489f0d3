"""From a stored model to a file that is timed: lowered, put through a branch, built for its target, with the files beside it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressor.contracts import Artifact, Candidate, Dialect, Port, Rung, Target, Task, registry
from compressor.contracts.model import BLUEPRINT, WEIGHTS
from compressor.contracts.records import File
from compressor.contracts.registry import way_down
from compressor.contracts.step import code_parts
from compressor.store.store import Made, Store, sha256_of

MODEL_FILES = (BLUEPRINT, WEIGHTS, "model.onnx", "model.onnx.data", "model.xml", "model.bin")
TASK_FILE = "task.json"
"""Written beside every built model: task, its parameters, labels, inputs and outputs."""


@dataclass(frozen=True)
class Foundry:
    """What lowering and building need to know of the run."""

    store: Store
    task: Task
    task_name: str
    labels: tuple[str, ...]
    common: Mapping[str, Any]
    """Part of every key: versions and data."""

    def lower(self, made: Made, rung: str, to: str, target: Target) -> Made:
        """The model on a lower rung. What lies between is stored too: another target may need it, and an export takes long."""
        for below in way_down(to, start=rung):
            made, rung = self._lowered(made, rung, below, target.dialect), below
        return made

    def _lowered(self, made: Made, rung: str, to: str, dialect: Dialect) -> Made:
        """The model on the next rung, from the store where it was lowered before."""
        kind: type[Rung] = registry.load("rung", to)

        def make(out: Path) -> Mapping[str, Any]:
            kind().lower(Artifact(rung, made.path), out, task=self.task, dialect=dialect)
            beside(made.path, out)
            return {}

        parts = {
            **self.common,
            "step": "lower",
            "parent": made.digest,
            "from": rung,
            "to": to,
            "opset": dialect.opset,
            **code_parts(kind),
            "task": self.task.model_dump(mode="json"),
        }
        return self.store.obtain(parts, make)

    def build(self, made: Made, *, stage: str, name: str, target: Target, out: Path) -> tuple[Candidate, tuple[File, ...]]:
        """Build the deployable files into `out`, with `task.json` and the files beside the model; list them with their sha256."""
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        target.build(Artifact(target.dialect.rung, made.path), out)
        files = tuple(
            File(name=path.relative_to(out).as_posix(), bytes=path.stat().st_size, sha256=sha256_of(path))
            for path in model_files(out, made.path, main=target.file)
        )
        beside(made.path, out)
        self._describe(out)
        return Candidate(f"{stage}@{name}", stage, name, target, out), files

    def _describe(self, out: Path) -> None:
        description = {
            "task": self.task_name,
            "parameters": self.task.model_dump(mode="json"),
            "labels": list(self.labels),
            "inputs": [_port(port) for port in self.task.inputs(out)],
            "outputs": [_port(port) for port in self.task.outputs()],
        }
        (out / TASK_FILE).write_text(json.dumps(description, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def of_model(name: str) -> bool:
    """Whether a file is a part of a model itself, by its name; libraries have names of their own for weights."""
    return name in MODEL_FILES or name.endswith(".safetensors")


def model_files(folder: Path, source: Path, *, main: str = "") -> tuple[Path, ...]:
    """The files of a model itself: not those that lie beside the model in `source` too (tokenizer, configuration)."""
    return tuple(
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and (path.name == main or of_model(path.name) or not (source / path.relative_to(folder)).exists())
    )


def beside(source: Path, out: Path) -> None:
    """Copy what lies beside a model (tokenizer, configuration) and is not there yet."""
    for path in sorted(source.rglob("*")):
        to = out / path.relative_to(source)
        if path.is_file() and not of_model(path.name) and not to.exists():
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, to)


def _port(port: Port) -> dict[str, Any]:
    return {"name": port.name, "dtype": port.dtype, "axes": list(port.axes)}
