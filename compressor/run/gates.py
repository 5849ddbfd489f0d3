"""Gates: what a step has to keep, measured right after it and turned into verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from compressor.contracts import Candidate
from compressor.contracts.records import Verdict
from compressor.deploy.timing import time_candidates
from compressor.errors import GateStopped
from compressor.plan.bound import BoundStep, BoundTarget
from compressor.plan.specs import Gate
from compressor.report.findings import writer
from compressor.run.ground import Ground
from compressor.run.results import Built
from compressor.run.state import StageState
from compressor.run.verify import ClassDrop, Measured, class_drop, finite, judge
from compressor.store.store import remove

GATE_SECONDS = 15


@dataclass(frozen=True)
class Gates:
    """Judges stages as they are made."""

    ground: Ground
    folder: Path
    """Of the run."""
    states: Mapping[str, StageState]
    """What has been made so far, by name; the run goes on adding to it."""
    built: Sequence[Built]
    """What has been built so far."""

    def passed(self, step: BoundStep, state: StageState, target: BoundTarget | None) -> StageState:
        """The stage with the verdicts of the step's gate, rolled back where the gate says so."""
        if step.gate is None:
            return state
        with self.ground.watch.time("gate", step.name, target.name if target else None):
            measured = self._measured(step.gate, state, target)
        gate, name = f"passes.{step.name}.gate", state.stage.name
        place = self.ground.data.place
        broken = finite(state.evaluation, None, gate=gate, candidate=name, place=place) if state.evaluation else ()
        verdicts = (*broken, *judge(step.gate, measured, gate=gate, candidate=name))
        failed = [verdict for verdict in verdicts if verdict.outcome != "met"]
        rolled_back = bool(failed) and step.gate.on_fail == "roll back"
        stage = state.stage.model_copy(update={"verdicts": verdicts, "rolled_back": rolled_back})
        for verdict in failed:
            self.ground.say(f"{step.name}: gate {_told(verdict)}: {step.gate.on_fail}")
        return replace(state, stage=stage)

    def _measured(self, gate: Gate, state: StageState, target: BoundTarget | None) -> Measured:
        size, of = self._size(state, target) if gate.max_size is not None else (None, "")
        measured = Measured(differences=state.stage.differences, class_drop=self._class_drop(gate, state), size=size, size_of=of)
        return self._timed(measured, state, target or self.ground.bound.targets[0]) if gate.timed else measured

    def _class_drop(self, gate: Gate, state: StageState) -> ClassDrop | None:
        held = self.states.get(self.ground.bound.reference)
        if gate.max_class_drop is None or held is None or held.evaluation is None or state.evaluation is None:
            return None
        return class_drop(self.ground.bound.task, state.evaluation, held.evaluation)

    def _size(self, state: StageState, target: BoundTarget | None) -> tuple[float, str]:
        """Size against the reference: in a branch of what its target deploys, on the trunk of the torch models; and which it is."""
        bound = self.ground.bound
        if target is None:
            others = [each.name for each in bound.targets if each.target.dialect.format != state.format]
            of = f"bytes of the torch model, not of what {', '.join(others)} will deploy" if others else ""
            reference = self.states.get(bound.reference) or self.states["source"]
            if reference.stage.name != bound.reference:
                of = "; ".join(filter(None, (of, f"against the source, as {bound.reference} is not made yet")))
            return state.stage.bytes / reference.stage.bytes, of
        held = next(each for each in self.built if each.name == f"{bound.reference}@{target.name}")
        candidate, size = self._deployed(state, state.stage.name, target)
        remove(candidate.built)
        return size / held.bytes, f"bytes of what {target.name} deploys"

    def _timed(self, measured: Measured, state: StageState, target: BoundTarget) -> Measured:
        """Time the stage against the source on a target."""
        missing = target.target.missing()
        if reason := missing.build or missing.run:
            return replace(measured, why=f"{target.name}: {reason}")
        source, workload = self.states["source"], self.ground.workloads()[0]
        candidates = [self._deployed(each, each.stage.name, target)[0] for each in (source, state)]
        self.ground.aside.settle()
        record = time_candidates(
            candidates,
            self.ground.feeds(workload, source.made.path),
            workload,
            folder=self.folder / "bench",
            seconds=GATE_SECONDS,
            seed=self.ground.bound.seed,
            tell=self.ground.listener,
        )
        ratio = next(each for each in record.ratios if (each.of, each.to) == (candidates[1].id, candidates[0].id))
        row = next(each for each in record.rows if each.candidate == candidates[1].id)
        return measured.timed(record, row, ratio)

    def _deployed(self, state: StageState, name: str, target: BoundTarget) -> tuple[Candidate, int]:
        """A stage built for a target, and the bytes of its files."""
        builder, runtime = self.ground.builder, target.target
        lowered = builder.lower(state.made, state.format, runtime.dialect.format, runtime)
        out = self.folder / "gates" / state.stage.name / f"{name}@{target.name}"
        candidate, files = builder.build(lowered, stage=name, name=target.name, target=runtime, out=out)
        return candidate, sum(file.bytes for file in files)


def stop_where_failed(step: BoundStep, verdicts: Sequence[Verdict]) -> None:
    """End the run where a gate says so.

    Raises:
        GateStopped: a limit of a gate with `on_fail: stop` is not met.
    """
    worst = next((verdict for verdict in verdicts if verdict.outcome != "met"), None)
    if worst and step.gate and step.gate.on_fail == "stop":
        raise GateStopped(f"{worst.gate}: {_told(worst, reason=True)}")


def _told(verdict: Verdict, *, reason: bool = False) -> str:
    why = f": {verdict.why}" if verdict.why and (reason or verdict.outcome == "undecided") else ""
    write = writer(verdict)
    shown = f"not measured{why}" if verdict.value is None else f"{write(verdict.value)}{why}"
    return f"{verdict.quantity} {write(verdict.limit)} is {verdict.outcome} ({shown})"
