"""How good a model is: the measures of a task, and what it scored on a split, row by row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from compressor.contracts.graph import Feed
from compressor.contracts.quality import Interval, Metric, Scores

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Measure:
    """One way to say how good a model is."""

    name: str
    better: Literal["higher", "lower"] = "higher"
    drop: Literal["points", "percent"] = "points"
    """What a loss is counted in: points (hundredths of a fraction in [0, 1]), or per cent of the reference's value (perplexity)."""
    written: Literal["percent", "number"] = "percent"
    """How reports write a value whose losses are points: 87.5 %, or 0.875 as is the custom for correlations."""
    unknowing: float | None = None
    """The value of a model that knows nothing of its rows, where that is one number for any data: 0 of a correlation."""

    def metric(self, value: float, n: int, interval: Interval | None = None) -> Metric:
        """A value of this measure on n rows, as reports hold it."""
        return Metric(n=n, value=value, interval=interval, **vars(self))


@dataclass(frozen=True)
class Evaluation:
    """Scores of one model on one split, with what paired comparison needs: entry i of an array belongs to row i of the split."""

    scores: Scores
    outputs: Feed
    """Raw outputs by name, `[n, classes]` for the logits of a classifier."""
    gains: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    """By measure, what each row adds to it: `[n]`, higher is better, on any scale. A property of the whole set has none."""
    weights: NDArray[np.float64] | None = None
    """How much each row counts (its tokens, say): `[n]`; None where all count alike."""
    truth: Feed = field(default_factory=dict)
    """What the rows were held against, by name."""

    @property
    def quality(self) -> float:
        """The value that quality is held by, turned so that higher is better."""
        main = self.scores.main
        return main.value if main.better == "higher" else -main.value

    def not_finite(self) -> tuple[int, ...]:
        """Rows whose outputs, or what they add to a measure, are NaN or infinite, in their order."""
        import numpy as np

        arrays = [array for array in (*self.outputs.values(), *self.gains.values()) if array.ndim and array.dtype.kind in "fc"]
        found = [np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1)) for array in arrays if array.size]
        return tuple(int(row) for row in np.unique(np.concatenate(found))) if found else ()

    def held_by(self, metric: str) -> Evaluation:
        """The same, with another metric as the one that quality is held by."""
        return replace(self, scores=self.scores.model_copy(update={"metric": metric}))
