"""Two runs side by side, and what a run is forecast to take."""

from __future__ import annotations

from compressor.contracts.measurements import Control, LatencyRow, Ratio, Timed
from compressor.contracts.notes import Record
from compressor.contracts.quality import Difference, Metric


class Change(Record):
    """A value that differs; None where a run has no such thing."""

    what: str
    """`plan`, `data`, `model`, `versions`, `machine`, `stages` or `files`."""
    where: str
    first: str | None
    second: str | None


class Quality(Record):
    """A candidate's main metric on test data in both runs, and the second less the first on the same rows."""

    candidate: str
    first: Metric | None
    second: Metric | None
    difference: Difference | None = None
    unpaired: str = ""
    """Why there is no difference."""


class Times(Timed):
    """Medians of one candidate as each run measured them."""

    candidate: str
    first: LatencyRow
    second: LatencyRow


class SideBySide(Record):
    """The final files of both runs on one target, timed in the same rounds; the ratio is the speed-up of the second."""

    target: str
    ratio: Ratio
    control: Control


class Comparison(Record):
    first: str
    second: str
    """Folders of the runs."""
    changes: tuple[Change, ...]
    qualities: tuple[Quality, ...]
    times: tuple[Times, ...]
    warnings: tuple[str, ...]
    measured: tuple[SideBySide, ...] = ()


ASSUMPTIONS = (
    "one process, an empty store, and a machine as busy as during the rehearsal",
    "time grows with rows, epochs and blocks; every step keeps the share of the model that it kept in the rehearsal",
    "no gate stops the run or rolls a step back, and no control of the timing makes it measure again",
)


class ForecastRow(Record):
    step: str
    rehearsed_seconds: float
    seconds: float


class Forecast(Record):
    """What the real run of a plan is expected to take; nothing in it was measured on that run."""

    name: str
    rows: tuple[ForecastRow, ...]
    seconds: float
    memory_bytes: int
    """Peak of the run's process."""
    disk_bytes: int
    """Of the store and the run's folder."""
    rehearsal_seconds: float
    trials: tuple[str, ...]
    """What was run instead, in words."""
    assumptions: tuple[str, ...] = ASSUMPTIONS
