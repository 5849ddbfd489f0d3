"""Peak memory of every candidate, each in a process of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field, PositiveInt

from compressor.contracts import Bench, Candidate, Feed, Probe, Progress

if TYPE_CHECKING:
    from compressor.contracts.records import MemoryRecord, MemoryRow


class Memory(Probe):
    """Peak resident memory of a fresh process that loads a candidate and calls it some times.

    It counts all that the process ever held at once: the interpreter and the runtime's libraries (alike for all candidates
    of a target), what loading needed, the weights and the activations. Memory of an accelerator is not in it.
    """

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({"length": (8,), "calls": 2},)

    batch: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (1,)
    """Batch sizes."""
    length: tuple[PositiveInt, ...] = ()
    """Lengths in tokens, pixels or samples; empty for the natural length of each row."""
    calls: PositiveInt = 8
    """Calls before the peak is read."""

    def shapes(self) -> tuple[tuple[int, int | None], ...]:
        """Every batch size at every length."""
        return tuple((batch, length) for batch in self.batch for length in self.length or (None,))

    def measure(
        self,
        candidates: Sequence[Candidate],
        feeds: Mapping[tuple[int, int | None], Sequence[Feed]],
        bench: Bench,
        *,
        seed: int,  # noqa: ARG002 - nothing is drawn here
    ) -> MemoryRecord:
        """One row a candidate and shape.

        Raises:
            WorkerFailed: a candidate's process died or hangs.
        """
        from compressor.contracts.records import MemoryRecord

        wanted = [(candidate, shape) for shape in self.shapes() for candidate in candidates]
        rows = []
        for done, (candidate, shape) in enumerate(wanted, start=1):
            rows.append(self._row(candidate, shape, feeds[shape], bench))
            bench.tell(Progress("memory", done, len(wanted), unit="processes"))
        return MemoryRecord(rows=tuple(rows))

    def _row(self, candidate: Candidate, shape: tuple[int, int | None], feeds: Sequence[Feed], bench: Bench) -> MemoryRow:
        from compressor.contracts.records import MemoryRow

        worker = bench.worker(candidate)
        try:
            worker.put(feeds[: self.calls])
            worker.run(self.calls)
            return MemoryRow(candidate=candidate.id, peak_bytes=worker.peak_bytes(), batch=shape[0], length=shape[1])
        finally:
            worker.close()
