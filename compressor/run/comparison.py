"""Two runs side by side: what changed between them, their qualities on the same rows, their times."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressor.contracts import Candidate as Timed
from compressor.contracts import Evaluation, Event, Feed, Probe, Target, Task, Workload, registry
from compressor.contracts.records import (
    Candidate,
    Change,
    Comparison,
    Difference,
    LatencyRecord,
    LatencyRow,
    Quality,
    Report,
    SideBySide,
    Times,
)
from compressor.deploy.graphs import graphs_of, task_of
from compressor.deploy.timing import time_candidates
from compressor.deploy.worker import read_feeds
from compressor.errors import NotComparable, StoreError, UnsupportedModel
from compressor.export import check_files
from compressor.plan.entries import KEYS, as_mapping, keys_of, name_of
from compressor.plan.yaml_source import read_yaml
from compressor.report import EVALUATIONS, TIMED_FEEDS, read_report
from compressor.run.results import load_evaluation
from compressor.store.checksums import check_below, check_file

MEASURE_SECONDS = 30.0
DIGITS = 12
"""Of a sha256, as many as are shown."""


@dataclass(frozen=True)
class Run:
    """A run's folder and its report."""

    folder: Path
    report: Report

    @classmethod
    def read(cls, folder: Path) -> Run:
        """Read a run.

        Raises:
            StoreError: the folder holds no report, or one that cannot be read.
        """
        return cls(folder, read_report(folder))

    @property
    def candidates(self) -> dict[str, Candidate]:
        return {candidate.id: candidate for candidate in self.report.candidates}

    @property
    def latencies(self) -> dict[tuple[str, Workload], LatencyRow]:
        records = [record for record in self.report.probes if isinstance(record, LatencyRecord)]
        return {(row.candidate, row.workload): row for record in records for row in record.rows}

    def evaluation(self, candidate: Candidate) -> Evaluation | None:
        """Scores and outputs by row; None where the run kept none.

        Raises:
            StoreError: they are not those that the report was written about.
        """
        folder = self.folder / EVALUATIONS / candidate.id
        if not folder.is_dir():
            return None
        check_below(self.folder, f"{EVALUATIONS}/{candidate.id}")
        try:
            found = load_evaluation(folder)
        except (OSError, ValueError, KeyError) as error:
            raise StoreError(f"{folder} cannot be read: {error}") from error
        if found.scores != candidate.scores:
            raise StoreError(f"{folder} does not hold the scores that the report has: it was altered, or belongs to another run")
        return found

    def task(self) -> Task:
        """The task as the plan of this run has it."""
        plan, _ = read_yaml(self.report.plan.encode(), "plan")
        given = plan.items()["task"].items().get(self.report.task)
        found: Task = registry.load("task", self.report.task).written((given.plain() if given else None) or {})
        return found

    def target(self, name: str) -> Target:
        """A target as the plan of this run has it."""
        plan, _ = read_yaml(self.report.plan.encode(), "plan")
        for item in (as_mapping("targets", each) for each in plan.items()["targets"].values()):
            if name_of("targets", item) == name:
                plugin = next(key for key in item.items() if key not in keys_of("targets"))
                found: Target = registry.load("target", plugin).written(item.items()[plugin].plain() or {})
                return found
        raise StoreError(f"{self.folder}: the plan in its report has no target '{name}'")


def compare_runs(first: Path, second: Path) -> Comparison:
    """What differs between two runs, and how their candidates did.

    Raises:
        StoreError: a folder is no run's, or something in it was altered.
    """
    one, other = Run.read(first), Run.read(second)
    return Comparison(
        first=str(first),
        second=str(second),
        changes=tuple(changes(one.report, other.report)),
        qualities=tuple(_qualities(one, other)),
        times=tuple(
            Times(candidate=key[0], workload=key[1], first=row, second=other.latencies[key])
            for key, row in one.latencies.items()
            if key in other.latencies
        ),
        warnings=tuple(_warnings(one, other)),
    )


# ------------------------------------------------------------------ what changed


def changes(one: Report, other: Report) -> Iterator[Change]:
    """Everything named that differs, in the order of its importance."""
    for what, facts in _FACTS.items():
        first, second = facts(one), facts(other)
        for where in dict.fromkeys((*first, *second)):
            if first.get(where) != second.get(where):
                yield Change(what=what, where=where, first=first.get(where), second=second.get(where))


def parameters(report: Report) -> dict[str, str]:
    """The plan by parameter, addressed as `--set` does; those of steps that ran with their defaults."""
    plan, _ = read_yaml(report.plan.encode(), "plan")
    flat: dict[str, str] = {"seed": str(report.seed)}
    for section, at in plan.items().items():
        if section not in KEYS:
            flat |= _flat(section, at.plain())
            continue
        entries = {name_of(section, item): as_mapping(section, item).items() for item in at.values()}
        flat[section] = ", ".join(entries)
        for name, entry in entries.items():
            for key, value in entry.items():
                beside = key in keys_of(section)
                flat |= {} if beside else {f"{section}.{name}.plugin": key}
                flat |= _flat(f"{section}.{name}.{key}" if beside else f"{section}.{name}", value.plain())
    for stage in report.stages:
        flat |= _flat(f"passes.{stage.name}", stage.parameters)
    return flat


def _flat(where: str, value: Any) -> dict[str, str]:
    if isinstance(value, Mapping):
        return {path: text for key, inner in value.items() for path, text in _flat(f"{where}.{key}", inner).items()}
    if isinstance(value, list) and any(isinstance(each, Mapping) for each in value):
        return _flat(where, {str(number): each for number, each in enumerate(value)})
    return {where: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}


def _data(report: Report) -> dict[str, str]:
    splits = {f"{split.name}": f"{split.rows} rows, {split.digest[:DIGITS]}" for split in report.data.splits}
    return {"source": report.data.source, "read": report.data.digest[:DIGITS], **splits, **_flat("removed", report.data.removed)}


def _model(report: Report) -> dict[str, str]:
    return _flat("model", report.model.model_dump(mode="json"))


def _machine(report: Report) -> dict[str, str]:
    return _flat("machine", report.machine.model_dump(mode="json", exclude={"load", "fingerprint"}))


def _stages(report: Report) -> dict[str, str]:
    return {f"{stage.name}{f'@{stage.target}' if stage.target else ''}": stage.digest[:DIGITS] for stage in report.stages}


def _files(report: Report) -> dict[str, str]:
    return {
        f"{candidate.id}/{file.name}": f"{file.bytes} bytes, {file.sha256[:DIGITS]}"
        for candidate in report.candidates
        for file in candidate.files
    }


_FACTS: dict[str, Callable[[Report], dict[str, str]]] = {
    "plan": parameters,
    "data": _data,
    "model": _model,
    "versions": lambda report: dict(report.versions),
    "machine": _machine,
    "stages": _stages,
    "files": _files,
}


# ------------------------------------------------------------------ quality and time


def _qualities(one: Run, other: Run) -> Iterator[Quality]:
    for name in dict.fromkeys((*one.candidates, *other.candidates)):
        pair = [run.candidates.get(name) for run in (one, other)]
        first, second = (candidate.scores.main if candidate and candidate.scores else None for candidate in pair)
        if first or second:
            difference, why = _paired(one, other, name) if first and second else (None, "scored in one run only")
            yield Quality(candidate=name, first=first, second=second, difference=difference, unpaired=why)


def _paired(one: Run, other: Run, name: str) -> tuple[Difference | None, str]:
    first, second = (_test(run.report) for run in (one, other))
    if first != second:
        return None, "the runs have other test rows or labels"
    before, after = (run.evaluation(run.candidates[name]) for run in (one, other))
    if before is None or after is None:
        return None, "a run kept no outputs by row"
    if before.scores.metric != after.scores.metric:
        return None, "the runs have other metrics"
    held = f"{name} of {one.folder}"
    try:
        return one.task().compare(after, before, metric=before.scores.metric, name=held, seed=one.report.seed), ""
    except NotComparable as error:
        return None, str(error)


def _test(report: Report) -> tuple[str, tuple[str, ...]] | None:
    """Digest of the test rows, and the labels in their order."""
    return next(((split.digest, tuple(split.classes)) for split in report.data.splits if split.name == "test"), None)


def _warnings(one: Run, other: Run) -> Iterator[str]:
    first, second = one.report.machine, other.report.machine
    if first.fingerprint != second.fingerprint:
        yield (
            f"times come from two machines ({first.named}; {second.named}): "
            "they say nothing about the models; compare --measure times both here"
        )
    elif one.latencies and other.latencies:
        yield "times come from two runs at two moments: small differences may be the machine's; compare --measure times both here"
    for run in (one, other):
        for record in run.report.probes:
            for control in record.controls if isinstance(record, LatencyRecord) else ():
                if not control.passed:
                    yield f"{run.folder}: the A/A control at {control.workload} failed ({control.ratio:.3f})"


# ------------------------------------------------------------------ measured afresh


def measure(first: Path, second: Path, *, tell: Callable[[Event], None], probe: Probe | None = None) -> tuple[SideBySide, ...]:
    """Time the final files of both runs side by side, target by target, on the inputs that the first run timed.

    Raises:
        StoreError: a file is not the one its report was written about, or there is no target that both runs built for.
        UnsupportedModel: the two take different inputs.
        WorkerFailed: a measuring process died or hangs.
    """
    one, other = Run.read(first), Run.read(second)
    shared = [
        candidate.target
        for candidate in one.report.candidates
        if candidate.stage == "final" and candidate.files and (found := other.candidates.get(candidate.id)) and found.files
    ]
    if not shared:
        raise StoreError(f"{first} and {second} have no target that both built a final file for")
    feeds = _feeds(one)
    return tuple(_side_by_side(one, other, target, feeds, probe, tell) for target in shared)


def _side_by_side(
    one: Run, other: Run, target: str, feeds: Sequence[Feed], probe: Probe | None, tell: Callable[[Event], None]
) -> SideBySide:
    timed = [_timed(run, target, label) for run, label in ((one, "first"), (other, "second"))]
    names = [sorted(f"{graph.name}.{port.name}" for graph in graphs_of(each.built) for port in graph.fed) for each in timed]
    if names[0] != names[1]:
        raise UnsupportedModel(f"the final models for {target} take different inputs: {names[0]} and {names[1]}")
    with tempfile.TemporaryDirectory(prefix="compressor-compare-") as folder:
        record = time_candidates(
            timed,
            feeds,
            _workload(one, feeds),
            folder=Path(folder),
            seconds=MEASURE_SECONDS,
            seed=one.report.seed,
            tell=tell,
            probe=probe,
        )
    ratio = next(each for each in record.ratios if (each.of, each.to) == (timed[1].id, timed[0].id))
    return SideBySide(target=target, ratio=ratio, control=record.controls[0])


def _workload(run: Run, feeds: Sequence[Feed]) -> Workload:
    """What the feeds that a run kept were timed at: the first workload of its report, where it is of their batch size."""
    batch = len(next(iter(feeds[0].values())))
    first = next((workload for _, workload in run.latencies), Workload())
    return first if first.batch == batch else Workload(batch=batch)


def _timed(run: Run, target: str, label: str) -> Timed:
    candidate = run.candidates[f"final@{target}"]
    built = run.folder / "artifacts" / candidate.id
    check_files(built, candidate)
    runtime = run.target(target)
    missing = runtime.missing()
    if reason := missing.build or missing.run:
        raise UnsupportedModel(f"{target} cannot run here: {reason}")
    return Timed(f"{label}:{candidate.id}", label, target, runtime, built, task_of(built))


def _feeds(run: Run) -> Sequence[Feed]:
    check_file(run.folder, TIMED_FEEDS)
    try:
        return read_feeds(run.folder / TIMED_FEEDS)
    except (OSError, ValueError) as error:
        raise StoreError(
            f"{run.folder / TIMED_FEEDS} cannot be read: {error}; run the plan again to have its inputs kept"
        ) from error
