"""The runs below a folder: which there are, how they ended, and what they answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from compressor.errors import StoreError
from compressor.report import read_report
from compressor.run.run_folder import LOCK, PLAN, REPORT
from compressor.store.locks import holder, tried

RUNS = Path("runs")
"""Where runs lie that were given no folder of their own."""


class Ran(BaseModel):
    """A run's folder in a list."""

    folder: str
    started: str = ""
    """When it began, as its report has it."""
    outcome: str
    """The report's, or `running`, `unfinished` or `damaged`."""
    answer: str


def runs(below: Path = RUNS) -> Iterator[Ran]:
    """All runs at `below/NAME/TIME`, plan by plan, the oldest first."""
    for folder in sorted(path for path in below.glob("*/*") if (path / REPORT).is_file() or (path / PLAN).is_file()):
        yield _ran(folder)


def _ran(folder: Path) -> Ran:
    try:
        if not (folder / REPORT).is_file():
            return _unfinished(folder)
        report = read_report(folder)
    except StoreError as error:
        return Ran(folder=str(folder), outcome="damaged", answer=str(error))
    return Ran(folder=str(folder), started=report.started, outcome=report.outcome, answer=report.summary)


def _unfinished(folder: Path) -> Ran:
    """A run without a report: nothing is written unless a lock is there, and whoever may not try it is told whose it was."""
    lock, left = folder / LOCK, Ran(folder=str(folder), outcome="unfinished", answer="the same command goes on with it")
    if not lock.is_file():
        return left
    try:
        with tried(lock, work="listing runs") as ours:
            return left if ours else Ran(folder=str(folder), outcome="running", answer=holder(lock))
    except StoreError:
        return left.model_copy(update={"answer": f"{holder(lock)} may still run it: its lock cannot be tried from here"})
