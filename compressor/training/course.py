"""How far a training has come and what it has seen, and whether its losses have run away."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from compressor.contracts.notes import Note, Remark, Series

if TYPE_CHECKING:
    from compressor.contracts import Context

DIVERGED = 10.0
"""A loss that ends an epoch so many times above the first one has diverged."""
LEAST_LOSS = 0.1
"""A loss that begins below counts as this: a student that begins as its teacher's copy begins with 0."""
LAST_LOSSES = 20
"""Steps at the end of an epoch, all of which have to be above."""
CURVES = ("losses", "watched")

Curve = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class TrainingLog:
    """What happened: losses by name and step, what was watched, the metric on validation where it was looked at."""

    losses: Mapping[str, Curve]
    """Each loss in those steps that have it."""
    watched: Mapping[str, Curve]
    validation: Curve
    """Higher is better, whichever way the metric goes."""
    seen: tuple[float, ...]
    """What had been learned from at each look at validation, as `Task.weight` counts it: rows, or tokens."""
    counted: float
    """All of it."""
    kept_epoch: int
    seconds: float
    rows_per_second: float
    precision: str
    attention: str | None
    """How attention was computed; None for each model's own way."""


def told(log: TrainingLog, ctx: Context, *, title: str = "Validation") -> Iterator[Note]:
    """The metric on validation whenever it was looked at, as it is told of models; where a task counts more than rows, by what was
    learned from, and how fast that went."""
    measure = next(each for each in ctx.task.measures() if each.name == ctx.metric)
    sign, counts = 1.0 if measure.better == "higher" else -1.0, ctx.task.counts
    places = [at for at, _ in log.validation] if counts == "rows" else log.seen
    curve = tuple((place, sign * value) for place, (_, value) in zip(places, log.validation, strict=True))
    if curve:
        yield Series(title=title, x="step" if counts == "rows" else counts, y=measure.name, curves={measure.name: curve})
    if counts != "rows":
        speed = f"{log.counted / log.seconds:,.0f} {counts}/s, validation included"
        yield Remark(text=f"{title}: learned from {log.counted:,.0f} {counts} in {log.seconds:,.1f} s ({speed}).")


@dataclass
class Course:
    """How far a training has come and what it has seen; JSON values only, for a checkpoint keeps them."""

    epoch: int = 0
    """Epochs that are over."""
    at: int = 0
    """Batches taken of the epoch under way."""
    step: int = 0
    over: bool = False
    """Whether the last epoch is over, its validation included."""
    rows: int = 0
    counted: float = 0.0
    """What was learned from, as `Task.weight` counts it."""
    seen: list[float] = field(default_factory=list)
    """That, at each look at validation."""
    seconds: float = 0.0
    """Spent by processes that were killed."""
    losses: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    watched: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    validation: list[tuple[float, float]] = field(default_factory=list)
    best: tuple[float, int] | None = None
    """Best value on validation and the epoch it came from, counted from 1."""

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Course:
        """From JSON, which knows no tuples."""
        curves = {each: {name: [(at, value) for at, value in curve] for name, curve in values[each].items()} for each in CURVES}
        validation = [(at, value) for at, value in values["validation"]]
        best = tuple(values["best"]) if values["best"] else None
        return cls(**{**values, **curves, "validation": validation, "best": best})

    def values(self, *, seconds: float) -> dict[str, Any]:
        """As a checkpoint keeps them, with the seconds spent so far."""
        return {**dataclasses.asdict(self), "seconds": seconds}

    def latest(self) -> dict[str, float]:
        """The last value of each loss."""
        return {name: curve[-1][1] for name, curve in self.losses.items()}

    def add(self, losses: Mapping[str, float]) -> None:
        """Losses of the step that is just over."""
        _extend(self.losses, self.step, losses)

    def watch(self, values: Mapping[str, float]) -> None:
        """What is watched, at the step that is just over."""
        _extend(self.watched, self.step, values)

    def risen(self) -> tuple[float, float] | None:
        """The last and the first of losses that have diverged; None where they have not.

        Steps are compared with those that have the same losses: where optimisers take turns, their losses do.
        """
        for totals in self._totals():
            last, began = min(totals[-LAST_LOSSES:]), totals[0]
            if last > DIVERGED * max(began, LEAST_LOSS):
                return last, began
        return None

    def _totals(self) -> Iterator[list[float]]:
        """Sums of losses step by step, a list for each set of losses that come together."""
        steps: dict[float, dict[str, float]] = {}
        for name, curve in self.losses.items():
            for at, value in curve:
                steps.setdefault(at, {})[name] = value
        together: dict[frozenset[str], list[float]] = {}
        for _, found in sorted(steps.items()):
            together.setdefault(frozenset(found), []).append(sum(found.values()))
        yield from together.values()


def _extend(curves: dict[str, list[tuple[float, float]]], step: int, values: Mapping[str, float]) -> None:
    for name, value in values.items():
        curves.setdefault(name, []).append((float(step), value))
