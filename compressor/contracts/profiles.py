"""What the time of a call goes into, operator by operator, and the least that it could take on a machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Literal, TypeAlias

from pydantic import Field

from compressor.contracts.notes import Record

if TYPE_CHECKING:
    from compressor.contracts.graph import Session

Family: TypeAlias = Literal["product", "attention", "norm", "activation", "sum", "conversion", "look-up", "layout", "other"]
"""What an operator does, whatever a runtime calls it: multiplies matrices, attends, normalises, bends, adds or scales, converts numbers
to or from integers or between types, looks rows up, moves or reshapes, anything else."""


class OperatorTime(Record):
    """One operator of a graph as a runtime ran it."""

    name: str
    kind: str
    """What the runtime calls it."""
    family: Family
    block: str
    """The part of the model that it belongs to, as `layer_bytes` names parts."""
    ms: float = Field(ge=0)
    """Of one call, all runs in it together."""
    operations: float = 0.0
    """Multiplications and additions of its products in one call; 0 where it has none or they are not known."""
    numbers: str = "fp32"
    """What its products compute in: `int8`, `bf16`, `fp32`."""


class Profile(Record):
    """What one call of a built model takes."""

    by: str
    """Whose profiler it is."""
    operators: tuple[OperatorTime, ...]
    """In the order they ran."""
    bytes: int | None = None
    """What a call has to read of the weights: all of them, but of tables only rows that are looked up. None where that is not known."""
    calls: int | None = None
    """Calls that were watched, where that may be fewer than were asked for."""


Prepare: TypeAlias = "Callable[[Session], Callable[[], None]]"
"""Given a session, what makes one call of it."""


class Peaks(Record):
    """The most that a machine was seen to do with so many threads."""

    threads: int = Field(ge=1)
    operations_per_s: dict[str, float]
    """Multiplications and additions of products, by what they compute in; `fp32` is always there."""
    bytes_per_s: float = Field(gt=0)
    """Read from memory."""
    load: float = 0.0
    """Share of the processors that others kept busy just before: of a busy machine the peaks are too low, and shares of them too high."""

    def of(self, numbers: str) -> float:
        """Operations per second in these numbers, no fewer than in wider ones: where torch has no kernel of its own for narrow numbers, what it
        does with them is no peak of the machine."""
        wider = ("int8", "bf16") if numbers.startswith(("int", "uint")) else ("bf16",) if "16" in numbers else ()
        return max(self.operations_per_s[each] for each in (numbers, *wider, "fp32") if each in self.operations_per_s)


class Bound(Record):
    """What a call takes at least (a roofline of the whole call), as far as the peaks are those of the machine and weights come from memory."""

    operations_ms: float
    """All products, each at the machine's peak for its numbers."""
    bytes_ms: float | None = None
    """Reading the weights once from memory; None where their bytes are not known. Smaller ones may stay in caches from call to call."""

    @property
    def ms(self) -> float:
        """The greater of both."""
        return max(self.operations_ms, self.bytes_ms or 0.0)


def bound_of(operators: Iterable[OperatorTime], read_bytes: int | None, peaks: Peaks) -> Bound:
    """The bound of a call on a machine."""
    seconds = sum(each.operations / peaks.of(each.numbers) for each in operators)
    return Bound(operations_ms=1e3 * seconds, bytes_ms=None if read_bytes is None else 1e3 * read_bytes / peaks.bytes_per_s)
