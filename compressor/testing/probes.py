"""What holds for probes: shapes that feeds can be made of, and one record over all candidates."""

from __future__ import annotations

from pathlib import Path

from pydantic import TypeAdapter

from compressor.contracts import Artifact, Candidate, Event, Probe
from compressor.contracts.records import ProbeRecord
from compressor.deploy.bench import ProcessBench
from compressor.testing.stand_in import BagOfTokens
from compressor.testing.steps import STEP
from compressor.testing.subject import Subject
from compressor.testing.tiny import short_lived, tiny_run

RECORD: TypeAdapter[ProbeRecord] = TypeAdapter(ProbeRecord)


def has_shapes(subject: Subject) -> None:
    """It asks for inputs of at least one shape: a batch size and a length, or None for the rows' own."""
    probe: Probe = subject.plugin
    with subject.during("shapes"):
        shapes = probe.shapes()
    subject.require(bool(shapes), "shapes() is empty: it would measure nothing")
    for batch, length in shapes:
        fits = isinstance(batch, int) and batch > 0 and (length is None or (isinstance(length, int) and length > 0))
        subject.require(fits, f"shapes() has {(batch, length)!r}, expected a batch size and a length or None")


def measures_every_candidate(subject: Subject) -> None:
    """Measuring two candidates, each in a process of its own, gives one record that speaks of both and can be written as JSON."""
    probe: Probe = subject.plugin
    run = tiny_run()
    rows, files = run.data.split("test"), run.source.path
    feeds = {shape: run.task.feeds(rows, files, batch=shape[0], length=shape[1], count=4) for shape in probe.shapes()}
    with short_lived() as folder:
        candidates = [_candidate(stage, folder / stage) for stage in ("source", "final")]
        with subject.during("measure"), ProcessBench(folder / "bench", tell=_unheard) as bench:
            record = probe.measure(candidates, feeds, bench, seed=0)
    with subject.during("writing its record as JSON and reading it back"):
        text = RECORD.dump_json(record)
        again = RECORD.validate_json(text)
    subject.require(again == record, "its record comes back from JSON as another one")
    absent = [candidate.id for candidate in candidates if candidate.id not in text.decode()]
    subject.require(not absent, f"its record does not speak of {', '.join(absent)}")


PROBE = (*STEP, has_shapes, measures_every_candidate)


def _candidate(stage: str, built: Path) -> Candidate:
    target = BagOfTokens()
    built.mkdir()
    target.build(Artifact("torch", built), built)
    return Candidate(f"{stage}@stand-in", stage, "stand-in", target, built)


def _unheard(_: Event) -> None:
    """Nobody listens."""
