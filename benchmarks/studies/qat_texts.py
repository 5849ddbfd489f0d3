"""The cases of `benchmarks.studies.qat_text`: MiniLM on 20 Newsgroups and on BBC News."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.studies import newsgroups
from benchmarks.studies.qat_cells import BATCH, SPLITS, Case
from benchmarks.studies.text import BBC, MODEL
from compressor.contracts import Columns
from compressor.plan.specs import DataSpec
from compressor.store.disk import put
from compressor.tasks.data import load_data

VALIDATION, TEST = 1 / 8, 0.2
"""Shares of the rows that have no split of their own."""
LENGTH = 64
REFERENCE = {"epochs": 8, "learning_rate": 1e-4}
NAMES = {"bbc": "BBC News", "newsgroups": "20 Newsgroups"}


@dataclass(frozen=True)
class Rows:
    """How many rows of 20 Newsgroups are taken, and how many say how good a cell is; None for all."""

    train: int | None = None
    test: int | None = None
    scored: int | None = None
    """Validation rows that a cell is scored on, of any set of rows; the fine-tuning is by all of them."""

    @property
    def limit(self) -> dict[str, int]:
        """As a plan has it: validation keeps its share."""
        trained = {"train": self.train, "validation": max(1, round(self.train * VALIDATION))} if self.train else {}
        return trained | ({"test": self.test} if self.test else {})


def text_case(name: str, rows: Rows) -> Case:
    """One of the two."""
    return Case(
        name,
        NAMES[name],
        {"text-classification": {"text": "text", "label": "label", "max_length": LENGTH}},
        MODEL,
        ({"finetune": {**REFERENCE, "batch_size": BATCH}},),
        partial(_data, name, rows),
        rows.scored,
    )


def _data(name: str, rows: Rows, folder: Path) -> dict[str, Any]:
    made = prepared(name, rows, folder)
    return {"files": {split: str((made / f"{split}.jsonl").resolve()) for split in SPLITS}}


def prepared(data: str, rows: Rows, folder: Path) -> Path:
    """Rows to train on, to choose by and to test on, the same for every cell, as files in a folder, unless they are there."""
    made = folder / f"{data}-rows"
    if all((made / f"{split}.jsonl").is_file() for split in SPLITS):
        return made
    given: dict[str, Any] = {"files": BBC, "encoding": ["utf-8", "latin-1"], "split": {"validation": VALIDATION, "test": TEST}}
    if data == "newsgroups":
        whole = newsgroups.fetch(folder / "20-newsgroups")
        files = {split: str((whole / f"{split}.jsonl").resolve()) for split in ("train", "test")}
        given = {"files": files, "split": {"validation": VALIDATION}, "limit": rows.limit}
    spec = DataSpec.model_validate({**given, "deduplicate": True})
    splits = load_data(spec, columns=Columns(("text",), "label"), seed=0, folder=Path())
    for name in SPLITS:
        labels = splits.split(name).features["label"]
        found = ({"text": row["text"], "label": labels.int2str(row["label"])} for row in splits.split(name))
        made.mkdir(parents=True, exist_ok=True)
        put(made / f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in found))
    return made
