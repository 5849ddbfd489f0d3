"""What is timed, and what probes found: latencies with intervals, ratios, controls, memory."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from compressor.contracts.notes import Note, Record
from compressor.contracts.profiles import Bound, OperatorTime, Peaks
from compressor.contracts.quality import Interval

Kind: TypeAlias = Literal["forward", "prefill", "decode", "generate", "sample"]
"""What a timed call is: one pass over whole inputs; one that fills a cache; single tokens on a filled cache; a prompt and the tokens
after it; a picture or the like drawn in a loop."""


Unit: TypeAlias = Literal["rows", "tokens", "samples"]


class Workload(Record):
    """What one timed call does; also the key of what was measured at it."""

    kind: Kind = "forward"
    batch: int = Field(default=1, ge=1)
    """Rows of one call."""
    length: int | None = Field(default=None, ge=1)
    """Of the inputs, in tokens, pixels or samples; for `decode` what the cache holds before. None: each row's own."""
    steps: int | None = Field(default=None, ge=1)
    """Calls of the graph that the task makes in its loop; None where it makes one."""

    @model_validator(mode="after")
    def _countable(self) -> Self:
        """Tokens of a throughput can be counted."""
        if self.kind == "prefill" and self.length is None:
            raise ValueError("prefill needs a length: its tokens are counted")
        return self

    @property
    def unit(self) -> Unit:
        """What its throughput counts."""
        return {"forward": "rows", "sample": "samples"}.get(self.kind, "tokens")  # type: ignore[return-value]

    @property
    def units(self) -> int:
        """How many of them one call makes."""
        each = {"prefill": self.length or 1, "decode": self.steps or 1, "generate": self.steps or 1}
        return self.batch * each.get(self.kind, 1)

    def __str__(self) -> str:
        """`batch 1, length 128`; another kind than forward comes first."""
        kind = [] if self.kind == "forward" else [self.kind]
        length = [] if self.length is None else [f"length {self.length}"]
        steps = [] if self.steps is None else [f"{self.steps} steps"]
        return ", ".join([*kind, f"batch {self.batch}", *length, *steps])


class Timed(Record):
    """Anything that was measured at a workload."""

    workload: Workload

    @property
    def batch(self) -> int:
        return self.workload.batch

    @property
    def length(self) -> int | None:
        return self.workload.length


class Ratio(Timed):
    """Speed-up of `of` over `to`: time of `to` divided by time of `of`."""

    of: str
    to: str
    value: float
    interval: Interval
    """Of a probe with controls, no narrower than what processes of one model differ by."""
    outcome: Literal["faster", "slower", "no measurable change", "undecided"]
    """`faster` and `slower` where the interval leaves 1 out; `undecided` where it does not on a disturbed machine."""
    disturbed: bool = False
    """True where the A/A control was beyond its limit: the machine was not still."""


class LatencyRow(Timed):
    candidate: str
    n: int
    median_ms: float
    interval: Interval
    p90_ms: float | None = None
    p99_ms: float | None = None
    throughput_per_s: float
    """In `unit`: what one call makes, divided by the median."""
    unit: Unit = "rows"
    load_s: float
    first_call_ms: float
    warm_up_calls: int
    rounds_ms: tuple[float, ...]
    """Median of each round, in the order they ran."""
    samples_ms: tuple[tuple[float, ...], ...]
    """Raw samples of each round."""


class Control(Timed):
    """A/A control: the baseline against further processes of itself, in the same rounds."""

    ratio: float
    """Of the process that is farthest from the baseline."""
    interval: Interval
    limit: float
    passed: bool
    attempts: int
    noise: float = 0.0
    """How far the ratio of two processes of one model may be from 1, as a fraction, by what they differ by: in every ratio's interval."""


class LatencyRecord(Record):
    kind: Literal["times"] = "times"
    probe: str
    rows: tuple[LatencyRow, ...]
    ratios: tuple[Ratio, ...]
    controls: tuple[Control, ...]
    load_before: float
    load_after: float
    protocol: dict[str, Any]


class MemoryRow(Timed):
    candidate: str
    peak_bytes: int


class MemoryRecord(Record):
    kind: Literal["peaks"] = "peaks"
    probe: str
    rows: tuple[MemoryRow, ...]


class ProfileRow(Timed):
    """What the time of one candidate's call goes into."""

    candidate: str
    by: str
    """Whose profiler it is."""
    calls: int
    """Of which it is the mean, or the median by operator."""
    call_ms: float
    """Median of as many calls without a profiler, in the same process."""
    operators: tuple[OperatorTime, ...]
    """In the order they ran; their sum may be more than a call takes unwatched."""
    bound: Bound
    peaks: Peaks
    """Of the machine, which the bound goes by."""

    @property
    def share(self) -> float:
        """Of the bound in what a call takes; more than 1 where the peaks are too low, or weights stay in caches from call to call."""
        return self.bound.ms / self.call_ms


class ProfileRecord(Record):
    kind: Literal["profiles"] = "profiles"
    probe: str
    rows: tuple[ProfileRow, ...]
    not_profiled: dict[str, str] = {}
    """Why not, by candidate."""


class OtherRecord(Record):
    """What a probe found that is neither a time nor memory: shown as its notes."""

    kind: Literal["notes"] = "notes"
    probe: str
    notes: tuple[Note, ...]
    not_finite: dict[str, int] = {}
    """Outputs that are NaN or infinite, by candidate: any of them fails, whether the plan accepts by them or not."""


ProbeRecord: TypeAlias = Annotated[LatencyRecord | MemoryRecord | ProfileRecord | OtherRecord, Field(discriminator="kind")]
