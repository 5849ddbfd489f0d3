"""What the time of each deployed file goes into, and how near it is to the least that the machine would need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field

from benchmarks.grid import Grid
from compressor.contracts import Bench, Candidate, Feed, Progress, Recipe, Wish, Workload
from compressor.contracts.profiles import bound_of

if TYPE_CHECKING:
    from compressor.contracts.records import ProfileRecord, ProfileRow

FINAL = "final"
LEAD_IN = 3
FEWEST, MOST = 5, 500
"""Calls that are watched."""


class Profile(Grid):
    """Time by operator and by block, watched by the runtime's own profiler, beside the least that the call could take.

    That least is a roofline: the products of the call at the machine's peak for the numbers that they compute in, or the weights read once from
    memory, whichever takes longer. Peaks are measured by torch's products of square matrices, in a process of their own, and kept in the store
    while the machine was still. An operator's time has the profiler's own work in it; the call's time is measured without.
    """

    paper: ClassVar[str] = "Williams, Waterman, Patterson: Roofline, Communications of the ACM 52(4), 2009"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({"length": (8,), "seconds": 0.05},)

    seconds: Annotated[float, Field(gt=0, le=3600)] = 1.0
    """Time for the calls of one candidate at one workload, half of it watched; loading comes on top."""
    of: Literal["final", "all"] = "final"
    """Which candidates: the final one of each target, or all that are timed."""

    @classmethod
    def recipe(cls, wish: Wish) -> Recipe:
        """At what latency is measured at."""
        return Recipe({} if wish.length is None else {"length": [wish.length]}, "what the time goes into; takes a few seconds")

    def shortened(self) -> Self:
        """A few calls."""
        return self.model_copy(update={"seconds": min(self.seconds, 0.05)})

    def expected_over(self, short: Self, took_seconds: float, stages: Sequence[str]) -> float:
        """Loading, and its own seconds for each file that it looks at."""
        files = sum(self.of == "all" or stage == FINAL for stage in stages)
        return took_seconds + max(0.0, self.seconds - short.seconds) * len(self.workloads()) * files

    def measure(
        self,
        candidates: Sequence[Candidate],
        feeds: Mapping[Workload, Sequence[Feed]],
        bench: Bench,
        *,
        seed: int,  # noqa: ARG002 - nothing is drawn here
    ) -> ProfileRecord:
        """One row per candidate and workload; why not, where a runtime has no profiler, or where watching it or measuring the peaks failed:
        what it would explain is measured, and stands.

        Raises:
            WorkerFailed: a candidate's process did not begin.
        """
        from compressor.contracts.records import ProfileRecord, ProfileRow
        from compressor.errors import WorkerFailed

        chosen = [each for each in candidates if self.of == "all" or each.stage == FINAL]
        passed_over = {
            each.id: "only final models are profiled (`of: all` profiles every one)" for each in candidates if each not in chosen
        }
        wanted = [(candidate, workload) for workload in self.workloads() for candidate in chosen]
        rows, without = list[ProfileRow](), dict[str, str]()
        with bench.begun([candidate for candidate, _ in wanted]):
            for done, (candidate, workload) in enumerate(wanted, start=1):
                try:
                    row = self._row(candidate, workload, feeds[workload], bench)
                except WorkerFailed as error:
                    without[candidate.id] = str(error)
                else:
                    rows += [row] if row else []
                    without |= {} if row else {candidate.id: "its runtime has no profiler that can be reached for such a model"}
                bench.tell(Progress("profile", done, len(wanted), unit="processes"))
        return ProfileRecord(probe="profile", rows=tuple(rows), not_profiled={**passed_over, **without})

    def _row(self, candidate: Candidate, workload: Workload, feeds: Sequence[Feed], bench: Bench) -> ProfileRow | None:
        from statistics import median

        from compressor.contracts.records import ProfileRow

        worker = bench.worker(candidate)
        try:
            worker.put(feeds[:1], workload)
            each_seconds = min(worker.run(LEAD_IN))
            calls = max(FEWEST, min(MOST, int(self.seconds / 2 / each_seconds)))
            call_ms = 1e3 * median(worker.run(calls))
            found = worker.profile(calls)
        finally:
            worker.close()
        if found is None:
            return None
        peaks = bench.peaks(candidate.runtime.threads)
        return ProfileRow(
            candidate=candidate.id,
            workload=workload,
            by=found.by,
            calls=found.calls or calls,
            call_ms=call_ms,
            operators=found.operators,
            bound=bound_of(found.operators, found.bytes, peaks),
            peaks=peaks,
        )
