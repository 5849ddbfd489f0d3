"""Remakes `docs/results/speech.md`: one encoder of speech brought to a quarter of its layers' parameters in five ways.

    python -m benchmarks.speech MODEL RECORDINGS

MODEL is a folder of Whisper-tiny, RECORDINGS the folder `recordings` of the Free Spoken Digit Dataset (`7_jackson_32.wav` is take 32
of jackson saying seven). What ran before is read from `runs/speech`; remove that folder to measure everything anew. Some two hours on
two cores.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import ablation
from compressor.records import Report, Table

RUNS = Path("runs/speech")
TEST_TAKES = 15
"""Takes of each speaker and digit that are tested on: 900 of 3,000 recordings."""
SEEDS = (0, 1, 2)
RATES = (5e-4, 1e-3, 2e-3)
FIRST, SECOND = 4, 2
"""Epochs of both stages; the others have as many steps in one."""
AS_LONG = 13
"""Epochs that the others get through in the time that both stages take."""
LAYER_PARAMETERS = 7_096_320
BUDGET = LAYER_PARAMETERS // 4
TAUGHT = [2, 4]
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
    common = {"teacher": "source", "learning_rate": cell.rate, "cache_teacher": True}
    if cell.method == "joint":
        stages = {"epochs": FIRST, "recovery_epochs": SECOND, "sparsity": 0.75}
        yield {"distill-and-prune": {**common, **stages, "objectives": imitation(TAUGHT)}}
        return
    whole = 8_208_384 - LAYER_PARAMETERS + BUDGET
    budget = {"parameters": whole, "importance": "activation", "min_heads": 0}
    if cell.method == "uniform":
        yield {"prune-structure": {**budget, "scope": "layer"}}
    elif cell.method == "pruned":
        yield {"prune-structure": {**budget, "scope": "global"}}
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


def validation(report: Report) -> float:
    """The mean of the probes on validation rows, after training."""
    scores = report.stages[-1].scores
    assert scores is not None
    return scores.main.value


@dataclass
class Lab:
    """Runs cells, each once."""

    model: Path
    data: Path
    runs: Path

    def run(self, cell: Cell) -> Report:
        """The report of a cell."""
        return ablation.run(plan(cell, self.model, self.data), self.runs / cell.name)

    def best_rate(self, method: str) -> float:
        """The learning rate whose student has the best probes on validation rows, by seed 0."""
        return max(RATES, key=lambda rate: validation(self.run(Cell(method, SEEDS[0], rate))))


def cells(lab: Lab) -> Iterator[Cell]:
    """All cells, in the order in which a page can be made of them."""
    rates = {method: lab.best_rate(method) for method in ("joint", "pruned", "uniform", "one-layer")}
    for seed in SEEDS:
        joint = Cell("joint", seed, rates["joint"])
        yield joint
        yield from (Cell(method, seed, rates[method]) for method in ("pruned", "uniform", "one-layer"))
        yield Cell("random", seed, rates["joint"], widths=widths(lab.run(joint)))
    for seed in SEEDS:
        yield from (Cell(method, seed, rates[method], AS_LONG) for method in ("pruned", "uniform", "one-layer"))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all cells and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("recordings", type=Path)
    parser.add_argument("--runs", type=Path, default=RUNS)
    given = parser.parse_args(arguments)
    lab = Lab(given.model, prepared(given.recordings, given.runs / "data"), given.runs)
    for cell in cells(lab):
        lab.run(cell)


if __name__ == "__main__":
    main()
