"""The runs of `benchmarks.studies.speech`: an encoder of speech brought to a quarter of its layers' parameters in five ways."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.studies import ablation
from benchmarks.studies.likeness import feature_errors, probes_by_layer, sounding, states
from compressor.cli_store import open_store
from compressor.contracts.notes import Table
from compressor.contracts.records import Report
from compressor.plan.bound import load_plan
from compressor.run.rows import rows_in
from compressor.store.disk import put
from compressor.tasks.audio_features import AudioFeatures

if TYPE_CHECKING:
    from datasets import Dataset
    from numpy.typing import NDArray

RUNS = Path("runs/speech")
TEST_TAKES = 15
"""Takes of each speaker and digit that are tested on: 900 of 3,000 recordings."""
SEEDS = (0, 1, 2)
RATES = (5e-4, 1e-3, 2e-3, 4e-3)
FIRST, SECOND = 4, 2
"""Epochs of both stages; the others have as many steps in one."""
LAYER_PARAMETERS = 7_096_320
BUDGET = LAYER_PARAMETERS // 4
REST = 8_208_384 - LAYER_PARAMETERS
"""Parameters outside of the layers, which stay."""
EQUAL = {"heads": [2] * 4, "neurons": [316] * 4}
"""Equal widths that make just the parameters that joint's and pruning's widths come to; theirs are multiples of 16, these are not."""
TAUGHT = [2, 4]
"""Layers of the teacher that are imitated, counted from 1."""
LENGTHS = {"1 s": 16_000, "5 s": 80_000}
RATIOS = (0.5, 0.3)
TARGETS = ("onnxruntime", "openvino")
INT8 = "int8"
SPARSITY = 0.75
METHODS = ("joint", "one-layer", "uniform", "pruned", "random")
PROBES = {
    "digit": {"label": "digit", "groups": "speaker"},
    "speaker": {"label": "speaker"},
    "digit-10": {"label": "digit", "groups": "speaker", "shots": 10},
    "speaker-10": {"label": "speaker", "shots": 10},
}


@dataclass(frozen=True)
class Cell:
    """One run."""

    method: str
    seed: int
    rate: float
    epochs: int = FIRST + SECOND
    widths: Mapping[str, Sequence[int]] | None = None

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.method}-{self.epochs}-{self.rate:g}-{self.seed}"


def prepared(recordings: Path, folder: Path) -> Path:
    """The recordings as an audiofolder with the columns digit and speaker, unless it is there."""
    if not all((folder / split / "metadata.jsonl").is_file() for split in ("train", "test")):
        rows: dict[str, list[str]] = {"train": [], "test": []}
        for path in sorted(recordings.glob("*.wav")):
            digit, speaker, take = path.stem.split("_")
            split = "test" if int(take) < TEST_TAKES else "train"
            (folder / split).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / split / path.name)
            rows[split].append(json.dumps({"file_name": path.name, "digit": digit, "speaker": speaker}) + "\n")
        for split, lines in rows.items():
            put(folder / split / "metadata.jsonl", "".join(lines))
    return folder


def passes(cell: Cell) -> Iterator[dict[str, Any]]:
    """Steps of a cell; all imitate the same layers through projections of their own, with the same rows in the same order."""
    common = {"teacher": "source", "learning_rate": cell.rate, "cache_teacher": True, "checkpoint": "last"}
    if cell.method == "joint":
        stages = {"epochs": FIRST, "recovery_epochs": SECOND, "sparsity": SPARSITY}
        yield {"distill-and-prune": {**common, **stages, "objectives": imitation(TAUGHT)}}
        return
    if cell.method == "uniform":
        yield {"prune-structure": {"widths": EQUAL, "importance": "activation"}}
    elif cell.method == "pruned":
        yield {"prune-structure": {"parameters": REST + BUDGET, "importance": "activation", "min_heads": 0, "scope": "global"}}
    elif cell.method == "random":
        yield {"prune-structure": {"widths": cell.widths, "importance": "random"}}
    cut = {"init": "first", "layers": 1} if cell.method == "one-layer" else {}
    layers: Any = {1: TAUGHT} if cut else TAUGHT
    yield {"distill": {**common, **cut, "epochs": cell.epochs, "objectives": imitation(layers)}}


def imitation(layers: Any) -> dict[str, Any]:
    """What all students learn."""
    return {"layer-to-layer": {"layers": layers, "projection": "own"}}


def plan(cell: Cell, model: Path, data: Path) -> dict[str, Any]:
    """The plan of a cell."""
    return {
        "name": f"speech-{cell.method}",
        "seed": cell.seed,
        "model": {"folder": str(model.resolve())},
        "task": {"audio-features": {"seconds": 1.0, "linear_probes": PROBES}},
        "data": {
            "files": {split: str((data / split).resolve()) for split in ("train", "test")},
            "format": "audiofolder",
            "split": {"validation": 300},
            "calibration": 64,
        },
        "reference": "source",
        "stages": "quality",
        "passes": list(passes(cell)),
        "targets": [{"onnxruntime": {"threads": 2}}],
        "probes": ["memory"],
    }


def widths(report: Report) -> dict[str, list[int]]:
    """What joint training left, by kind and block."""
    found: dict[str, list[int]] = {"heads": [], "neurons": []}
    notes = [note for stage in report.stages for note in stage.notes]
    for row in next(note for note in notes if isinstance(note, Table) and note.title == "What is left").rows:
        found[str(row[1])].append(int(str(row[-1])))
    return found


def validation(report: Report, stage: int = -1) -> float:
    """The mean of the probes on validation rows, after training or after another stage."""
    scores = report.stages[stage].scores
    assert scores is not None
    return scores.main.value


@dataclass(frozen=True)
class Ground:
    """Rows in a random order, and what the teacher makes of them."""

    task: AudioFeatures
    rows: Dataset
    teacher: list[NDArray[np.float32]]
    sounding: NDArray[np.bool_]
    """Frames that are not padding."""
    place: NDArray[np.int64]
    """Of each row of the split among these."""

    @classmethod
    def of(cls, task: AudioFeatures, rows: Dataset, teacher: Path) -> Ground:
        """The rows mixed, the teacher run over them."""
        order = np.random.default_rng(0).permutation(len(rows))
        mixed = rows.select(order.tolist())
        found = states(task, teacher, mixed)
        return cls(task, mixed, found, sounding(task, mixed, found[0].shape[1]), np.argsort(order))

    def probes_by_layer(self) -> dict[str, list[float]]:
        """By probe, its accuracy on each layer of the teacher; rows in the order of the split, which folds and draws go by."""
        layers = [layer[self.place] for layer in self.teacher]
        return probes_by_layer(self.task, layers, self.rows.select(self.place.tolist()))


@dataclass
class Lab:
    """Runs cells, each once."""

    model: Path
    data: Path
    runs: Path
    found: dict[str, list[float]] = field(default_factory=dict)
    """Feature errors by cell and split."""

    def run(self, cell: Cell) -> Report:
        """The report of a cell."""
        return ablation.run(plan(cell, self.model, self.data), self.runs / cell.name)

    def timed(self, cell: Cell | None) -> Report:
        """The report of a cell, in fp32 and in int8, scored and timed on both targets; the teacher's own without a cell."""
        laid = plan(cell or Cell("teacher", SEEDS[0], RATES[0]), self.model, self.data)
        small = {name: f"{name}-{INT8}" for name in TARGETS}
        targets: list[dict[str, Any]] = [{name: {"threads": 1}} for name in TARGETS]
        targets += [{name: {"threads": 1}, "name": other} for name, other in small.items()]
        steps = [*(laid["passes"] if cell else []), {"quantize-static": None, "only": list(small.values())}]
        probes = [{"latency": {"batch": [1], "length": list(LENGTHS.values()), "seconds": 60}}]
        whole = {**laid, "passes": steps, "targets": targets, "probes": probes}
        return ablation.run(whole, self.runs / f"timed-{cell.name if cell else 'teacher'}")

    def budgeted(self, target: str, ratio: float, rate: float) -> Report:
        """The report of a short joint training to a latency on a target."""
        laid = plan(Cell("joint", SEEDS[0], rate), self.model, self.data)
        step = dict(laid["passes"][0]["distill-and-prune"], epochs=2, recovery_epochs=1, sparsity=None)
        step["latency"] = {"target": target, "ratio": ratio, "length": LENGTHS["1 s"]}
        probes = [{"latency": {"batch": [1], "length": [LENGTHS["1 s"]], "seconds": 60}}]
        whole = {**laid, "passes": [{"distill-and-prune": step}], "targets": [{target: {"threads": 1}}], "probes": probes}
        return ablation.run(whole, self.runs / f"budget-{target}-{ratio:g}")

    def student(self, cell: Cell) -> Path:
        """The folder of the trained model of a cell."""
        return open_store(None).entry(self.run(cell).stages[-1].key) / "files"

    @cached_property
    def grounds(self) -> dict[str, Ground]:
        """Rows of validation and test with the teacher's states."""
        first = Cell("joint", SEEDS[0], RATES[0])
        folder = open_store(None).entry(self.run(first).stages[0].key) / "files"
        bound = load_plan(self.runs / first.name / "plan.yaml")
        assert isinstance(bound.task, AudioFeatures)
        data = rows_in(bound)
        return {split: Ground.of(bound.task, data.split(split), folder) for split in ("validation", "test")}

    def errors(self, cell: Cell, split: str) -> list[float]:
        """Feature errors of a cell by layer of the teacher, in percent."""
        key = f"{cell.name} on {split}"
        if key not in self.found:
            ground = self.grounds[split]
            mine = states(ground.task, self.student(cell), ground.rows)
            errors = feature_errors(mine, ground.teacher, ground.sounding, fitted_on=len(ground.rows) // 2)
            self.found[key] = [100 * each for each in errors]
        return self.found[key]

    def cell(self, method: str, seed: int, rate: float) -> Cell:
        """A cell of equal steps; random units are of the widths that joint training left with the same seed at its own rate."""
        if method != "random":
            return Cell(method, seed, rate)
        return Cell(method, seed, rate, widths=widths(self.run(Cell("joint", seed, self.best_rate("joint")))))

    def taught_error(self, method: str, rate: float) -> float:
        """Mean feature error of the imitated layers on validation rows, with the first seed."""
        errors = self.errors(self.cell(method, SEEDS[0], rate), "validation")
        return float(np.mean([errors[layer - 1] for layer in TAUGHT]))

    def best_rate(self, method: str) -> float:
        """The learning rate of the least feature error of the imitated layers on validation rows."""
        return min(RATES, key=lambda rate: self.taught_error(method, rate))

    def times(self, method: str) -> list[float]:
        """Seconds that training with equal steps took: all rates and seeds, which do the same work."""
        seeds = [(SEEDS[0], rate) for rate in RATES] + [(seed, self.best_rate(method)) for seed in SEEDS[1:]]
        return [seconds(self.run(self.cell(method, seed, rate))) for seed, rate in seeds]


def equal_steps(lab: Lab) -> Iterator[Cell]:
    """A cell for each seed and method."""
    for seed in SEEDS:
        yield from (lab.cell(method, seed, lab.best_rate(method)) for method in METHODS)


def equal_time(lab: Lab) -> Iterator[Cell]:
    """A cell for each seed and method with as many epochs as take the time that joint training does, by the medians of all runs.

    Random units are left out: they are a control of where units are kept, not a way to make a model.
    """
    took = {method: float(np.median(lab.times(method))) for method in METHODS}
    for method in ("one-layer", "uniform", "pruned"):
        epochs = round((FIRST + SECOND) * took["joint"] / took[method])
        yield from (Cell(method, seed, lab.best_rate(method), epochs) for seed in SEEDS)


def seconds(report: Report) -> float:
    """That the steps took, scoring after each epoch included."""
    return sum(stage.seconds for stage in report.stages[1:])
