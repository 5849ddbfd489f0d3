"""Work done in a fresh process of its own, so that what it takes of time and memory is its own and a crash ends nothing else."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from compressor.contracts import Event
from compressor.deploy.worker import die_with
from compressor.errors import ChildFailed, CompressorError
from compressor.stops import heard, stop_by

Found = TypeVar("Found")

END_SECONDS = 10.0
"""A process that has answered has so long to end by itself."""
HEAVY = ("torch", "datasets", "matplotlib.figure", "transformers.modeling_layers", "compressor.run.pipeline")
"""What every run imports: seconds of each, which forks share."""


def in_child(work: Callable[..., Found], *arguments: Any, tell: Callable[[Event], None], method: str = "spawn") -> Found:
    """Call `work(*arguments, tell=...)` in a new process, by a method of `multiprocessing`, and hear its events here.

    All of them must be picklable. The process ends with this one, however that ends (Linux).

    Raises:
        ChildFailed: it met an error, whose text and exit code this one carries, or the process ended before it had an answer.
    """
    context: Any = multiprocessing.get_context(method)
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(theirs, os.getpid(), work, arguments))
    process.start()
    theirs.close()
    try:
        found: Found = _answered(ours, process, tell)
        process.join(END_SECONDS)
        return found
    finally:
        try:
            _end(process)
        finally:
            process.kill()
            process.join()
            ours.close()


def _end(process: Any) -> None:
    """Let a process end those that it started itself; what was started by such a process works alone and is killed at once."""
    if process.is_alive() and multiprocessing.parent_process() is None:
        process.terminate()
        process.join(END_SECONDS)


def import_for_forks() -> str:
    """Import what every run needs, and only import it; returns the method by which processes then start from here.

    Only Linux forks safely, and CUDA cannot be used in a fork of a process that has asked for it.
    """
    for name in HEAVY:
        importlib.import_module(name)
    import torch

    return "fork" if sys.platform == "linux" and not torch.cuda.is_available() else "spawn"


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


def _answer(pipe: Connection, parent: int, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    die_with(parent)
    signal.signal(signal.SIGTERM, _leave)
    # who asked hears an interruption too, and ends this process; where it may be gone, each ends by itself
    signal.signal(signal.SIGINT, signal.SIG_IGN if sys.platform == "linux" else _leave)
    os.dup2(2, 1)  # what libraries print there is no answer of ours
    try:
        pipe.send(("answer", work(*arguments, tell=lambda event: pipe.send(("event", event)))))
    except CompressorError as error:
        pipe.send(("error", (str(error), error.exit_code)))
    except Exception:  # whatever a library or a third party's step raises is told as it is
        pipe.send(("error", (traceback.format_exc(), 1)))
    finally:
        heard()


def _leave(number: int, _frame: Any) -> None:
    """Have this process end in good order, its own processes first; asked once more it goes on ending."""
    signal.signal(number, signal.SIG_IGN)
    stop_by(SystemExit(128 + number))
