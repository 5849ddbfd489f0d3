"""What every part of a run stands on: its plan and store, rows, keys, device, builder, and what a step sees of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.contracts import Evaluation, Event, Feed, Message, Target, Workload
from compressor.contracts.anatomy import Insides
from compressor.contracts.data import Data
from compressor.contracts.probe import FEEDS
from compressor.deploy.build import Builder
from compressor.deploy.machine import device
from compressor.deploy.session import eager, opened
from compressor.plan.bound import Bound, BoundStep, BoundTarget
from compressor.plan.specs import ModelSource
from compressor.run.aside import Aside
from compressor.run.context import StepContext
from compressor.run.keys import Keys, source_digest
from compressor.run.results import PARITY_ROWS, load_evaluation, save_evaluation
from compressor.run.rows import rows_in
from compressor.run.stopwatch import Stopwatch
from compressor.store.store import Store, StoredResult, remove
from compressor.tasks.data import resolve
from compressor.training.launch import ALONE, Processes

if TYPE_CHECKING:
    from compressor.model.model import Model

OUTPUTS = "outputs.npz"


@dataclass(frozen=True)
class Ground:
    """What a run stands on; made once, for the command line and for each process of a training step."""

    bound: Bound
    store: Store
    listener: Callable[[Event], None]
    processes: Processes = ALONE
    device: str = field(default_factory=device)
    watch: Stopwatch = field(default_factory=Stopwatch)
    aside: Aside = field(default_factory=Aside)

    def say(self, text: str) -> None:
        """Report one line."""
        self.listener(Message(text))

    @cached_property
    def data(self) -> Data:
        """The plan's rows, read once."""
        self.say("data: read and split" if self.bound.data else "data: none")
        with self.watch.time("data", "rows"):
            data = rows_in(self.bound)
        for finding in data.record.findings:
            self.say(f"data: {finding}")
        return data

    @cached_property
    def keys(self) -> Keys:
        """Keys of everything this run stores."""
        processes = self.processes
        return Keys(self.bound, self.data.digest, self.data.labels, self.device, processes.size, sharded=processes.sharded)

    @cached_property
    def builder(self) -> Builder:
        """Lowers and builds."""
        return Builder(
            self.store, self.bound.task, self.bound.task_name, self.data.labels, self.keys.common, tuple(self.workloads())
        )

    def context(
        self,
        folder: Path,
        models: Callable[[str], Model],
        *,
        step: BoundStep | None = None,
        runtime: Target | None = None,
        scored: Callable[[str], Evaluation | None] = lambda _: None,
    ) -> StepContext:
        """The run as a step sees it, in the trunk or in the branch of `runtime`."""
        return StepContext(
            task=self.bound.task,
            data=self.data,
            seed=self.bound.seed,
            metric=self.bound.metric,
            device=self.device,
            folder=folder,
            dialect=runtime.own_dialect() if runtime else None,
            target=runtime,
            targets={each.name: each.target for each in self.bound.targets},
            store=self.store,
            builder=self.builder,
            models=models,
            listener=self.listener,
            scored=scored,
            alone=self.aside.settle,
            produces=step.step.needs().products if step else (),
        )

    def load(self, source: ModelSource) -> StoredResult:
        """A model of the plan as its task loads it, stored."""
        path = resolve(source, self.bound.folder)

        def make(out: Path) -> Mapping[str, Any]:
            from compressor.model.model import check_finite

            model = self.bound.task.load(path, self.data, seed=self.bound.seed)
            check_finite(model, path)
            model.save(out)
            self.bound.task.check_rows(model, self.data, out)
            return {"drawn": list(model.newly_initialised)} if model.newly_initialised else {}

        return self.store.obtain(self.keys.source(source_digest(path)), make)

    def described(self, made: StoredResult, loaded: Callable[[], Model] | None = None) -> Mapping[str, Any]:
        """What a report says of a torch model. Kept, so that a run in which all is found builds none of them."""

        def make(_: Path) -> Mapping[str, Any]:
            return _description(loaded() if loaded else load_model(made.path))

        return self.store.obtain(self.keys.description(made.digest), make).facts

    def insides(self, made: StoredResult) -> Insides:
        """What may be worked on inside a torch model."""
        return Insides(**self.described(made)["insides"])

    def evaluated(
        self, made: StoredResult, form: str, target: BoundTarget | None, split: str, loaded: Callable[[], Model] | None = None
    ) -> Evaluation | None:
        """Scores that guide a run (never those that decide it), kept in the store, by the plan's metric; None where there is no data."""
        if not self.data.real:
            return None
        rows = self.data.split(split)

        def make(out: Path) -> Mapping[str, Any]:
            if target is None:
                predict = eager(self.bound.task, loaded() if loaded else load_model(made.path), self.device)
                evaluation = self.bound.task.evaluate(predict, rows, made.path, split=split)
            else:
                built, runtime = out / "built", target.target
                self.builder.build(made, stage="validation", name=target.name, target=runtime, out=built)
                evaluation = self.bound.task.evaluate(opened(self.bound.task, runtime, built), rows, built, split=split)
                remove(built)
            save_evaluation(evaluation, out)
            return {}

        parts = self.keys.evaluation(made.digest, form, split, target.target if target else None)
        return load_evaluation(self.store.obtain(parts, make).path).held_by(self.bound.metric)

    def eager_outputs(self, made: StoredResult) -> Feed:
        """The first outputs of a torch model on test, run eagerly in float32. Kept like scores that guide: they decide nothing."""
        import numpy as np

        rows = self.data.split("test")
        few = rows.select(range(min(PARITY_ROWS, len(rows))))

        def make(out: Path) -> Mapping[str, Any]:
            run = eager(self.bound.task, load_model(made.path), self.device)
            np.savez(out / OUTPUTS, **self.bound.task.predicted(run, few, made.path))  # type: ignore[arg-type]
            return {}

        found = self.store.obtain(self.keys.outputs(made.digest, "test", len(few)), make)
        with np.load(found.path / OUTPUTS, allow_pickle=False) as outputs:
            return dict(outputs)

    def workloads(self) -> list[Workload]:
        """All that probes measure, latency first."""
        probes = sorted((each.probe for each in self.bound.probes), key=lambda probe: not probe.measures_latency)
        return list(dict.fromkeys(workload for probe in probes for workload in probe.workloads())) or [Workload()]

    def feeds(self, workload: Workload, files: Path) -> Sequence[Feed]:
        """Rows of test that a workload is measured with."""
        return self.bound.task.feeds(self.data.split("test"), files, workload, count=FEEDS)


def load_model(path: Path, device: str = "cpu", *, sharded: bool = False) -> Model:
    """A stored model, in eval mode; `sharded` over the processes of the group."""
    from compressor.model.model import Model

    model = Model.load(path, device, sharded=sharded)
    for component in model.components.values():
        component.module.train(False)
    return model


def _description(model: Model) -> dict[str, Any]:
    from compressor.model.anatomy import anatomy_or_bare

    return {
        "weights": model.weights,
        "bytes": model.stored_bytes(),
        "layer_bytes": model.layer_bytes(),
        "edits": [edit.describe() for edit in model.edits],
        "insides": asdict(anatomy_or_bare(model.module).insides),
    }
