"""What holds for probes: workloads that feeds can be made of, and one record over all candidates."""

from __future__ import annotations

from pathlib import Path

from pydantic import TypeAdapter

from compressor.contracts import Artifact, Candidate, Event, Probe, Workload
from compressor.contracts.records import LatencyRecord, ProbeRecord
from compressor.deploy.bench import ProcessBench
from compressor.testing.recipes import offers_what_it_takes
from compressor.testing.stand_in import BagOfTokens
from compressor.testing.steps import STEP
from compressor.testing.subject import Subject
from compressor.testing.tiny import short_lived, tiny_run

RECORD: TypeAdapter[ProbeRecord] = TypeAdapter(ProbeRecord)


def has_workloads(subject: Subject) -> None:
    """It measures at one workload at least, and where it measures latency at any single one."""
    probe: Probe = subject.plugin
    with subject.during("workloads"):
        workloads = probe.workloads()
    subject.require(bool(workloads), "workloads() is empty: it would measure nothing")
    for each in workloads:
        subject.require(isinstance(each, Workload), f"workloads() has {each!r}, expected a Workload")
    if probe.measures_latency:
        alone = Workload(batch=3, length=7)
        with subject.during("only"):
            found = probe.only(alone, seconds=1.0).workloads()
        subject.require(found == (alone,), f"only({alone!r}) measures at {found!r}")


def measures_every_candidate(subject: Subject) -> None:
    """Measuring two candidates, each in a process of its own, gives one record that speaks of both and can be written as JSON."""
    probe: Probe = subject.plugin
    run = tiny_run()
    rows, files = run.data.split("test"), run.source.path
    feeds = {workload: run.task.feeds(rows, files, workload, count=4) for workload in probe.workloads()}
    with short_lived() as folder:
        candidates = [_candidate(stage, folder / stage) for stage in ("source", "final")]
        with subject.during("measure"), ProcessBench(folder / "bench", tell=_unheard) as bench:
            record = probe.measure(candidates, feeds, bench, seed=0)
    subject.require(
        isinstance(record, LatencyRecord) == probe.measures_latency,
        f"says measures_latency = {probe.measures_latency} and gives back a {type(record).__name__}",
    )
    with subject.during("writing its record as JSON and reading it back"):
        text = RECORD.dump_json(record)
        again = RECORD.validate_json(text)
    subject.require(again == record, "its record comes back from JSON as another one")
    absent = [candidate.id for candidate in candidates if candidate.id not in text.decode()]
    subject.require(not absent, f"its record does not speak of {', '.join(absent)}")


PROBE = (*STEP, offers_what_it_takes, has_workloads, measures_every_candidate)


def _candidate(stage: str, built: Path) -> Candidate:
    target = BagOfTokens()
    built.mkdir()
    target.build(Artifact("torch", built), built)
    return Candidate(f"{stage}@stand-in", stage, "stand-in", target, built)


def _unheard(_: Event) -> None:
    """Nobody listens."""
