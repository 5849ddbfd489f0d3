"""Machines whose noise is planted and models whose speeds are known: what the latency probe makes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from benchmarks.latency import Latency
from compressor.contracts import Candidate, Event, Feed, Peaks, Profile, Workload
from compressor.plan.specs import Accept
from compressor.run.verify import Measured, judge

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from compressor.contracts.records import LatencyRecord, Ratio

DIFFERENCES = (0.0, 0.02, 0.05, 0.10, 0.50)
"""Planted: the final models are so much faster than the source."""
BASE_SECONDS = 0.01
CALL_NOISE = 0.03
BESIDE = 1.01
"""Limits are asked so close to the truth, on either side of it."""

Draw: TypeAlias = np.random.Generator


@dataclass(frozen=True)
class Noise:
    """What a machine does to times, as logarithms: to a process as long as it lives, and to one block of calls of it."""

    words: str
    process: Callable[[Draw], float]
    block: Callable[[Draw], float]


NOISES: Mapping[str, Noise] = {
    "quiet": Noise(
        "1 % a round, 0.5 % a process", lambda draw: 0.005 * draw.standard_normal(), lambda draw: 0.01 * draw.standard_normal()
    ),
    "restless": Noise("10 % a round", lambda _: 0.0, lambda draw: 0.10 * draw.standard_normal()),
    "heavy tails": Noise("Student's t of 3 degrees, 5 % a round", lambda _: 0.0, lambda draw: 0.05 * draw.standard_t(3)),
    "busy core": Noise(
        "every second block takes 1.3 to 2 times as long",
        lambda _: 0.0,
        lambda draw: 0.02 * draw.standard_normal() + float(np.log(draw.uniform(1.3, 2.0)) if draw.random() < 0.5 else 0.0),
    ),
    "places": Noise(
        "2 % a process, 1 % a round", lambda draw: 0.02 * draw.standard_normal(), lambda draw: 0.01 * draw.standard_normal()
    ),
    "bad places": Noise(
        "6 % a process, 2 % a round", lambda draw: 0.06 * draw.standard_normal(), lambda draw: 0.02 * draw.standard_normal()
    ),
}


@dataclass
class Machine:
    """A bench whose processes take known times under planted noise: what `Probe.measure` is given."""

    noise: Noise
    draw: Draw
    faster: Mapping[str, float]
    """By candidate, how many times as fast as the base it is."""
    heard: list[Event] = field(default_factory=list)

    def begun(self, candidates: Sequence[Candidate]) -> AbstractContextManager[None]:  # noqa: ARG002 - nothing has to start
        """Nothing has to start."""
        return nullcontext()

    def worker(self, candidate: Candidate) -> Process:
        """A process with a place of its own."""
        return Process(self, BASE_SECONDS / self.faster[candidate.id] * float(np.exp(self.noise.process(self.draw))))

    def load(self) -> float:
        """Of others: not simulated."""
        return 0.0

    def tell(self, event: Event) -> None:
        """Remember what was told."""
        self.heard.append(event)

    def peaks(self, threads: int) -> Peaks:
        """Of no interest."""
        return Peaks(threads=threads, operations_per_s={"fp32": 1.0}, bytes_per_s=1.0)


@dataclass
class Process:
    """One simulated process."""

    machine: Machine
    call_seconds: float
    times: Mapping[str, str] = field(default_factory=lambda: {"load_seconds": "0", "first_call_seconds": "0"})

    @property
    def facts(self) -> Mapping[str, str]:
        """There are no others."""
        return self.times

    def put(self, feeds: Sequence[Feed], workload: Workload = Workload()) -> None:
        """Inputs change nothing here."""

    def run(self, calls: int) -> Sequence[float]:
        """Seconds of each call of a block."""
        draw = self.machine.draw
        seconds = self.call_seconds * float(np.exp(self.machine.noise.block(draw)))
        times: NDArray[np.float64] = seconds * np.exp(CALL_NOISE * draw.standard_normal(calls))
        return [float(each) for each in times]

    def peak_bytes(self) -> int:
        """Of no interest."""
        return 0

    def profile(self, calls: int) -> Profile | None:  # noqa: ARG002 - nothing computes
        """There is nothing to watch."""
        return None

    def close(self) -> None:
        """Nothing to end."""


@dataclass
class Found:
    """What was said of a planted difference, over all draws."""

    draws: int = 0
    covered: int = 0
    """Intervals that hold the truth."""
    faster: int = 0
    slower: int = 0
    false_met: int = 0
    """Of a limit right above the truth."""
    false_not_met: int = 0
    """Of a limit right below it."""
    disturbed: int = 0

    def add(self, ratio: Ratio, record: LatencyRecord, truth: float) -> None:
        """Count a measured ratio, and the verdicts on limits right above and right below the truth."""
        self.draws += 1
        self.covered += ratio.interval.low <= truth <= ratio.interval.high
        self.faster += ratio.outcome == "faster"
        self.slower += ratio.outcome == "slower"
        self.false_met += _verdict(ratio, record, limit=truth * BESIDE) == "met"
        self.false_not_met += _verdict(ratio, record, limit=truth / BESIDE) == "not met"
        self.disturbed += ratio.disturbed


def _verdict(ratio: Ratio, record: LatencyRecord, *, limit: float) -> str:
    row = next(each for each in record.rows if each.candidate == ratio.of)
    (verdict,) = judge(
        Accept(target="t", min_speedup=limit), Measured().timed(record, row, ratio), gate="accept[0]", candidate=ratio.of
    )
    return verdict.outcome


def found_under(noise: Noise, *, draws: int, seed: int, **parameters: Any) -> dict[float, Found]:
    """Measure a source and models that are faster by each planted difference, `draws` times, with the probe itself."""
    truths = {f"by-{round(100 * planted)}@t": 1.0 + planted for planted in DIFFERENCES}
    found = {planted: Found() for planted in DIFFERENCES}
    candidates = [Candidate(name, name.partition("@")[0], "t", None, Path()) for name in ("source@t", *truths)]  # type: ignore[arg-type]
    probe = Latency(**parameters)
    for number in range(draws):
        machine = Machine(noise, np.random.default_rng((seed, number)), {"source@t": 1.0, **truths})
        record = probe.measure(candidates, {Workload(): [{}] * 4}, machine, seed=seed)
        ratios = {each.of: each for each in record.ratios if each.to == "source@t"}
        for planted, (name, truth) in zip(DIFFERENCES, truths.items(), strict=True):
            found[planted].add(ratios[name], record, truth)
    return found
