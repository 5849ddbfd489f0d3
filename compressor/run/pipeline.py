"""The only loop over passes and targets: source, trunk, one branch a target, verification, report."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from compressor.contracts import Artifact, Evaluation, Event, Feed, Message, Target, Workload
from compressor.contracts.anatomy import Insides
from compressor.contracts.notes import Note
from compressor.contracts.records import LatencyRecord, ProbeRecord, Stage, Verdict
from compressor.contracts.step import step_parts
from compressor.contracts.task import Data
from compressor.deploy.bench import ProcessBench, write_feeds
from compressor.deploy.build import Foundry, model_files
from compressor.deploy.machine import device
from compressor.deploy.session import eager, opened, predictor
from compressor.deploy.timing import time_candidates
from compressor.errors import GateStopped
from compressor.plan.bound import Bound, BoundStep, BoundTarget
from compressor.plan.specs import Gate, ModelSource
from compressor.report import EVALUATIONS, TIMED_FEEDS, write_report
from compressor.run.context import StepContext
from compressor.run.keys import Keys, source_digest
from compressor.run.preflight import check_steps
from compressor.run.results import (
    PARITY_ROWS,
    Built,
    Found,
    Results,
    differences,
    load_evaluation,
    save_evaluation,
    verdict_of_plan,
)
from compressor.run.stopwatch import Stopwatch
from compressor.run.verify import Measured, judge, parity
from compressor.store.disk import writing
from compressor.store.store import Made, Store
from compressor.tasks.data import load_data, resolve
from compressor.training.checkpoint import holds_checkpoint
from compressor.training.launch import ALONE, Job, Processes, train_apart

if TYPE_CHECKING:
    from compressor.contracts.records import Report
    from compressor.model.model import Model

FEEDS = 16
OUTPUTS = "outputs.npz"
NOTES: TypeAdapter[tuple[Note, ...]] = TypeAdapter(tuple[Note, ...])


@dataclass(frozen=True)
class Standing:
    """A stage as it stands: its stored files, their rung, its record and its validation scores."""

    made: Made
    rung: str
    stage: Stage
    evaluation: Evaluation | None = None


@dataclass
class Runner:
    """One run of a plan; `run` is the whole of it."""

    bound: Bound
    store: Store
    folder: Path
    command: str
    listener: Callable[[Event], None]
    processes: Processes = ALONE
    standings: dict[str, Standing] = field(default_factory=dict)
    stages: list[Stage] = field(default_factory=list)
    built: list[Built] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    watch: Stopwatch = field(default_factory=Stopwatch)

    def run(self) -> Report:
        """Run the plan to its report.

        Raises:
            GateStopped: a gate with `on_fail: stop` was not met; the report is written all the same.
            CompressorError: a step failed.
        """
        started, clock = datetime.now(UTC), time.monotonic()
        results = Results(self.bound, self.data, started=started.isoformat(timespec="seconds"), command=self.command)
        for notice in self.bound.notices:
            self._say(notice)
        self._say("source: load the model")
        with self.watch.time("load", "source"):
            source = self._source()
        self._trunk_stage("source", source, step=None)
        for name in self.bound.models:
            with self.watch.time("load", name):
                self._made(name)  # a teacher at fault is found now, not hours later at the step that it teaches
        made = {name: self._made(name) for name in ("source", *self.bound.models)}
        drawn = (name for name, each in made.items() if each.facts.get("drawn"))
        check_steps(self.bound, {name: each.path for name, each in made.items()}, drawn, lambda name: self._insides(made[name]))
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
        self._say("report: write")
        report = results.report(self._found(), probes=probes, accept=accept, seconds=time.monotonic() - clock)
        write_report(report, self.folder)
        return report

    def _found(self) -> Found:
        source = self.standings["source"].made
        return Found(
            self._insides(source).family, tuple(self.stages), tuple(self.built), dict(self.missing), tuple(self.watch.spent)
        )

    # -------------------------------------------------------------- what everything stands on

    @cached_property
    def data(self) -> Data:
        """The plan's rows, read once."""
        self._say("data: read and split")
        with self.watch.time("data", "rows"):
            return load_data(self.bound.data, columns=self.bound.task.columns(), seed=self.bound.seed, folder=self.bound.folder)

    @cached_property
    def keys(self) -> Keys:
        """Keys of everything this run stores."""
        return Keys(self.bound, self.data.digest, self.data.labels, self.device, self.processes.size)

    @cached_property
    def device(self) -> str:
        return device()

    @cached_property
    def foundry(self) -> Foundry:
        return Foundry(self.store, self.bound.task, self.bound.task_name, self.data.labels, self.keys.common)

    def tell(self, event: Event) -> None:
        """Pass on what is told."""
        self.listener(event)

    def _say(self, text: str) -> None:
        self.listener(Message(text))

    # -------------------------------------------------------------- trunk

    def _source(self) -> Made:
        return self._loaded(self.bound.model)

    def _loaded(self, source: ModelSource) -> Made:
        path = resolve(source, self.bound.folder)

        def make(out: Path) -> Mapping[str, Any]:
            from compressor.model.model import check_finite

            model = self.bound.task.load(path, self.data, seed=self.bound.seed)
            check_finite(model, path)
            model.save(out)
            return {"drawn": list(model.drawn)} if model.drawn else {}

        return self.store.obtain(self.keys.source(source_digest(path)), make)

    def _model(self, name: str) -> Model:
        """A model by the name of a step, an entry of `models:` or `source`; a fresh copy in eval mode."""
        model = _load(self._made(name).path)
        model.module.train(False)
        return model

    def _made(self, name: str) -> Made:
        return self._loaded(self.bound.models[name]) if name in self.bound.models else self.standings[name].made

    def _trunk(self) -> Standing:
        current = self.standings["source"]
        for step in (step for step in self.bound.passes if step.trunk):
            parent = self._start(step, current)
            with self.watch.time("step", step.name):
                made = self._apply(step, parent, None, None)
            standing = self._trunk_stage(step.name, made, step=step)
            standing = self._gated(step, standing, None)
            current = parent if standing.stage.rolled_back else standing
        return current

    def _start(self, step: BoundStep, current: Standing) -> Standing:
        if step.start is None:
            return current
        if step.start in self.standings:
            return self.standings[step.start]
        made = self._loaded(self.bound.models[step.start])
        return Standing(made, "torch", Stage(name=step.start, step="source"))

    def _trunk_stage(self, name: str, made: Made, *, step: BoundStep | None) -> Standing:
        loaded = cache(lambda: _load(made.path))
        described = self._described(made, loaded)
        with self.watch.time("evaluate", name):
            evaluation = self._evaluated(made, "torch", None, "validation", loaded)
        stage = self._stage(name, made, evaluation, step=step, target=None).model_copy(
            update={
                "weights": described["weights"],
                "bytes": described["bytes"],
                "layer_bytes": described["layer_bytes"],
                "edits": tuple(described["edits"]),
            }
        )
        return self._keep(name, Standing(made, "torch", stage, evaluation))

    def _described(self, made: Made, loaded: Callable[[], Model] | None = None) -> Mapping[str, Any]:
        """What a report says of a torch model. Kept, so that a run in which all is found builds none of them."""

        def make(_: Path) -> Mapping[str, Any]:
            return _description(loaded() if loaded else _load(made.path))

        return self.store.obtain(self.keys.description(made.digest), make).facts

    def _insides(self, made: Made) -> Insides:
        return Insides(**self._described(made)["insides"])

    def _stage(
        self, name: str, made: Made, evaluation: Evaluation | None, *, step: BoundStep | None, target: str | None
    ) -> Stage:
        reference = self.standings.get(self.bound.reference)
        held = reference.evaluation if reference and name != self.bound.reference else None
        return Stage(
            name=name,
            step=step.plugin if step else "source",
            target=target,
            parameters=step.step.model_dump(mode="json") if step else {},
            key=made.key,
            digest=made.digest,
            found=made.found,
            seconds=made.seconds,
            bytes=sum(path.stat().st_size for path in model_files(made.path, self.standings["source"].made.path))
            if target
            else 0,
            scores=evaluation.scores if evaluation else None,
            differences=differences(self.bound, evaluation, held) if evaluation and held else (),
            notes=NOTES.validate_python(tuple(made.facts.get("notes", ()))),
        )

    def _keep(self, name: str, standing: Standing) -> Standing:
        self.standings[name] = standing
        self.stages.append(standing.stage)
        score = (
            f"{standing.stage.scores.main.name} {standing.stage.scores.main.value:.4f} on validation"
            if standing.stage.scores
            else ""
        )
        seconds = "found in the store" if standing.stage.found else f"{standing.stage.seconds:.1f} s"
        self._say(f"{name}: {seconds}{', ' + score if score else ''}")
        return standing

    # -------------------------------------------------------------- one step

    def _apply(self, step: BoundStep, parent: Standing, target: BoundTarget | None, rung: str | None) -> Made:
        runtime = target.target if target else None
        teachers = {name: self._made(name).digest for name in step.step.needs().teachers}
        parts = self.keys.step(step, parent.made.digest, teachers, runtime.dialect if runtime else None)
        if target:
            parts = {**parts, "target": step_parts(target.plugin, target.target), "rung": rung}

        def make(out: Path) -> Mapping[str, Any]:
            self._say(f"{step.name}{f' for {target.name}' if target else ''}: start")
            ctx = self._context(runtime, self.store.scratch(parts, keep=holds_checkpoint))
            if step.step.trains and rung is None and self.processes.size > 1:
                return {"notes": train_apart(self._job(step, parent, ctx.folder, out), self.processes, self.listener)}
            if rung is None:
                model = _load(parent.made.path)
                step.step.apply(model, ctx).save(out)
            else:
                _copy(step.step.apply(Artifact(rung, parent.made.path), ctx).path, out)
            return {"notes": [note.model_dump(mode="json") for note in ctx.notes]}

        return self.store.obtain(parts, make)

    def _context(self, runtime: Target | None, scratch: Path) -> StepContext:
        return StepContext(
            task=self.bound.task,
            data=self.data,
            seed=self.bound.seed,
            metric=self.bound.metric,
            device=self.device,
            folder=scratch,
            dialect=runtime.dialect if runtime else None,
            target=runtime,
            targets={each.name: each.target for each in self.bound.targets},
            store=self.store,
            foundry=self.foundry,
            models=self._model,
            listener=self.listener,
        )

    def _job(self, step: BoundStep, parent: Standing, scratch: Path, out: Path) -> Job:
        """A training step for processes of their own."""
        plan = scratch / "plan.yaml"
        plan.write_text(self.bound.text, encoding="utf-8")
        return Job(
            plan=plan.absolute(),
            folder=self.bound.folder.absolute(),
            step=step.name,
            data=self.data.digest,
            parent=parent.made.path.absolute(),
            teachers={name: self._made(name).path.absolute() for name in step.step.needs().teachers},
            store=self.store.root.absolute(),
            scratch=scratch.absolute(),
            out=out.absolute(),
        )

    def _evaluated(
        self, made: Made, rung: str, target: BoundTarget | None, split: str, loaded: Callable[[], Model] | None = None
    ) -> Evaluation:
        """Scores that guide a run (never those that decide it) are kept in the store."""
        rows = self.data.split(split)

        def make(out: Path) -> Mapping[str, Any]:
            if target is None:
                predict = eager(self.bound.task, loaded() if loaded else _load(made.path), self.device)
                files = made.path
            else:
                candidate, _ = self.foundry.build(
                    made, stage="validation", name=target.name, target=target.target, out=out / "built"
                )
                predict, files = opened(self.bound.task, target.target, candidate.built), candidate.built
            evaluation = self.bound.task.evaluate(predict, rows, files, split=split)
            if target is not None:
                _remove(out / "built")
            save_evaluation(evaluation, out)
            return {}

        parts = self.keys.evaluation(made.digest, rung, split, target.target if target else None)
        return self._held(load_evaluation(self.store.obtain(parts, make).path))

    def _held(self, evaluation: Evaluation) -> Evaluation:
        """By the metric that the plan chose."""
        return evaluation.held_by(self.bound.metric)

    def _gated(self, step: BoundStep, standing: Standing, target: BoundTarget | None) -> Standing:
        if step.gate is None:
            return standing
        with self.watch.time("gate", step.name, target.name if target else None):
            measured = self._measured_for_gate(step.gate, standing, target)
        verdicts = judge(step.gate, measured, gate=f"passes.{step.name}.gate", candidate=standing.stage.name)
        failed = [verdict for verdict in verdicts if verdict.outcome != "met"]
        stage = standing.stage.model_copy(
            update={"verdicts": verdicts, "rolled_back": bool(failed) and step.gate.on_fail == "roll back"}
        )
        self.stages[-1] = stage
        standing = replace(standing, stage=stage)
        self.standings[standing.stage.name] = standing
        for verdict in failed:
            shown = "not measured" if verdict.value is None else f"{verdict.value:.4g}"
            self._say(
                f"{step.name}: gate {verdict.quantity} {verdict.limit:g} is {verdict.outcome} ({shown}): {step.gate.on_fail}"
            )
        if failed and step.gate.on_fail == "stop":
            worst = failed[0]
            shown = f"not measured: {worst.why}" if worst.value is None else f"{worst.value:.4g}"
            raise GateStopped(f"{worst.gate}: {worst.quantity} {worst.limit:g} is {worst.outcome} ({shown})")
        return standing

    def _measured_for_gate(self, gate: Gate, standing: Standing, target: BoundTarget | None) -> Measured:
        size, of = self._size_for_gate(standing, target) if gate.max_size is not None else (None, "")
        measured = Measured(differences=standing.stage.differences, size=size, size_of=of)
        return self._timed_for_gate(measured, standing, target or self.bound.targets[0]) if gate.timed else measured

    def _size_for_gate(self, standing: Standing, target: BoundTarget | None) -> tuple[float, str]:
        """Size against the reference: in a branch of what its target deploys, on the trunk of the torch models; and which it is."""
        if target is None:
            others = [each.name for each in self.bound.targets if each.target.dialect.rung != standing.rung]
            of = f"bytes of the torch model, not of what {', '.join(others)} will deploy" if others else ""
            return standing.stage.bytes / self.standings[self.bound.reference].stage.bytes, of
        held = next(each for each in self.built if each.name == f"{self.bound.reference}@{target.name}")
        lowered = self.foundry.lower(standing.made, standing.rung, target.target.dialect.rung, target.target)
        out = self.folder / "gates" / standing.stage.name / "deployed"
        _, files = self.foundry.build(lowered, stage=standing.stage.name, name=target.name, target=target.target, out=out)
        _remove(out)
        return sum(file.bytes for file in files) / held.bytes, f"bytes of what {target.name} deploys"

    def _timed_for_gate(self, measured: Measured, standing: Standing, target: BoundTarget) -> Measured:
        """Time the stage against the source on a target."""
        missing = target.target.missing()
        if reason := missing.build or missing.run:
            return replace(measured, why=f"{target.name}: {reason}")
        source = self.standings["source"]
        candidates = []
        for name, each in (("source", source), (standing.stage.name, standing)):
            lowered = self.foundry.lower(each.made, each.rung, target.target.dialect.rung, target.target)
            out = self.folder / "gates" / standing.stage.name / f"{name}@{target.name}"
            candidates.append(self.foundry.build(lowered, stage=name, name=target.name, target=target.target, out=out)[0])
        workload = self._workloads()[0]
        record = time_candidates(
            candidates,
            self._feeds(workload),
            workload,
            folder=self.folder / "bench",
            seconds=15,
            seed=self.bound.seed,
            tell=self.tell,
        )
        ratio = next(each for each in record.ratios if each.of == candidates[1].id and each.to == candidates[0].id)
        row = next(each for each in record.rows if each.candidate == candidates[1].id)
        if ratio.outcome == "undecided":
            return replace(measured, why="the A/A control failed")
        return replace(measured, speedup=(ratio.value, ratio.interval), latency_ms=(row.median_ms, row.interval))

    # -------------------------------------------------------------- branches

    def _branch(self, target: BoundTarget, final: Standing) -> None:
        missing = target.target.missing()
        if reason := missing.build or missing.run:
            self.missing[target.name] = reason
            for stage in ("source", "final"):
                self.built.append(Built.not_measured(stage, target, reason))
            self._say(f"{target.name}: not measured: {reason}")
            return
        self._say(f"{target.name}: lower, build, score on test")
        reference = self.standings[self.bound.reference]
        self._candidate("source", self.standings["source"], target, timed=True)
        if self.bound.stages == "all" and target is self.bound.targets[0]:
            for standing in [each for name, each in self.standings.items() if name != "source" and each.rung == "torch"]:
                self._candidate(standing.stage.name, standing, target, timed=True)
        elif self.bound.reference != "source":
            self._candidate(self.bound.reference, reference, target, timed=False)
        branch = final
        for step in (step for step in self.bound.passes if not step.trunk and target.name in step.rungs):
            branch = self._branch_step(step, branch, target)
        self._candidate("final", branch, target, timed=True, eager_of=final)

    def _branch_step(self, step: BoundStep, parent: Standing, target: BoundTarget) -> Standing:
        rung = step.rungs[target.name]
        with self.watch.time("lower", parent.stage.name, target.name):
            lowered = replace(parent, made=self.foundry.lower(parent.made, parent.rung, rung, target.target), rung=rung)
        with self.watch.time("step", step.name, target.name):
            made = self._apply(step, lowered, target, rung)
        with self.watch.time("evaluate", step.name, target.name):
            kept = self.foundry.lower(made, rung, target.target.dialect.rung, target.target)
            evaluation = self._evaluated(kept, target.target.dialect.rung, target, "validation")
        stage = self._stage(step.name, made, evaluation, step=step, target=target.name)
        name = f"{step.name}@{target.name}"
        standing = self._keep(name, Standing(made, rung, stage, evaluation))
        standing = self._gated(step, standing, target)
        return lowered if standing.stage.rolled_back else standing

    def _candidate(
        self, name: str, standing: Standing, target: BoundTarget, *, timed: bool, eager_of: Standing | None = None
    ) -> None:
        runtime = target.target
        with self.watch.time("lower", name, target.name):
            lowered = self.foundry.lower(standing.made, standing.rung, runtime.dialect.rung, runtime)
        out = self.folder / "artifacts" / f"{name}@{target.name}"
        with self.watch.time("build", name, target.name):
            candidate, files = self.foundry.build(lowered, stage=name, name=target.name, target=runtime, out=out)
            session = runtime.open(out)
        evaluation = checked = None
        if name in ("final", self.bound.reference):  # a source that is not held against anything is only timed
            rows = self.data.split("test")
            with self.watch.time("score", name, target.name):
                evaluation = self._held(self.bound.task.evaluate(predictor(self.bound.task, session), rows, out, split="test"))
            save_evaluation(evaluation, self.folder / EVALUATIONS / candidate.id)
            with self.watch.time("parity", name, target.name):
                checked = self._parity(evaluation, eager_of or standing)
        self.built.append(Built(candidate, files, session.facts(), evaluation, checked, timed=timed))

    def _parity(self, evaluation: Evaluation, standing: Standing) -> Any:
        same = self._eager_outputs(standing.made)
        first = {name: evaluation.outputs[name][: len(array)] for name, array in same.items()}
        return parity(self.bound.task, first, same, against=f"{standing.stage.name}, eager float32")

    def _eager_outputs(self, made: Made) -> Feed:
        """The first outputs of a torch model on test, run eagerly in float32. Kept like scores that guide: they decide nothing."""
        import numpy as np

        rows = self.data.split("test")
        few = rows.select(range(min(PARITY_ROWS, len(rows))))

        def make(out: Path) -> Mapping[str, Any]:
            run = eager(self.bound.task, _load(made.path), self.device)
            arrays: dict[str, Any] = self.bound.task.predicted(run, few, made.path)
            np.savez(out / OUTPUTS, **arrays)
            return {}

        found = self.store.obtain(self.keys.outputs(made.digest, "test", len(few)), make)
        with np.load(found.path / OUTPUTS, allow_pickle=False) as outputs:
            return {name: outputs[name] for name in outputs.files}

    # -------------------------------------------------------------- probes and verdicts

    def _workloads(self) -> list[Workload]:
        """All that is measured, latency first."""
        probes = sorted((each.probe for each in self.bound.probes), key=lambda probe: not probe.measures_latency)
        return list(dict.fromkeys(workload for probe in probes for workload in probe.workloads())) or [Workload()]

    def _feeds(self, workload: Workload) -> Sequence[Feed]:
        files = self.standings["source"].made.path
        return self.bound.task.feeds(self.data.split("test"), files, workload, count=FEEDS)

    def _probe(self) -> tuple[ProbeRecord, ...]:
        timed = [built.candidate for built in self.built if built.candidate and built.timed]
        timed.sort(key=lambda candidate: candidate.stage != "source")  # sources first: the very first is the baseline
        if not timed:
            return ()
        records: list[ProbeRecord] = []
        write_feeds(self.folder / TIMED_FEEDS, self._feeds(self._workloads()[0]))
        for probe in self.bound.probes:
            self._say(f"{probe.name}: measure {len(timed)} candidates")
            feeds = {workload: self._feeds(workload) for workload in probe.probe.workloads()}
            with self.watch.time("probe", probe.name), ProcessBench(self.folder / "bench", tell=self.tell) as bench:
                records.append(probe.probe.measure(timed, feeds, bench, seed=self.bound.seed))
        return tuple(records)

    def _accept(self, probes: Sequence[ProbeRecord]) -> tuple[Verdict, ...]:
        latencies = [record for record in probes if isinstance(record, LatencyRecord)]
        return tuple(
            verdict
            for number, accept in enumerate(self.bound.accept)
            for verdict in verdict_of_plan(accept, number, self.built, latencies, self.bound)
        )


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
    with store.running(), writing(folder):
        return Runner(bound, store, folder, command, tell, processes).run()


def _copy(source: Path, out: Path) -> None:
    shutil.copytree(source, out, dirs_exist_ok=True)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder)


def _load(path: Path) -> Model:
    from compressor.model.model import Model

    return Model.load(path)


def _description(model: Model) -> dict[str, Any]:
    from compressor.model.anatomy import anatomy_or_bare

    return {
        "weights": model.weights,
        "bytes": model.stored_bytes(),
        "layer_bytes": model.layer_bytes(),
        "edits": [edit.describe() for edit in model.edits],
        "insides": asdict(anatomy_or_bare(model.module).insides),
    }
