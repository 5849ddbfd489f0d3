"""Peak memory of every candidate, each in a process of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from benchmarks.grid import Grid
from compressor.contracts import Bench, Candidate, Feed, Progress, Recipe, Wish, Workload

if TYPE_CHECKING:
    from compressor.contracts.records import MemoryRecord, MemoryRow


class Memory(Grid):
    """Peak resident memory of a fresh process that loads a candidate and calls it some times.

    It counts all that the process ever held at once: the interpreter and the runtime's libraries (alike for all candidates
    of a target), what loading needed, the weights and the activations. Memory of an accelerator is not in it.
    """

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({"length": (8,), "calls": 2},)

    calls: Annotated[int, Field(ge=1, le=10_000)] = 8
    """Calls before the peak is read."""

    @classmethod
    def recipe(cls, wish: Wish) -> Recipe:
        """At what latency is measured at."""
        return Recipe({} if wish.length is None else {"length": [wish.length]})

    def measure(
        self,
        candidates: Sequence[Candidate],
        feeds: Mapping[Workload, Sequence[Feed]],
        bench: Bench,
        *,
        seed: int,  # noqa: ARG002 - nothing is drawn here
    ) -> MemoryRecord:
        """One row per candidate and workload.

        Raises:
            WorkerFailed: a candidate's process died or hangs.
        """
        from compressor.contracts.records import MemoryRecord

        wanted = [(candidate, workload) for workload in self.workloads() for candidate in candidates]
        rows = []
        with bench.begun([candidate for candidate, _ in wanted]):
            for done, (candidate, workload) in enumerate(wanted, start=1):
                rows.append(self._row(candidate, workload, feeds[workload], bench))
                bench.tell(Progress("memory", done, len(wanted), unit="processes"))
        return MemoryRecord(probe="memory", rows=tuple(rows))

    def _row(self, candidate: Candidate, workload: Workload, feeds: Sequence[Feed], bench: Bench) -> MemoryRow:
        from compressor.contracts.records import MemoryRow

        worker = bench.worker(candidate)
        try:
            worker.put(feeds[: self.calls], workload)
            worker.run(self.calls)
            return MemoryRow(candidate=candidate.id, peak_bytes=worker.peak_bytes(), workload=workload)
        finally:
            worker.close()
