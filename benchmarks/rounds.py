"""Calls of several candidates in interleaved rounds: what the latency probe's numbers are made of."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from compressor.contracts import Bench, Candidate, Feed, Progress, Worker, Workload

if TYPE_CHECKING:
    import numpy as np

STEADY_TOLERANCE = 0.02
WARM_UP_BLOCKS = 4
"""Blocks that the shortest warm-up is cut into."""
WARM_UP_STRETCH = 3
"""A warm-up that finds no steady state ends after this many times its shortest time."""
LEAD_IN_CALLS = 3
LEAD_IN_SECONDS = 0.1
"""The start of a block is not recorded, since it refills the caches that the block before took: so many calls, or
fewer where they take longer than this, but at least one."""
FEWEST_INPUTS = 2
MOST_CALLS = 256
"""Most recorded calls a block: with nine rounds, three times what a 99th percentile needs."""


@dataclass(frozen=True)
class Timing:
    """Raw samples of one worker: seconds by round and call."""

    candidate: Candidate
    times: Mapping[str, str]
    """Of loading and of the first call."""
    samples_s: tuple[tuple[float, ...], ...]
    warm_up_calls: int
    steady: bool
    """Whether the warm-up found a steady state in its time."""

    @property
    def rounds_s(self) -> tuple[float, ...]:
        """Median of each round."""
        return tuple(median(samples) for samples in self.samples_s)

    def joined(self, later: Timing) -> Timing:
        """With the rounds of another process of the same candidate after its own."""
        return replace(
            later,
            samples_s=self.samples_s + later.samples_s,
            warm_up_calls=self.warm_up_calls + later.warm_up_calls,
            steady=self.steady and later.steady,
        )


class Meter:
    """Counts pieces of work, so that what listens can tell how long the rest takes."""

    def __init__(self, bench: Bench, *, work: str, total: int) -> None:
        self._bench, self._work, self._done, self._total = bench, work, 0, total

    def tick(self) -> None:
        self._done += 1
        self._bench.tell(Progress(self._work, self._done, self._total, unit="blocks"))

    def extend(self, ticks: int) -> None:
        self._total += ticks


@dataclass(frozen=True)
class Rounds:
    """How to run: `rounds` rounds over all candidates in about `seconds`, loading and warm-up included."""

    rounds: int
    seconds: float
    warm_up_seconds: float

    def ticks(self, candidates: int) -> int:
        """Pieces of work: loading, warm-up and rounds of each candidate."""
        return candidates * (2 + self.rounds)

    def run(
        self,
        candidates: Sequence[Candidate],
        feeds: Sequence[Feed],
        workload: Workload,
        bench: Bench,
        *,
        rng: np.random.Generator,
        meter: Meter,
    ) -> list[Timing]:
        """Time every candidate in a fresh process, one block each in every round, in an order drawn anew.

        Raises:
            WorkerFailed: a candidate's process died or hangs.
        """
        started = time.monotonic()
        with ExitStack() as stack:
            stack.enter_context(bench.begun(candidates))
            lanes = [self._load(candidate, feeds, workload, bench, stack=stack, meter=meter) for candidate in candidates]
            turn = feeds[: self._inputs_that_fit(lanes, len(feeds))]
            lanes = [self._warm_up(lane, turn, meter=meter) for lane in lanes]
            left_seconds = max(self.seconds - (time.monotonic() - started), self.seconds / 2)
            block_seconds = left_seconds / (self.rounds * len(lanes))
            blocks = [_calls(lane.call_seconds, len(turn), block_seconds - lane.lead_in * lane.call_seconds) for lane in lanes]
            samples: list[list[tuple[float, ...]]] = [[] for _ in lanes]
            for _ in range(self.rounds):
                for i in rng.permutation(len(lanes)):
                    samples[i].append(lanes[i].block(blocks[i]))
                    meter.tick()
            return [lane.timing(rounds) for lane, rounds in zip(lanes, samples, strict=True)]

    def _load(
        self, candidate: Candidate, feeds: Sequence[Feed], workload: Workload, bench: Bench, *, stack: ExitStack, meter: Meter
    ) -> _Lane:
        """Start a worker and see roughly how fast it is; its very first call is among its facts and not counted."""
        worker = bench.worker(candidate)
        stack.callback(worker.close)
        worker.put(feeds, workload)
        worker.run(1)
        lane = _Lane(candidate, worker, workload, call_seconds=median(worker.run(3)))
        meter.tick()
        return lane

    def _inputs_that_fit(self, lanes: Sequence[_Lane], available: int) -> int:
        """How many inputs the slowest candidate gets through in one block."""
        block_seconds = self.seconds / 2 / (self.rounds * len(lanes))
        fit = int(block_seconds / max(lane.call_seconds for lane in lanes))
        return min(available, max(FEWEST_INPUTS, fit))

    def _warm_up(self, lane: _Lane, turn: Sequence[Feed], *, meter: Meter) -> _Lane:
        """Run whole turns until three blocks agree, within the shortest and longest time."""
        from benchmarks.statistics import is_steady

        lane.worker.put(turn, lane.workload)
        block = _calls(lane.call_seconds, len(turn), self.warm_up_seconds / WARM_UP_BLOCKS)
        medians: list[float] = []
        spent_seconds, steady = 0.0, False
        while spent_seconds < self.warm_up_seconds * (1 if steady else WARM_UP_STRETCH):
            times = lane.worker.run(block)
            medians.append(median(times))
            spent_seconds += math.fsum(times)
            steady = is_steady(medians, tolerance=STEADY_TOLERANCE)
        meter.tick()
        return replace(lane, call_seconds=medians[-1], warm_up_calls=block * len(medians), steady=steady)


@dataclass(frozen=True)
class _Lane:
    """A worker and what is known of its speed so far."""

    candidate: Candidate
    worker: Worker
    workload: Workload
    call_seconds: float
    warm_up_calls: int = 0
    steady: bool = False

    @property
    def lead_in(self) -> int:
        """Calls that open a block and are not recorded."""
        return max(1, min(LEAD_IN_CALLS, int(LEAD_IN_SECONDS / self.call_seconds)))

    def block(self, calls: int) -> tuple[float, ...]:
        """Seconds of each recorded call."""
        return tuple(self.worker.run(self.lead_in + calls)[self.lead_in :])

    def timing(self, samples_s: Sequence[tuple[float, ...]]) -> Timing:
        return Timing(self.candidate, dict(self.worker.times), tuple(samples_s), self.warm_up_calls, self.steady)


def median(values: Sequence[float]) -> float:
    import numpy as np

    return float(np.median(values))


def _calls(call_seconds: float, turn: int, seconds: float) -> int:
    """Calls of a block of about `seconds`: whole turns through the inputs, at least one."""
    return turn * max(1, min(MOST_CALLS, int(max(0.0, seconds) / call_seconds)) // turn)
