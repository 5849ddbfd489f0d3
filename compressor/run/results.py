"""What a run found, put into records: candidates, verdicts of `accept:`, the rows that changed, and the report as a whole."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from compressor.contracts import Candidate, Data, Evaluation, records
from compressor.contracts.records import (
    Difference,
    Disagreement,
    File,
    LatencyRecord,
    ModelRecord,
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
from compressor.model.sources import resolve
from compressor.plan.bound import Bound, BoundTarget
from compressor.plan.specs import Accept, ModelSource
from compressor.report.findings import answer
from compressor.run.verify import Measured, compare, judge

MOST_DISAGREEMENTS = 200
TEXT_CHARACTERS = 400
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Built:
    """A candidate with what is known of it beside its times."""

    candidate: Candidate | None
    files: tuple[File, ...]
    facts: Mapping[str, str]
    evaluation: Evaluation | None
    parity: Parity | None
    timed: bool
    id: str = ""
    why_not: str | None = None

    @classmethod
    def not_measured(cls, stage: str, target: BoundTarget, reason: str) -> Built:
        """A candidate that could not be built or run here."""
        return cls(None, (), {}, None, None, timed=False, id=f"{stage}@{target.name}", why_not=reason)

    @property
    def name(self) -> str:
        return self.candidate.id if self.candidate else self.id

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)


def verdict_of_plan(
    accept: Accept, number: int, built: Sequence[Built], latencies: Sequence[LatencyRecord], *, reference: str, seed: int
) -> tuple[Verdict, ...]:
    """Verdicts of one entry of `accept:`."""
    by_name = {each.name: each for each in built}
    final, held = by_name[f"final@{accept.target}"], by_name.get(f"{reference}@{accept.target}")
    gate = f"accept[{number}]"
    if final.why_not or held is None:
        return judge(accept, Measured(why=final.why_not or "no reference"), gate=gate, candidate=final.name)
    difference = _difference(final, held, reference, seed)
    measured = Measured(difference=difference, size=final.bytes / held.bytes, why="latency was not measured")
    if latencies:
        measured = _with_times(measured, accept, final.name, latencies)
    return judge(accept, measured, gate=gate, candidate=final.name)


def _with_times(measured: Measured, accept: Accept, final: str, latencies: Sequence[LatencyRecord]) -> Measured:
    rows = [
        (latency, row)
        for latency in latencies
        for row in latency.rows
        if row.candidate == final and _shape_fits(accept, row.batch, row.length)
    ]
    if not rows:
        return replace(measured, why="no latency at this batch and length was measured")
    latency, row = rows[0]
    to = f"source@{accept.against or accept.target}"
    ratio = next(
        (each for each in latency.ratios if (each.of, each.to, each.batch, each.length) == (final, to, row.batch, row.length)),
        None,
    )
    if ratio is None or ratio.outcome == "undecided":
        return replace(measured, why="the A/A control failed: the machine is too noisy" if ratio else f"{to} was not timed")
    return replace(measured, speedup=(ratio.value, ratio.interval), latency_ms=(row.median_ms, row.interval))


def _shape_fits(accept: Accept, batch: int, length: int | None) -> bool:
    return accept.batch in (None, batch) and accept.length in (None, length)


def _difference(each: Built, held: Built, reference: str, seed: int) -> Difference | None:
    if each.evaluation is None or held.evaluation is None or each is held:
        return None
    return compare(each.evaluation, held.evaluation, name=reference, seed=seed)


def save_evaluation(evaluation: Evaluation, folder: Path) -> None:
    """Write scores and rows."""
    import numpy as np

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scores.json").write_text(evaluation.scores.model_dump_json(), encoding="utf-8")
    np.savez(folder / "rows.npz", outputs=evaluation.outputs, correct=evaluation.correct)


def load_evaluation(folder: Path) -> Evaluation:
    """Read what `save_evaluation` wrote."""
    import numpy as np

    with np.load(folder / "rows.npz", allow_pickle=False) as rows:
        scores = Scores.model_validate_json((folder / "scores.json").read_bytes())
        return Evaluation(scores=scores, outputs=rows["outputs"], correct=rows["correct"])


@dataclass(frozen=True)
class Found:
    """What a run has found so far."""

    family: str
    """Of the source model."""
    stages: tuple[Stage, ...]
    """The source comes first."""
    built: tuple[Built, ...]
    missing: Mapping[str, str]
    spent: tuple[Spent, ...]


@dataclass(frozen=True)
class Results:
    """Makes the report of a run."""

    bound: Bound
    data: Data
    started: str
    command: str

    def report(
        self,
        found: Found,
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
            spent=found.spent,
            error=error,
        )
        return report if error else report.model_copy(update={"summary": answer(report)})

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
            facts=dict(each.facts),
            scores=each.evaluation.scores if each.evaluation else None,
            difference=_difference(each, held, self.bound.reference, self.bound.seed) if held else None,
            parity=each.parity,
            diagnosis=each.candidate.runtime.diagnose(each.candidate.built) if each.candidate and stage == "final" else (),
            not_measured=each.why_not,
        )

    def _differing(self, built: Sequence[Built]) -> dict[str, list[Disagreement]]:
        """Rows of test on which reference and final differ, by candidate; none where models tell no classes apart."""
        found: dict[str, list[Disagreement]] = {}
        if not self.bound.task.classes:
            return found
        for target in self.bound.targets:
            pair = [
                each.evaluation
                for name in (self.bound.reference, "final")
                for each in built
                if each.name == f"{name}@{target.name}" and each.evaluation
            ]
            if len(pair) == 2 and (rows := self._changed(pair[0], pair[1], f"final@{target.name}")):
                found[f"final@{target.name}"] = rows
        return found

    def _changed(self, held: Evaluation, final: Evaluation, candidate: str) -> list[Disagreement]:
        rows, labels = self.data.split("test"), self.data.labels
        content, label = self.bound.task.columns()[0], self.bound.task.columns()[-1]
        before, after = held.outputs.argmax(-1), final.outputs.argmax(-1)
        return [
            Disagreement(
                candidate=candidate,
                row=int(row),
                text=_text(rows[int(row)][content], int(row)),
                label=labels[rows[int(row)][label]],
                reference=labels[int(before[row])],
                final=labels[int(after[row])],
                kind="broken" if held.correct[row] else "mended" if final.correct[row] else "both wrong",
            )
            for row in (before != after).nonzero()[0]
        ]


def _outcome(accept: Sequence[Verdict], error: str | None) -> tuple[Any, int]:
    if error:
        return "stopped", 3
    binding = [verdict.outcome for verdict in accept if verdict.on_fail != "warn"]
    if "not met" in binding:
        return "not accepted", 3
    if "undecided" in binding:
        return "undecided", 3
    return ("accepted" if accept else "measured"), 0


def _text(value: object, row: int) -> str:
    return value[:TEXT_CHARACTERS] if isinstance(value, str) else f"row {row}"


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
            return (folder / name).read_text(encoding="utf-8", errors="replace")[:2000]
    return ""


PARITY_ROWS = 64
