"""Work that goes on beside the run's own thread."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from threading import Event
from types import TracebackType
from typing import Any, Self, TypeVar

from compressor.contracts import Feed

T = TypeVar("T")


class Aside:
    """One more thread, for calls of runtimes that compute in code of their own while the run goes on in Python, on another core.

    As a context it ends what goes on there: a run that fails waits for one call at most.
    """

    def __init__(self) -> None:
        self._over = Event()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="aside")
        self._begun: list[Future[Any]] = []

    def start(self, work: Callable[[], T], *, here: bool = False) -> Future[T]:
        """Begin `work` when all that was begun before is done; with `here` it is done now, in the thread that asks.

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
        self._begun.append(begun := self._pool.submit(work))
        return begun

    def heeding(self, predict: Callable[[Feed], Feed]) -> Callable[[Feed], Feed]:
        """The same, refused when the run is over."""

        def heeded(feed: Feed) -> Feed:
            if self._over.is_set():
                raise CancelledError
            return predict(feed)

        return heeded

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
        self._pool.shutdown(cancel_futures=True)
