"""Every error a user can meet, each with the exit code of the command that meets it.

CompressorError            1   something failed while running
├── PlanError              2   the plan is at fault; carries every fault found, nothing has run
├── PluginError            2   an installed plug-in is broken or clashes with another
├── SourceError            1   a model or data source is missing, altered or unreadable
│   └── MissingColumn      1   rows lack a column; 2 where a plan names it, with its line
├── RowFailed              1   a library raised something on a row that is named
├── UnsupportedModel       1   no anatomy row, edit or format fits this model
├── MissingDependency      1   a package or device that this needs is not here
├── TrainingDiverged       1   the loss became NaN or infinite, or far larger than it was
├── OutOfMemory            1   a training step needs more memory than there is
├── WorkerFailed           1   a measuring or training process died, or answered nonsense
├── StoreError             1   a stored result is damaged or cannot be written
├── NotComparable          1   figures that were measured by different networks were held against each other
├── ExportDiffers          1   an exported folder does not do what the run did that it comes from
├── ChildFailed            -   work in a process of its own met an error; the exit code is that error's
└── GateStopped            3   a gate with `on_fail: stop` was not met
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from compressor.foreign import one_line

MOST_ROWS = 8
"""Rows that a message names."""
MOST_PLACES = 3
"""Of them so many by where they stand."""


class CompressorError(Exception):
    """Root of the tree: whatever else fails while a plan runs."""

    exit_code = 1


@dataclass(frozen=True)
class Fault:
    """One thing wrong in a plan: where it stands and what to do about it."""

    file: str
    line: int
    where: str
    what: str

    def __str__(self) -> str:
        """One line; what a terminal would act upon instead of showing it is escaped."""
        place = f"{self.where}: " if self.where else ""
        return one_line(f"{self.file}:{self.line}: {place}{self.what}")


class PlanError(CompressorError):
    """The plan cannot be run; `faults` lists everything that is wrong with it, in file order."""

    exit_code = 2
    faults: tuple[Fault, ...] = ()

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(sorted(faults, key=lambda fault: (fault.file, fault.line, fault.where)))
        super().__init__("\n".join(str(fault) for fault in self.faults))


class PluginError(CompressorError):
    """An installed plug-in cannot be imported, is of the wrong kind, or two share one name."""

    exit_code = 2


class SourceError(CompressorError):
    """A model or data source is missing, does not match its sha256, or cannot be read."""


class MissingColumn(SourceError):
    """Rows lack a column that a task reads."""

    column: str = ""

    def __init__(self, column: str, text: str) -> None:
        self.column = column
        super().__init__(text)


class RowFailed(CompressorError):
    """A library raised something while it made inputs of rows, or while a model ran on them."""

    rows: tuple[int, ...] = ()
    why: str = ""
    of: str = ""

    def __init__(self, rows: Sequence[int], why: str, *, of: str = "", places: Sequence[str] = ()) -> None:
        """`rows` are numbers in their split, counted from 0; `of` is the split, `places` where they stand in the user's files."""
        self.rows, self.why, self.of = tuple(rows), why, of
        named = f"row{'s' if len(self.rows) > 1 else ''} {', '.join(str(row) for row in self.rows[:MOST_ROWS])}"
        more = f" and {len(self.rows) - MOST_ROWS} more" if len(self.rows) > MOST_ROWS else ""
        where = f" ({'; '.join(places[:MOST_PLACES])}{', ...' if len(places) > MOST_PLACES else ''})" if places else ""
        super().__init__(f"{named}{more}{f' of {of}' if of else ''}{where}: {why}" if self.rows else why)


class UnsupportedModel(CompressorError):
    """No anatomy row, edit or format fits the model at hand."""


class MissingDependency(CompressorError):
    """A package or device is not here; the message names the install line where there is one."""


class TrainingDiverged(CompressorError):
    """The loss is not finite or far above its start; the message says at which step, what to try and where good weights are kept."""


class OutOfMemory(CompressorError):
    """A training step needs more memory than there is; the message says which, and what to try."""


class WorkerFailed(CompressorError):
    """A measuring or training process ended early or answered something else than was asked."""


class StoreError(CompressorError):
    """A stored result does not match its digest, or the store cannot be written."""


class NotComparable(CompressorError):
    """Figures were to be held against each other that different networks measured."""


class ExportDiffers(CompressorError):
    """An exported folder's own example does not do what the run did that it comes from."""


class ChildFailed(CompressorError):
    """Work in a process of its own met an error: its text, and the exit code that it has there."""

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code


class GateStopped(CompressorError):
    """A gate with `on_fail: stop` was not met; the report says which and by how much."""

    exit_code = 3


def told_elsewhere(kind: str, text: str) -> CompressorError:
    """An error that another process told by the name of its class and its text: all else that it carries stays there."""
    named = globals().get(kind)
    known = named if isinstance(named, type) and issubclass(named, CompressorError) else CompressorError
    error = known.__new__(known)
    Exception.__init__(error, text)
    return error


def near_name(name: str, known: Iterable[str]) -> str:
    """`" (did you mean 'x'?)"` for the nearest known name, or nothing."""
    near = difflib.get_close_matches(name, sorted(set(known)), n=1, cutoff=0.6)
    return f" (did you mean '{near[0]}'?)" if near else ""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`" (did you mean 'x'?)"` for the nearest known name, or the short list of what is known."""
    names = sorted(set(known))
    return near_name(name, names) or (f" (known: {', '.join(names)})" if 0 < len(names) <= 16 else "")
