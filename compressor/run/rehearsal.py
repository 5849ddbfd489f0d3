"""A plan tried out whole on a cut model and a few rows, and a forecast of the real run from what that took."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.contracts import Event, InputSizes, Message
from compressor.contracts.anatomy import Anatomy
from compressor.contracts.records import Forecast, Report
from compressor.deploy.telemetry import quiet
from compressor.errors import ChildFailed
from compressor.plan.bound import Bound, load_plan
from compressor.run.child import import_for_forks, in_child
from compressor.run.forecast import ModelSize, Scale, Trial, forecast
from compressor.run.pace import Pace
from compressor.training.settings import TrainingSettings

if TYPE_CHECKING:
    from compressor.contracts import Model
    from compressor.store.store import Store


@dataclass(frozen=True)
class Part:
    """How much of a plan is run."""

    blocks: int | None
    """Of every model; None for all of them."""
    batches: int
    """To train on."""
    rows: int
    """To validate on and to test on."""
    complete: bool
    """Whether gates, probes, verdicts and export are part of it."""

    def __str__(self) -> str:
        depth = "all blocks" if self.blocks is None else f"{self.blocks} blocks"
        return f"{depth}, {self.batches} batches to train on, {self.rows} rows to score on"


REHEARSAL = Part(2, 2, 16, complete=True)
SECOND = Part(4, 4, 32, complete=False)
"""A second point tells what is fixed from what grows with rows and blocks."""


@dataclass(frozen=True)
class Source:
    """A model as it is or cut: where it lies (None: where the plan says) and its size."""

    folder: Path | None
    size: ModelSize


@dataclass(frozen=True)
class Survey:
    """The real scale of a plan, and its models cut to each depth; by name, `source` or an entry of `models:`."""

    whole: Scale
    cut: Mapping[int, Mapping[str, Source]]
    sizes: InputSizes | None = None
    """Of the rows."""

    def models(self, depth: int | None) -> Mapping[str, Source]:
        """Models of a depth; as they are without one."""
        return {name: Source(None, size) for name, size in self.whole.models.items()} if depth is None else self.cut[depth]


def rehearse(plan: Path, *, settings: Sequence[str] = (), tell: Callable[[Event], None], store: Store | None = None) -> Forecast:
    """Run the plan on two blocks and a few rows, with export, build and measuring, in a store and a folder that are thrown away.

    What fails on cut models (a student that is to keep four layers, say) is tried once more with all blocks: only what fails
    there too is a fault. A store that is given keeps how long trainings would take, for `check`.

    Raises:
        PlanError: the plan is at fault.
        ChildFailed: something failed as it would in the real run; it has that error's text and exit code.
    """
    load_plan(plan, settings=settings)  # so that its faults are raised here, as they are
    with tempfile.TemporaryDirectory(prefix="compressor-rehearsal-") as scratch:
        return in_child(_rehearsed, plan, tuple(settings), Path(scratch), store and store.root, tell=tell)


def _rehearsed(
    plan: Path, settings: tuple[str, ...], scratch: Path, store: Path | None, *, tell: Callable[[Event], None]
) -> Forecast:
    """In a process that only imports: what is small runs in forks of it, each with time and memory of its own."""
    from compressor.store.store import Store

    quiet()
    bound, started = load_plan(plan, settings=settings), time.monotonic()
    method = import_for_forks()
    start_seconds = time.monotonic() - started if method == "fork" else 0.0
    stage = _Stage(plan, settings, bound, scratch, method, start_seconds, tell)
    found: Survey = in_child(survey, plan, settings, scratch / "models", tell=tell, method=method)
    try:
        trials = stage.play((REHEARSAL, SECOND), found)
    except ChildFailed as error:
        if not any(source.folder for models in found.cut.values() for source in models.values()):
            raise
        tell(Message(f"{error}\nthis may come from cutting the model: once more with all blocks"))
        trials = stage.play(tuple(replace(part, blocks=None) for part in (REHEARSAL, SECOND)), found)
    expected = forecast(bound, found.whole, trials, rehearsal_seconds=time.monotonic() - started)
    if store is not None:
        pace, rows = Pace(bound, Store(store), found.whole.rows, found.sizes), {row.step: row.seconds for row in expected.rows}
        for step in (step for step in bound.passes if step.trunk and step.step.trains and step.name in rows):
            pace.learn(step, rows[step.name])
    return expected


# ------------------------------------------------------------------ small runs


@dataclass(frozen=True)
class _Stage:
    """Where small runs of a plan are played."""

    plan: Path
    settings: tuple[str, ...]
    bound: Bound
    scratch: Path
    method: str
    """How processes start."""
    start_seconds: float
    """What a process of its own would take beyond that, to import what these share."""
    tell: Callable[[Event], None]

    def play(self, parts: Sequence[Part], found: Survey) -> tuple[Trial, ...]:
        """Run part after part."""
        return tuple(self._trial(part, found.models(part.blocks), found.whole) for part in parts)

    def _trial(self, part: Part, models: Mapping[str, Source], whole: Scale) -> Trial:
        self.tell(Message(f"rehearse: {part}"))
        folder = Path(tempfile.mkdtemp(prefix="trial-", dir=self.scratch))
        settings = (*self.settings, *reduced(self.bound, part, models))
        started = time.monotonic()
        report, memory_bytes = in_child(run_small, self.plan, settings, folder, part.complete, tell=self.tell, method=self.method)
        rows = {split.name: split.rows for split in report.data.splits}
        return Trial(
            what=str(part),
            bound=load_plan(self.plan, settings=settings),
            scale=Scale(rows, {name: source.size for name, source in models.items()}, whole.epoch_of(rows["train"])),
            stages=report.stages,
            spent=report.spent,
            seconds=self.start_seconds + time.monotonic() - started,
            memory_bytes=memory_bytes,
            disk_bytes=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        )


def reduced(bound: Bound, part: Part, models: Mapping[str, Source]) -> Iterator[str]:
    """What is laid over a plan, as `--set` takes it, to make a small one of it."""
    training = _training(bound)
    batch = max((each.batch_size for each in training.values()), default=TrainingSettings().batch_size)
    timed = max((workload.batch for each in bound.probes for workload in each.probe.workloads()), default=1)
    wanted = {"train": max(part.batches * batch, timed), "validation": part.rows, "test": max(part.rows, timed)}
    if bound.data is not None:
        own: dict[str, int | None] = bound.data.limit.model_dump()
        yield _setting("data.limit", {name: min(rows, own[name] or rows) for name, rows in wanted.items()})
    for name, source in models.items():
        if source.folder is not None:
            yield _setting("model" if name == "source" else f"models.{name}", {"folder": str(source.folder.resolve())})
    for name, settings in training.items():
        yield from (_setting(f"passes.{name}.{parameter}", value) for parameter, value in settings.shortened().items())
    for step in bound.passes:
        if step.gate is not None and part.complete:
            yield _setting(f"passes.{step.name}.gate.on_fail", "warn")
        elif step.gate is not None:  # a gate cannot be taken away; this one needs no measuring
            yield _setting(f"passes.{step.name}.gate", {"max_size": 10, "on_fail": "warn"})
    if not part.complete:
        yield from (_setting("accept", []), _setting("probes", []), _setting("stages", "quality"))
        return
    for number in range(len(bound.accept)):
        yield _setting(f"accept.{number}.on_fail", "warn")
    for each in bound.probes:
        full, short = each.probe.model_dump(mode="json"), each.probe.shortened().model_dump(mode="json")
        yield from (_setting(f"probes.{each.name}.{name}", value) for name, value in short.items() if value != full[name])


def _training(bound: Bound) -> dict[str, TrainingSettings]:
    """Parameters of the steps that train, by the step's name."""
    steps: dict[str, object] = {step.name: step.step for step in bound.passes}
    return {name: step for name, step in steps.items() if isinstance(step, TrainingSettings)}


def _setting(path: str, value: Any) -> str:
    return f"{path}={json.dumps(value)}"


# ------------------------------------------------------------------ in processes of their own


def run_small(
    plan: Path, settings: Sequence[str], folder: Path, complete: bool, *, tell: Callable[[Event], None]
) -> tuple[Report, int]:
    """Run a plan by the ordinary pipeline, with an export of every target where it is complete; the report and the peak memory."""
    quiet()
    from compressor.deploy.worker import peak_bytes
    from compressor.export import export
    from compressor.run.pipeline import run_plan
    from compressor.store.store import Store

    bound = load_plan(plan, settings=settings)
    report = run_plan(bound, store=Store(folder / "store"), folder=folder / "run", command="compressor rehearse", tell=tell)
    for target in bound.targets:
        if complete and target.name not in report.missing:
            export(folder / "run", target.name, folder / "export" / target.name)
    return report, peak_bytes()


def survey(plan: Path, settings: Sequence[str], folder: Path, *, tell: Callable[[Event], None]) -> Survey:
    """Read all rows and models of a plan, and write the models cut to each depth into `folder`."""
    quiet()
    from compressor.model.anatomy import anatomy_or_bare
    from compressor.run.preflight import check_steps
    from compressor.run.rows import rows_in
    from compressor.tasks.data import resolve

    bound = load_plan(plan, settings=settings)
    tell(Message("rehearse: read rows and models"))
    data = rows_in(bound)
    whole: dict[str, ModelSize] = {}
    cut: dict[int, dict[str, Source]] = {part.blocks: {} for part in (REHEARSAL, SECOND) if part.blocks is not None}
    folders, newly_initialised, anatomies = dict[str, Path](), list[str](), dict[str, Anatomy]()
    for name, source in {"source": bound.model, **bound.models}.items():
        model = bound.task.load(resolve(source, bound.folder), data, seed=bound.seed)
        folders[name] = folder / f"{name}-files"
        model.save_files(folders[name])
        newly_initialised += [name] if model.newly_initialised else []
        anatomies[name] = anatomy_or_bare(model.module)
        whole[name] = ModelSize.of(model.layer_bytes(), model.weights)
        for depth, models in sorted(cut.items(), reverse=True):  # from deep to shallow: each is cut from the one before
            models[name] = _cut(model, depth, folder / f"{name}-{depth}", whole[name])
    check_steps(
        bound, folders, newly_initialised, lambda name: anatomies[name].insides
    )  # here, since a cut model is saved with its head as if it came with one
    sizes = bound.task.sizes(data, folders["source"])
    rows = {split.name: split.rows for split in data.record.splits}
    return Survey(Scale(rows, whole, sizes.epoch if sizes else None), cut, sizes)


def _cut(model: Model, depth: int, folder: Path, whole: ModelSize) -> Source:
    """Keep the first blocks, where they are known, there are more, and a stock configuration can say so: only that is a source."""
    from compressor.model.anatomy import anatomy_or_bare
    from compressor.model.edits import KeepBlocks
    from compressor.model.model import plain

    anatomy = anatomy_or_bare(model.module)
    blocks = [block.id for block in anatomy.blocks]
    if len(blocks) <= depth or "layers" in anatomy.row.without:
        return Source(None, whole)
    model.apply(KeepBlocks(blocks=tuple(blocks[:depth])))
    if not plain(model):
        return Source(None, whole)
    model.save(folder)
    return Source(folder, ModelSize.of(model.layer_bytes(), model.weights))
