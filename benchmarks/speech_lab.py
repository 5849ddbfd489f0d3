"""The runs of `benchmarks.speech`: an encoder of speech brought to a quarter of its layers' parameters in five ways."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import ablation
from benchmarks.likeness import feature_errors, states
from compressor.cli_store import open_store
from compressor.data import load_data
from compressor.plan import load_plan
from compressor.records import Report, Table
from compressor.tasks.speech import Speech

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
"""Equal widths that make just the parameters that joint's and pruning's widths come to."""
TAUGHT = [2, 4]
LENGTHS = {"1 s": 16_000, "5 s": 80_000}
RATIOS = (0.5, 0.3)
RATED = ("joint", "pruned", "uniform", "one-layer")
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
    if not (folder / "train" / "metadata.jsonl").is_file():
        rows: dict[str, list[str]] = {"train": [], "test": []}
        for path in sorted(recordings.glob("*.wav")):
            digit, speaker, take = path.stem.split("_")
            split = "test" if int(take) < TEST_TAKES else "train"
            (folder / split).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / split / path.name)
            rows[split].append(json.dumps({"file_name": path.name, "digit": digit, "speaker": speaker}) + "\n")
        for split, lines in rows.items():
            (folder / split / "metadata.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def passes(cell: Cell) -> Iterator[dict[str, Any]]:
    """Steps of a cell; all imitate the same layers through projections of their own, with the same rows in the same order."""
    common = {"teacher": "source", "learning_rate": cell.rate, "cache_teacher": True, "keep": "last"}
    if cell.method == "joint":
        stages = {"epochs": FIRST, "recovery_epochs": SECOND, "sparsity": 0.75}
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
        "task": {"speech": {"seconds": 1.0, "probes": PROBES}},
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

    task: Speech
    rows: Dataset
    teacher: list[NDArray[np.float32]]

    @classmethod
    def of(cls, task: Speech, rows: Dataset, teacher: Path) -> Ground:
        """The rows mixed, the teacher run over them."""
        mixed = rows.select(np.random.default_rng(0).permutation(len(rows)).tolist())
        return cls(task, mixed, states(task, teacher, mixed))


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

    def timed(self, cell: Cell) -> Report:
        """The report of a cell that is quantised too and timed on both targets."""
        laid = plan(cell, self.model, self.data)
        steps = [*laid["passes"], {"quantize-static": None}]
        targets = [{"onnxruntime": {"threads": 1}}, {"openvino": {"threads": 1}}]
        probes = [{"latency": {"batch": [1], "length": list(LENGTHS.values()), "seconds": 60}}]
        whole = {**laid, "stages": "all", "passes": steps, "targets": targets, "probes": probes}
        return ablation.run(whole, self.runs / f"timed-{cell.name}")

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
        assert isinstance(bound.task, Speech)
        data = load_data(bound.data, columns=bound.task.columns(), seed=bound.seed, folder=bound.folder)
        return {split: Ground.of(bound.task, data.split(split), folder) for split in ("validation", "test")}

    def errors(self, cell: Cell, split: str) -> list[float]:
        """Feature errors of a cell by layer of the teacher, in percent."""
        key = f"{cell.name} on {split}"
        if key not in self.found:
            ground = self.grounds[split]
            mine = states(ground.task, self.student(cell), ground.rows)
            self.found[key] = [100 * each for each in feature_errors(mine, ground.teacher, fitted_on=len(ground.rows) // 2)]
        return self.found[key]

    def best_rate(self, method: str) -> float:
        """The learning rate whose student has the least feature errors on validation rows, by seed 0."""
        return min(RATES, key=lambda rate: float(np.mean(self.errors(Cell(method, SEEDS[0], rate), "validation"))))


def cells(lab: Lab) -> Iterator[Cell]:
    """All cells, in the order in which a page can be made of them."""
    rates = {method: lab.best_rate(method) for method in RATED}
    for seed in SEEDS:
        joint = Cell("joint", seed, rates["joint"])
        yield joint
        yield from (Cell(method, seed, rates[method]) for method in ("pruned", "uniform", "one-layer"))
        yield Cell("random", seed, rates["joint"], widths=widths(lab.run(joint)))
    for method in RATED[1:]:
        epochs = as_long(lab, method, rates)
        yield from (Cell(method, seed, rates[method], epochs) for seed in SEEDS)


def as_long(lab: Lab, method: str, rates: Mapping[str, float]) -> int:
    """Epochs that a method gets through in the time that joint takes, by what both took for equal steps with the last seed."""
    took = {each: seconds(lab.run(Cell(each, SEEDS[-1], rates[each]))) for each in ("joint", method)}
    return round((FIRST + SECOND) * took["joint"] / took[method])


def seconds(report: Report) -> float:
    """That the steps took, scoring after each epoch included."""
    return sum(stage.seconds for stage in report.stages[1:])
