"""Work that is killed in the middle: a real process, a real SIGKILL."""

from __future__ import annotations

import os
import signal
import time
import traceback
from collections.abc import Callable

READY = b"ready"


def killed(work: Callable[[Callable[[], None]], object]) -> None:
    """Do work in a fork of this process, which shares its imports, and kill it where the work calls what it is handed.

    Raises:
        AssertionError: the work ended before.
    """
    ours, theirs = os.pipe()

    def hang() -> None:
        os.write(theirs, READY)
        time.sleep(600)

    if not (process := os.fork()):
        try:
            work(hang)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(theirs)
    said = os.read(ours, len(READY))
    os.close(ours)
    os.kill(process, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    assert (said, code) == (READY, -signal.SIGKILL)
