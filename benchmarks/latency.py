"""Latency and throughput of all candidates side by side, with A/A controls that say how far the machine can be believed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import Field, PositiveInt

from benchmarks.grid import Grid
from benchmarks.rounds import LEAD_IN_CALLS, LEAD_IN_SECONDS, STEADY_TOLERANCE, Meter, Rounds, Timing, median
from compressor.contracts import Bench, Candidate, Feed, Message, Recipe, Wish, Workload

if TYPE_CHECKING:
    from compressor.contracts.records import Control, LatencyRecord, LatencyRow, Ratio

ATTEMPTS = 3
MOST_SECONDS, MOST_ROUNDS = 86_400.0, 10_000
"""A day: what asks for more is a slip of the pen."""


class Latency(Grid):
    """Time single calls of every candidate in interleaved rounds and compare them with their intervals.

    For each workload, each candidate and further processes of the first one (the A/A controls) are loaded in fresh
    processes, warmed up until the medians of three blocks agree, then run in `rounds` rounds, one block of calls each in
    an order drawn anew every round, the others idle meanwhile. A block is whole turns through the same real inputs, so
    that rows of different lengths weigh equally for all. The time of a round is the median of its block; the time of a
    candidate the median of its rounds; a ratio the median of the round-wise ratios.

    What the controls differ by goes into every interval: none is narrower than what processes of one model differ by, nor
    than 2 % either way. "Faster" and "slower" are ratios whose interval leaves 1 out: on a noisy machine small effects are
    not told, large ones still are. Where a control is farther from the baseline than `control_limit`, the workload is
    measured again with new processes, at most twice, and all rounds count; if it still is, its ratios are marked as
    disturbed.
    """

    measures_latency: ClassVar[bool] = True
    paper: ClassVar[str] = (
        "Georges, Buytaert, Eeckhout: Statistically Rigorous Java Performance Evaluation, OOPSLA 2007; "
        "Kalibera, Jones: Rigorous Benchmarking in Reasonable Time, ISMM 2013"
    )
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"length": (8,), "rounds": 5, "seconds": 1.0, "warm_up_seconds": 0.05, "control_limit": 0.9},
    )

    rounds: Annotated[int, Field(ge=5, le=MOST_ROUNDS)] = 9
    """Rounds in which every candidate runs one block of calls."""
    seconds: Annotated[float, Field(gt=0, le=MOST_SECONDS)] = 90.0
    """Time to spend over all workloads, loading included, as long as nothing must be measured again. What is slow overruns it."""
    inputs: PositiveInt = 16
    """Most different inputs to run in turn."""
    warm_up_seconds: Annotated[float, Field(gt=0, le=MOST_SECONDS)] = 1.0
    """Shortest warm-up of a candidate; it ends at the latest after three times as long."""
    control_limit: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.03
    """How far a further process of the baseline may be from its first, as a fraction, before a ratio counts as disturbed."""
    controls: Annotated[int, Field(ge=1, le=9)] = 3
    """Further processes of the baseline: the more, the narrower are intervals on a noisy machine."""

    @classmethod
    def recipe(cls, wish: Wish) -> Recipe:
        """One row at a time, as most services call a model, at the longest that it takes."""
        if wish.length is None:
            return Recipe({"batch": [1]}, "one row at a time, each as long as it is")
        return Recipe(
            {"batch": [1], "length": [wish.length]}, "one row at a time, at the longest input; name shorter ones beside it"
        )

    def only(self, workload: Workload, *, seconds: float) -> Self:
        """One workload in about `seconds`."""
        return self.at(workload).model_copy(update={"seconds": seconds})

    def shortened(self) -> Self:
        """Fewest rounds, hardly any warm-up, and no second attempt."""
        short = {"rounds": 5, "seconds": min(self.seconds, 2.0), "warm_up_seconds": min(self.warm_up_seconds, 0.1)}
        return self.model_copy(update={**short, "control_limit": 0.99})

    def expected_seconds(self, short: Self, took_seconds: float) -> float:
        """Its own seconds; more where loading leaves the rounds less than half of them."""
        loading_seconds = max(0.0, took_seconds - short.seconds / 2)
        return max(self.seconds, loading_seconds + self.seconds / 2)

    def measure(
        self, candidates: Sequence[Candidate], feeds: Mapping[Workload, Sequence[Feed]], bench: Bench, *, seed: int
    ) -> LatencyRecord:
        """Time all candidates at all workloads; the first candidate is the baseline, and so is every `source` stage.

        Raises:
            WorkerFailed: a candidate's process died or hangs.
        """
        from compressor.contracts.records import LatencyRecord

        meter = Meter(bench, work="latency", total=len(self.workloads()) * self._plan().ticks(len(candidates) + self.controls))
        before = bench.load()
        series = [
            self._measure_at(workload, candidates, feeds[workload], bench, seed=seed, meter=meter)
            for workload in self.workloads()
        ]
        return LatencyRecord(
            probe="latency",
            rows=tuple(row for one in series for row in one.rows(seed)),
            ratios=tuple(ratio for one in series for ratio in one.ratios(seed)),
            controls=tuple(one.control for one in series),
            load_before=before,
            load_after=bench.load(),
            protocol=self._protocol(series, seed),
        )

    def _plan(self) -> Rounds:
        return Rounds(self.rounds, seconds=self.seconds / len(self.workloads()), warm_up_seconds=self.warm_up_seconds)

    def _measure_at(
        self, workload: Workload, candidates: Sequence[Candidate], feeds: Sequence[Feed], bench: Bench, *, seed: int, meter: Meter
    ) -> _Series:
        """Measure until the controls pass, at most `ATTEMPTS` times; all that was measured counts."""
        import numpy as np

        plan, everyone = self._plan(), (*candidates, *[candidates[0]] * self.controls)
        attempts: list[Sequence[Timing]] = []
        controls: list[Control] = []
        while True:
            rng = np.random.default_rng((seed, workload.batch, workload.length or 0, len(attempts) + 1))
            attempts.append(plan.run(everyone, feeds[: self.inputs], workload, bench, rng=rng, meter=meter))
            controls.append(self._control(attempts, workload, seed=seed))
            if controls[-1].passed or len(attempts) == ATTEMPTS:
                break
            meter.extend(plan.ticks(len(everyone)))
            bench.tell(Message(f"{workload}: the baseline against itself gave {controls[-1].ratio:.3f}; measuring again"))
        joined = tuple(reduce(Timing.joined, lane) for lane in zip(*attempts, strict=True))
        return _Series(workload, joined[: len(candidates)], joined[len(candidates) :], tuple(controls))

    def _control(self, attempts: Sequence[Sequence[Timing]], workload: Workload, *, seed: int) -> Control:
        """The process of the last attempt that is farthest from the baseline, and what those of all attempts differ by."""
        from benchmarks.statistics import allowance, ratio_with_interval
        from compressor.contracts.records import Control

        alike = [[timings[0].rounds_s, *(each.rounds_s for each in timings[-self.controls :])] for timings in attempts]
        first, *others = alike[-1]
        farthest = max(others, key=lambda rounds: abs(math.log(median([a / b for a, b in zip(first, rounds, strict=True)]))))
        ratio, interval = ratio_with_interval(first, farthest, seed=seed)
        return Control(
            workload=workload,
            ratio=ratio,
            interval=interval,
            limit=self.control_limit,
            passed=abs(math.log(ratio)) <= math.log1p(self.control_limit),
            attempts=len(attempts),
            noise=math.expm1(allowance(alike)),
        )

    def _protocol(self, series: Sequence[_Series], seed: int) -> dict[str, Any]:
        from benchmarks.statistics import EFFECT_FLOOR, PERCENTILE_FLOORS, RESAMPLES, WIDENED

        return {
            "clock": "perf_counter_ns inside the worker, around one whole call, garbage collection off",
            "time": "median over rounds of the median of each round",
            "ratio": "median over rounds of the ratio of the two medians of the same round",
            "interval": f"{WIDENED}, {RESAMPLES} resamples",
            "parameters": self.model_dump(mode="json"),
            "seed": seed,
            "lead_in": f"{LEAD_IN_CALLS} calls a block, fewer beyond {1e3 * LEAD_IN_SECONDS:.0f} ms, at least 1",
            "steady_tolerance": STEADY_TOLERANCE,
            "effect_floor": EFFECT_FLOOR,
            "percentile_floors": {f"p{percent}": n for percent, n in PERCENTILE_FLOORS.items()},
            "unsteady": [f"{timing.candidate.id} at {one.workload}" for one in series for timing in one.unsteady()],
            "earlier_controls": {
                str(one.workload): [each.ratio for each in one.controls[:-1]] for one in series if one.controls[1:]
            },
            "control_rounds_ms": {str(one.workload): [[1e3 * s for s in each.rounds_s] for each in one.alike] for one in series},
        }


@dataclass(frozen=True)
class _Series:
    """All that was measured at one workload."""

    workload: Workload
    timings: tuple[Timing, ...]
    alike: tuple[Timing, ...]
    """Further processes of the baseline."""
    controls: tuple[Control, ...]
    """By attempt."""

    @property
    def control(self) -> Control:
        return self.controls[-1]

    def rows(self, seed: int) -> list[LatencyRow]:
        one_process = math.log1p(self.control.noise) / math.sqrt(2.0)  # a ratio is of two
        return [_row(timing, self.workload, by=one_process, seed=seed) for timing in self.timings]

    def ratios(self, seed: int) -> list[Ratio]:
        """Of each candidate to the baseline and to every source, itself excepted."""
        anchors = [timing for i, timing in enumerate(self.timings) if i == 0 or timing.candidate.stage == "source"]
        return [self._ratio(of, to, seed) for of in self.timings for to in anchors if of is not to]

    def unsteady(self) -> list[Timing]:
        return [timing for timing in self.timings if not timing.steady]

    def _ratio(self, of: Timing, to: Timing, seed: int) -> Ratio:
        from benchmarks.statistics import EFFECT_FLOOR, judge, ratio_with_interval, widened
        from compressor.contracts.records import Ratio

        value, rounds = ratio_with_interval(to.rounds_s, of.rounds_s, seed=seed)
        interval = widened(value, rounds, by=math.log1p(max(EFFECT_FLOOR, self.control.noise)))
        disturbed = not self.control.passed
        return Ratio(
            of=of.candidate.id,
            to=to.candidate.id,
            workload=self.workload,
            value=value,
            interval=interval,
            outcome=judge(interval, disturbed=disturbed),
            disturbed=disturbed,
        )


def _row(timing: Timing, workload: Workload, *, by: float, seed: int) -> LatencyRow:
    from benchmarks.statistics import median_with_interval, percentile, widened
    from compressor.contracts.records import LatencyRow

    samples_ms = tuple(tuple(round(1e3 * s, 6) for s in samples) for samples in timing.samples_s)
    rounds_ms = tuple(1e3 * s for s in timing.rounds_s)
    pooled = [sample for samples in samples_ms for sample in samples]
    median_ms, interval = median_with_interval(rounds_ms, seed=seed)
    return LatencyRow(
        candidate=timing.candidate.id,
        workload=workload,
        n=len(pooled),
        median_ms=median_ms,
        interval=widened(median_ms, interval, by=by),
        p90_ms=percentile(pooled, 90),
        p99_ms=percentile(pooled, 99),
        throughput_per_s=1e3 * workload.units / median_ms,
        unit=workload.unit,
        load_s=float(timing.times["load_seconds"]),
        first_call_ms=1e3 * float(timing.times["first_call_seconds"]),
        warm_up_calls=timing.warm_up_calls,
        rounds_ms=rounds_ms,
        samples_ms=samples_ms,
    )
