"""Work done in a fresh process of its own, so that what it takes of time and memory is its own and a crash ends nothing else."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from compressor.contracts import Event
from compressor.errors import ChildFailed, CompressorError

Found = TypeVar("Found")

END_SECONDS = 10.0
"""A process that has answered has so long to end by itself."""


def in_child(work: Callable[..., Found], *arguments: Any, tell: Callable[[Event], None]) -> Found:
    """Call `work(*arguments, tell=...)` in a new process and hear its events here; all of them must be picklable.

    Raises:
        ChildFailed: it met an error, whose text and exit code this one carries, or the process ended before it had an answer.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(theirs, work, arguments))
    process.start()
    theirs.close()
    try:
        found: Found = _answered(ours, process, tell)
        process.join(END_SECONDS)
        return found
    finally:
        process.kill()
        process.join()
        ours.close()


def _answered(pipe: Connection, process: Any, tell: Callable[[Event], None]) -> Any:
    while True:
        try:
            kind, value = pipe.recv()
        except EOFError:
            process.join()
            raise ChildFailed(f"the process ended with exit code {process.exitcode} and no answer{_killed(process)}", 1) from None
        if kind == "event":
            tell(value)
        elif kind == "error":
            raise ChildFailed(*value)
        else:
            return value


def _killed(process: Any) -> str:
    return " (killed: out of memory?)" if process.exitcode == -9 else ""


def _answer(pipe: Connection, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.dup2(2, 1)  # what libraries print there is no answer of ours
    try:
        pipe.send(("answer", work(*arguments, tell=lambda event: pipe.send(("event", event)))))
    except CompressorError as error:
        pipe.send(("error", (str(error), error.exit_code)))
    except Exception:  # whatever a library or a third party's step raises is told as it is
        pipe.send(("error", (traceback.format_exc(), 1)))
