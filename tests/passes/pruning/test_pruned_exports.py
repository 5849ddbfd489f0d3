"""What gates cut away is gone in the files for ONNX Runtime and OpenVINO too: they compute what torch does, at any batch and length."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from families import ALL
from furnished import lowered

from compressor.contracts import Artifact, Graph, Port
from compressor.model.anatomy import anatomy_of
from compressor.model.edits import KeepBlocks, LiftLength
from compressor.model.model import Model
from compressor.tasks.text_classification import TextClassification
from passes.gating.gating import Gating, pruned
from targets.onnxruntime import OnnxRuntime
from targets.openvino import OpenVino

PRUNED = ("bert", "distilbert", "roberta", "vit", "dinov2", "dinov2-gated", "whisper", "wav2vec2", "wav2vec2-large", "hubert")
AXES = {
    "input_ids": ("batch", "tokens"),
    "attention_mask": ("batch", "tokens"),
    "pixel_values": ("batch", 3, 16, 16),
    "input_values": ("batch", "samples"),
    "input_features": ("batch", 8, "frames"),
}
LENGTHS = {"tokens": (5, 8), "samples": (300, 410), "frames": (14, 20)}


def small(name):
    """Two blocks, pruned by random gates; the second has neither attention nor feed-forward left."""
    model = Model.wrap(ALL[name].make(1))
    if anatomy_of(model.module).family == "whisper-encoder":
        model.apply(LiftLength())
    model.apply(KeepBlocks(blocks=tuple(block.id for block in anatomy_of(model.module).blocks[:2])))
    anatomy, draw = anatomy_of(model.module), random.Random(2)
    gating = Gating(anatomy, ("heads", "neurons", *(["channels"] if anatomy.extractor else []))).eval()
    for place in gating.places:
        count = 0 if place.where == anatomy.blocks[1].id else draw.randint(1, place.count - 1)
        gating.gate(place).log_alpha.data = torch.randn(place.count)
        gating.keep({place: sorted(draw.sample(range(place.count), count))})
    return pruned(model, gating)


class Wires(TextClassification):
    """As much of a task as an export asks for: the model's main output for inputs of these names."""

    names: tuple[str, ...]

    def answer(self, module, graph, inputs):
        found = module(**inputs)
        return found.logits if "logits" in found else found.last_hidden_state.mean(dim=1)

    def example(self, files, graph, *, batch, length):
        return feed(self.names, batch, 1)

    def graphs(self, files):
        ports = (Port(name, "int64" if name in ("input_ids", "attention_mask") else "float32", AXES[name]) for name in self.names)
        return (Graph(inputs=tuple(ports), outputs=(Port("found", "float32", ("batch", "found")),)),)


def feed(names, batch, which):
    draw = np.random.default_rng(batch + which)
    made = {}
    for name in names:
        shape = [batch if axis == "batch" else LENGTHS[axis][which] if isinstance(axis, str) else axis for axis in AXES[name]]
        made[name] = draw.normal(size=shape).astype(np.float32)
        if name == "input_ids":
            made[name] = draw.integers(3, 50, shape)
        if name == "attention_mask":
            made[name] = np.ones(shape, dtype=np.int64)
            made[name][-1, -2:] = 0
    return made


@pytest.mark.parametrize("name", PRUNED)
def test_files_compute_what_torch_does_at_any_batch_and_length(name, tmp_path):
    model = small(name)
    model.save(tmp_path / "torch")
    names = list(ALL[name].inputs())
    task = Wires(names=names)
    for target in (OnnxRuntime, OpenVino):
        graph = lowered(
            Artifact("torch", tmp_path / "torch"),
            target.dialect.format,
            tmp_path / "formats",
            task=task,
            dialect=target.dialect,
        )
        built = tmp_path / target.__name__ / "built"
        built.mkdir(parents=True)
        target().build(graph, built)
        session = target().open(built)
        for batch, which in ((1, 0), (3, 1), (2, 0)):
            given = feed(names, batch, which)
            with torch.no_grad():
                expected = task.answer(
                    model.module.eval(), task.graphs(None)[0], {key: torch.from_numpy(array) for key, array in given.items()}
                ).numpy()
            np.testing.assert_allclose(session.run(given)[0]["found"], expected, rtol=2e-3, atol=2e-4 * np.abs(expected).max())
