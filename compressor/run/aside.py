"""Work that goes on beside the run's own thread."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event
from types import TracebackType
from typing import Any, Self, TypeVar

from compressor.contracts import Feed, Session

T = TypeVar("T")


class Aside:
    """Threads for calls of runtimes that compute in code of their own while the run goes on in Python, on another core.

    As a context it ends what goes on there: a run that fails waits for one call of each thread at most.
    """

    def __init__(self) -> None:
        self._over = Event()
        self._lanes: dict[str, ThreadPoolExecutor] = {}
        self._begun: list[Future[Any]] = []

    def start(self, work: Callable[[], T], *, lane: str = "", here: bool = False) -> Future[T]:
        """Begin `work` when all that was begun before in its lane is done; with `here` it is done now, in the thread that asks.

        Raises:
            Exception: what was raised by work that is over.
        """
        for each in self._begun:
            if each.done():
                each.result()
        if here:
            done = Future[T]()
            done.set_result(work())
            return done
        pool = self._lanes.setdefault(lane, ThreadPoolExecutor(1, thread_name_prefix="aside"))
        self._begun.append(begun := pool.submit(work))
        return begun

    def heeding(self, session: Session) -> Session:
        """The same, whose calls are refused when the run is over."""
        return _Heeding(session, self._over)

    def settle(self) -> None:
        """Wait until nothing goes on there: what is timed is timed alone.

        Raises:
            Exception: what was raised by any of the work.
        """
        for each in self._begun:
            each.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        for wait in (False, True):  # none begins anything while another is waited for
            for pool in self._lanes.values():
                pool.shutdown(wait=wait, cancel_futures=True)


@dataclass(frozen=True)
class _Heeding:
    session: Session
    over: Event

    def run(self, feed: Feed, *, graph: str = "model", state: object | None = None) -> tuple[Feed, object | None]:
        if self.over.is_set():
            raise CancelledError
        return self.session.run(feed, graph=graph, state=state)

    def cut(self, state: Any, length: int, *, graph: str = "model") -> object:
        return self.session.cut(state, length, graph=graph)

    def facts(self) -> dict[str, str]:
        return self.session.facts()
