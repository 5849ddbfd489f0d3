"""What holds for formats: a way down from torch, light while a plan is checked, and lowering that repeats to the byte."""

from __future__ import annotations

from pathlib import Path

from compressor.contracts import Artifact, registry
from compressor.contracts.registry import lowering
from compressor.deploy.onnx import TRACED
from compressor.testing.subject import Subject
from compressor.testing.tiny import ready_target, run_on, short_lived

SHOWN = 16
"""Bytes shown on each side of a difference."""
TO_TRY = (
    "try these in turn: remove metadata and doc strings, which hold times and paths (of ONNX `compressor.deploy.onnx.strip`); name what you add "
    "by what it stands for, not by a counter of the process, id() or a temporary file; sort what comes out of a set or a folder; "
    "seed what draws numbers, and convert in one thread"
)


def leads_down(subject: Subject) -> None:
    """It is named as its entry point is, and the format above it leads to torch."""
    subject.require(subject.plugin.name == subject.name, f"its `name` is '{subject.plugin.name}'")
    with subject.during("the way down to it"):
        way = lowering(subject.name)
    subject.require(way[-1] == subject.name, f"the way down to it is {', '.join(way)}")


def lowers_to_equal_bytes(subject: Subject) -> None:
    """Lowering one model twice gives the same files."""
    run, target = run_on(subject.name), ready_target(subject.name)
    above = subject.plugin.above
    start, stored = run.lowered(target, above), run.lowered(target, subject.name)
    TRACED.clear()  # or the second would have from the first what is to be held against it
    with short_lived() as folder:
        with subject.during("lower"):
            form = registry.load("format", subject.name)()
            form.lower(Artifact(above, start.path), folder, task=run.task, dialect=target.dialect)
        differing = [
            f"{path.name} ({where})"
            for path in sorted(folder.iterdir())
            if path.is_file() and (where := _difference(stored.path / path.name, path))
        ]
    subject.require(not differing, f"lowering one model twice gives other bytes in {', '.join(differing)}; {TO_TRY}")


def _difference(first: Path, second: Path) -> str:
    """Where two files differ, with what stands there; empty where they are equal."""
    if not first.is_file():
        return "once it is not there"
    one, other = first.read_bytes(), second.read_bytes()
    if one == other:
        return ""
    at = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    here = slice(max(0, at - SHOWN), at + SHOWN)
    return f"from byte {at}: {one[here]!r}, then {other[here]!r}"


FORMAT = (leads_down, lowers_to_equal_bytes)
