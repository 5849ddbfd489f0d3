"""`compressor demo`: what a folder is, and the page of it, until Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from demos.side.page import LOOPBACK, heading, served, together, uploads


def demo(
    what: Path,
    *,
    target: str | None = None,
    port: int | None = None,
    host: str | None = None,
    auth: str | None = None,
    space: Path | None = None,
    record: Path | None = None,
    say: Callable[[str], Any] = print,
) -> None:
    """Serve the page of a run, of an export or of a folder of runs.

    Raises:
        StoreError: the folder is none of these, or something in it was altered.
        MissingDependency: this machine lacks what its models run on.
        PlanError: `host` without `auth`.
    """
    with ExitStack() as stack:
        media = stack.enter_context(uploads())
        page = page_of(what, target, media, stack)
        address = stack.enter_context(served(page.title, page.draw, host=host or LOOPBACK, port=port))
        say(f"{page.title}: {address}   (Ctrl-C ends it)")
        await_end()


def await_end() -> None:
    """Wait for Ctrl-C, or to be told to end."""
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    ended.wait()


class Page:
    """What is served."""

    def __init__(self, title: str, draw: Callable[[], None]) -> None:
        self.title, self.draw = title, draw


def page_of(what: Path, target: str | None, media: Path, stack: ExitStack) -> Page:
    """The page of a folder; its models are ended by `stack`."""
    from compressor.run.comparison import Run
    from demos.of_run import choose, labels, subject
    from demos.rows import Rows
    from demos.side.panel import side_by_side

    chosen = choose(Run.read(what), target)
    before = chosen.before.id if chosen.before else ""
    rows = Rows.read(chosen.run, before, chosen.after.id, labels(chosen.built(chosen.after)), media)
    shown = subject(chosen, rows)
    stack.callback(shown.close)

    def draw() -> None:
        heading(shown.title, chosen.run.report.summary)
        side_by_side(shown)

    return Page(shown.title, together(draw))
