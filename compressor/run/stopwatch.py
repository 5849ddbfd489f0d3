"""Where the time of a run goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from compressor.contracts.records import Spent, Work


@dataclass(frozen=True)
class Stopwatch:
    """Collects what each piece of work took; pieces do not nest."""

    spent: list[Spent] = field(default_factory=list)

    @contextmanager
    def time(self, work: Work, of: str, target: str | None = None) -> Iterator[None]:
        """Time what is done inside; what fails is not recorded."""
        started = time.monotonic()
        yield
        self.spent.append(Spent(work=work, of=of, target=target, seconds=round(time.monotonic() - started, 3)))
