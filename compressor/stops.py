"""Stops that a signal asks for, raised until they are heard.

Python calls a handler between two steps of whatever runs, and drops what it raises where nobody could catch it: in the callback of a weak
reference, in a finalizer; so do libraries that drop every error of a callback. A process would go on that was told to end.
"""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import NoReturn

AGAIN_SECONDS = 0.5
"""How long what runs on may do so until the stop is raised once more."""


def stop_by(stop: BaseException) -> NoReturn:
    """Raise `stop` from a signal's handler in the main thread, and again until the process unwinds; `heard` ends that.

    Where a system has no timers (Windows), it is raised once.
    """
    if sys.platform != "win32":

        def again(_signal: int, _frame: FrameType | None) -> None:
            if not _unwinds(sys.exception(), type(stop)):
                raise stop

        told = sys.unraisablehook

        def unheard(dropped: sys.UnraisableHookArgs) -> None:
            if dropped.exc_value is not stop:  # which is raised again, and nothing to tell
                told(dropped)

        sys.unraisablehook = unheard
        signal.signal(signal.SIGALRM, again)
        signal.setitimer(signal.ITIMER_REAL, AGAIN_SECONDS, AGAIN_SECONDS)
    raise stop


def heard() -> None:
    """Raise nothing more: what was to end has ended."""
    if sys.platform != "win32":
        signal.setitimer(signal.ITIMER_REAL, 0)


def _unwinds(error: BaseException | None, stop: type[BaseException]) -> bool:
    """Whether what is handled now is the stop, or came of it: clean-up must not be cut short."""
    seen = set[int]()
    while error is not None and id(error) not in seen:
        if isinstance(error, stop):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False
