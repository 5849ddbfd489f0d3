"""How good a model was found to be: metrics with intervals, differences on the same rows, parity of outputs."""

from __future__ import annotations

from typing import Literal

from compressor.contracts.notes import Record
from compressor.errors import UnsupportedModel


class Interval(Record):
    low: float
    high: float
    level: float = 0.95
    method: str


class Metric(Record):
    name: str
    value: float
    n: int
    interval: Interval | None = None
    better: Literal["higher", "lower"] = "higher"
    drop: Literal["points", "percent"] = "points"
    """What a loss of it is counted in: points (hundredths of a fraction in [0, 1]), or per cent of the reference's value."""
    written: Literal["percent", "number"] = "percent"
    """How reports write a value whose losses are points: 87.5 %, or 0.875 as is the custom for correlations."""
    unknowing: float | None = None
    """The value of a model that knows nothing of its rows, where that is one number for any data: 0 of a correlation."""

    @property
    def in_percent(self) -> bool:
        """Whether its values are fractions that reports write in per cent."""
        return self.drop == "points" and self.written == "percent"


class ClassScore(Record):
    label: str
    n: int
    precision: float
    recall: float
    f1: float


class Scores(Record):
    split: str
    metric: str
    """Name of the metric among `metrics` that quality is held by."""
    metrics: tuple[Metric, ...]
    per_class: tuple[ClassScore, ...] = ()

    @property
    def main(self) -> Metric:
        return self.of(self.metric)

    def of(self, name: str) -> Metric:
        """The metric of that name.

        Raises:
            UnsupportedModel: a task has it, and could not measure it of this model.
        """
        found = {metric.name: metric for metric in self.metrics}
        if name not in found:
            raise UnsupportedModel(f"{name} is not measured of this model; `metric:` may be {', '.join(found)}")
        return found[name]


class Difference(Record):
    """Candidate against reference on the same rows, by one metric; negative means worse, whichever way the metric goes."""

    reference: str
    metric: str
    change: float
    unit: Literal["points", "percent"] = "points"
    """Points are hundredths of the metric; per cent are of the reference's value."""
    interval: Interval | None
    """None where the metric is a property of the whole set and has no interval of its difference."""
    n: int
    changed: int | None = None
    """Rows whose prediction differs; None where rows have no prediction."""
    agreement: float | None = None
    """Share of the tokens looked at whose likeliest word is the reference's; None where no tokens are told."""
    divergence: float | None = None
    """KL divergence from the reference in nats, a mean over these tokens, by the likeliest words of both: a lower bound. None where they
    share too few."""


class Parity(Record):
    """Raw outputs of a built file against the same model run eagerly in float32."""

    against: str
    max_abs: float
    cosine: float
    agreement: float | None
    """Share of the rows with the same prediction; None where rows have none."""
    n: int
    finite: bool
