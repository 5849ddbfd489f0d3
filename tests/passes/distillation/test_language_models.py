"""Distilling language models: packed documents, losses computed together, answers kept as the likeliest words."""

from __future__ import annotations

from types import SimpleNamespace

import datasets
import pytest
import torch
from safetensors.torch import load_file
from tensor_rows import Context

from compressor.contracts import LikeliestLogits
from compressor.contracts.notes import Remark, Series
from compressor.deploy.session import eager
from compressor.tasks.language.causal_lm import CausalLM
from compressor.tasks.tiny import language_model
from passes.distillation.distill import Distill

TEXTS = [f"word{number % 7} red word{number % 5} blue {'and more of it ' * (number % 4)}" for number in range(24)]
LENGTH = 40


class Language(Context):
    """A context of a language model's rows."""

    def outputs(self, model, split, *, limit):
        files = self.folder / "source"
        return self.task.answers(eager(self.task, model, self.device), *self.task.scored_feeds(self.data.split(split), files))[
            "logits"
        ]

    def evaluate(self, model, split):
        return SimpleNamespace(quality=0.0)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Three layers and two, of other weights."""
    root, task = tmp_path_factory.mktemp("language"), CausalLM(max_length=LENGTH)
    language_model(root / "source", num_hidden_layers=3)
    language_model(root / "small", num_hidden_layers=2, intermediate_size=48)
    return root, {name: task.load(root / name, None, seed=0) for name in ("source", "small")}


@pytest.fixture
def ctx(models, tmp_path):
    root, found = models
    rows = datasets.Dataset.from_dict({"text": TEXTS})
    splits = {"train": rows.select(range(18)), "validation": rows.select(range(18, 24))}
    made = Language(tmp_path, dict(found), CausalLM(max_length=LENGTH), SimpleNamespace(split=splits.__getitem__))
    (tmp_path / "source").symlink_to(root / "source")
    object.__setattr__(made, "metric", "perplexity")
    return made


def step(**given):
    quick = {"teacher": "source", "epochs": 2, "batch_size": 4, "learning_rate": 3e-3, "precision": "fp32", "checkpoint": "last"}
    return Distill.model_validate({**quick, "attention": "sdpa", "objectives": {"soft-targets": {"temperature": 1.0}}, **given})


def curves(ctx):
    return next(note for note in ctx.notes if isinstance(note, Series)).curves


def test_kept_words_teach_what_the_teacher_teaches_where_all_are_kept(ctx):
    made = {}
    for name, given in {"all": {"cached_words": 1000}, "few": {"cached_words": 16}, "none": {"cache_teacher": False}}.items():
        ctx.notes.clear()
        student = step(**given, task_loss=0.5).apply(ctx.model("small"), ctx)
        made[name] = (curves(ctx), student.module.state_dict())
        if name == "few":
            assert any("the 16 likeliest of" in note.text for note in ctx.notes if isinstance(note, Remark))
    assert list(made["none"][0]) == ["soft-targets", "task"]
    for curve in made["none"][0]:
        torch.testing.assert_close(
            torch.tensor(made["all"][0][curve]), torch.tensor(made["none"][0][curve]), rtol=1e-4, atol=1e-5
        )
    for name, tensor in made["none"][1].items():
        torch.testing.assert_close(made["all"][1][name], tensor, rtol=1e-3, atol=1e-4)
    first = {name: each[0]["soft-targets"][0][1] for name, each in made.items()}
    assert 0.2 * first["none"] < first["few"] < first["none"], "a KL of the likeliest words is too small"
    assert made["none"][0]["task"][-1][1] < made["none"][0]["task"][0][1]


def test_kept_words_are_of_the_documents_that_a_packed_row_holds(ctx):
    from passes.distillation.losses import Teacher
    from passes.distillation.teacher_cache import answers

    task, teacher = ctx.task, ctx.models["source"]
    kept = answers("source", teacher, Teacher(teacher.module, ()).want, ctx, step(), words=1000)
    batches = list(task.batches(ctx.data.split("train"), ctx.folder / "source", batch_size=4, shuffle_seed=3))
    assert any((batch["row"] >= 0).sum() > len(batch["row"]) for batch in batches), "documents share rows"
    for batch in batches:
        with torch.no_grad():
            live = task.forward(teacher.module.eval(), batch)
        found, valid = kept.of(batch, live), batch["attention_mask"].bool()
        assert isinstance(found.later, LikeliestLogits)
        torch.testing.assert_close(found.main[valid], live.main.log_softmax(-1)[valid], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "objectives",
    [
        {"interpolated-targets": 1.0},
        {"adaptive-teaching": 1.0, "hidden-states": {"layers": "last"}},
        {"sorted-probabilities": 1.0},
        {"query-key-value-relations": 1.0, "soft-targets": {"divergence": "skewed", "temperature": 1.0}},
    ],
    ids=lambda given: next(iter(given)),
)
def test_each_objective_falls(ctx, objectives):
    student = step(objectives=objectives, epochs=6).apply(ctx.model("small"), ctx)
    found = curves(ctx)
    assert list(found) == list(objectives)
    for name, curve in found.items():
        if name != "interpolated-targets":  # its target moves away
            assert curve[-1][1] < curve[0][1], name
    assert [name for name in student.module.state_dict() if "share" in name] == []


def test_the_teachers_share_is_kept_in_checkpoints_and_goes_on(ctx, monkeypatch):
    from compressor.training import checkpoint, loop

    objectives = {"interpolated-targets": {"rate": 0.2, "momentum": 0.5}}
    whole = step(objectives=objectives).apply(ctx.model("small"), ctx).module.state_dict()
    monkeypatch.setattr(checkpoint.Checkpoints, "due", property(lambda self: True))
    real, seen = loop._Loop._step, []

    def stopping(self, batch):
        if self.course.step == 5 and not seen:
            seen.append(load_file(next(self.checkpoints.folder.glob("step-*.safetensors"))))
            raise KeyboardInterrupt
        return real(self, batch)

    monkeypatch.setattr(loop._Loop, "_step", stopping)
    with pytest.raises(KeyboardInterrupt):
        step(objectives=objectives).apply(ctx.model("small"), ctx)
    assert [name for name in seen[0] if name.endswith("share")]
    again = step(objectives=objectives).apply(ctx.model("small"), ctx).module.state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in whole.items())
