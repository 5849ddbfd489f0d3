"""Cells of `benchmarks.studies.qat_text` and `qat_others`: a method, a scheme, a learning rate and a seed each, run as plans whose runs are kept."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.studies import ablation
from compressor.contracts.notes import Table
from compressor.contracts.records import Report
from compressor.report import EVALUATIONS, read_report
from compressor.run.results import load_evaluation

if TYPE_CHECKING:
    from numpy.typing import NDArray

SPLITS = ("train", "validation", "test")
BATCH, CALIBRATION = 16, 128


@dataclass(frozen=True)
class Case:
    """A model and rows: what cells are run on."""

    name: str
    title: str
    task: Mapping[str, Any]
    model: Mapping[str, Any]
    passes: Sequence[Mapping[str, Any]]
    """That make of it the model that all cells start from and learn from; the first one fine-tunes."""
    data: Callable[[Path], Mapping[str, Any]]
    """Rows as a plan has them, made in a folder unless they are there: the same to train on, to choose by and to test on in every cell."""
    scored: int | None = None
    """Validation rows that a cell is scored on; the passes above are by all of them."""
    uneven: bool = False
    """Whether the passes leave blocks of different widths, which no plan reads from a folder: each cell has them in its own plan then, and
    finds what they make in the store; another seed makes it anew."""

    @property
    def base(self) -> str:
        """Stage of a cell's run that is the model which it starts from."""
        return next(iter(self.passes[-1])) if self.uneven else "source"


def common(case: Case, folder: Path, name: str, seed: int) -> dict[str, Any]:
    """What all plans of a case share; its rows are in the folder."""
    return {
        "name": name,
        "seed": seed,
        "task": dict(case.task),
        "data": {**case.data(folder), "calibration": CALIBRATION},
        "stages": "quality",
        "probes": [],
    }


def reference(case: Case, folder: Path) -> dict[str, Any]:
    """The plan of the model that all others of a case start from and learn from."""
    return {
        **common(case, folder, f"qat-{case.name}-reference", 0),
        "model": dict(case.model),
        "reference": "finetune",
        "passes": [dict(each) for each in case.passes],
        "targets": ["pytorch"],
    }


# ------------------------------------------------------------------ methods

LAYERS = 6
"""Of the model: an objective is a mean over layers, and stands in the paper as their sum."""
KL, HIDDEN = {"soft-targets": 1.0}, {"hidden-states": float(LAYERS)}
MAPS: Mapping[str, Any] = {"attention-maps": {"weight": float(LAYERS), "layers": "uniform"}}
OUTPUT = {"attention-output": float(LAYERS)}
ROUNDED, TOOLS, WEIGHT_ONLY, LABELS, SOFT = "PTQ", "PTQ of tools", "weight-only PTQ of tools", "QAT", "KL"
UNIFIED = "unified"
TOOLED = (TOOLS, WEIGHT_ONLY)
"""What no torch model simulates: such files are held against the float model alone."""
LOSSES: Mapping[str, Mapping[str, Any]] = {
    LABELS: {"objectives": {"soft-targets": 0.0}, "task_loss": 1.0},
    SOFT: {"objectives": KL},
    "KL + hidden states": {"objectives": {**KL, **HIDDEN}},
    "KL + attention scores": {"objectives": {**KL, "attention-scores": float(LAYERS)}},
    "KL + attention maps": {"objectives": {**KL, **MAPS}},
    "KL + attention output": {"objectives": {**KL, **OUTPUT}},
    "KL + relations": {"objectives": {**KL, "query-key-value-relations": 1.0}},
    UNIFIED: {"objectives": {**KL, **HIDDEN, **MAPS, "attention-output": 0.5 * LAYERS}},
}
"""What trains from its start to its end, and by which losses."""
BY_BLOCKS, STARTED = ", block-wise", 1024
"""Training rows by which blocks learn one by one before all of them do."""
TAUGHT: Mapping[str, Mapping[str, Any]] = {
    **LOSSES,
    **{f"{name}{BY_BLOCKS}": {**given, "block_wise": STARTED} for name, given in LOSSES.items()},
}
"""All that trains."""
SCHEMES: Mapping[str, Mapping[str, Any]] = {"W2A8": {"weights": "ternary"}, "W4A8": {"weights": 4}, "W8A8": {"weights": 8}}
STILL = 1e-9
"""A learning rate at which one step moves no weight by a step of a grid: what is left is post-training quantisation."""
WINNER = "winner"
RANKED: Mapping[str, tuple[int, str]] = {
    WINNER: (0, ""),
    f"{WINNER}{BY_BLOCKS}": (0, BY_BLOCKS),
    f"second{BY_BLOCKS}": (1, BY_BLOCKS),
}
"""Methods by how good they are in the first part by validation, best first, and what is added to their names."""


@dataclass(frozen=True)
class Cell:
    """One run."""

    data: str
    scheme: str
    method: str
    steps: int = 1
    rate: float = STILL
    seed: int = 0

    @property
    def name(self) -> str:
        """Of its folder."""
        words = self.method.replace(" + ", "+").replace(" ", "-")
        trained = f"-{self.steps}-{self.rate:g}-{self.seed}" if self.method in TAUGHT else ""
        return f"{self.data}-{self.scheme}-{words}{trained}"

    def step(self, teacher: str) -> dict[str, Any]:
        """The pass of its plan; the teacher is what it starts from."""
        if self.method == TOOLS:
            return {"quantize-static": {"calibration": CALIBRATION}}
        if self.method == WEIGHT_ONLY:
            return {"quantize-weights": {"bits": 4}}
        given = {
            "teacher": teacher,
            **SCHEMES[self.scheme],
            "batch_size": BATCH,
            "steps": self.steps,
            "learning_rate": self.rate,
        }
        given |= {"checkpoint": "last", "validations": 1, "attention": "eager"}
        if self.method == ROUNDED:
            return {"distill-and-quantize": {**given, **({"step_sizes": "max"} if self.scheme == "W4A8" else {})}}
        runs = {} if self.method == LABELS else {"cache_teacher": False}  # as maps need it: one way for all
        return {"distill-and-quantize": {**given, **runs, **TAUGHT[self.method]}}


def plan(cell: Cell, case: Case, folder: Path, model: Path) -> dict[str, Any]:
    """The plan of a cell; `model` is what the case's passes made, its rows are in the folder."""
    made = common(case, folder, f"qat-{cell.data}-{cell.scheme}", cell.seed)
    start = {"model": dict(case.model), "reference": case.base} if case.uneven else {"model": {"folder": str(model.resolve())}}
    return {
        **made,
        "data": {**made["data"], **({"limit": {"validation": case.scored}} if case.scored else {})},
        **start,
        "passes": [*([dict(each) for each in case.passes] if case.uneven else []), cell.step(case.base)],
        "targets": [{"onnxruntime": {"threads": 1}}, {"openvino": {"threads": 1}}],
    }


# ------------------------------------------------------------------ what cells came to

TARGETS = ("onnxruntime", "openvino")
ATTENTION, TRAINED = "Attention of the input model", "KL trained"


@dataclass(frozen=True)
class Found:
    """What one cell came to."""

    right: Mapping[str, NDArray[np.float64]]
    """By target, 1 for each test row that its file labels rightly, else 0: `[rows]`."""
    reference: NDArray[np.float64]
    """The same of the fine-tuned model's file in ONNX Runtime."""
    megabytes: Mapping[str, float]
    agreement: float
    """Least share, over targets, of rows that a deployed file labels as the simulation does."""
    validation: float
    """Accuracy on validation, of the simulation."""
    divergence: float | None
    """KL of attention maps from the fine-tuned model's, a mean over layers; None where nothing was trained."""
    seconds: float

    def accuracy(self, target: str) -> float:
        """On test rows, in percent."""
        return 100 * float(self.right[target].mean())


class Absent(Exception):
    """A cell that is not there."""


@dataclass
class Book:
    """All cells of a study: those whose runs are kept in its folder, and those that are made now; says how many remain."""

    folder: Path
    cases: Mapping[str, Case]
    planned: int
    run: bool = True
    """Whether cells that are not there are run."""
    _seen: dict[str, Found] = field(default_factory=dict)
    _seconds: list[float] = field(default_factory=list)

    def reference(self, data: str) -> Report:
        """The run that fine-tunes.

        Raises:
            Absent: it is not there, and nothing is to be run.
        """
        return self._report(f"{data}-reference", lambda: reference(self.cases[data], self.folder))

    def found(self, cell: Cell) -> Found:
        """What a cell came to.

        Raises:
            Absent: it is not there, and nothing is to be run.
        """
        if cell.name not in self._seen:
            taught = self.reference(cell.data)
            case, model = self.cases[cell.data], self.model(cell.data)
            began, fresh = time.monotonic(), not self._there(cell.name)
            report = self._report(cell.name, lambda: plan(cell, case, self.folder, model))
            if not case.uneven and report.stages[0].digest != taught.stages[-1].digest:
                raise SystemExit(
                    f"{self.folder / cell.name} holds a run of another {cell.data}-reference: remove it, or name another folder"
                )
            if fresh:
                self._seconds.append(time.monotonic() - began)
            self._seen[cell.name] = read(report, self.folder / cell.name / "run" / EVALUATIONS, case.base)
        return self._seen[cell.name]

    def model(self, data: str) -> Path:
        """Folder of the fine-tuned model."""
        return self.folder / f"{data}-reference" / "run" / "artifacts" / "final@pytorch"

    def _there(self, name: str) -> bool:
        return (self.folder / name / "run" / "report.json").is_file()

    def _report(self, name: str, made: Callable[[], dict[str, Any]]) -> Report:
        if not self.run:
            if not self._there(name):
                raise Absent(name)
            return read_report(self.folder / name / "run")
        if not self._there(name):
            left = max(1, self.planned - len(self._seen))
            pace = f", about {left * float(np.median(self._seconds)) / 60:.0f} minutes" if self._seconds else ""
            sys.stderr.write(f"{name}: run now; {left} of {self.planned} cells remain{pace}\n")
        return ablation.run(made(), self.folder / name)


def read(report: Report, evaluations: Path, base: str = "source") -> Found:
    """A cell's run, which starts from the stage `base`."""
    finals = [each for each in report.candidates if each.stage == "final" and each.scores is not None]
    right = {each.target: gains(evaluations / f"final@{each.target}") for each in finals}
    stage = report.stages[-1]
    parity = [each.parity.agreement for each in finals if each.parity is not None and each.parity.agreement is not None]
    return Found(
        right=right,
        reference=gains(evaluations / f"{base}@{TARGETS[0]}"),
        megabytes={each.target: each.bytes / 1e6 for each in finals},
        agreement=min(parity, default=1.0),
        validation=stage.scores.main.value if stage.scores is not None else float("nan"),
        divergence=apart_by(report),
        seconds=stage.seconds,
    )


def gains(folder: Path) -> NDArray[np.float64]:
    """Which rows are right."""
    return np.asarray(load_evaluation(folder).gains["accuracy"], np.float64)


def apart_by(report: Report) -> float | None:
    """Of the table of attention maps, what the trained model has in the mean over layers."""
    for note in report.stages[-1].notes:
        if isinstance(note, Table) and note.title.startswith(ATTENTION):
            at = note.columns.index(TRAINED)
            return float(np.mean([float(row[at] or 0.0) for row in note.rows]))
    return None
