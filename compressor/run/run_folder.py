"""The folder of a run: one process at a time, gone on with while it has no report, never overwritten once it has one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from itertools import chain, count
from pathlib import Path

from compressor.errors import StoreError
from compressor.files import text_in
from compressor.report import EVALUATIONS, TIMED_FEEDS, WITNESSES
from compressor.store.checksums import SUMS
from compressor.store.disk import put, writing
from compressor.store.locks import holder, tried
from compressor.store.store import remove

PLAN, REPORT, LOCK, UNFINISHED = "plan.yaml", "report.json", ".lock", ".unfinished"
PART = f".{PLAN}.part"
WRITTEN = {
    PLAN,
    LOCK,
    UNFINISHED,
    REPORT,
    "report.html",
    "report.md",
    SUMS,
    EVALUATIONS,
    TIMED_FEEDS,
    WITNESSES,
    "artifacts",
    "bench",
    "gates",
}
"""All that a run writes into its folder, beside parts of the report on their way."""


class FolderTaken(StoreError):
    """A folder cannot be this run's: another process runs in it, or it holds something else."""


@contextmanager
def opened(name: str, plan: str) -> Iterator[Path]:
    """`runs/NAME/TIME` for this process alone: the newest that this plan was run in and that has no report yet, else a new one.

    Any number of runs may begin in one second: each has a folder of its own.
    """
    with ExitStack() as stack:
        yield next(folder for folder in _places(Path("runs") / name, plan) if _entered(stack, folder, plan))


def _places(runs: Path, plan: str) -> Iterator[Path]:
    yield from (folder for folder in sorted(runs.glob("*"), reverse=True) if _unfinished(folder, plan))
    first = runs / datetime.now().strftime("%Y%m%d-%H%M%S")
    numbered = (first.with_name(f"{first.name}-{number}") for number in count(2))
    yield from (folder for folder in chain([first], numbered) if not (folder / REPORT).exists())


def _entered(stack: ExitStack, folder: Path, plan: str) -> bool:
    try:
        stack.enter_context(claimed(folder, plan))
    except FolderTaken:  # by a run that was a moment faster
        return False
    return True


def finished(folder: Path, plan: str) -> bool:
    """Whether the folder holds the report of a run of this plan."""
    return (folder / REPORT).is_file() and _plan_of(folder) == plan


@contextmanager
def claimed(folder: Path, plan: str) -> Iterator[Path]:
    """The folder for this process alone, made or gone on with; `plan` is the plan's text, which stays in it.

    What a run left that failed or was killed may be taken by a run of another plan: the plan was mended, and nothing is lost.

    Raises:
        StoreError: another process runs in it, it holds something else than an unfinished run of this plan, or it is no folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{folder} cannot be a folder ({error.strerror}): name another one with --out") from error
    with writing(folder), tried(folder / LOCK, work="running a plan") as ours:
        if not ours:
            raise FolderTaken(
                f"{folder} is in use by {holder(folder / LOCK)}: wait for its end, or name another folder with --out"
            )
        if (folder / REPORT).is_file():
            raise FolderTaken(f"{folder} is not empty, it holds a run that has ended: name another folder with --out")
        names = {path.name for path in folder.iterdir()} - {LOCK, PART}
        if names - {UNFINISHED} and UNFINISHED not in names and _plan_of(folder) != plan:
            raise FolderTaken(f"{folder} is not empty, and no unfinished run of this plan: name another folder with --out")
        if strange := sorted(names - WRITTEN - {f".{name}.part" for name in WRITTEN}):
            raise FolderTaken(f"{folder} holds '{strange[0]}', which no run writes: name another folder with --out")
        for name in names - {PLAN}:  # what a killed run left: all of it is built and measured anew
            remove(folder / name)
        (folder / UNFINISHED).touch()
        put(folder / PLAN, plan)
        yield folder
        (folder / UNFINISHED).unlink(missing_ok=True)


def _unfinished(folder: Path, plan: str) -> bool:
    if (folder / REPORT).exists() or _plan_of(folder) != plan:
        return False
    with tried(folder / LOCK, work="looking for an unfinished run") as ours:
        return ours


def _plan_of(folder: Path) -> str | None:
    try:
        return text_in(folder / PLAN)
    except (OSError, ValueError):
        return None
