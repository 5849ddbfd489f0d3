"""The folder of a run: one process at a time, gone on with while it has no report, never overwritten once it has one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from compressor.disk import put, writing
from compressor.errors import StoreError
from compressor.locks import holder, tried
from compressor.report import EVALUATIONS, TIMED_FEEDS
from compressor.seal import SUMS
from compressor.store import remove

PLAN, REPORT, LOCK = "plan.yaml", "report.json", ".lock"
PART = f".{PLAN}.part"
WRITTEN = {PLAN, LOCK, PART, REPORT, "report.html", "report.md", SUMS, EVALUATIONS, TIMED_FEEDS, "artifacts", "bench", "gates"}
"""All that a run writes into its folder, beside parts of the report on their way."""


def choose(name: str, plan: str) -> Path:
    """`runs/NAME/TIME`: the newest that this plan was run in and that has no report yet, else a new one."""
    runs = Path("runs") / name
    left = [folder for folder in sorted(runs.glob("*"), reverse=True) if _unfinished(folder, plan)]
    return left[0] if left else runs / datetime.now().strftime("%Y%m%d-%H%M%S")


def finished(folder: Path, plan: str) -> bool:
    """Whether the folder holds the report of a run of this plan."""
    return (folder / REPORT).is_file() and _plan_of(folder) == plan


@contextmanager
def claimed(folder: Path, plan: str) -> Iterator[None]:
    """The folder for this process alone, made or gone on with; `plan` is the plan's text, which stays in it.

    Where the run fails without a report nothing stays, so that a plan that was mended may have the folder.

    Raises:
        StoreError: another process runs in it, it holds something else than an unfinished run of this plan, or it is no folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{folder} cannot be a folder ({error.strerror}): name another one with --out") from error
    with _gone_if_empty(folder), writing(folder), tried(folder / LOCK, work="running a plan") as ours:
        if not ours:
            raise StoreError(
                f"{folder} is in use by {holder(folder / LOCK)}: wait for its end, or name another folder with --out"
            )
        if (folder / REPORT).is_file():
            raise StoreError(f"{folder} is not empty, it holds a run that has ended: name another folder with --out")
        names = {path.name for path in folder.iterdir()} - {LOCK, PART}
        if names and _plan_of(folder) != plan:
            raise StoreError(f"{folder} is not empty, and no unfinished run of this plan: name another folder with --out")
        for name in sorted(names - WRITTEN):
            if not (name.startswith(".") and name.endswith(".part")):
                raise StoreError(f"{folder} holds '{name}', which no run writes: name another folder with --out")
        for name in names - {PLAN}:  # what a killed run left: all of it is built and measured anew
            remove(folder / name)
        put(folder / PLAN, plan)
        try:
            yield
        except Exception:
            _emptied(folder)
            raise


@contextmanager
def _gone_if_empty(folder: Path) -> Iterator[None]:
    try:
        yield
    finally:
        with suppress(OSError):  # it holds something
            folder.rmdir()


def _emptied(folder: Path) -> None:
    """Remove what a run without a report wrote: all of it would be built and measured anew."""
    if not (folder / REPORT).is_file():
        for name in WRITTEN - {LOCK}:
            if os.path.lexists(folder / name):
                remove(folder / name)


def _unfinished(folder: Path, plan: str) -> bool:
    if (folder / REPORT).exists() or _plan_of(folder) != plan:
        return False
    with tried(folder / LOCK, work="looking for an unfinished run") as ours:
        return ours


def _plan_of(folder: Path) -> str | None:
    try:
        return (folder / PLAN).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
