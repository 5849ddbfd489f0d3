"""The only loop over passes and targets: source, trunk, one branch per target, verification, report."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from compressor.contracts import Artifact, Evaluation, Event, Session, Task
from compressor.contracts.failing import placed
from compressor.contracts.notes import Note
from compressor.contracts.records import LatencyRecord, ProbeRecord, Stage, Verdict
from compressor.contracts.step import step_parts
from compressor.deploy.bench import ProcessBench, write_feeds
from compressor.deploy.build import model_files
from compressor.deploy.graphs import describe
from compressor.deploy.session import open_built, predictor
from compressor.errors import GateStopped
from compressor.plan.bound import Bound, BoundStep, BoundTarget
from compressor.report import TIMED_FEEDS, wording, write_report
from compressor.run.ahead import lowered_ahead
from compressor.run.context import of_step
from compressor.run.gates import Gates, stop_where_failed
from compressor.run.ground import Ground, load_model
from compressor.run.pace import learn
from compressor.run.preflight import check_batches, check_lowered, check_rows_fit, check_sharded, check_steps
from compressor.run.results import Built, Results, RunState, differences, verdict_of_plan, verdicts_of_numbers, verdicts_of_probes
from compressor.run.scorer import Scorer
from compressor.run.state import StageState
from compressor.store.disk import writing
from compressor.store.store import Store, StoredResult
from compressor.training.checkpoint import holds_checkpoint
from compressor.training.launch import ALONE, Job, Processes, train_apart

if TYPE_CHECKING:
    from compressor.contracts.records import Report
    from compressor.model.model import Model

NOTES: TypeAdapter[tuple[Note, ...]] = TypeAdapter(tuple[Note, ...])


@dataclass
class Runner:
    """One run of a plan; `run` is the whole of it."""

    ground: Ground
    folder: Path
    command: str
    states: dict[str, StageState] = field(default_factory=dict)
    stages: list[Stage] = field(default_factory=list)
    built: list[Built] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    resumed: set[str] = field(default_factory=set)
    """Steps of which an earlier run did a part: how long they took here says nothing."""

    @property
    def bound(self) -> Bound:
        return self.ground.bound

    @cached_property
    def gates(self) -> Gates:
        """They see what is made and built as the run adds it."""
        return Gates(self.ground, self.folder, self.states, self.built)

    @cached_property
    def scorer(self) -> Scorer:
        """Scores what is built, as far as it can beside the run."""
        return Scorer(self.ground, self.folder)

    def run(self) -> Report:
        """Run the plan to its report.

        Raises:
            GateStopped: a gate with `on_fail: stop` was not met; the report is written all the same.
            CompressorError: a step failed.
        """
        started, clock = datetime.now(UTC), time.monotonic()
        results = Results(self.bound, self.ground.data, started=started.isoformat(timespec="seconds"), command=self.command)
        for notice in self.bound.notices:
            self.ground.say(notice)
        self._load()
        try:
            final = self._trunk()
            for target in self.bound.targets:
                self._branch(target, final)
        except GateStopped as stop:
            report = results.report(self._found(), probes=(), accept=(), seconds=time.monotonic() - clock, error=str(stop))
            write_report(report, self.folder)
            raise
        probes = self._probe()
        accept = self._accept(probes)
        self.ground.say("report: write")
        report = results.report(self._found(), probes=probes, accept=accept, seconds=time.monotonic() - clock)
        write_report(report, self.folder)
        learn(self.ground, [each for each in self.stages if each.name not in self.resumed], self.states["source"].made.path)
        return report

    def _found(self) -> RunState:
        self.ground.aside.settle()
        family = self.ground.insides(self.states["source"].made).family
        scored = {name: state.evaluation for name, state in self.states.items() if state.evaluation}
        return RunState(family, tuple(self.stages), tuple(self.built), dict(self.missing), tuple(self.ground.watch.spent), scored)

    # -------------------------------------------------------------- models

    def _load(self) -> None:
        """Every model of the plan; one at fault is found now, not hours later at the step that it teaches."""
        check_sharded(self.bound, self.ground.processes)
        self.ground.say("source: load the model")
        with self.ground.watch.time("load", "source"):
            source = self.ground.load(self.bound.model)
        self._trunk_stage("source", source, step=None)
        for name, given in self.bound.models.items():
            with self.ground.watch.time("load", name):
                self.ground.load(given)
        made = {name: self._made(name) for name in ("source", *self.bound.models)}
        newly_initialised = (name for name, each in made.items() if each.facts.get("drawn"))
        folders = {name: each.path for name, each in made.items()}
        check_steps(self.bound, folders, newly_initialised, lambda name: self.ground.insides(made[name]))
        check_lowered(self.bound, folders, self.ground.data)
        check_batches(self.bound, self.ground.data, made["source"].path)
        if self.bound.data is not None and any(each.target.takes() for each in self.bound.targets):
            check_rows_fit(self.bound, self.bound.task.sizes(self.ground.data, made["source"].path))

    def _model(self, name: str) -> Model:
        """A model by the name of a step, a product, an entry of `models:` or `source`; a fresh copy in eval mode."""
        return load_model(self._made(name).path)

    def _scored(self, name: str) -> Evaluation | None:
        """Validation scores of a step by its name."""
        return self.states[name].evaluation if name in self.states else None

    def _made(self, name: str) -> StoredResult:
        if name in self.bound.models:
            return self.ground.load(self.bound.models[name])
        return self.states[name].made

    # -------------------------------------------------------------- trunk

    def _trunk(self) -> StageState:
        current = self.states["source"]
        for step in (step for step in self.bound.passes if step.trunk):
            parent = self._start(step, current)
            with self.ground.watch.time("step", step.name):
                made = self._apply(step, parent, None, None)
            products = step.step.needs().products
            state = self._trunk_stage(step.name, of_step(made) if products else made, step=step)
            for name in products:
                self._trunk_stage(f"{step.name}.{name}", of_step(made, name), step=step)
            state = self._gated(step, state, None)
            current = parent if state.stage.rolled_back else state
        return current

    def _start(self, step: BoundStep, current: StageState) -> StageState:
        if step.start is None:
            return current
        if step.start in self.states:
            return self.states[step.start]
        made = self.ground.load(self.bound.models[step.start])
        return StageState(made, "torch", Stage(name=step.start, step="source"))

    def _trunk_stage(self, name: str, made: StoredResult, *, step: BoundStep | None) -> StageState:
        loaded = cache(lambda: load_model(made.path))
        described = self.ground.described(made, loaded)
        with self.ground.watch.time("evaluate", name):
            evaluation = self.ground.evaluated(made, "torch", None, "validation", loaded)
        stage = self._stage(name, made, evaluation, step=step, target=None).model_copy(
            update={
                "weights": described["weights"],
                "bytes": described["bytes"],
                "layer_bytes": described["layer_bytes"],
                "edits": tuple(described["edits"]),
            }
        )
        return self._keep(name, StageState(made, "torch", stage, evaluation))

    def _stage(
        self, name: str, made: StoredResult, evaluation: Evaluation | None, *, step: BoundStep | None, target: str | None
    ) -> Stage:
        reference = self.states.get(self.bound.reference)
        held = reference.evaluation if reference and name != self.bound.reference else None
        files = model_files(made.path, self.states["source"].made.path) if target else ()
        return Stage(
            name=name,
            step=step.plugin if step else "source",
            target=target,
            parameters=step.step.model_dump(mode="json") if step else {},
            key=made.key,
            digest=made.digest,
            found=made.found,
            seconds=made.seconds,
            bytes=sum(path.stat().st_size for path in files),
            scores=evaluation.scores if evaluation else None,
            differences=differences(self.bound, evaluation, held) if evaluation and held else (),
            notes=NOTES.validate_python(tuple(made.facts.get("notes", ()))),
            effort=dict(self.ground.bound.task.effort(made.path)),
        )

    def _keep(self, name: str, state: StageState) -> StageState:
        self.states[name] = state
        self.stages.append(state.stage)
        main = state.stage.scores.main if state.stage.scores else None
        score = f", {main.name} {wording.metric(main)} on validation" if main else ""
        seconds = "found in the store" if state.stage.found else f"{state.stage.seconds:.1f} s"
        self.ground.say(f"{name}: {seconds}{score}")
        return state

    def _gated(self, step: BoundStep, state: StageState, target: BoundTarget | None) -> StageState:
        judged = self.gates.passed(step, state, target)
        self.stages[self.stages.index(state.stage)] = judged.stage
        self.states[next(name for name, each in self.states.items() if each is state)] = judged
        stop_where_failed(step, judged.stage.verdicts)
        return judged

    # -------------------------------------------------------------- one step

    def _apply(self, step: BoundStep, parent: StageState, target: BoundTarget | None, form: str | None) -> StoredResult:
        runtime, store = (target.target if target else None), self.ground.store
        teachers = {name: self._made(name).digest for name in step.step.needs().teachers}
        parts = self.ground.keys.step(step, parent.made.digest, teachers, runtime.own_dialect() if runtime else None)
        if target:
            parts = {**parts, "target": step_parts(target.plugin, target.target), "format": form}

        def make(out: Path) -> Mapping[str, Any]:
            self.ground.say(f"{step.name}{f' for {target.name}' if target else ''}: start")
            scratch = store.scratch(parts, keep=holds_checkpoint)
            if any(scratch.iterdir()):
                self.resumed.add(step.name)
            ctx = self.ground.context(scratch, self._model, step=step, runtime=runtime, scored=self._scored)
            if step.step.trains and form is None and self.ground.processes.size > 1:
                job = self._job(step, parent, ctx.folder, out)
                return {"notes": train_apart(job, self.ground.processes, self.ground.listener)}
            if form is None:
                ctx.save(step.step.apply(load_model(parent.made.path), ctx), out)
            else:
                _copy(step.step.apply(Artifact(form, parent.made.path), ctx).path, out)
            return {"notes": [note.model_dump(mode="json") for note in ctx.notes]}

        return store.obtain(parts, make)

    def _job(self, step: BoundStep, parent: StageState, scratch: Path, out: Path) -> Job:
        """A training step for processes of their own."""
        plan = scratch / "plan.yaml"
        plan.write_text(self.bound.text, encoding="utf-8")
        return Job(
            plan=plan.absolute(),
            folder=self.bound.folder.absolute(),
            step=step.name,
            data=self.ground.data.digest,
            parent=parent.made.path.absolute(),
            teachers={name: self._made(name).path.absolute() for name in step.step.needs().teachers},
            store=self.ground.store.root.absolute(),
            scratch=scratch.absolute(),
            out=out.absolute(),
            sharded=self.ground.processes.sharded,
        )

    # -------------------------------------------------------------- branches

    def _branch(self, target: BoundTarget, final: StageState) -> None:
        missing = target.target.missing()
        if reason := missing.build or missing.run:
            self.missing[target.name] = reason
            for stage in ("source", "final"):
                self.built.append(Built.not_measured(stage, target, reason))
            self.ground.say(f"{target.name}: not measured: {reason}")
            return
        self.ground.say(f"{target.name}: lower, build, score on test")
        source, *others = (state for state in self.states.values() if state.format == "torch")
        shown = others if self.bound.stages == "all" and target is self.bound.targets[0] else ()
        with lowered_ahead(self.ground.builder, target.target, (source, *shown), self.ground.say):
            self._candidate("source", source, target, timed=True)
            for state in shown:
                self._candidate(state.stage.name, state, target, timed=True)
        if not shown and self.bound.reference != "source":
            self._candidate(self.bound.reference, self.states[self.bound.reference], target, timed=False)
        branch = final
        for step in (step for step in self.bound.passes if not step.trunk and target.name in step.formats):
            branch = self._branch_step(step, branch, target)
        self._candidate("final", branch, target, timed=True, eager_of=final)

    def _branch_step(self, step: BoundStep, parent: StageState, target: BoundTarget) -> StageState:
        form, builder, watch = step.formats[target.name], self.ground.builder, self.ground.watch
        with watch.time("lower", parent.stage.name, target.name):
            lowered = replace(parent, made=builder.lower(parent.made, parent.format, form, target.target), format=form)
        with watch.time("step", step.name, target.name):
            made = self._apply(step, lowered, target, form)
        with watch.time("evaluate", step.name, target.name):
            kept = builder.lower(made, form, target.target.dialect.format, target.target)
            evaluation = self.ground.evaluated(kept, target.target.dialect.format, target, "validation")
        stage = self._stage(step.name, made, evaluation, step=step, target=target.name)
        state = self._keep(f"{step.name}@{target.name}", StageState(made, form, stage, evaluation))
        state = self._gated(step, state, target)
        return lowered if state.stage.rolled_back else state

    def _candidate(
        self, name: str, state: StageState, target: BoundTarget, *, timed: bool, eager_of: StageState | None = None
    ) -> None:
        runtime, builder, watch = target.target, self.ground.builder, self.ground.watch
        with watch.time("lower", name, target.name):
            lowered = builder.lower(state.made, state.format, runtime.dialect.format, runtime)
        out = self.folder / "artifacts" / f"{name}@{target.name}"
        with watch.time("build", name, target.name):
            candidate, files = builder.build(lowered, stage=name, name=target.name, target=runtime, out=out)
            session = open_built(runtime, out)
        candidate = replace(candidate, task=self._decided(session, out))
        scored = name in ("final", self.bound.reference)  # a source that is not held against anything is only timed
        begun = self.scorer.start(candidate, session, (eager_of or state) if scored else None)
        self.built.append(Built(candidate, files, session.facts(), begun, timed=timed))

    def _decided(self, session: Session, out: Path) -> Task:
        """The task as this built model is scored and shipped by: what it has to choose, it chooses on validation rows."""
        task, data = self.bound.task, self.ground.data
        chosen = task.decided(predictor(task, session), data.split("validation"), out)
        if chosen is not task:
            describe(out, chosen, self.bound.task_name, data.labels)
        return chosen

    # -------------------------------------------------------------- probes and verdicts

    def _probe(self) -> tuple[ProbeRecord, ...]:
        timed = [built.candidate for built in self.built if built.candidate and built.timed]
        timed.sort(key=lambda candidate: candidate.stage != "source")  # sources first: the very first is the baseline
        if not timed:
            return ()
        records: list[ProbeRecord] = []
        self.ground.aside.settle()
        ground, files = self.ground, self.states["source"].made.path
        write_feeds(self.folder / TIMED_FEEDS, ground.feeds(ground.workloads()[0], files))
        for probe in self.bound.probes:
            ground.say(f"{probe.name}: measure {len(timed)} candidates")
            feeds = {workload: ground.feeds(workload, files) for workload in probe.probe.workloads()}
            made = ProcessBench(self.folder / "bench", tell=ground.listener, store=ground.store)
            with ground.watch.time("probe", probe.name), made as bench:
                records.append(probe.probe.measure(timed, feeds, bench, seed=self.bound.seed))
        return tuple(records)

    def _accept(self, probes: Sequence[ProbeRecord]) -> tuple[Verdict, ...]:
        latencies = [record for record in probes if isinstance(record, LatencyRecord)]
        accepted = (
            verdict
            for number, accept in enumerate(self.bound.accept)
            for verdict in verdict_of_plan(accept, number, self.built, latencies, self.bound)
        )
        return (*verdicts_of_numbers(self.built, self.ground.data), *verdicts_of_probes(probes), *accepted)


def run_plan(
    bound: Bound,
    *,
    store: Store,
    folder: Path,
    command: str,
    tell: Callable[[Event], None],
    processes: Processes = ALONE,
) -> Report:
    """Run a plan and write its report into `folder`; the report carries the exit code. `processes` compute training steps.

    Raises:
        GateStopped: a gate with `on_fail: stop` was not met; the report is written all the same.
        CompressorError: a step failed, or a disk is full.
    """
    ground = Ground(bound, store, tell, processes)
    with store.running(), writing(folder), placed(lambda split, row: ground.data.place(split, row)), ground.aside:
        return Runner(ground, folder, command).run()


def _copy(source: Path, out: Path) -> None:
    shutil.copytree(source, out, dirs_exist_ok=True)
