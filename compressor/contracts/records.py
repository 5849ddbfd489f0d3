"""What a run found out, as frozen data: `report.json` is a `Report`, and its JSON Schema is made from these classes.

Points are hundredths of a metric; times are milliseconds and sizes bytes unless a name says otherwise.
What could not be measured has no value and says why in `not_measured`.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, Field

from compressor.contracts.comparisons import ASSUMPTIONS, Change, Comparison, Forecast, ForecastRow, Quality, SideBySide, Times
from compressor.contracts.measurements import (
    Control,
    Kind,
    LatencyRecord,
    LatencyRow,
    MemoryRecord,
    MemoryRow,
    OtherRecord,
    ProbeRecord,
    ProfileRecord,
    ProfileRow,
    Ratio,
    Timed,
    Unit,
    Workload,
)
from compressor.contracts.notes import Note, Record
from compressor.contracts.quality import ClassScore, Difference, Interval, Metric, Parity, Scores

__all__ = [
    "ASSUMPTIONS",
    "REPORT_VERSION",
    "Candidate",
    "Change",
    "ClassScore",
    "Comparison",
    "Control",
    "DataRecord",
    "Difference",
    "Disagreement",
    "File",
    "Forecast",
    "ForecastRow",
    "Interval",
    "Kind",
    "LatencyRecord",
    "LatencyRow",
    "Machine",
    "MemoryRecord",
    "MemoryRow",
    "Metric",
    "ModelRecord",
    "OtherRecord",
    "Parity",
    "ProbeRecord",
    "ProfileRecord",
    "ProfileRow",
    "Quality",
    "Ratio",
    "Report",
    "Scores",
    "SideBySide",
    "Spent",
    "SplitRecord",
    "Stage",
    "Timed",
    "Times",
    "Unit",
    "Verdict",
    "Work",
    "Workload",
    "stays_inside",
]

REPORT_VERSION = 2


def stays_inside(name: str) -> bool:
    """True for a relative path with forward slashes that does not climb out of the folder it starts in."""
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\\" not in name and "\0" not in name


def _inside(name: str) -> str:
    if not stays_inside(name):
        raise ValueError(f"'{name}' leads out of its folder")
    return name


# ------------------------------------------------------------------ notes: what a pass wants shown


# ------------------------------------------------------------------ stages, candidates


class Verdict(Record):
    """One quantity of one gate, and how it came out."""

    gate: str
    """Where it stands in the plan: `passes.distill.gate`, `accept[0]`; of `finite` what saw the outputs: `outputs` or a probe's name."""
    candidate: str
    quantity: Literal["max_drop", "max_class_drop", "min_speedup", "max_latency_ms", "max_size", "finite"]
    """`finite` is asked of every model, whatever the plan says: its value is how many are not: rows that were scored, or outputs that a probe saw."""
    metric: str | None = None
    """What `max_drop` is about."""
    unit: Literal["points", "percent"] = "points"
    """What `max_drop` is counted in."""
    limit: float
    value: float | None
    interval: Interval | None = None
    judged_by: Literal["point", "bound"]
    outcome: Literal["met", "not met", "undecided"]
    on_fail: Literal["stop", "roll back", "warn"] = "stop"
    why: str = ""


class Stage(Record):
    """One step of the plan as it ran: in the trunk, or in one target's branch."""

    name: str
    step: str
    """The plug-in's name (`prune-structure`), or `source`, `lower`."""
    target: str | None = None
    """None in the trunk, else the target whose branch it ran in."""
    parameters: dict[str, Any] = {}
    key: str = ""
    digest: str = ""
    found: bool = False
    """True when the store had it."""
    seconds: float = 0.0
    """Seconds it took when it was made, which may have been an earlier run."""
    weights: int | None = None
    """Number of parameters, on the torch format."""
    bytes: int = 0
    layer_bytes: dict[str, int] = {}
    """Bytes by part of the model: embeddings, each block's attention and feed-forward, head, other."""
    scores: Scores | None = None
    """On validation data."""
    differences: tuple[Difference, ...] = ()
    """Against the reference, by metric; the one that quality is held by comes first."""
    edits: tuple[str, ...] = ()
    notes: tuple[Note, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    rolled_back: bool = False
    effort: dict[str, float] = {}
    """What a row takes of a model that is called in a loop: `steps`, and `evaluations` of its network."""

    @property
    def difference(self) -> Difference | None:
        """By the metric that quality is held by."""
        return self.differences[0] if self.differences else None


class File(Record):
    name: Annotated[str, AfterValidator(_inside)]
    """Relative to the folder of its candidate."""
    bytes: int
    sha256: str


class Candidate(Record):
    """A stage built for a target: what is scored, timed and exported."""

    id: str = Field(pattern="^[A-Za-z0-9_.-]+@[A-Za-z0-9_-]+$")
    """`stage@target`; also the name of its folder below `artifacts`."""
    stage: str
    target: str
    files: tuple[File, ...] = ()
    bytes: int = 0
    layer_bytes: dict[str, int] = {}
    """Bytes of the weights in the built file, by part of the model; empty where the file does not say."""
    facts: dict[str, str] = {}
    """What really ran: precision, device, threads, asked of the runtime."""
    scores: Scores | None = None
    """On test data."""
    differences: tuple[Difference, ...] = ()
    """Against the reference, by metric; the one that quality is held by comes first."""
    parity: Parity | None = None
    diagnosis: tuple[str, ...] = ()
    not_measured: str | None = None

    @property
    def difference(self) -> Difference | None:
        """By the metric that quality is held by."""
        return self.differences[0] if self.differences else None


# ------------------------------------------------------------------ probes


# ------------------------------------------------------------------ the whole


class Machine(Record):
    fingerprint: str
    """sha256 prefix over processor, cores, memory, accelerator and kernel."""
    processor: str
    cores: int
    memory_bytes: int
    features: tuple[str, ...]
    """Instruction sets that matter here: avx2, avx512f, avx512_vnni, avx512_bf16, amx_int8 ..."""
    accelerators: tuple[str, ...]
    system: str
    python: str
    load: float | None = None

    @property
    def named(self) -> str:
        """Its processor and how many cores of it are there."""
        return f"{self.processor}, {self.cores} core{'' if self.cores == 1 else 's'}"


class SplitRecord(Record):
    name: str
    rows: int
    digest: str
    classes: dict[str, int] = {}


class DataRecord(Record):
    source: str
    digest: str
    splits: tuple[SplitRecord, ...]
    removed: dict[str, int] = {}
    """Rows removed, by reason."""
    findings: tuple[str, ...] = ()
    """What was met in the rows and should be known, a sentence each."""
    real: bool = True
    """False where the plan has no data: rows then hold what a model can be asked for, and nothing that its outputs could be held against."""


class Disagreement(Record):
    """A test row on which reference and final differ."""

    candidate: str
    row: int
    text: str
    label: str
    reference: str
    final: str
    kind: Literal["broken", "mended", "both wrong"]


class ModelRecord(Record):
    source: str
    sha256: str | None = None
    licence: str = ""
    family: str
    weights: int
    bytes: int


Work: TypeAlias = Literal["data", "load", "step", "evaluate", "gate", "lower", "build", "score", "parity", "probe"]
"""Pieces of work that a run's time is told by. `evaluate` is on validation data, `score` on test data."""


class Spent(Record):
    """Wall time of one piece of work in this run; next to nothing where the store had its result."""

    work: Work
    of: str
    """Name of the stage or probe."""
    target: str | None = None
    seconds: float


class Report(Record):
    version: int = REPORT_VERSION
    name: str
    outcome: Literal["accepted", "not accepted", "undecided", "stopped", "measured"]
    """`measured`: the plan has no `accept:`."""
    exit_code: int
    summary: str
    """The answer in one or two sentences."""
    started: str
    seconds: float
    command: str
    plan: str
    """The plan's text, includes and settings resolved."""
    seed: int
    task: str
    machine: Machine
    versions: dict[str, str]
    model: ModelRecord
    data: DataRecord
    reference: str
    stages: tuple[Stage, ...]
    candidates: tuple[Candidate, ...]
    probes: tuple[ProbeRecord, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    """Of `accept:`; those of gates stand with their stages."""
    disagreements: tuple[Disagreement, ...] = ()
    """The first rows of test, by candidate, on which the reference and a final model differ."""
    changed: dict[str, dict[str, int]] = {}
    """How many rows differ in all: by candidate, then by kind."""
    missing: dict[str, str] = {}
    """Targets that could not build or run here, and why."""
    notes: tuple[Note, ...] = ()
    """What the task shows of models side by side that were scored on the same rows: of stages on validation, of candidates on test."""
    spent: tuple[Spent, ...] = ()
    """Where the time of this run went, in the order it was spent."""
    error: str | None = None
