"""What a step sees of the run while it works: `StepContext` is the core's `contracts.Context`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from compressor.contracts import (
    Artifact,
    Candidate,
    Dialect,
    Evaluation,
    Event,
    Feed,
    Graph,
    Message,
    Model,
    Target,
    Task,
    Workload,
)
from compressor.contracts.notes import Note, Remark
from compressor.contracts.step import step_parts
from compressor.deploy.build import Builder
from compressor.deploy.machine import machine
from compressor.deploy.session import eager, opened
from compressor.deploy.timing import time_candidates
from compressor.errors import CompressorError, MissingDependency, did_you_mean
from compressor.store.store import Store, StoredResult, digest_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from compressor.contracts.data import Data

MEASURE_SECONDS_A_MODEL = 5.0
OWN = "model"
"""Folder of a step's own model, where it makes others too."""
MEASURED_FEEDS = 16
SCORED = "validation"
"""The split that every step is scored on."""
NOTES: TypeAdapter[list[Note]] = TypeAdapter(list[Note])


@dataclass(frozen=True)
class StepContext:
    """The run as one step sees it; notes gather in `notes`."""

    task: Task
    data: Data
    seed: int
    metric: str
    """The measure that quality is held by."""
    device: str
    folder: Path
    dialect: Dialect | None
    target: Target | None
    targets: Mapping[str, Target]
    store: Store
    builder: Builder
    models: Callable[[str], Model]
    listener: Callable[[Event], None]
    produces: tuple[str, ...] = ()
    """Names of the further models that the step makes."""
    scored: Callable[[str], Evaluation | None] = lambda _: None
    """Scores of an earlier step on validation rows, by its name, where they are known."""
    alone: Callable[[], None] = lambda: None
    """Waits for what goes on beside the step."""
    notes: list[Note] = field(default_factory=list)
    products: dict[str, Model] = field(default_factory=dict)

    def model(self, name: str) -> Model:
        """An earlier step's model, an entry of `models:`, or `source`."""
        return self.models(name)

    def evaluate(self, model: Model | Artifact, split: str) -> Evaluation:
        """Score a model on a split."""
        predict, files = self._running(model)
        return self.task.evaluate(predict, self.data.split(split), files, split=split).held_by(self.metric)

    def outputs(self, model: Model | Artifact | str, split: str, *, limit: int) -> NDArray[np.float32]:
        """The main output of a model for rows spread evenly over a split, as files often have like rows side by side."""
        rows = self.data.split(split)
        count = min(limit, len(rows))
        chosen, main = [at * len(rows) // count for at in range(count)], self.task.outputs()[0].name
        if isinstance(model, str):
            if split == SCORED and (known := self.scored(model)) and type(self.task).collected is Task.collected:
                return known.outputs[main][chosen]
            model = self.model(model)
        predict, files = self._running(model)
        found: NDArray[np.float32] = self.task.answers(predict, *self.task.scored_feeds(rows.select(chosen), files))[main]
        return found

    def feeds(self, model: Model | Artifact, split: str, *, limit: int | None = None, graph: str = Graph.name) -> Sequence[Feed]:
        """Real inputs of a split, one row each; of a graph with the state that its first call starts from."""
        files = model.path if isinstance(model, Artifact) else self._files(model)
        which = {} if graph == Graph.name else {"graph": graph}
        found = self.task.calls(self.data.split(split), files, count=limit, **which)
        main = self.task.graphs(files)[0]
        if not (isinstance(model, Artifact) and main.state):
            return found
        return [{**feed, **main.first_state(feed)} for feed in found]

    def measure(self, models: Sequence[Model], target: str, workload: Workload) -> Sequence[float]:
        """Median latency in ms of each model on a target, measured interleaved."""
        runtime = self.targets[target]
        if reason := runtime.missing().build or runtime.missing().run:
            raise MissingDependency(f"latency on '{target}' decides this step, and cannot be measured here: {reason}")
        builder = replace(self.builder, workloads=(workload,))
        candidates = [self._built(model, number, runtime, target, builder) for number, model in enumerate(models)]
        self.alone()
        record = time_candidates(
            candidates,
            self.task.feeds(self.data.split("train"), candidates[0].built, workload, count=MEASURED_FEEDS),
            workload,
            folder=self.folder / "bench",
            seconds=MEASURE_SECONDS_A_MODEL * (len(models) + 1),
            seed=self.seed,
            tell=self.tell,
        )
        if unsteady := [control for control in record.controls if not control.passed]:
            text = (
                f"The machine was not steady when latency on {target} was measured: two processes of one model differed by "
                f"{abs(unsteady[0].ratio - 1):.1%}. What was decided by it may be off by as much."
            )
            self.tell(Message(text))
            self.note(Remark(text=text))
        medians = {row.candidate: row.median_ms for row in record.rows}
        return [medians[candidate.id] for candidate in candidates]

    def remember(self, what: Mapping[str, Any], make: Callable[[], Any]) -> Any:
        """A JSON value measured once on this machine, and what was noted meanwhile; the first key of `what` is its name."""

        def write(out: Path) -> Mapping[str, Any]:
            before = len(self.notes)
            value = make()
            noted, self.notes[before:] = [note.model_dump(mode="json") for note in self.notes[before:]], []
            (out / "value.json").write_text(json.dumps({"value": value, "notes": noted}), encoding="utf-8")
            return {}

        versions = self.builder.common.get("versions")
        runtimes = {name: step_parts(type(target).__name__, target) for name, target in self.targets.items()}
        parts = {
            "step": next(iter(what)),
            "remembered": what,
            "with": "notes",
            "machine": machine().fingerprint,
            "versions": versions,
            "targets": runtimes,
        }
        found = json.loads((self.store.obtain(parts, write).path / "value.json").read_text(encoding="utf-8"))
        for note in NOTES.validate_python(found["notes"]):
            if note not in self.notes:
                self.note(note)
        return found["value"]

    def produce(self, name: str, model: Model) -> None:
        """Keep a further model of this step.

        Raises:
            CompressorError: the step's needs do not name it.
        """
        if name not in self.produces:
            raise CompressorError(f"the step makes '{name}', which its needs do not name{did_you_mean(name, self.produces)}")
        self.products[name] = model

    def save(self, model: Model, out: Path) -> None:
        """Write what the step has made into an empty folder: the model itself, or with products each in a folder of its name.

        Raises:
            CompressorError: a product is missing.
        """
        if lacking := [name for name in self.produces if name not in self.products]:
            raise CompressorError(f"the step's needs name '{lacking[0]}' among its products, and it made none of that name")
        model.save(out / OWN if self.produces else out)
        for name, product in self.products.items():
            product.save(out / name)

    def tell(self, event: Event) -> None:
        """Say how far the work has come."""
        self.listener(event)

    def note(self, note: Note) -> None:
        """Add to this step's part of the report."""
        self.notes.append(note)

    def _running(self, model: Model | Artifact) -> tuple[Callable[[Feed], Feed], Path]:
        """A model as a function of a feed, and the folder of what lies beside it."""
        if not isinstance(model, Artifact):
            return eager(self.task, model, self.device), self._files(model)
        assert self.target is not None, "a graph runs in a target's branch only"
        built = self.folder / "evaluated"
        candidate, _ = self.builder.build(_unkept(model), stage="step", name="evaluated", target=self.target, out=built)
        return opened(self.task, candidate.runtime, candidate.built), model.path

    def _files(self, model: Model) -> Path:
        folder = self.folder / "files"
        model.save_files(folder)
        return folder

    def _built(self, model: Model, number: int, runtime: Target, name: str, builder: Builder) -> Candidate:
        folder = self.folder / "measured" / str(number)
        model.save(folder / "torch")
        lowered = builder.lower(_saved(folder / "torch"), "torch", runtime.dialect.format, runtime)
        return builder.build(lowered, stage=f"variant-{number}", name=name, target=runtime, out=folder / "built")[0]


def of_step(made: StoredResult, name: str = OWN) -> StoredResult:
    """One of the models of a step that makes several, as a result of its own."""
    return replace(made, digest=digest_of(made.path / name), path=made.path / name)


def _saved(path: Path) -> StoredResult:
    return StoredResult("", digest_of(path), path, {}, 0.0, found=False)


def _unkept(artifact: Artifact) -> StoredResult:
    return StoredResult("", "", artifact.path, {}, 0.0, found=False)
