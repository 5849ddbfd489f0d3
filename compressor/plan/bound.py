"""A plan file, read and checked whole before anything heavy is imported: every fault at once, each with file and line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel

from compressor.contracts import Pass, Probe, Step, Target, Task, registry
from compressor.contracts.registry import format_for
from compressor.errors import Fault, MissingColumn, PlanError, PluginError, did_you_mean
from compressor.plan.composition import compose, compose_text
from compressor.plan.consistency import faults_of, plugin_faults
from compressor.plan.draft import Draft, Drafted
from compressor.plan.entries import KEYS, KINDS, MAX_ENTRIES, Entry, read_entry
from compressor.plan.paths import is_folder, matches, near_path
from compressor.plan.specs import Accept, DataSpec, Gate, Head, Limits, ModelSource, StepKeys
from compressor.plan.validation import notices, validated
from compressor.plan.yaml_source import Located, write_yaml

SECTIONS = (*Head.model_fields, "model", "models", "task", "data", "passes", "targets", "probes", "accept")
"""Keys at the top of a plan, beside `include`."""

PLAN = "plan"
"""Name of a plan that has none."""

Spec = TypeVar("Spec", bound=BaseModel)
AnyLimits = TypeVar("AnyLimits", bound=Limits)


@dataclass(frozen=True)
class BoundStep:
    """A step of the plan, ready to run."""

    name: str
    plugin: str
    step: Pass
    gate: Gate | None
    start: str | None
    """The earlier step, entry of `models:` or `source` that it starts from; None for the step before it."""
    only: tuple[str, ...]
    """Targets in whose branches it runs, where the plan names them; empty for all."""
    formats: Mapping[str, str]
    """Below torch: the format it works on, by the name of each target in whose branch it runs."""
    trunk: bool
    """True if it works on the torch model, once for all targets."""
    line: int


@dataclass(frozen=True)
class BoundTarget:
    """A target of the plan under its name there."""

    name: str
    plugin: str
    target: Target


@dataclass(frozen=True)
class BoundProbe:
    """A probe of the plan under its name there."""

    name: str
    plugin: str
    probe: Probe


@dataclass(frozen=True)
class Bound:
    """A plan without faults: names found, parameters typed, order and formats checked."""

    name: str
    seed: int
    text: str
    """The whole plan as YAML, includes and settings resolved."""
    folder: Path
    """Folder of the plan file; relative paths in the plan start here."""
    model: ModelSource
    models: Mapping[str, ModelSource]
    task: Task
    task_name: str
    data: DataSpec | None
    """None where no row is read: then parity and timing alone are judged."""
    reference: str
    """`source`, or the name of a step on the torch model."""
    metric: str
    """The measure that quality is held by."""
    passes: tuple[BoundStep, ...]
    targets: tuple[BoundTarget, ...]
    probes: tuple[BoundProbe, ...]
    accept: tuple[Accept, ...]
    stages: Literal["all", "quality"]
    task_at: Located
    """Where the task stands in the plan."""
    notices: tuple[str, ...] = ()
    """A line for each old name in the plan, which goes on working for a while."""

    @contextmanager
    def naming_columns(self) -> Iterator[None]:
        """While rows are read: a column that they lack is a fault of the plan, where it names it.

        Raises:
            PlanError: rows lack a column.
        """
        try:
            yield
        except MissingColumn as error:
            task = self.task_at.items().get(self.task_name, self.task_at)
            where = "task" if task is self.task_at else f"task.{self.task_name}"
            named = next(((path, at) for path, _, at in task.walk(where) if at.data == error.column), None)
            path, at = named or (where, task)
            raise PlanError([at.fault(path, f"{error}{'' if named else self._how_named(error.column)}")]) from error

    def _how_named(self, column: str) -> str:
        given = {name: getattr(self.task, name) for name in type(self.task).model_fields}
        field = next(
            (name for name, value in given.items() if column == value or (isinstance(value, tuple) and column in value)), None
        )
        return f"; name the one that is meant, as `{field}: NAME` below {self.task_name}" if field else ""


def load_plan(path: Path | str, *, settings: Sequence[str] = (), folder: Path | None = None) -> Bound:
    """Read a plan and check everything that can be known without its model and data.

    Args:
        path: the plan file.
        settings: values laid over it, as `passes.distill.epochs=1`; each value is YAML.
        folder: where relative paths in it start; the folder of the plan file unless given.

    Raises:
        PlanError: the plan is at fault; it carries every fault found.
    """
    path = Path(path)
    return _bound(compose(path, settings), path.parent if folder is None else folder, path.stem)


def read_plan(text: str, *, folder: Path, settings: Sequence[str] = ()) -> Bound:
    """The same of a plan that is no file: faults call it `plan`; relative paths in it, and what it includes, start in `folder`.

    Raises:
        PlanError: the plan is at fault; it carries every fault found.
    """
    return _bound(compose_text(text, PLAN, folder, settings), folder, PLAN)


def plan_name(text: str) -> str:
    """A name of a plan made of any text: other characters than its own become dashes."""
    return re.sub("[^A-Za-z0-9_-]+", "-", text).strip("-_")[:64] or PLAN


def _bound(composed: tuple[Located, tuple[Fault, ...]], folder: Path, stem: str) -> Bound:
    plan, faults = composed
    reader = _Reader(plan, folder, list(faults))
    bound = reader.bound(default_name=plan_name(stem))
    if bound is None or reader.faults:
        raise PlanError(tuple(dict.fromkeys(reader.faults)))
    return bound


def _suited(probe: Drafted, task: Task | None) -> Drafted:
    """A probe that measures, where its plan leaves it open, what the task has timed by itself."""
    usual = task.workloads() if task else ()
    return replace(probe, step=probe.step.suited(usual)) if usual and isinstance(probe.step, Probe) else probe


class _Reader:
    """Reads section after section and goes on where one is at fault."""

    def __init__(self, plan: Located, folder: Path, faults: list[Fault]) -> None:
        self.plan = plan
        self.sections = plan.items()
        self.folder = folder
        self.faults = faults
        self.notices: list[str] = []
        self.task: Task | None = None

    def bound(self, *, default_name: str) -> Bound | None:
        self._strangers()
        head = self._spec(
            Head, replace(self.plan, data={key: self.sections[key] for key in Head.model_fields if key in self.sections}), ""
        )
        model = self._model("model", self._section("model"))
        models = {name: self._model(f"models.{name}", at) for name, at in self._mapping("models").items()}
        task_name, task = self._task()
        self.task = task
        data = self._data()
        steps, targets, probes = (self._entries(section) for section in ("passes", "targets", "probes"))
        probes = [_suited(each, task) for each in probes]
        accept = self._accept()
        reference = head.reference if head else "source"
        at = self.sections.get("reference", self.plan)
        wanted = task.spelled(head.metric) if task and head and head.metric else (head.metric if head else None)
        metric = (wanted, self.sections.get("metric", self.plan))
        given = self.sections.get("data")
        without = None if given is not None and given.data is not None else given or self.plan
        draft = Draft(steps, targets, probes, accept, self._mapping("models"), reference, at, task_name, task, *metric, without)
        self.faults += faults_of(draft)
        if self.faults or not (head and model and task and (data or without)):
            return None
        return Bound(
            name=head.name or default_name,
            seed=head.seed,
            text=write_yaml(self.plan.plain()),
            folder=self.folder,
            model=model,
            models={name: source for name, source in models.items() if source},
            task=task,
            task_name=task_name,
            data=data,
            metric=wanted or task.metric,
            reference=reference,
            passes=tuple(_bound_step(step, targets) for step in steps),
            targets=tuple(
                BoundTarget(each.name, each.entry.plugin, each.step) for each in targets if isinstance(each.step, Target)
            ),
            probes=tuple(BoundProbe(each.name, each.entry.plugin, each.step) for each in probes if isinstance(each.step, Probe)),
            accept=tuple(each for _, _, each in accept if each),
            stages=head.stages,
            task_at=self.sections["task"],
            notices=tuple(self.notices),
        )

    def _strangers(self) -> None:
        for key, at in self.sections.items():
            if key not in SECTIONS:
                what = f"no such key of a plan{did_you_mean(key, [*SECTIONS, 'include'])}"
                self._fault(
                    at, key, "is read before settings are laid over a plan: write it into the file" if key == "include" else what
                )

    def _section(self, key: str) -> Located | None:
        """A section that every plan has."""
        at = self.sections.get(key)
        if at is None or at.data is None:
            self._fault(at or self.plan, key, f"missing; {_NEEDED[key]}")
            return None
        return at

    def _mapping(self, key: str) -> dict[str, Located]:
        at = self.sections.get(key)
        if at is not None and at.data is not None and not isinstance(at.data, dict):
            self._fault(at, key, f"found {at}, expected a mapping")
        return at.items() if at else {}

    def _list(self, key: str) -> list[Located]:
        at = self.sections.get(key)
        if at is not None and at.data is not None and not isinstance(at.data, list):
            self._fault(at, key, f"found {at}, expected a list: begin each entry with a dash")
        elif key in _NEEDED and not (at and at.values()):
            self._fault(at or self.plan, key, f"{'missing' if at is None else 'empty'}; {_NEEDED[key]}")
        elif at is not None and len(at.values()) > MAX_ENTRIES:
            self._fault(at, key, f"has {len(at.values())} entries, expected at most {MAX_ENTRIES}")
            return []
        return at.values() if at else []

    def _model(self, where: str, at: Located | None) -> ModelSource | None:
        source = self._spec(ModelSource, at, where)
        if at and source and source.folder and not is_folder(self.folder / source.folder):
            self._fault(
                at.items().get("folder", at),
                f"{where}.folder",
                f"no such folder: {source.folder}{self._from_here(source.folder)}",
            )
        return source

    def _data(self) -> DataSpec | None:
        at = self.sections.get("data")
        if at is None or at.data is None:
            return None
        data = self._spec(DataSpec, at, "data")
        if data and data.files and not data.files.installed:
            place = at.items().get("files", at)
            for path in (path for paths in data.files.parts().values() for path in paths):
                if not matches(self.folder, path):
                    self._fault(_mentioned(place, path), "data.files", f"no such file or folder: {path}{self._from_here(path)}")
        if data and data.root and not is_folder(self.folder / data.root):
            self._fault(at.items().get("root", at), "data.root", f"no such folder: {data.root}{self._from_here(data.root)}")
        return data

    def _from_here(self, path: str) -> str:
        seen = "" if Path(path).is_absolute() else f" (seen from {self.folder.resolve()})"
        return f"{seen}{near_path(self.folder / path)}"

    def _task(self) -> tuple[str, Task | None]:
        at = self._section("task")
        if at is None:
            return "", None
        named = [at.data] if isinstance(at.data, str) else list(at.items())
        if len(named) != 1:
            found = f"{len(named)} keys" if isinstance(at.data, dict) else str(at)
            self._fault(
                at,
                "task",
                f"found {found}, expected one task's name with its parameters{did_you_mean('', registry.names('task'))}",
            )
            return "", None
        parameters = at.items().get(named[0], replace(at, data=None))
        kind = self._plugin("task", named[0], parameters, "task")
        task = self._spec(kind, parameters, f"task.{named[0]}", what="parameter") if kind else None
        return named[0], task if isinstance(task, Task) else None

    def _entries(self, section: str) -> list[Drafted]:
        known = registry.known(KINDS[section])
        drafted = []
        for index, item in enumerate(self._list(section)):
            entry, faults = read_entry(section, index, item, known)
            self.faults += faults
            if entry:
                drafted.append(self._drafted(section, entry))
        return drafted

    def _drafted(self, section: str, entry: Entry) -> Drafted:
        keys = self._spec(KEYS[section], entry.beside, entry.where)
        kind = self._plugin(KINDS[section], entry.plugin, entry.parameters, entry.where)
        step, faults = validated(kind, entry.parameters, entry.where, what="parameter") if kind else (None, ())
        self.notices += notices(kind, entry.parameters, entry.where) if kind else ()
        beside = keys if isinstance(keys, StepKeys) else StepKeys()
        if beside.gate:
            beside = beside.model_copy(update={"gate": self._spelled(beside.gate)})
        drafted = Drafted(entry, kind, step, beside)
        inner = tuple(plugin_faults(drafted))
        # what is wrong inside a plug-in's parameters is told there, not once more for the step as a whole
        self.faults += [*inner, *(fault for fault in faults if not (inner and fault.where == entry.where))]
        return drafted

    def _accept(self) -> list[tuple[str, Located, Accept | None]]:
        items = enumerate(self._list("accept"))
        read = [(f"accept[{index}]", at, self._spec(Accept, at, f"accept[{index}]")) for index, at in items]
        return [(where, at, self._spelled(accept) if accept else None) for where, at, accept in read]

    def _spelled(self, limits: AnyLimits) -> AnyLimits:
        """With its metric as the task spells it."""
        if self.task is None or limits.metric is None:
            return limits
        return limits.model_copy(update={"metric": self.task.spelled(limits.metric)})

    def _plugin(self, kind: str, name: str, at: Located, where: str) -> type[Step] | None:
        try:
            found: type[Step] = registry.load(kind, name)
        except PluginError as error:
            self._fault(at, where, str(error))
            return None
        if (present := registry.current(kind, name)) != name:
            self.notices.append(f"{at.file}:{at.line}: {where}: {kind} {name} is called {present} now; the old name will go")
        return found

    def _spec(self, spec: type[Spec], at: Located | None, where: str, *, what: str = "key") -> Spec | None:
        if at is None:
            return None
        value, faults = validated(spec, at, where, what=what)
        self.faults += faults
        self.notices += notices(spec, at, where)
        return value

    def _fault(self, at: Located, where: str, what: str) -> None:
        self.faults.append(at.fault(where, what))


_NEEDED = {
    "model": "say where the model comes from: `folder:`, `installed:` or `hub:`",
    "task": "name what the model is for, with its parameters",
    "passes": "a plan has at least one pass",
    "targets": "a plan has at least one target",
}


def _mentioned(at: Located, text: str) -> Located:
    return next((value for _, _, value in at.walk() if value.data == text), at)


def _bound_step(drafted: Drafted, targets: Sequence[Drafted]) -> BoundStep:
    assert isinstance(drafted.step, Pass)
    keys = drafted.keys
    return BoundStep(
        name=drafted.name,
        plugin=drafted.entry.plugin,
        step=drafted.step,
        gate=keys.gate,
        start=keys.start,
        only=keys.only or (),
        formats={} if drafted.trunk else dict(_formats(drafted, targets)),
        trunk=drafted.trunk,
        line=drafted.entry.beside.line,
    )


def _formats(drafted: Drafted, targets: Sequence[Drafted]) -> Iterator[tuple[str, str]]:
    for target in targets:
        if isinstance(target.step, Target) and (not drafted.keys.only or target.name in drafted.keys.only):
            form = format_for(drafted.accepts, target.step.dialect)
            if form:
                yield target.name, form
