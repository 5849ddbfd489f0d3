"""Students that compute with quantisers, trained in milliseconds, and what targets make of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from furnished import lowered
from tensor_rows import Context, Rows, bert

from compressor.contracts import Artifact
from compressor.deploy.session import eager
from compressor.model.model import Model
from passes.quantization_aware.distill_and_quantize import DistillAndQuantize

QUICK = {
    "teacher": "source",
    "epochs": 3,
    "batch_size": 4,
    "learning_rate": 1e-3,
    "precision": "fp32",
    "objectives": {"soft-targets": 1.0, "hidden-states": 1.0},
}
STUDENT = 9
SPREAD, AGREE = 0.02, 0.99
"""Stated before anything was measured: the deployed file's outputs are off by at most 2 % of their spread (root mean square), and 99 % of
labels are equal."""


class Task(Rows):
    """Rows that can be exported: ids are made up."""

    def example(self, files, graph, *, batch, length):
        ids = np.random.default_rng(0).integers(1, 50, (batch, length), dtype=np.int64)
        return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def held_out(rows=400):
    draw = np.random.default_rng(7)
    for at in range(0, rows, 8):
        ids = draw.integers(1, 50, (8, 6 + at % 5), dtype=np.int64)
        mask = np.ones_like(ids)
        mask[::3, -2:] = 0
        yield {"input_ids": ids, "attention_mask": mask}


def wide(seed=STUDENT, **shape) -> Model:
    """Of widths that groups of 32 divide, as those of real models."""
    return bert(seed, **{"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, **shape})


def step(**settings) -> DistillAndQuantize:
    return DistillAndQuantize.model_validate({**QUICK, **settings})


def context(folder: Path, source: Model | None = None) -> Context:
    return Context(folder, {"source": source or wide()}, Task())


def trained(folder: Path, source: Model | None = None, **settings) -> tuple[Model, Context]:
    source = source or wide()
    ctx = context(folder, source)
    return step(**settings).apply(source, ctx), ctx


def outputs(model: Model) -> np.ndarray:
    run = eager(Task(), model, "cpu")
    return np.concatenate([run(feed)["logits"] for feed in held_out()])


def deployed(model: Model, target, folder: Path) -> tuple[np.ndarray, Path]:
    """Outputs of what is built of a model; formats that targets share are made once in a folder."""
    if not (folder / "torch").exists():
        model.save(folder / "torch")
    dialect = target.dialect
    made = lowered(Artifact("torch", folder / "torch"), dialect.format, folder, task=Task(), dialect=dialect)
    built = folder / f"built-{dialect.format}"
    built.mkdir()
    target.build(made, built)
    session = target.open(built)
    return np.concatenate([session.run(feed)[0]["logits"] for feed in held_out()]), built


def assert_alike(found, expected):
    assert np.sqrt(((found - expected) ** 2).mean()) <= SPREAD * expected.std()
    assert (found.argmax(-1) == expected.argmax(-1)).mean() >= AGREE
