"""Distilling language models: packed documents, losses computed together, answers kept as the likeliest words."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tensor_rows import Context

from compressor.contracts import LikeliestLogits
from compressor.contracts.notes import Remark, Series
from compressor.deploy.session import eager
from compressor.errors import MissingDependency, UnsupportedModel
from compressor.tasks.language.causal_lm import CausalLM
from compressor.tasks.tiny import language_model
from compressor.training.lora import Lora, adapted
from passes.distillation.distill import Distill
from passes.distillation.kept_tokens import KeptTokens
from passes.distillation.kept_words import pairing
from passes.finetune import Finetune
from passes.pruning.take_layers import TakeLayers, places

TEXTS = [f"word{number % 7} red word{number % 5} blue {'and more of it ' * (number % 4)}" for number in range(24)]
LENGTH = 40


class Language(Context):
    """A context of a language model's rows."""

    def outputs(self, model, split, *, limit):
        model, files = self.models.get(model, model) if isinstance(model, str) else model, self.root / "source"
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
def ctx(models, tmp_path, monkeypatch):
    root, found = models
    rows = datasets.Dataset.from_dict({"text": TEXTS})
    splits = {"train": rows.select(range(18)), "validation": rows.select(range(18, 24))}
    made = Language(tmp_path, dict(found), CausalLM(max_length=LENGTH), SimpleNamespace(split=splits.__getitem__))
    object.__setattr__(made, "metric", "perplexity")
    monkeypatch.setattr(Language, "root", root, raising=False)
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
    kept = answers("source", teacher, Teacher(teacher.module, ()).want, ctx, step(), words=1000, student=ctx.models["small"])
    batches = list(task.batches(ctx.data.split("train"), ctx.root / "source", batch_size=4, shuffle_seed=3))
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


@pytest.mark.parametrize("by", ["student", "both"])
def test_texts_are_written_and_learned_from_in_bf16(ctx, by):
    found = {}
    for precision in ("fp32", "bf16"):
        here = replace(ctx, folder=ctx.folder / precision, notes=[])
        generate = {"by": by, "share": 1.0, "tokens": 6, "temperature": 0 if by == "student" else 0.9}
        step(generate=generate, precision=precision, epochs=6).apply(here.model("small"), here)
        found[precision] = [loss for _, loss in curves(here)["soft-targets"]]
        assert any("(bf16)" in note.title for note in here.notes if isinstance(note, Series)) == (precision == "bf16")
    assert np.isfinite(found["bf16"]).all()
    assert found["bf16"][0] == pytest.approx(found["fp32"][0], rel=0.2)
    assert found["bf16"][0] != found["fp32"][0]
    assert found["bf16"][-1] < found["bf16"][0]


def test_a_budget_of_tokens_ends_a_training_whose_curve_is_by_them_and_goes_on(ctx, monkeypatch):
    from compressor.training import checkpoint, loop

    def evaluate(ctx, model, split):
        return ctx.task.evaluate(eager(ctx.task, model, "cpu"), ctx.data.split(split), ctx.root / "source", split=split)

    def learned(folder):
        here = replace(ctx, folder=folder, notes=[])
        model = given.apply(here.model("small"), here)
        return (
            model.module.state_dict(),
            next(each for each in here.notes if isinstance(each, Series) and each.x == "tokens"),
            here,
        )

    monkeypatch.setattr(Language, "evaluate", evaluate)
    batches = Finetune(batch_size=1).batches(ctx.model("small"), ctx)
    weights = [[ctx.task.weight(each) for each in batches(epoch)] for epoch in (0, 1)]
    budget = sum(weights[0]) + weights[1][0] + 1  # in the second epoch, and not at the end of a step
    given = Finetune.model_validate(
        {"tokens": budget, "validations": 4, "batch_size": 1, "learning_rate": 3e-3, "precision": "fp32", "attention": "sdpa"}
    )
    whole, curve, here = learned(ctx.folder / "whole")
    places, values = zip(*curve.curves["perplexity"], strict=True)
    assert places[-1] == sum(weights[0]) + sum(weights[1][:2])
    assert len(places) == 4
    assert values[-1] < values[0]
    assert any(f"learned from {places[-1]:,.0f} tokens" in note.text for note in here.notes if isinstance(note, Remark))
    monkeypatch.setattr(checkpoint.Checkpoints, "due", property(lambda self: True))
    real, cut = loop._Loop._step, []

    def stopping(self, batch):
        if self.course.validation and self.course.at == len(weights[0]) - 2 and not cut:
            cut.append(self.course.step)
            raise KeyboardInterrupt
        return real(self, batch)

    monkeypatch.setattr(loop._Loop, "_step", stopping)
    with pytest.raises(KeyboardInterrupt):
        learned(ctx.folder / "cut")
    again, same, _ = learned(ctx.folder / "cut")
    assert cut
    assert same == curve
    assert all(torch.equal(tensor, again[name]) for name, tensor in whole.items())


def test_a_step_in_parts_of_unequal_tokens_is_a_step_in_one(ctx):
    objectives = {
        "soft-targets": {"temperature": 1.0, "divergence": "skewed"},
        "interpolated-targets": {"rate": 0.2, "momentum": 0.5},
    }
    made = []
    for parts in (1, 3):
        here = replace(ctx, folder=ctx.folder / str(parts), notes=[])
        step(objectives=objectives, task_loss=0.5, accumulate=parts).apply(ctx.model("small"), here)
        made.append(curves(here))
    for name, curve in made[0].items():
        torch.testing.assert_close(torch.tensor(curve), torch.tensor(made[1][name]), rtol=1e-3, atol=1e-4)


# ------------------------------------------------------------------ students


@pytest.mark.parametrize(
    ("which", "count", "expected"),
    [
        ("first", 2, (0, 1)),
        ("last", 2, (4, 5)),
        ("uniform", 3, (1, 3, 5)),
        ("both-ends", 3, (0, 1, 5)),
        ("both-ends", 4, (0, 1, 4, 5)),
        ("uniform", 6, (0, 1, 2, 3, 4, 5)),
    ],
)
def test_layers_are_taken_by_their_place(which, count, expected):
    assert places(which, count, 6) == expected


def test_more_layers_than_there_are_are_refused():
    with pytest.raises(UnsupportedModel, match="7 layers of a model that has 6"):
        places("first", 7, 6)


@pytest.mark.parametrize(("which", "expected"), [("both-ends", (0, 2)), ("last", (1, 2))])
def test_a_student_of_fewer_layers_holds_those_of_its_model(ctx, which, expected):
    source = ctx.model("source")
    student = TakeLayers(layers=2, which=which).apply(source, ctx)
    assert len(source.module.model.layers) == 3
    assert student.module.config.num_hidden_layers == 2
    assert student.module.lm_head.weight.shape == source.module.lm_head.weight.shape
    for mine, theirs in enumerate(expected):
        ours, others = (each.module.model.layers[at].state_dict() for each, at in ((student, mine), (source, theirs)))
        assert all(torch.equal(tensor, others[name]) for name, tensor in ours.items())
    assert torch.equal(step(init=which, layers=2)._student(source).module.model.norm.weight, source.module.model.norm.weight)
    ids = torch.tensor([[3, 4, 5]])
    whole = student.module(ids).logits
    cached = student.module(ids[:, :2], use_cache=True).past_key_values
    torch.testing.assert_close(student.module(ids[:, 2:], past_key_values=cached).logits, whole[:, 2:], rtol=1e-4, atol=1e-4)


# ------------------------------------------------------------------ small matrices


def test_small_matrices_learn_alone_and_are_added_at_the_end(ctx):
    before = ctx.model("small").module.state_dict()
    student = step(lora={"rank": 4, "alpha": 8.0}, task_loss=0.5, epochs=4, learning_rate=3e-2).apply(ctx.model("small"), ctx)
    found = curves(ctx)
    assert all(curve[-1][1] < curve[0][1] for curve in found.values())
    after = student.module.state_dict()
    assert list(after) == list(before)
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in before if "layers" in name and "proj" in name}
    added = after["model.layers.0.mlp.up_proj.weight"] - before["model.layers.0.mlp.up_proj.weight"]
    assert int(torch.linalg.matrix_rank(added, rtol=1e-4)) == 4
    assert all(each.requires_grad for each in student.module.parameters())
    assert type(student.module.model.layers[0].mlp.up_proj) is torch.nn.Linear


def test_fine_tuning_by_small_matrices_learns_the_same_twice(ctx):
    given = {"lora": {"rank": 2}, "epochs": 2, "batch_size": 4, "learning_rate": 1e-2, "precision": "fp32", "attention": "sdpa"}
    one, other = (
        Finetune(**given, checkpoint="last").apply(ctx.model("small"), replace(ctx, folder=ctx.folder / name)).module.state_dict()
        for name in ("one", "other")
    )
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_without_peft_small_matrices_say_what_to_install(ctx, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingDependency, match=r"compressor-toolchain\[llm\]"):
        step(lora={}).apply(ctx.model("small"), ctx)


# ------------------------------------------------------------------ what models write


@pytest.mark.parametrize(
    ("by", "given"),
    [
        ("student", {"objectives": {"soft-targets": {"divergence": "jensen-shannon", "temperature": 1.0}}}),
        ("teacher", {"objectives": {"soft-targets": 0.0}, "task_loss": 1.0}),
        ("both", {}),
    ],
)
def test_training_on_what_models_write_is_the_same_again_and_learns(ctx, by, given):
    written = {"by": by, "share": 1.0, "prompt": 4, "tokens": 8}
    made = []
    for name in ("one", "other"):
        here = replace(ctx, folder=ctx.folder / name, notes=[])
        student = step(generate=written, epochs=6, **given).apply(ctx.model("small"), here)
        made.append((curves(here), student.module.state_dict()))
    assert made[0][0] == made[1][0]
    assert all(torch.equal(tensor, made[1][1][name]) for name, tensor in made[0][1].items())
    (curve,) = made[0][0].values()
    assert curve[-1][1] < curve[0][1]


@pytest.mark.parametrize(("by", "named"), [("student", {"soft-targets"}), ("teacher", {"soft-targets", "task"})])
def test_what_a_student_writes_is_no_label_and_what_a_teacher_writes_is(ctx, by, named):
    written = {"by": by, "share": 1.0, "prompt": 4, "tokens": 8}
    step(generate=written, task_loss=1.0).apply(ctx.model("small"), ctx)
    assert set(curves(ctx)) == named


def test_a_training_by_small_matrices_that_fails_leaves_the_model_as_it_was(ctx):
    module = ctx.model("small").module
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}

    def fails():
        with adapted(module, Lora(rank=2), seed=0):
            raise FloatingPointError

    with pytest.raises(FloatingPointError):
        fails()
    assert list(module.state_dict()) == list(before)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert all(each.requires_grad for each in module.parameters())


# ------------------------------------------------------------------ another tokenizer


@pytest.fixture(scope="module")
def foreign(models, tmp_path_factory):
    """A teacher that reads words that are longer or shorter."""
    folder = tmp_path_factory.mktemp("foreign")
    language_model(folder)
    written = json.loads((folder / "tokenizer.json").read_text())
    written["model"]["merges"] = written["model"]["merges"][:1]
    (folder / "tokenizer.json").write_text(json.dumps(written))
    return folder, CausalLM(max_length=LENGTH).load(folder, None, seed=0)


def test_a_teacher_of_other_words_teaches_by_sorted_probabilities_alone(ctx, foreign):
    ctx.models["foreign"] = foreign[1]
    object.__setattr__(ctx, "outputs", lambda model, split, *, limit: np.eye(4, dtype=np.float32))
    given = {"teacher": "foreign", "epochs": 6}
    step(objectives={"sorted-probabilities": 1.0}, **given).apply(ctx.model("small"), ctx)
    curve = curves(ctx)["sorted-probabilities"]
    assert 0 < curve[-1][1] < curve[0][1] < 2
    with pytest.raises(UnsupportedModel, match="have other tokenizers: soft-targets would compare different words"):
        step(**given).apply(ctx.model("small"), ctx)


def test_tokens_of_two_tokenizers_are_paired_by_their_place_in_a_document():
    def batch(rows, labels, masks):
        return {"row": torch.tensor(rows), "labels": torch.tensor(labels), "attention_mask": torch.tensor(masks)}

    no = -100
    theirs = [batch([0, 1], [[no, 1, 2, 3], [no, no, 5, no]], [[1, 1, 1, 1], [1, 1, 1, 0]])]
    mine = [batch([0], [[no, 7, 8]], [[1, 1, 1]]), batch([0, 1], [[no, 9, 9], [no, 4, 4]], [[1, 1, 1], [1, 1, 1]])]
    order, starts = pairing(theirs, mine)
    # the teacher's tokens 0, 1 and 2 tell what counts of document 0, its token 5 what counts of document 1
    assert order.tolist() == [0, 1, -1, 2, -1, -1, 5, -1, -1]
    assert starts.tolist() == [0, 3, 6, 9]
    values = np.arange(7, dtype=np.float32)[:, None]
    kept = KeptTokens(values, starts, order)
    np.testing.assert_array_equal(kept.of([[1, 2]], 6)[0, :, 0], [2, np.nan, np.nan, 5, np.nan, np.nan])
    assert KeptTokens(values.astype("uint16"), starts, order).of([[0]], 4)[0, :, 0].tolist() == [0, 1, 0, 0]
