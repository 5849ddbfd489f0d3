"""A tiny Llama with grouped queries, built for every target once."""

from __future__ import annotations

import datasets
import pytest

from compressor.contracts import Candidate
from compressor.deploy.build import Builder
from compressor.model.anatomy import anatomy_of
from compressor.model.edits import KeepHeads, KeepNeurons
from compressor.store import Store
from compressor.tasks.language.causal_lm import CausalLM
from compressor.tasks.tiny import language_model
from targets.eager import EagerTorch
from targets.onnxruntime import OnnxRuntime
from targets.openvino import OpenVino

TARGETS = {"pytorch": EagerTorch, "onnxruntime": OnnxRuntime, "openvino": OpenVino}
TEXTS = (
    "word1 red word2 blue word3 green",
    "a word and another one, é and more of them: " * 3,
    "word7",
    "red word4 blue word5",
)


@pytest.fixture(scope="session")
def task() -> CausalLM:
    return CausalLM(max_length=48)


@pytest.fixture(scope="session")
def rows():
    return datasets.Dataset.from_dict({"text": list(TEXTS)})


class Subject:
    """A model as the task loads it, and built for targets when somebody asks."""

    def __init__(self, root, task, kind, *, change=None, **fields):
        self.task, self.kind = task, kind
        language_model(root / "source", kind, **fields)
        self.model = task.load(root / "source", None, seed=0)
        if change:
            change(self.model)
        self.store = Store(root / "store")
        self.builder = Builder(self.store, task, "causal-lm", (), {})
        self.root, self.candidates, self.sessions = root, {}, {}

        def save(out):
            self.model.save(out)
            return {}

        self.made = self.store.obtain({"step": "source", "kind": kind}, save)
        self.files = self.made.path

    def candidate(self, target: str) -> Candidate:
        if target not in self.candidates:
            kind = TARGETS[target]
            lowered = self.builder.lower(self.made, "torch", kind.dialect.format, kind())
            self.candidates[target] = self.builder.build(
                lowered, stage="final", name=target, target=kind(), out=self.root / target
            )[0]
        return self.candidates[target]

    def session(self, target: str):
        if target not in self.sessions:
            candidate = self.candidate(target)
            self.sessions[target] = candidate.runtime.open(candidate.built)
        return self.sessions[target]


@pytest.fixture(scope="session")
def tied(tmp_path_factory) -> Subject:
    """A Llama whose output is tied to its embeddings, of which layers were cut in different ways."""

    def cut(model):
        first, second, third = (block.id for block in anatomy_of(model.module).blocks)
        for edit in (
            KeepHeads(block=second, heads=(1, 3)),
            KeepHeads(block=first, heads=()),
            KeepNeurons(block=third, neurons=(0, 5, 9)),
        ):
            model.apply(edit)

    sizes = {"num_attention_heads": 8, "num_key_value_heads": 4, "num_hidden_layers": 3, "vocab_size": 300}
    return Subject(
        tmp_path_factory.mktemp("tied"), CausalLM(max_length=48), "llama", change=cut, tie_word_embeddings=True, **sizes
    )


@pytest.fixture(scope="session")
def llama(task, tmp_path_factory) -> Subject:
    return Subject(tmp_path_factory.mktemp("llama"), task, "llama")
