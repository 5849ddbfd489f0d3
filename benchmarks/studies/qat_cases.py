"""The cases of `benchmarks.studies.qat_others`: DINOv2-small on Fashion-MNIST, and Whisper-tiny.en's encoder, cut, on spoken digits."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.studies.operator_pictures import PREPROCESSOR
from benchmarks.studies.qat_cells import BATCH, SPLITS, Case
from benchmarks.studies.speech_lab import TEST_TAKES, imitation
from compressor.store.disk import put

SIZE = 56
"""Pixels: 16 patches and one token of the class."""
SECONDS = 1.0
PICTURES, SPEECH = "pictures", "speech"
NAMES = {PICTURES: "Fashion-MNIST (DINOv2-small)", SPEECH: "spoken digits (Whisper-tiny.en's encoder, pruned)"}
REFERENCE = {"learning_rate": 5e-5, "batch_size": BATCH}
SPARSITY = 0.5
CUT = {
    "learning_rate": 2e-4,
    "sparsity": SPARSITY,
    "task_loss": 0.5,
    "batch_size": BATCH,
    "checkpoint": "last",
    "cache_teacher": True,
}
"""Half of the parameters of the layers goes, while the student imitates the fine-tuned model."""
VALIDATION_TAKES = 5
"""Takes of each speaker and digit, after those of the test, that are chosen by."""


@dataclass(frozen=True)
class Rows:
    """How many rows are taken at most, in all cases."""

    train: int
    validation: int
    test: int

    def __str__(self) -> str:
        return f"{self.train}-{self.validation}-{self.test}"


def picture_case(model: Path, images: Path, rows: Rows, epochs: int, scored: int | None, work: Path) -> Case:
    """Pictures: `model` is DINOv2-small without a head, `images` has Fashion-MNIST as `train.parquet` and `test.parquet`."""
    return Case(
        PICTURES,
        NAMES[PICTURES],
        {"image-classification": {"image": "image", "label": "label", "size": SIZE}},
        {"folder": str(_with_preprocessor(model, work / "dinov2-small").resolve())},
        ({"finetune": {"epochs": epochs, **REFERENCE}},),
        partial(_pictures, images, rows),
        scored,
    )


def speech_case(model: Path, recordings: Path, rows: Rows, epochs: int) -> Case:
    """Sounds: `model` is Whisper-tiny.en, `recordings` are those of the Free Spoken Digit Dataset (`7_jackson_32.wav`)."""
    objectives = {"soft-targets": 1.0, **imitation([2, 4])}
    cut = {"teacher": "finetune", "epochs": epochs, "recovery_epochs": -(-epochs // 2), "objectives": objectives, **CUT}
    return Case(
        SPEECH,
        NAMES[SPEECH],
        {"audio-classification": {"label": "digit", "seconds": SECONDS}},
        {"folder": str(model.resolve())},
        ({"finetune": {"epochs": epochs, **REFERENCE}}, {"distill-and-prune": cut}),
        partial(_sounds, recordings, rows),
        uneven=True,
    )


def _with_preprocessor(model: Path, folder: Path) -> Path:
    """The model with the settings of DINOv2's image processor beside it."""
    if not (folder / "preprocessor_config.json").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("config.json", "model.safetensors"):
            shutil.copyfile(model / name, folder / name)
        put(folder / "preprocessor_config.json", json.dumps(PREPROCESSOR, indent=1) + "\n")
    return folder


def _pictures(images: Path, rows: Rows, folder: Path) -> dict[str, Any]:
    """Drawn from both files of Fashion-MNIST, as three."""
    made = folder / f"{PICTURES}-rows-{rows}"
    paths = {split: made / f"{split}.parquet" for split in SPLITS}
    if not all(path.is_file() for path in paths.values()):
        from datasets import Dataset

        made.mkdir(parents=True, exist_ok=True)
        for source, wanted in {
            "train": {"train": rows.train, "validation": rows.validation},
            "test": {"test": rows.test},
        }.items():
            whole: Any = Dataset.from_parquet(str(images / f"{source}.parquet"))
            order, at = np.random.default_rng(0).permutation(len(whole)), 0
            for split, count in wanted.items():
                whole.select(order[at : at + count]).to_parquet(paths[split])
                at += count
    return {"files": {split: str(path.resolve()) for split, path in paths.items()}, "deduplicate": True}


def _sounds(recordings: Path, rows: Rows, folder: Path) -> dict[str, Any]:
    """Takes of every speaker and digit, the first of them to test on, the next to choose by."""
    made = folder / f"{SPEECH}-rows-{rows}"
    if not all((made / split / "metadata.jsonl").is_file() for split in SPLITS):
        found: dict[str, list[Path]] = {split: [] for split in SPLITS}
        for path in sorted(recordings.rglob("*.wav")):
            take = int(path.stem.split("_")[2])
            late = "validation" if take < TEST_TAKES + VALIDATION_TAKES else "train"
            found["test" if take < TEST_TAKES else late].append(path)
        for split, paths in found.items():
            (made / split).mkdir(parents=True, exist_ok=True)
            chosen = np.random.default_rng(0).permutation(len(paths))[: getattr(rows, split)]
            for at in chosen:
                shutil.copyfile(paths[at], made / split / paths[at].name)
            told = ({"file_name": paths[at].name, "digit": paths[at].stem.split("_")[0]} for at in chosen)
            put(made / split / "metadata.jsonl", "".join(json.dumps(row) + "\n" for row in told))
    return {"files": {split: str((made / split).resolve()) for split in SPLITS}, "format": "audiofolder"}
