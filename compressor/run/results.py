"""What a run found, put into records: candidates, verdicts of `accept:`, the rows that changed, and the report as a whole."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from compressor.contracts import Candidate, Data, Evaluation, records
from compressor.contracts.model import WEIGHTS
from compressor.contracts.notes import Note
from compressor.contracts.records import (
    Difference,
    Disagreement,
    File,
    LatencyRecord,
    ModelRecord,
    OtherRecord,
    Parity,
    ProbeRecord,
    Report,
    Scores,
    Spent,
    Stage,
    Verdict,
)
from compressor.deploy.bench import LOAD_WINDOW_SECONDS, load_of_others
from compressor.deploy.machine import machine, versions
from compressor.files import read_bytes
from compressor.model.sources import resolve
from compressor.plan.bound import Bound, BoundTarget
from compressor.plan.specs import Accept, ModelSource
from compressor.report.findings import answer
from compressor.run.verify import Measured, class_drop, finite, judge

MOST_DISAGREEMENTS = 200
FIRST_OUTPUT = "logits"
"""What the one output is called that runs of report version 1 kept."""


@dataclass(frozen=True)
class Scored:
    """Scores of a candidate on test, and how near its outputs are to those of the torch model; neither of one that is only timed."""

    evaluation: Evaluation | None = None
    parity: Parity | None = None


@dataclass(frozen=True)
class Built:
    """A candidate with what is known of it beside its times."""

    candidate: Candidate | None
    files: tuple[File, ...]
    facts: Mapping[str, str]
    scored: Future[Scored] | None
    """None of one that is not here."""
    timed: bool
    id: str = ""
    why_not: str | None = None

    @classmethod
    def not_measured(cls, stage: str, target: BoundTarget, reason: str) -> Built:
        """A candidate that could not be built or run here."""
        return cls(None, (), {}, None, timed=False, id=f"{stage}@{target.name}", why_not=reason)

    @property
    def name(self) -> str:
        return self.candidate.id if self.candidate else self.id

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)

    @property
    def evaluation(self) -> Evaluation | None:
        """Waited for, where it is scored beside the run."""
        return self.scored.result().evaluation if self.scored else None

    @property
    def parity(self) -> Parity | None:
        """Waited for like the scores."""
        return self.scored.result().parity if self.scored else None


def verdict_of_plan(
    accept: Accept, number: int, built: Sequence[Built], latencies: Sequence[LatencyRecord], bound: Bound
) -> tuple[Verdict, ...]:
    """Verdicts of one entry of `accept:`."""
    by_name = {each.name: each for each in built}
    final, held = by_name[f"final@{accept.target}"], by_name.get(f"{bound.reference}@{accept.target}")
    gate = f"accept[{number}]"
    if final.why_not or held is None:
        return judge(accept, Measured(why=final.why_not or "no reference"), gate=gate, candidate=final.name)
    measured = Measured(
        differences=_differences(bound, final, held),
        class_drop=class_drop(bound.task, final.evaluation, held.evaluation) if final.evaluation and held.evaluation else None,
        size=final.bytes / held.bytes,
        why="latency was not measured",
    )
    if latencies:
        measured = _with_times(measured, accept, final.name, latencies)
    return judge(accept, measured, gate=gate, candidate=final.name)


def verdicts_of_numbers(built: Sequence[Built], data: Data) -> tuple[Verdict, ...]:
    """Of everything that was scored or held against its torch model: outputs that are not finite fail, whether the plan accepts by them or not."""
    return tuple(
        verdict
        for each in built
        if each.evaluation or each.parity
        for verdict in finite(each.evaluation, each.parity, gate="outputs", candidate=each.name, place=data.place)
    )


def verdicts_of_probes(probes: Sequence[ProbeRecord]) -> tuple[Verdict, ...]:
    """Of outputs that probes found not to be finite."""
    return tuple(
        Verdict(
            gate=record.probe,
            candidate=candidate,
            quantity="finite",
            limit=0.0,
            value=float(count),
            judged_by="point",
            outcome="not met",
            why=f"{count} outputs are not finite (NaN or infinite)",
        )
        for record in probes
        if isinstance(record, OtherRecord)
        for candidate, count in record.not_finite.items()
        if count
    )


def _with_times(measured: Measured, accept: Accept, final: str, latencies: Sequence[LatencyRecord]) -> Measured:
    rows = [
        (latency, row) for latency in latencies for row in latency.rows if row.candidate == final and accept.fits(row.workload)
    ]
    if not rows:
        return replace(measured, why="no latency at this workload was measured")
    latency, row = rows[0]
    to = f"source@{accept.against or accept.target}"
    ratio = next(
        (each for each in latency.ratios if (each.of, each.to, each.workload) == (final, to, row.workload)),
        None,
    )
    return measured.timed(latency, row, ratio) if ratio else replace(measured, why=f"{to} was not timed")


def differences(bound: Bound, candidate: Evaluation, reference: Evaluation) -> tuple[Difference, ...]:
    """A candidate against the plan's reference by every measure that both have; the one that quality is held by comes first."""
    mine, theirs = ({metric.name for metric in each.scores.metrics} for each in (candidate, reference))
    known = [each.name for each in bound.task.measures() if each.name in mine & theirs]
    names = sorted(known, key=lambda name: name != candidate.scores.metric)
    return tuple(bound.task.compare(candidate, reference, metric=name, name=bound.reference, seed=bound.seed) for name in names)


def _differences(bound: Bound, each: Built, held: Built | None) -> tuple[Difference, ...]:
    if held is None or each.evaluation is None or held.evaluation is None or each is held:
        return ()
    return differences(bound, each.evaluation, held.evaluation)


def save_evaluation(evaluation: Evaluation, folder: Path) -> None:
    """Write scores and rows."""
    import numpy as np

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scores.json").write_text(evaluation.scores.model_dump_json(), encoding="utf-8")
    weights = {} if evaluation.weights is None else {"weights": evaluation.weights}
    arrays = {"outputs": evaluation.outputs, "gains": evaluation.gains, "truth": evaluation.truth, "rows": weights}
    named = {f"{kind}/{name}": array for kind, of_kind in arrays.items() for name, array in of_kind.items()}
    np.savez(folder / "rows.npz", **named)  # type: ignore[arg-type]


def load_evaluation(folder: Path) -> Evaluation:
    """Read what `save_evaluation` wrote, or a run of report version 1."""
    import numpy as np

    scores = Scores.model_validate_json(read_bytes(folder / "scores.json"))
    with np.load(folder / "rows.npz", allow_pickle=False) as rows:
        if "correct" in rows.files:  # version 1 kept one output and the main metric
            return Evaluation(scores, {FIRST_OUTPUT: rows["outputs"]}, {scores.metric: rows["correct"]})
        arrays: dict[str, dict[str, Any]] = {"outputs": {}, "gains": {}, "truth": {}, "rows": {}}
        for member in rows.files:
            kind, _, name = member.partition("/")
            arrays[kind][name] = rows[member]
    return Evaluation(scores, arrays["outputs"], arrays["gains"], arrays["rows"].get("weights"), arrays["truth"])


@dataclass(frozen=True)
class RunState:
    """What a run has found so far."""

    family: str
    """Of the source model."""
    stages: tuple[Stage, ...]
    """The source comes first."""
    built: tuple[Built, ...]
    missing: Mapping[str, str]
    spent: tuple[Spent, ...]
    evaluations: Mapping[str, Evaluation]
    """Of stages on validation, the source's first."""


@dataclass(frozen=True)
class Results:
    """Makes the report of a run."""

    bound: Bound
    data: Data
    started: str
    command: str

    def report(
        self,
        found: RunState,
        *,
        probes: tuple[ProbeRecord, ...],
        accept: tuple[Verdict, ...],
        seconds: float,
        error: str | None = None,
    ) -> Report:
        """Everything in one record."""
        outcome, code = _outcome(accept, error)
        source = found.stages[0]
        differing = self._differing(found.built)
        report = Report(
            name=self.bound.name,
            outcome=outcome,
            exit_code=code,
            summary=error or "",
            started=self.started,
            seconds=round(seconds, 1),
            command=self.command,
            plan=self.bound.text,
            seed=self.bound.seed,
            task=self.bound.task_name,
            machine=machine(load=load_of_others((), window_seconds=LOAD_WINDOW_SECONDS)),
            versions=versions(),
            model=self._model(source.weights or 0, source.bytes, found.family),
            data=self.data.record,
            reference=self.bound.reference,
            stages=found.stages,
            candidates=tuple(self._candidate(each, found.built) for each in found.built),
            probes=probes,
            verdicts=accept,
            disagreements=tuple(row for rows in differing.values() for row in rows[:MOST_DISAGREEMENTS]),
            changed={name: dict(Counter(row.kind for row in rows)) for name, rows in differing.items()},
            missing=dict(found.missing),
            notes=self._notes(found),
            spent=found.spent,
            error=error,
        )
        return report if error else report.model_copy(update={"summary": answer(report)})

    def _notes(self, found: RunState) -> tuple[Note, ...]:
        """What the task shows of stages on validation, and of built files on test."""
        scored = {each.name: each.evaluation for each in found.built if each.evaluation}
        held = sorted(scored, key=lambda name: not name.startswith(f"{self.bound.reference}@"))
        of_splits = {"validation": found.evaluations, "test": {name: scored[name] for name in held}}
        return tuple(note for split, each in of_splits.items() if each for note in self.bound.task.notes(each, split=split))

    def _model(self, weights: int, size: int, family: str) -> ModelRecord:
        from compressor.store.store import sha256_of

        path = resolve(self.bound.model, self.bound.folder) / WEIGHTS
        return ModelRecord(
            source=_spelled(self.bound.model),
            sha256=sha256_of(path) if path.is_file() else None,
            licence=_licence(self.bound.model, path.parent),
            family=family,
            weights=weights,
            bytes=size,
        )

    def _candidate(self, each: Built, built: Sequence[Built]) -> records.Candidate:
        stage, _, target = each.name.partition("@")
        held = next((other for other in built if other.name == f"{self.bound.reference}@{target}"), None)
        return records.Candidate(
            id=each.name,
            stage=stage,
            target=target,
            files=each.files,
            bytes=each.bytes,
            layer_bytes=each.candidate.runtime.layer_bytes(each.candidate.built) if each.candidate else {},
            facts=dict(each.facts),
            scores=each.evaluation.scores if each.evaluation else None,
            differences=_differences(self.bound, each, held),
            parity=each.parity,
            diagnosis=each.candidate.runtime.diagnose(each.candidate.built) if each.candidate and stage == "final" else (),
            not_measured=each.why_not,
        )

    def _differing(self, built: Sequence[Built]) -> dict[str, tuple[Disagreement, ...]]:
        """Rows of test on which reference and final differ, by candidate."""
        found: dict[str, tuple[Disagreement, ...]] = {}
        for target in self.bound.targets:
            held, final = (
                next((each.evaluation for each in built if each.name == f"{name}@{target.name}"), None)
                for name in (self.bound.reference, "final")
            )
            name = f"final@{target.name}"
            if held and final:
                rows = self.bound.task.disagreements(final, held, self.data.split("test"), self.data.labels, name=name)
                found |= {name: tuple(map(self._placed, rows))} if rows else {}
        return found

    def _placed(self, differing: Disagreement) -> Disagreement:
        """A picture or sound is told by where it stands."""
        return differing.model_copy(update={"text": differing.text or self.data.place("test", differing.row)})


def _outcome(accept: Sequence[Verdict], error: str | None) -> tuple[Any, int]:
    if error:
        return "stopped", 3
    binding = [verdict.outcome for verdict in accept if verdict.on_fail != "warn"]
    if "not met" in binding:
        return "not accepted", 3
    if "undecided" in binding:
        return "undecided", 3
    return ("accepted" if accept else "measured"), 0


def _spelled(source: ModelSource) -> str:
    return ", ".join(f"{key}: {value}" for key, value in json.loads(source.model_dump_json(exclude_defaults=True)).items())


def _licence(source: ModelSource, folder: Path) -> str:
    """What the package or folder of the source says of its licence; empty where it says nothing."""
    from importlib.metadata import metadata, packages_distributions

    if source.installed:
        names = packages_distributions().get(source.installed.partition(".")[0], [])
        for name in names:
            about = metadata(name).json
            return (
                f"{about.get('license_expression') or about.get('license') or 'not stated'} (package {name} {about['version']})"
            )
    for name in ("LICENSE", "LICENSE.txt", "LICENSE.md"):
        if (folder / name).is_file():
            return _start(folder / name)
    return ""


def _start(path: Path) -> str:
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.read(LICENCE_CHARACTERS)


LICENCE_CHARACTERS = 2000
PARITY_ROWS = 64
