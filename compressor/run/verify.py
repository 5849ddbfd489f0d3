"""Candidate against reference: parity of raw outputs, limits turned into verdicts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeAlias

from compressor.contracts import Evaluation, Feed, Task
from compressor.contracts.records import Control, Difference, Interval, LatencyRecord, LatencyRow, Parity, Ratio, Verdict
from compressor.contracts.statistics import paired
from compressor.plan.specs import Gate, Limits

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Outcome: TypeAlias = Literal["met", "not met", "undecided"]


def parity(task: Task, candidate: Feed, eager: Feed, *, against: str) -> Parity:
    """How far the raw outputs of a built file are from those of the same rows run eagerly in float32; at worst over the outputs."""
    import numpy as np

    with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is told, not warned of
        return _parity(task, candidate, eager, against=against)


def _parity(task: Task, candidate: Feed, eager: Feed, *, against: str) -> Parity:
    import numpy as np

    kinds = [name for name in eager if eager[name].dtype.kind == "f"]  # what is counted is no output, where there are others
    pairs = [(candidate[name].astype(np.float64), eager[name].astype(np.float64)) for name in kinds or eager]
    mine, theirs = task.predictions(candidate), task.predictions(eager)
    return Parity(
        against=against,
        max_abs=max(float(np.abs(ours - other).max()) for ours, other in pairs),
        cosine=min(_cosine(ours, other) for ours, other in pairs),
        agreement=None if mine is None or theirs is None else float((mine == theirs).mean()),
        n=len(pairs[0][0]),
        finite=all(bool(np.isfinite(ours).all()) for ours, _ in pairs),
    )


def _cosine(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> float:
    import numpy as np

    norms = np.linalg.norm(ours, axis=-1) * np.linalg.norm(theirs, axis=-1)
    return float(np.mean((ours * theirs).sum(-1) / np.maximum(norms, 1e-30)))


@dataclass(frozen=True)
class ClassDrop:
    """Points of recall that the class lost that lost most."""

    label: str
    points: float
    interval: Interval | None


def class_drop(task: Task, candidate: Evaluation, reference: Evaluation) -> ClassDrop | None:
    """The class that lost most recall, with the paired interval of its rows; None where no classes are scored."""
    mine, theirs = ({score.label: score for score in each.scores.per_class if score.n} for each in (candidate, reference))
    lost = {label: 100 * (theirs[label].recall - mine[label].recall) for label in theirs if label in mine}
    if not lost:
        return None
    worst = max(lost, key=lambda label: lost[label])
    number = [score.label for score in reference.scores.per_class].index(worst)
    return ClassDrop(worst, lost[worst], _recall_interval(task, candidate, reference, number))


def _recall_interval(task: Task, candidate: Evaluation, reference: Evaluation, number: int) -> Interval | None:
    """Of rows that are of one class each; None where rows can be of several."""
    mine, theirs, labels = (
        task.predictions(candidate.outputs),
        task.predictions(reference.outputs),
        reference.truth.get("labels"),
    )
    if mine is None or theirs is None or labels is None or not labels.shape == mine.shape == theirs.shape:
        return None
    of_class = labels == number
    gained = (mine[of_class] == number) * 1.0 - (theirs[of_class] == number) * 1.0
    _, low, high, method = paired(gained, None, 0, binary=True)
    return Interval(low=-100 * high, high=-100 * low, method=method)


MOST_ROWS_TOLD = 10


def finite(
    evaluation: Evaluation | None,
    checked: Parity | None,
    *,
    gate: str,
    candidate: str,
    place: Callable[[str, int], str] = "row {1} of {0}".format,
) -> tuple[Verdict, ...]:
    """The verdict on outputs that are not finite, with their rows; none where all are. NaN has an argmax too, and would pass as class 0.

    `place` says where a row of a split stands in the user's files: `Data.place`.
    """
    rows = evaluation.not_finite() if evaluation else ()
    scores = [metric.name for metric in evaluation.scores.metrics if not math.isfinite(metric.value)] if evaluation else []
    said = []
    if evaluation and rows:
        more = f" and {len(rows) - MOST_ROWS_TOLD} more" if len(rows) > MOST_ROWS_TOLD else ""
        split = evaluation.scores.split
        first = place(split, rows[0])
        said.append(f"outputs are not finite (NaN or infinite) in {split} rows {_listed(rows)}{more} (first: {first})")
    elif scores:
        said.append(f"{', '.join(scores)} is not finite")
    elif checked and not (checked.finite and math.isfinite(checked.max_abs)):
        said.append(f"outputs of {checked.against} are not finite")
    if not said:
        return ()
    return (
        Verdict(
            gate=gate,
            candidate=candidate,
            quantity="finite",
            limit=0.0,
            value=float(len(rows)),
            judged_by="point",
            outcome="not met",
            why=said[0],
        ),
    )


def _listed(rows: Sequence[int]) -> str:
    return ", ".join(map(str, rows[:MOST_ROWS_TOLD]))


@dataclass(frozen=True)
class Measured:
    """What is known of a candidate when it is judged; None where it was not measured, with the reason in `why`."""

    differences: tuple[Difference, ...] = ()
    """By metric; the one that quality is held by comes first."""
    class_drop: ClassDrop | None = None
    speedup: tuple[float, Interval] | None = None
    latency_ms: tuple[float, Interval] | None = None
    size: float | None = None
    why: str = ""
    size_of: str = ""
    """Which bytes `size` is of, where a reader could take it for others."""
    disturbed: str = ""
    """What the A/A control showed, where it was beyond its limit: times were measured on a machine that was not still."""

    def told(self, quantity: str) -> str:
        """What a size is of, what disturbed a time; of the rest, why it was not measured."""
        if quantity == "max_size" and self.size is not None:
            return self.size_of
        if quantity == "max_class_drop":
            return f"of class {self.class_drop.label}" if self.class_drop else self.why or "no classes were scored"
        return self.disturbed if quantity in TIMES and self.speedup is not None else self.why

    def timed(self, latency: LatencyRecord, row: LatencyRow, ratio: Ratio) -> Measured:
        """With what a probe found: the median of a candidate, and its ratio to the source."""
        if ratio.outcome == "undecided" and not ratio.interval.low <= 1.0 <= ratio.interval.high:
            return replace(self, why="the probe calls its ratio undecided, though its interval leaves 1 out")
        control = next((each for each in latency.controls if each.workload == row.workload), None)
        return replace(
            self,
            speedup=(ratio.value, ratio.interval),
            latency_ms=(row.median_ms, row.interval),
            disturbed=_disturbed(control) if control and not control.passed else "",
        )


def _disturbed(control: Control) -> str:
    return f"disturbed: the baseline against itself gave {control.ratio:.3f}, so the interval allows for {control.noise:.0%} of noise"


DROPS = frozenset({"max_drop", "max_class_drop"})
TIMES = frozenset({"min_speedup", "max_latency_ms"})
"""Limits that are undecided while they lie within the interval of what was measured: noise could explain either side."""


def judge(limits: Limits, measured: Measured, *, gate: str, candidate: str) -> tuple[Verdict, ...]:
    """One verdict for each limit that is given; what was not measured is undecided."""
    difference = next((each for each in measured.differences if limits.metric in (None, each.metric)), None)
    found: dict[str, tuple[float, Interval | None] | None] = {
        "max_drop": _drop(difference),
        "max_class_drop": (measured.class_drop.points, measured.class_drop.interval) if measured.class_drop else None,
        "min_speedup": measured.speedup,
        "max_latency_ms": measured.latency_ms,
        "max_size": None if measured.size is None else (measured.size, None),
    }
    return tuple(
        _verdict(
            limits,
            quantity,
            limit,
            found[quantity],
            gate=gate,
            candidate=candidate,
            why=measured.told(quantity),
            about=difference,
        )
        for quantity in found
        if (limit := getattr(limits, quantity)) is not None
    )


def _drop(difference: Difference | None) -> tuple[float, Interval | None] | None:
    """Points or per cent lost: the difference with its sign turned."""
    if difference is None:
        return None
    of = difference.interval
    turned = Interval(low=-of.high, high=-of.low, level=of.level, method=of.method) if of else None
    return -difference.change + 0.0, turned


def _verdict(
    limits: Limits,
    quantity: str,
    limit: float,
    found: tuple[float, Interval | None] | None,
    *,
    gate: str,
    candidate: str,
    why: str,
    about: Difference | None,
) -> Verdict:
    value, interval = found if found else (None, None)
    outcome: Outcome = "undecided"
    if value is not None and quantity in DROPS and limits.judged_by == "bound" and interval is None:
        why = "it is a property of the whole set and has no interval: say judged_by: point"
    elif value is not None:
        outcome = _outcome(quantity, limit, value, interval, judged_by=limits.judged_by)
        why = _within(limit, interval, why) if outcome == "undecided" and interval else why
    return Verdict.model_validate(
        {
            "gate": gate,
            "candidate": candidate,
            "quantity": quantity,
            **({"metric": about.metric, "unit": about.unit} if about and quantity == "max_drop" else {}),
            "limit": limit,
            "value": value,
            "interval": interval,
            "judged_by": limits.judged_by,
            "outcome": outcome,
            "on_fail": limits.on_fail if isinstance(limits, Gate) else getattr(limits, "on_fail", "stop"),
            "why": why if value is None or outcome == "undecided" or quantity != "max_drop" else "",
        }
    )


def _outcome(quantity: str, limit: float, value: float, interval: Interval | None, *, judged_by: str) -> Outcome:
    """By the worse end of the interval, or by the point; a time whose interval holds the limit is neither above nor below it."""
    least = quantity == "min_speedup"
    decisive = value
    if judged_by == "bound" and interval is not None:
        decisive = interval.low if least else interval.high
    elif quantity in TIMES and interval is not None and interval.low < limit < interval.high:
        return "undecided"
    return "met" if (decisive >= limit if least else decisive <= limit) else "not met"


def _within(limit: float, interval: Interval, why: str) -> str:
    held = f"{limit:g} lies within what noise explains, {interval.low:.4g} to {interval.high:.4g}: measure longer, or on a quieter machine"
    return f"{held}; {why}" if why else held
