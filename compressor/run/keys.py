"""Keys of stored results: everything that can change a result, and nothing that cannot."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from compressor.contracts import Dialect, Needs, Target, registry
from compressor.contracts.registry import OURS, TORCH
from compressor.contracts.step import code_parts, step_parts, versions_of
from compressor.deploy.machine import features, machine, read_cpuinfo
from compressor.model.sources import READ_SUFFIXES, weight_files
from compressor.plan.bound import Bound, BoundStep
from compressor.plan.paths import Place
from compressor.store.store import sha256_of


class Keys:
    """Parts of keys for one plan on one set of rows."""

    def __init__(
        self, bound: Bound, data_digest: str, labels: tuple[str, ...], device: str, processes: int = 1, *, sharded: bool = False
    ) -> None:
        self._bound = bound
        self._processes, self._sharded = processes, sharded
        self._labels = labels
        self.common: dict[str, Any] = {
            "versions": versions_of((OURS, "torch", "transformers", "onnx", "onnxscript")),
            "task": {bound.task_name: bound.task.model_dump(mode="json"), **code_parts(bound.task)},
            "data": data_digest,
            "seed": bound.seed,
            "device": device,
            **brought(),
        }

    def source(self, digest: str) -> dict[str, Any]:
        """Parts of the source model's key: the files it was read from and the labels its head is for."""
        return {**self.common, "step": "source", "files": digest, "labels": list(self._labels)}

    def step(self, step: BoundStep, parent: str, teachers: Mapping[str, str], dialect: Dialect | None) -> dict[str, Any]:
        """Parts of a pass's key."""
        named = [(kind, name) for kind, names in sorted(step.step.needs().plugins.items()) for name in sorted(names)]
        return {
            **self.common,
            **step_parts(step.plugin, step.step),
            "parent": parent,
            "teachers": dict(teachers),
            "measured": self._measured(step.step.needs()),
            "plugins": {f"{kind}:{name}": code_parts(registry.load(kind, name)) for kind, name in named},
            "dialect": asdict(dialect) if dialect else None,
            "quantizer": versions_of(_quantizing(dialect) if dialect and step.step.quantizes else ()),
            **self._group(step),
            **({} if self._bound.metric == self._bound.task.metric else {"metric": self._bound.metric}),
            "processor": list(features(read_cpuinfo())),
        }

    def _group(self, step: BoundStep) -> dict[str, Any]:
        """How many processes compute a step, the library that they are a group by, and whether parameters are spread over them."""
        several = self._processes if step.step.trains else 1
        if several == 1:
            return {"processes": 1}
        return {"processes": several, "group": versions_of(["accelerate"]), **({"sharded": True} if self._sharded else {})}

    def _measured(self, needs: Needs) -> dict[str, Any]:
        """What a step that measures depends on: how its targets are set up, and the machine."""
        found = {each.name: step_parts(each.plugin, each.target) for each in self._bound.targets if each.name in needs.targets}
        return {**found, "machine": machine().fingerprint} if found or needs.machine else {}

    def evaluation(self, digest: str, form: str, split: str, target: Target | None) -> dict[str, Any]:
        """Parts of the key of a model's scores on a split."""
        runtime = step_parts(type(target).__name__, target) if target else None
        workloads = [workload.model_dump(mode="json") for each in self._bound.probes for workload in each.probe.workloads()]
        built = {"workloads": workloads} if target and target.keeps_builds else {}  # other builds do not depend on them
        return {**self.common, "step": "evaluate", "parent": digest, "format": form, "split": split, "target": runtime, **built}

    def description(self, digest: str) -> dict[str, Any]:
        """Parts of the key of what a report says of a torch model, whatever it is for."""
        anatomies = {name: registry.distribution("anatomy", name) for name in registry.names("anatomy")}
        return {"step": "describe", "versions": self.common["versions"], "anatomies": anatomies, "parent": digest}

    def outputs(self, digest: str, split: str, rows: int) -> dict[str, Any]:
        """Parts of the key of a torch model's outputs on the first rows of a split."""
        return {**self.common, "step": "outputs", "parent": digest, "split": split, "rows": rows}


def _quantizing(dialect: Dialect) -> Iterable[str]:
    """Distributions that quantise a model of a target: its quantiser, and what writes files of its format."""
    if dialect.format == TORCH:
        return ()
    return tuple(name for name in (dialect.quantizer, *registry.load("format", dialect.format).requires) if name)


def brought() -> dict[str, Any]:
    """Distributions of others that bring what a model is opened with, libraries and networks; nothing where there are none.

    Which of them a model needs its files say, and those are read later.
    """
    found = {
        f"{kind}:{name}": registry.distribution(kind, name) for kind in ("library", "network") for name in registry.names(kind)
    }
    others = {name: by for name, by in found.items() if not by.startswith(f"{OURS} ")}
    return {"brought": others} if others else {}


def source_digest(folder: Path) -> str:
    """sha256 over the files of a model folder that are read, those of its components' folders too; hidden folders are passed over.

    Weights that an index names are in it wherever they lie.
    """
    files = {*(path for path in Place(folder).files() if path.suffix in READ_SUFFIXES), *weight_files(folder)}
    return hashlib.sha256(
        "".join(f"{path.relative_to(folder).as_posix()}\0{sha256_of(path)}\n" for path in sorted(files)).encode()
    ).hexdigest()
