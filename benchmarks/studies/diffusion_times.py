"""How long a picture takes: a teacher in many steps and in fewer, and a student, on two runtimes, in interleaved rounds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.latency import Latency
from benchmarks.statistics import ratio_with_interval
from benchmarks.studies.diffusion_cells import Absent, Book
from benchmarks.studies.diffusion_int8 import NAMES, RUNTIMES, run_of
from benchmarks.studies.diffusion_plans import COUNTS, GUIDANCE, ROUNDED, TIMED
from benchmarks.studies.lm_lab import kept
from benchmarks.studies.lm_runtimes import told
from benchmarks.studies.pages import controls
from compressor.contracts import Candidate, Workload
from compressor.contracts.records import LatencyRecord
from compressor.deploy.bench import ProcessBench
from compressor.tasks.generation.description import described
from compressor.tasks.generation.image_generation import ImageGeneration
from compressor.tasks.generation.samplers import Sampler, Sampling

if TYPE_CHECKING:
    from pathlib import Path

    from compressor.contracts.quality import Interval

RUN = "timed-0"
SAMPLER: Sampler = "dpm++2m"
FEWER = (25, 16, 8)
"""Steps that the teacher is timed in beside its own."""
SECONDS, ROUNDS, CONTROLS = 100.0, 7, 2
WORKLOAD = Workload(kind="sample")


@dataclass(frozen=True)
class Way:
    """One of the ways to draw a picture."""

    stage: str
    """As candidates are named; `source` for the teacher in its own steps."""
    title: str
    sampling: Sampling
    run: str = RUN
    """That made the files."""

    @property
    def artifact(self) -> str:
        """Whose file it is drawn by."""
        return "source" if self.stage.startswith(("source", "teacher")) else "final"


def ways() -> Iterator[Way]:
    """The teacher in its own steps first."""
    for count in (50, *FEWER):
        stage = "source" if count == 50 else f"teacher-{count}"
        yield Way(stage, f"teacher, DPM++ 2M, {count} steps", Sampling(sampler=SAMPLER, steps=count, guidance=GUIDANCE))
    for count in COUNTS:
        yield Way(f"student-{count}", f"student, {count} steps", Sampling(sampler="ddim", steps=count))
    for name, count in ROUNDED.items():
        yield Way(name, f"student, {count} steps, int8", Sampling(sampler="ddim", steps=count), run_of(name))


def times(book: Book) -> LatencyRecord:
    """What was measured, or is now; files are built before, at any time.

    Raises:
        Absent: it is not there, and nothing is to be run.
    """
    path = book.folder / "times.json"
    if not (book.run or path.is_file()):
        raise Absent("times")
    return LatencyRecord.model_validate(kept(path, lambda: measured(book).model_dump(mode="json")))


def measured(book: Book) -> LatencyRecord:
    """One picture at a time, of every way on every runtime."""
    for run in (RUN, *map(run_of, ROUNDED)):
        book.report(run)
    probe = Latency(
        kinds=("sample",),
        rounds=ROUNDS,
        seconds=SECONDS,
        inputs=1,
        warm_up_seconds=0.5,
        controls=CONTROLS,
        control_limit=0.05,
    )
    candidates = [_candidate(book, way, target) for target in RUNTIMES for way in ways()]
    feeds = ImageGeneration().feeds(book.rows, candidates[0].built, WORKLOAD, count=1)
    with ProcessBench(book.folder / "bench", tell=told) as bench:
        return probe.measure(candidates, {WORKLOAD: feeds}, bench, seed=0)


def _candidate(book: Book, way: Way, target: str) -> Candidate:
    built: Path = book.model(way.run, way.artifact, target)
    task = ImageGeneration(drawing=described(built).model_copy(update={"sampling": way.sampling}))
    return Candidate(f"{way.stage}@{target}", way.stage, target, RUNTIMES[target], built, task)


def speed_up(record: LatencyRecord, of: str, to: str) -> tuple[float, Interval]:
    """How many times as fast a candidate is as another."""
    rows = {row.candidate: row.rounds_ms for row in record.rows}
    return ratio_with_interval(rows[to], rows[of], seed=0)


def held(record: LatencyRecord, of: str, to: str, goal: float) -> str:
    """How many times as fast one is as another, and whether that is what was expected, as far as its interval tells."""
    value, around = speed_up(record, of, to)
    told = "reached" if around.low >= goal else "**not reached**" if around.high < goal else "undecided"
    return f"{value:.1f} [{around.low:.1f}, {around.high:.1f}] ({goal:g} expected: {told})"


def section(record: LatencyRecord, fewest: int | None) -> Iterator[str]:
    """A table of pictures per second; `fewest` are the steps at which the teacher alone is as good as in its own, if it was timed in them."""
    yield f"One picture at a time, one thread, by the task's own loop around each file (the student is that of `{TIMED}`; those that are not"
    yield f"told the length of a step differ in one small layer). {ROUNDS} interleaved rounds. {controls([record])}"
    yield f"Other processes took {record.load_before:.0%} of the processors before and {record.load_after:.0%} after."
    yield ""
    yield f"| | evaluations | {' | '.join(f'{NAMES[target]}, pictures/s | against its 50 steps' for target in RUNTIMES)} |"
    yield f"| --- |{' ---: |' * (1 + 2 * len(RUNTIMES))}"
    speeds = {row.candidate: row.throughput_per_s for row in record.rows}
    timed = [way for way in ways() if all(f"{way.stage}@{target}" in speeds for target in RUNTIMES)]
    for way in timed:
        cells = []
        for target in RUNTIMES:
            value, around = speed_up(record, f"{way.stage}@{target}", f"source@{target}")
            against = "" if way.stage == "source" else f"{value:.1f}x [{around.low:.1f}, {around.high:.1f}]"
            cells.append(f"{speeds[f'{way.stage}@{target}']:.2f} | {against}")
        yield f"| {way.title} | {way.sampling.evaluations()} | {' | '.join(cells)} |"
    if fewest in FEWER:
        yield ""
        for way in (each for each in timed if each.artifact == "final" and each.sampling.steps in ROUNDED.values()):
            for target in RUNTIMES:
                value, around = speed_up(record, f"{way.stage}@{target}", f"teacher-{fewest}@{target}")
                fast = f"{value:.1f} [{around.low:.1f}, {around.high:.1f}] times as fast"
                yield f"- {NAMES[target]}: {way.title}, is {fast} as the teacher in {fewest} of DPM++ 2M."
