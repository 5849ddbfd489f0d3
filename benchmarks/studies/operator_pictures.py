"""DINOv2 with a head for Fashion-MNIST, fitted on its frozen features: what `benchmarks.studies.operators_others` scores on pictures."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from compressor.run.ground import Ground

SIZE = 112
LABELS = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
FITTED, TESTED = 600, 500
"""Rows."""
BATCH = 16
PREPROCESSOR = {
    "image_processor_type": "BitImageProcessor",
    "do_resize": True,
    "size": {"shortest_edge": SIZE},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": SIZE, "width": SIZE},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "do_convert_rgb": True,
}
"""As DINOv2's, at this size."""


def plan(model: Path, images: Path) -> dict[str, Any]:
    """Rows to fit, to calibrate and to test on."""
    files = {split: str((images / f"{split}.parquet").resolve()) for split in ("train", "test")}
    return {
        "name": "operators-pictures",
        "seed": 0,
        "model": {"folder": str(model)},
        "task": {"image-classification": {"image": "image", "label": "label", "size": SIZE}},
        "data": {
            "files": files,
            "split": {"validation": 300},
            "limit": {"train": FITTED, "validation": 100, "test": TESTED},
            "calibration": 64,
        },
        "reference": "source",
        "targets": ["onnxruntime", "openvino"],
    }


def fitted(backbone: Path, out: Path, ground: Callable[[], Ground]) -> None:
    """Write the model with its head, unless it is there."""
    if (out / "done").is_file():
        return
    import torch
    from transformers import AutoModelForImageClassification

    shutil.rmtree(out, ignore_errors=True)
    model: Any = AutoModelForImageClassification.from_pretrained(backbone, num_labels=len(LABELS)).eval()
    _name_classes(model, LABELS)
    model.save_pretrained(out)
    (out / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR, indent=1) + "\n", encoding="utf-8")
    made = ground()
    _name_classes(model, made.data.labels)  # rows are numbered in an order of their own
    rows, task, head = made.data.split("train"), made.bound.task, model.classifier
    model.classifier = torch.nn.Identity()
    with torch.no_grad():
        pixels = [torch.as_tensor(batch["pixel_values"]) for batch in task.batches(rows, out, batch_size=BATCH)]
        features = np.concatenate([model(pixel_values=each).logits.numpy() for each in pixels])
    weight, bias = _fit(features, np.asarray(rows["label"]))
    head.weight.data, head.bias.data = torch.as_tensor(weight), torch.as_tensor(bias)
    model.classifier = head
    model.save_pretrained(out)
    (out / "done").touch()


def _name_classes(model: Any, labels: Sequence[str]) -> None:
    model.config.id2label = dict(enumerate(labels))
    model.config.label2id = {name: at for at, name in enumerate(labels)}


def _fit(features: Any, labels: Any) -> tuple[Any, Any]:
    """Logistic regression on standardised features, as weights of the features themselves."""
    from sklearn.linear_model import LogisticRegression

    mean, spread = features.mean(0), features.std(0) + 1e-6
    found = LogisticRegression(C=0.01, max_iter=500).fit((features - mean) / spread, labels)
    weight = found.coef_ / spread
    return weight.astype(np.float32), (found.intercept_ - weight @ mean).astype(np.float32)
