"""From a stored model to a file that is timed: lowered, put through a branch, built for its target, with the files beside it."""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from compressor.contracts import Artifact, Candidate, Dialect, Format, Target, Task, Workload, registry
from compressor.contracts.failing import library_told
from compressor.contracts.model import BLUEPRINT
from compressor.contracts.records import File
from compressor.contracts.registry import lowering
from compressor.contracts.step import code_parts, step_parts
from compressor.deploy.graphs import describe, model_type
from compressor.deploy.machine import machine
from compressor.errors import PluginError
from compressor.store.store import Store, StoredResult, digest_of, key_of, sha256_of

MODEL_SUFFIXES = (".safetensors", ".onnx", ".onnx.data", ".xml", ".bin", ".gguf")
"""Endings of files that hold a model, or one of its graphs or components."""


@dataclass(frozen=True)
class Builder:
    """What lowering and building need to know of the run."""

    store: Store
    task: Task
    task_name: str
    labels: tuple[str, ...]
    common: Mapping[str, Any]
    """Part of every key: versions and data."""
    workloads: tuple[Workload, ...] = ()
    """What built models will be timed at."""

    def lower(self, made: StoredResult, form: str, to: str, target: Target) -> StoredResult:
        """The model on a lower format. What lies between is stored too: another target may need it, and an export takes long."""
        for below in lowering(to, start=form):
            made, form = self._lowered(made, form, below, target.own_dialect()), below
        return made

    def is_lowered(self, made: StoredResult, form: str, target: Target) -> bool:
        """Whether the first step down to a target's format is in the store; nothing is read of it."""
        way = lowering(target.dialect.format, start=form)
        return not way or self.store.entry(key_of(self._parts(made, form, way[0], target.own_dialect()))).is_dir()

    def _lowered(self, made: StoredResult, form: str, to: str, dialect: Dialect) -> StoredResult:
        """The model on the next format, from the store where it was lowered before for a dialect that it reads the same of."""
        kind: type[Format] = registry.load("format", to)

        def make(out: Path) -> Mapping[str, Any]:
            with library_told(f"{model_type(made.path)} cannot be lowered from {form} to {to}"):
                kind().lower(Artifact(form, made.path), out, task=self.task, dialect=read_by(kind, dialect))
            beside(made.path, out)
            return {}

        return self.store.obtain(self._parts(made, form, to, dialect), make)

    def _parts(self, made: StoredResult, form: str, to: str, dialect: Dialect) -> dict[str, Any]:
        kind: type[Format] = registry.load("format", to)
        known = asdict(dialect)
        return {
            **self.common,
            "step": "lower",
            "parent": made.digest,
            "from": form,
            "to": to,
            "dialect": {name: known[name] for name in kind.reads},
            **code_parts(kind),
            "task": self.task.model_dump(mode="json"),
        }

    def build(
        self, made: StoredResult, *, stage: str, name: str, target: Target, out: Path
    ) -> tuple[Candidate, tuple[File, ...]]:
        """Build the deployable files into `out`, with `task.json` and the files beside the model; list them with their sha256."""
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        if target.keeps_builds:
            shutil.copytree(self._kept(made, target).path, out, dirs_exist_ok=True)
        else:
            self._build(made, target, out)
        files = tuple(
            File(name=path.relative_to(out).as_posix(), bytes=path.stat().st_size, sha256=sha256_of(path))
            for path in model_files(out, made.path, main=target.file)
        )
        beside(made.path, out)
        describe(out, self.task, self.task_name, self.labels)
        return Candidate(f"{stage}@{name}", stage, name, target, out, self.task), files

    def _build(self, made: StoredResult, target: Target, out: Path) -> None:
        source = Artifact(target.dialect.format, made.path)
        given = {"graphs": self.task.graphs(made.path), "workloads": self.workloads}
        taken = inspect.signature(target.build).parameters  # targets of before take the files alone
        with library_told(f"{model_type(made.path)} cannot be built by {type(target).__name__}"):
            target.build(source, out, **{name: value for name, value in given.items() if name in taken})  # type: ignore[arg-type]

    def _kept(self, made: StoredResult, target: Target) -> StoredResult:
        """A build from the store: what it depends on is the model's files, how the target is set up, and the workloads."""

        def make(out: Path) -> Mapping[str, Any]:
            self._build(made, target, out)
            return {}

        kind = type(target)
        parts = {
            **step_parts(f"{kind.__module__}:{kind.__qualname__}", target),
            "step": "build",
            "parent": made.digest or digest_of(made.path),
            "graphs": [asdict(graph) for graph in self.task.graphs(made.path)],
            "workloads": [workload.model_dump(mode="json") for workload in self.workloads],
            "machine": machine().fingerprint if target.builds_for_machine else None,
        }
        return self.store.obtain(parts, make)


def read_by(kind: type[Format], dialect: Dialect) -> Dialect:
    """The dialect as a format may read it: a field that is not among its `reads` would not be in the key of what it makes."""
    return cast(Dialect, _Readable(kind, dialect))


class _Readable:
    """Hands on the fields that a format says it reads."""

    def __init__(self, kind: type[Format], dialect: Dialect) -> None:
        self._kind, self._dialect = kind, dialect

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._dialect, name)
        if name not in self._kind.reads:
            raise PluginError(
                f"format '{self._kind.name}' reads '{name}' of the dialect and does not say so: add it to its `reads`, "
                f"now {self._kind.reads}, or models lowered for two targets would be taken for one another"
            )
        return found


def of_model(name: str) -> bool:
    """Whether a file is a part of a model itself, by its name; graphs and components have names of their own."""
    return Path(name).name == BLUEPRINT or name.endswith(MODEL_SUFFIXES)


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
