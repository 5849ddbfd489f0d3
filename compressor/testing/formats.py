"""What holds for formats: a way down from torch, light while a plan is checked, and lowering that repeats to the byte."""

from __future__ import annotations

from compressor.contracts import Artifact, registry
from compressor.contracts.registry import lowering
from compressor.store.store import sha256_of
from compressor.testing.subject import Subject
from compressor.testing.tiny import ready_target, short_lived, tiny_run


def leads_down(subject: Subject) -> None:
    """It is named as its entry point is, and the format above it leads to torch."""
    subject.require(subject.plugin.name == subject.name, f"its `name` is '{subject.plugin.name}'")
    with subject.during("the way down to it"):
        way = lowering(subject.name)
    subject.require(way[-1] == subject.name, f"the way down to it is {', '.join(way)}")


def lowers_to_equal_bytes(subject: Subject) -> None:
    """Lowering one model twice gives the same files."""
    run, target = tiny_run(), ready_target(subject.name)
    above = subject.plugin.above
    start, stored = run.lowered(target, above), run.lowered(target, subject.name)
    with short_lived() as folder:
        with subject.during("lower"):
            form = registry.load("format", subject.name)()
            form.lower(Artifact(above, start.path), folder, task=run.task, dialect=target.dialect)
        differing = [
            path.name
            for path in sorted(folder.iterdir())
            if path.is_file() and sha256_of(path) != sha256_of(stored.path / path.name)
        ]
    subject.require(
        not differing,
        f"lowering one model twice gives other bytes in {', '.join(differing)}; strip what varies by time and place",
    )


FORMAT = (leads_down, lowers_to_equal_bytes)
