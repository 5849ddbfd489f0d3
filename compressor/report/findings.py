"""What the report says beyond its raw records: which numbers belong together, and how far a gate was met or missed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from compressor.contracts.notes import Remark
from compressor.contracts.records import (
    Candidate,
    Control,
    Difference,
    LatencyRecord,
    LatencyRow,
    MemoryRecord,
    MemoryRow,
    Metric,
    OtherRecord,
    ProfileRecord,
    ProfileRow,
    Ratio,
    Report,
    Scores,
    Stage,
    Verdict,
    Workload,
)
from compressor.report import wording


@dataclass(frozen=True)
class Row:
    """One candidate with all that was found out about it at one workload."""

    candidate: Candidate
    latency: LatencyRow | None
    against_source: Ratio | None
    """Against the source model on the same target."""
    against_baseline: Ratio | None
    source_bytes: int

    @property
    def quality(self) -> Metric | None:
        return self.candidate.scores.main if self.candidate.scores else None

    @property
    def share(self) -> float | None:
        """Bytes as a share of the source model's on the same target."""
        return self.candidate.bytes / self.source_bytes if self.source_bytes and self.candidate.bytes else None

    @property
    def sha256(self) -> str:
        """Digest of the largest file: the model itself."""
        return max(self.candidate.files, key=lambda file: file.bytes).sha256 if self.candidate.files else ""


@dataclass(frozen=True)
class Step:
    """One bar of the waterfall; what was not measured is None."""

    name: str
    quality: Metric | None
    latency: LatencyRow | None
    bytes: int | None
    rolled_back: bool
    effort: Mapping[str, float]


@dataclass(frozen=True)
class Findings:
    """Look-ups over one report."""

    report: Report

    @cached_property
    def latencies(self) -> tuple[LatencyRecord, ...]:
        return tuple(record for record in self.report.probes if isinstance(record, LatencyRecord))

    @cached_property
    def rows(self) -> dict[tuple[str, Workload], LatencyRow]:
        return {(row.candidate, row.workload): row for record in self.latencies for row in record.rows}

    @cached_property
    def ratios(self) -> dict[tuple[str, str, Workload], Ratio]:
        return {(ratio.of, ratio.to, ratio.workload): ratio for record in self.latencies for ratio in record.ratios}

    @cached_property
    def controls(self) -> tuple[Control, ...]:
        return tuple(control for record in self.latencies for control in record.controls)

    @cached_property
    def memory(self) -> tuple[MemoryRow, ...]:
        return tuple(row for record in self.report.probes if isinstance(record, MemoryRecord) for row in record.rows)

    @cached_property
    def profiles(self) -> tuple[ProfileRow, ...]:
        return tuple(row for record in self._profiled for row in record.rows)

    @cached_property
    def not_profiled(self) -> dict[str, str]:
        """Why there is no profile of a final model, by candidate."""
        return {
            name: why
            for record in self._profiled
            for name, why in record.not_profiled.items()
            if self.candidates[name].stage == "final"
        }

    @property
    def _profiled(self) -> tuple[ProfileRecord, ...]:
        return tuple(record for record in self.report.probes if isinstance(record, ProfileRecord))

    @cached_property
    def other_probes(self) -> tuple[OtherRecord, ...]:
        return tuple(record for record in self.report.probes if isinstance(record, OtherRecord))

    @cached_property
    def workloads(self) -> tuple[Workload, ...]:
        return tuple(dict.fromkeys(workload for _, workload in self.rows))

    @cached_property
    def candidates(self) -> dict[str, Candidate]:
        return {candidate.id: candidate for candidate in self.report.candidates}

    @cached_property
    def baseline(self) -> str | None:
        """The candidate that speed-ups are held against: the first one measured."""
        return next((candidate for candidate, _ in self.rows), None)

    @cached_property
    def targets(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(candidate.target for candidate in self.report.candidates))

    def row(self, candidate: Candidate, workload: Workload | None = None) -> Row:
        """Everything about a candidate at a workload; the first one measured unless told."""
        at = workload or (self.workloads[0] if self.workloads else Workload())
        source = self.candidates.get(f"source@{candidate.target}")
        return Row(
            candidate,
            latency=self.rows.get((candidate.id, at)),
            against_source=self.ratios.get((candidate.id, f"source@{candidate.target}", at)),
            against_baseline=self.ratios.get((candidate.id, self.baseline or "", at)),
            source_bytes=(source.bytes if source else 0) or self.report.model.bytes,
        )

    @cached_property
    def finals(self) -> tuple[Row, ...]:
        return tuple(self.row(candidate) for candidate in self.report.candidates if candidate.stage == "final")

    @cached_property
    def headline(self) -> Row | None:
        """The final candidate with the largest proved speed-up, else the first that was measured."""
        measured = [row for row in self.finals if row.candidate.not_measured is None]
        return max(measured, key=proved_speed_up, default=None)

    def chain(self, target: str) -> tuple[Step, ...]:
        """The steps that lead to a target's final file, in order: the trunk, then the target's branch; after a step what else it made."""
        stages = [stage for stage in self.report.stages if stage.target in (None, target)]
        besides = {stage.name for stage in stages if any(stage.name.startswith(f"{each.name}.") for each in stages)}
        final = next((each for each in reversed(stages) if not each.rolled_back and each.name not in besides), None)
        return tuple(self._step(stage, target, last=stage is final) for stage in stages)

    def _step(self, stage: Stage, target: str, *, last: bool) -> Step:
        own = self.candidates.get(f"{stage.name}@{target}")
        candidate = self.candidates.get(f"final@{target}", own) if last else own
        latency = self.rows.get((candidate.id, self.workloads[0])) if candidate and self.workloads else None
        metric = stage.scores.main if stage.scores else None
        built = candidate.bytes if candidate else 0
        weight = (built or stage.bytes) if last or not stage.bytes else stage.bytes
        return Step(stage.name, metric, latency, bytes=weight or None, rolled_back=stage.rolled_back, effort=stage.effort)

    def before_and_after(self, target: str) -> tuple[Candidate, Candidate] | None:
        """The reference and the final candidate of a target; a reference scored on another target stands in."""
        name, final = self.report.reference, self.candidates.get(f"final@{target}")
        elsewhere = [candidate for candidate in self.report.candidates if candidate.stage == name and candidate.scores]
        here = [candidate for candidate in elsewhere if candidate.target == target]
        reference = next(iter(here or elsewhere), None)
        return (reference, final) if reference and final and final.scores else None

    def disagreements(self) -> Iterator[tuple[str, Counter[str]]]:
        """Candidates with disagreements, and how many of each kind."""
        for name, kinds in self.report.changed.items():
            yield name, Counter(kinds)

    @cached_property
    def gates(self) -> tuple[tuple[str, Verdict], ...]:
        """Every verdict with where it was taken: those of `accept:` first."""
        accepted = [("accept", verdict) for verdict in self.report.verdicts]
        return (*accepted, *((stage.name, verdict) for stage in self.report.stages for verdict in stage.verdicts))


def speed_up(row: Row) -> Ratio | None:
    return row.against_source or row.against_baseline


def proved_speed_up(row: Row) -> float:
    """How many times faster a row was shown to be; 0 where that was not shown."""
    ratio = speed_up(row)
    return ratio.value if ratio and ratio.outcome == "faster" else 0.0


def writer(verdict: Verdict) -> Callable[[float | None], str]:
    """How the values of a verdict are written: closely enough to tell a value that is not met from its limit."""
    write = _plainly(verdict)
    found = deciding(verdict)
    if verdict.outcome == "not met" and found is not None and write(found) == write(verdict.limit):
        unit = f"{wording.SPACE}{'points' if verdict.unit == 'points' else '%'}" if verdict.quantity in DROPS else ""
        return lambda value: wording.NOTHING if value is None else f"{value:.6g}{unit}"
    return write


def _plainly(verdict: Verdict) -> Callable[[float | None], str]:
    if verdict.quantity not in DROPS:
        return QUANTITIES[verdict.quantity][1]
    return lambda value: wording.in_unit(verdict.unit)(value).lstrip("+")


DROPS = frozenset({"max_drop", "max_class_drop"})
LIMIT_IS_A_FLOOR = frozenset({"min_speedup"})
QUANTITIES: dict[str, tuple[str, Callable[[float | None], str]]] = {
    "max_drop": ("quality lost", wording.points),
    "max_class_drop": ("recall lost of the worst class", wording.points),
    "min_speedup": ("speed-up", wording.factor),
    "max_latency_ms": ("median latency", wording.milliseconds),
    "max_size": ("size against the reference", wording.percent),
    "finite": ("outputs that are not finite", lambda value: wording.NOTHING if value is None else wording.count(value)),
}
"""What a gate limits, in words, and how its values are written."""


def deciding(verdict: Verdict) -> float | None:
    """The number a verdict rests on: the point, or the bound of its interval that is nearer to failing."""
    if verdict.judged_by == "point" or verdict.interval is None:
        return verdict.value
    return verdict.interval.low if verdict.quantity in LIMIT_IS_A_FLOOR else verdict.interval.high


def margin(verdict: Verdict) -> str:
    """By how much a gate was met or missed, in the gate's own unit."""
    value = deciding(verdict)
    if value is None:
        return ""
    write = writer(verdict)
    spare = value - verdict.limit if verdict.quantity in LIMIT_IS_A_FLOOR else verdict.limit - value
    return f"{write(abs(spare))} to spare" if spare >= 0 else f"missed by {write(abs(spare))}"


NOT_JUDGED = "Quality was not judged: the plan has no data."


def answer(report: Report) -> str:
    """One sentence a target: how much faster, how much smaller, and what it cost."""
    said = [sentence for row in Findings(report).finals if (sentence := _sentence(row))]
    return " ".join([*said, *([] if report.data.real else [NOT_JUDGED])])


def _sentence(row: Row) -> str:
    if row.candidate.not_measured is not None:
        return f"{row.candidate.target}: not measured, {row.candidate.not_measured}."
    ratio, parts = speed_up(row), []
    if ratio is not None:
        parts.append(_speed(ratio))
    if row.share:
        parts.append(_size(row.share))
    if row.candidate.difference is not None:
        parts.append(_moved(row.candidate.difference))
    return f"{row.candidate.target}: {', '.join(parts)}." if parts else ""


def _size(share: float) -> str:
    """How much smaller or larger by bytes, where three digits tell it."""
    if abs(share - 1) < 0.005:
        return "as large as before"
    times = wording.factor(1 / share if share < 1 else share).removesuffix(wording.TIMES)
    return f"{times} times {'smaller' if share < 1 else 'larger'}"


def _moved(difference: Difference) -> str:
    """What quality was lost or gained; a metric other than a fraction is named."""
    if abs(difference.change) < 0.05:
        return "no points lost" if difference.unit == "points" else f"no {difference.metric} lost"
    amount = wording.in_unit(difference.unit)(abs(difference.change)).lstrip("+")
    what = "" if difference.unit == "points" else f" of {difference.metric}"
    return f"{amount}{what} {'lost' if difference.change < 0 else 'gained'}"


def _speed(ratio: Ratio) -> str:
    between = f"{wording.interval(ratio.interval, wording.factor).removesuffix(wording.TIMES)} times"
    if ratio.outcome == "no measurable change":
        return f"no measurable change in speed ({between})"
    if ratio.outcome == "undecided":
        return f"speed undecided ({between})"
    times = ratio.value if ratio.outcome == "faster" else 1 / ratio.value
    doubt = f" (disturbed: {between})" if ratio.disturbed else ""
    return f"{wording.factor(times).removesuffix(wording.TIMES)} times {ratio.outcome}{doubt}"


def doubts(report: Report) -> tuple[str, ...]:
    """What a verdict does not say.

    A reference or final model that is no better than the majority class, or finds none of a class; a final model that is its reference;
    a limit that is not met and only warns, or that is finer than the rows can tell.
    """
    weak = (
        f"{candidate.id} {doubt}"
        for candidate in report.candidates
        if candidate.scores and candidate.stage in ("final", report.reference)
        for doubt in _weak(candidate.scores)
    )
    return (*weak, *_unchanged(report), *_warned(report), *_coarse(report), *_noted(report))


def _noted(report: Report) -> Iterator[str]:
    """What steps warn of, and still are."""
    for stage in (each for each in report.stages if not each.rolled_back):
        of = f"{stage.name}{f' for {stage.target}' if stage.target else ''}"
        yield from (f"{of}: {note.text}" for note in stage.notes if isinstance(note, Remark) and note.warns)


def _weak(scores: Scores) -> Iterator[str]:
    yield from _guessing(scores.main)
    rows = {score.label: score.n for score in scores.per_class if score.n}
    if unseen := [score.label for score in scores.per_class if rows and not score.n]:
        yield f"was shown no row of {len(unseen)} of {len(scores.per_class)} classes, of which nothing is known: {_some(unseen)}."
    if len(rows) < 2:
        return  # no classes, or one, which is told
    if sum(rows.values()) == scores.main.n:  # one for each row
        majority = max(rows, key=lambda label: rows[label])
        right = sum(round(score.recall * score.n) for score in scores.per_class)
        if right <= rows[majority]:
            shares = f"{wording.percent(right / scores.main.n)} against {wording.percent(rows[majority] / scores.main.n)}"
            yield f"is right on no more rows than always saying {majority} would be: {shares}."
    elif _alike(scores):
        yield "tells all rows the same labels."
    if missed := [score.label for score in scores.per_class if score.n and score.recall == 0]:
        yield f"finds no row of {len(missed)} of {len(rows)} classes: {_some(missed)}."


def _some(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - MOST_MISSED} more" if len(labels) > MOST_MISSED else ""
    return f"{', '.join(labels[:MOST_MISSED])}{more}"


def _guessing(main: Metric) -> Iterator[str]:
    """Of a measure that a model which knows nothing has a certain value of."""
    if main.unknowing is None:
        return
    least = main.interval.low if main.interval else main.value
    if (least if main.better == "higher" else -least) <= main.unknowing:
        write = wording.on_scale(main)
        between = f" ({wording.interval(main.interval, write)})" if main.interval else ""
        yield f"is not shown to be better than a guess: {main.name} {write(main.value)}{between}, that of a guess is {write(main.unknowing)}."


def _alike(scores: Scores) -> bool:
    """Whether each label is told of all rows or of none, by how many it was told of."""
    told = [score.recall * score.n / score.precision if score.precision else 0 for score in scores.per_class]
    return all(round(count) in (0, scores.main.n) for count in told)


def _unchanged(report: Report) -> Iterator[str]:
    """Final models that no step has made other than what quality is held against."""
    for candidate in report.candidates:
        steps = [stage for stage in report.stages if stage.target in (None, candidate.target) and stage.step != LOWERED]
        held = next((number for number, stage in enumerate(steps) if stage.name == report.reference), len(steps))
        after = steps[held + 1 :]
        if candidate.stage == "final" and after and all(stage.rolled_back for stage in after):
            yield f"{candidate.id} is {report.reference} itself: every step after it was rolled back."


def _warned(report: Report) -> Iterator[str]:
    for verdict in report.verdicts:
        if verdict.on_fail == "warn" and verdict.outcome != "met":
            found, limit = (writer(verdict)(value) for value in (verdict.value, verdict.limit))
            yield f"{verdict.candidate} has {found} of {QUANTITIES[verdict.quantity][0]}, and {limit} is the limit, which only warns."


def _coarse(report: Report) -> Iterator[str]:
    """Limits that a single row more or less is beyond, so that the model met them which changed none."""
    scored = {candidate.id: candidate.scores for candidate in report.candidates if candidate.scores}
    for verdict in report.verdicts:
        scores = scored.get(verdict.candidate)
        if verdict.quantity != "max_drop" or verdict.unit != "points" or scores is None:
            continue
        main = scores.of(verdict.metric or scores.metric)
        if main.written != "percent":
            continue
        if verdict.outcome == "met" and 0 < verdict.limit < (one := 100 / main.n):
            yield (
                f"{verdict.candidate} was judged on {main.n} rows, of which one is about {wording.points(one).lstrip('+')}: they cannot tell "
                f"whether it loses less than the {wording.points(verdict.limit).lstrip('+')} that it may."
            )


LOWERED = "lower"
"""What a stage is called that only writes a model in a target's format."""
MOST_MISSED = 8
