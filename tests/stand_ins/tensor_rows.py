"""A tiny BERT, rows that are tensors already, and a context around them: all that a training pass needs, in milliseconds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification

from compressor.contracts import Columns, Event, Port
from compressor.contracts.notes import Note
from compressor.deploy.session import eager
from compressor.model.model import Model
from compressor.tasks.classification import Classification

LENGTH = 6


def bert(seed: int = 0, **changes: Any) -> Model:
    torch.manual_seed(seed)
    shape = {
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "num_labels": 3,
        **changes,
    }
    module = BertForSequenceClassification(BertConfig(vocab_size=50, max_position_embeddings=16, **shape)).eval()
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return Model.wrap(module, {"tokenizer.json": b"{}"})


def dataset(seed: int, count: int) -> datasets.Dataset:
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 50, (count, LENGTH), generator=draw).tolist()
    masks = [[1] * (LENGTH - row % 3) + [0] * (row % 3) for row in range(count)]
    return datasets.Dataset.from_dict({"input_ids": ids, "attention_mask": masks, "labels": [row % 3 for row in range(count)]})


SPLITS = {"train": dataset(1, 36), "validation": dataset(2, 30), "calibration": dataset(3, 24)}


@dataclass
class Batches:
    rows: datasets.Dataset
    order: list[int]
    size: int

    def __len__(self) -> int:
        return -(-len(self.order) // self.size)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for at in range(0, len(self.order), self.size):
            chosen = self.order[at : at + self.size]
            yield {**{name: torch.tensor(values) for name, values in self.rows[chosen].items()}, "row": torch.tensor(chosen)}


class Rows(Classification):
    """Rows that are tensors already; all the rest is the real task."""

    def columns(self):
        return Columns(("input_ids",), "labels")

    def batches(self, rows, files, *, batch_size, shuffle_seed=None):
        order = list(range(len(rows)))
        return Batches(
            rows, order if shuffle_seed is None else np.random.default_rng(shuffle_seed).permutation(order).tolist(), batch_size
        )

    def scored_feeds(self, rows, files):
        feeds = [{name: tensor.numpy() for name, tensor in batch.items()} for batch in self.batches(rows, files, batch_size=10)]
        return [{name: array for name, array in feed.items() if name not in ("labels", "row")} for feed in feeds], range(
            len(rows)
        )

    def load(self, source, data, *, seed): ...
    def inputs(self, model):
        return tuple(Port(name, "int64", ("batch", "length")) for name in ("input_ids", "attention_mask"))

    def example(self, files, graph, *, batch, length): ...
    def feeds(self, rows, files, workload=None, *, count=None): ...


@dataclass(frozen=True)
class Context:
    folder: Path
    models: dict[str, Model]
    task: Any = field(default_factory=Rows)
    data: Any = field(default_factory=lambda: SimpleNamespace(split=SPLITS.__getitem__))
    metric: str = "accuracy"
    seed: int = 0
    device: str = "cpu"
    dialect: None = None
    notes: list[Note] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    def model(self, name: str) -> Model:
        return self.models[name].copy()

    def evaluate(self, model, split):
        return self.task.evaluate(eager(self.task, model, self.device), self.data.split(split), self.folder, split=split)

    def outputs(self, model, split, *, limit):
        rows, model = self.data.split(split), self.model(model) if isinstance(model, str) else model
        return self.task.predicted(eager(self.task, model, self.device), rows.select(range(min(limit, len(rows)))), self.folder)[
            "logits"
        ]

    def tell(self, event: Event) -> None:
        self.events.append(event)

    def note(self, note: Note) -> None:
        self.notes.append(note)
