from __future__ import annotations

from typing import Any

import pytest
import torch
from families import FAMILIES
from pydantic import ValidationError
from tensor_rows import SPLITS, Context, Rows, bert

from compressor.contracts import Size, Want
from compressor.contracts.notes import Remark, Series
from compressor.errors import PluginError, UnsupportedModel
from compressor.model.anatomy import anatomy_of
from compressor.model.model import Model
from passes.distillation import teachers
from passes.distillation.distill import Distill
from passes.distillation.distillation import objective
from passes.distillation.losses import Teacher, lessons, losses, student_outputs, unabridged
from passes.distillation.teachers import POINTS, silent, teacher, thinned
from passes.objectives.hidden_states import HiddenStates
from passes.objectives.relations import Relations
from passes.objectives.soft_targets import SoftTargets


@pytest.fixture
def ctx(tmp_path):
    return Context(tmp_path, {"finetune": bert(0), "other": bert(5)})


def step(**parameters: Any) -> Distill:
    quick = {
        "teacher": "finetune",
        "epochs": 8,
        "batch_size": 12,
        "learning_rate": 3e-3,
        "precision": "fp32",
        "checkpoint": "last",
    }
    return Distill.model_validate({**quick, **parameters})


def divergence(student: Model, of: Model) -> float:
    batch = next(iter(Rows().batches(SPLITS["validation"], None, batch_size=30)))
    with torch.no_grad():
        logits = [Rows().forward(model.module.eval(), batch).logits for model in (student, of)]
    return torch.nn.functional.kl_div(logits[0].log_softmax(-1), logits[1].softmax(-1), reduction="batchmean").item()


def states(model: Model, block: str) -> torch.Tensor:
    batch = next(iter(Rows().batches(SPLITS["validation"], None, batch_size=30)))
    with torch.no_grad():
        return Rows().forward(model.module.eval(), batch, Want(hidden_states=(block,))).hidden_states[block]


# ------------------------------------------------------------------ training


@pytest.mark.parametrize(
    "objectives",
    [
        {"soft-targets": 1.0},
        {"soft-targets": {"temperature": 4.0, "divergence": "jensen-shannon"}},
        {"soft-targets": 1.0, "hidden-states": 0.5, "attention-maps": 0.5, "relations": 0.5},
    ],
)
def test_student_comes_nearer_to_its_teacher(ctx, objectives):
    student = bert(9)
    before = divergence(student, ctx.models["finetune"])
    trained = step(objectives=objectives).apply(student, ctx)
    assert divergence(trained, ctx.models["finetune"]) < 0.6 * before
    assert divergence(student, ctx.models["finetune"]) == before


def test_student_of_every_other_layer_starts_from_those_and_learns(ctx):
    student = step(init="every-other", objectives={"soft-targets": 1.0, "hidden-states": 1.0}).apply(bert(0), ctx)
    assert len(anatomy_of(student.module).blocks) == 2
    assert [edit.blocks for edit in student.edits] == [("bert.encoder.layer.1", "bert.encoder.layer.3")]


@pytest.mark.parametrize(
    ("init", "layers", "expected"),
    [("every-other", None, (1, 3)), ("every-other", 3, (1, 2, 3)), ("first", 2, (0, 1)), ("last", 1, (3,))],
)
def test_student_takes_the_layers_that_init_names(ctx, init, layers, expected):
    source = bert(0)
    student = step(init=init, layers=layers)._student(source)
    for mine, theirs in enumerate(expected):
        ours, others = (model.module.bert.encoder.layer[at].state_dict() for model, at in ((student, mine), (source, theirs)))
        assert all(torch.equal(ours[name], others[name]) for name in others)
    assert len(student.module.bert.encoder.layer) == len(expected)
    assert len(source.module.bert.encoder.layer) == 4


def test_cached_answers_train_the_same_student_as_a_teacher_that_runs(ctx):
    one, other = (step(epochs=2, cache_teacher=cache).apply(bert(9), ctx) for cache in (True, False))
    for name, tensor in one.module.state_dict().items():
        torch.testing.assert_close(tensor, other.module.state_dict()[name], rtol=1e-4, atol=1e-5)


def test_same_seed_gives_the_same_student(ctx):
    one, other = (step(epochs=2, objectives={"soft-targets": 1.0, "hidden-states": 1.0}).apply(bert(9), ctx) for _ in range(2))
    assert all(torch.equal(tensor, other.module.state_dict()[name]) for name, tensor in one.module.state_dict().items())


def test_task_loss_alone_learns_the_labels(ctx):
    step(objectives={"soft-targets": 0}, task_loss=1.0, epochs=15).apply(bert(9), ctx)
    curve = next(note for note in ctx.notes if isinstance(note, Series)).curves
    assert list(curve) == ["task"]
    assert curve["task"][-1][1] < 0.5 * curve["task"][0][1]


@pytest.mark.parametrize("cache", [None, True, False])
def test_teacher_that_nothing_is_learned_from_does_not_run_over_training_rows(ctx, monkeypatch, cache):
    ran = []
    monkeypatch.setattr(Teacher, "outputs", lambda *_: ran.append("in a step"))
    monkeypatch.setattr(teachers, "answers", lambda *_, **__: ran.append("once a row"))
    labels = step(objectives={"soft-targets": 0}, task_loss=1.0, epochs=1, cache_teacher=cache)
    labels.apply(bert(9), ctx)
    assert ran == []
    rows = dict.fromkeys(("train", "validation", "test", "calibration"), 100)
    size = Size(rows=rows, blocks=4, weights=1e6, result=1e6, teachers=1e6)
    assert labels.answers(size, 5.0) == 1e6 * 100
    assert step(epochs=1).answers(size, 5.0) == 1e6 * 200


def test_wider_teacher_teaches_through_a_projection_that_is_thrown_away(ctx):
    ctx.models["finetune"] = bert(0, hidden_size=48, num_hidden_layers=6)
    student = bert(9)
    names = set(student.module.state_dict())
    trained = step(objectives={"hidden-states": 1.0}).apply(student, ctx)
    assert set(trained.module.state_dict()) == names
    curve = next(note for note in ctx.notes if isinstance(note, Series)).curves["hidden-states"]
    assert curve[-1][1] < 0.8 * curve[0][1]


def test_hidden_states_draw_the_paired_blocks_together(ctx):
    source, goal = bert(9), ctx.models["finetune"]
    trained = step(objectives={"hidden-states": {"layers": [[1, 2]], "projection": "none"}}).apply(source, ctx)
    pair = ("bert.encoder.layer.1", "bert.encoder.layer.2")
    before, after = ((states(model, pair[0]) - states(goal, pair[1])).square().mean() for model in (source, trained))
    assert after < 0.6 * before


def test_pruned_student_learns_from_maps_of_more_heads(ctx):
    from compressor.model.edits import KeepHeads

    student = bert(9)
    student.apply(KeepHeads(block="bert.encoder.layer.3", heads=(0, 2)))
    step(objectives={"attention-maps": 1.0}, epochs=10).apply(student, ctx)
    curve = next(note for note in ctx.notes if isinstance(note, Series)).curves["attention-maps"]
    assert curve[-1][1] < curve[0][1]


def test_several_teachers_share_the_loss_by_weight(ctx):
    taught = step(teacher={"finetune": 3.0, "other": 1.0}, epochs=2).apply(bert(9), ctx)
    names = list(next(note for note in ctx.notes if isinstance(note, Series)).curves)
    assert names == ["soft-targets of finetune", "soft-targets of other"]
    lone = step(teacher={"finetune": 1.0, "other": 1e-9}, epochs=8).apply(bert(9), ctx)
    assert divergence(lone, ctx.models["finetune"]) < divergence(lone, ctx.models["other"])
    assert taught.weights == lone.weights


@pytest.mark.parametrize("checkpoint", ["best", "last"])
def test_notes_show_curves_and_agreement(ctx, checkpoint):
    trained = step(checkpoint=checkpoint).apply(bert(9), ctx)
    losses_note, validation, remark = ctx.notes
    assert isinstance(losses_note, Series)
    assert len(losses_note.curves["soft-targets"]) == 24
    assert isinstance(validation, Series)
    assert len(validation.curves["accuracy"]) == 8
    assert isinstance(remark, Remark)
    mine, theirs = (ctx.evaluate(model, "validation").outputs["logits"].argmax(-1) for model in (trained, ctx.models["finetune"]))
    assert f"Student and teacher finetune agree on {(mine == theirs).mean():.1%} of 30 validation rows" in remark.text


def test_objective_that_teaches_nothing_is_told(ctx):
    step(learning_rate=1e-9).apply(bert(9, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0), ctx)
    assert any("soft-targets did not move" in note.text for note in ctx.notes if isinstance(note, Remark))


def test_silent_tells_only_of_losses_that_stand_still():
    falling = [(float(at), 1.0 - 0.01 * at) for at in range(50)]
    still = [(float(at), 0.3) for at in range(50)]
    assert ["still" in text for text in silent({"falling": falling, "still": still})] == [True]
    assert list(silent({"short": still[:5]})) == []


def test_thinned_keeps_the_mean_and_few_points():
    curve = [(float(at), float(at % 7)) for at in range(1000)]
    thin = thinned(curve)
    assert len(thin) == POINTS
    assert sum(y for _, y in thin) / POINTS == pytest.approx(sum(y for _, y in curve) / 1000)
    assert thinned(curve[:3]) == tuple(curve[:3])


# ------------------------------------------------------------------ lessons


def test_loss_of_a_student_that_is_its_teacher_is_zero_for_every_objective():
    model = bert()
    parts = {"soft-targets": SoftTargets(), "hidden-states": HiddenStates(), "relations": Relations()}
    parts["attention-maps"] = objective("attention-maps", {"layers": "uniform"})
    anatomy = anatomy_of(model.module)
    made = teacher_of(model, lessons(anatomy, anatomy, parts))
    batch = next(iter(Rows().batches(SPLITS["train"], None, batch_size=8)))
    found = losses([made], Rows(), model.module, batch)
    assert {name: pytest.approx(loss.item(), abs=1e-6) for name, loss in found.items()} == dict.fromkeys(parts, 0.0)


def test_losses_are_computed_in_float32_inside_autocast():
    model = bert()
    anatomy = anatomy_of(model.module)
    made = teacher_of(
        model, lessons(anatomy, anatomy, {"soft-targets": SoftTargets(), "hidden-states": HiddenStates(projection="linear")})
    )
    batch = next(iter(Rows().batches(SPLITS["train"], None, batch_size=8)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = losses([made], Rows(), bert(9).module, batch)
    assert {loss.dtype for loss in found.values()} == {torch.float32}


def test_maps_of_a_student_in_training_are_probabilities_without_dropout():
    model = bert(attention_probs_dropout_prob=0.5)
    anatomy = anatomy_of(model.module)
    made = teacher_of(model, lessons(anatomy, anatomy, {"attention-maps": objective("attention-maps", 1.0)}))
    batch = next(iter(Rows().batches(SPLITS["train"], None, batch_size=8)))
    outputs = student_outputs([made], Rows(), model.copy().module.train(), batch)
    (maps,) = outputs.attention_maps.values()
    torch.testing.assert_close(maps.sum(-1), torch.ones(maps.shape[:-1]))


def teacher_of(model: Model, given: Any) -> Any:
    from passes.distillation.losses import Teacher

    return Teacher(model.module, given)


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"teacher": "a", "objectives": {"soft-targets": {"temprature": 2}}}',
            r"soft-targets\.temprature: no such parameter \(did you mean",
        ),
        (
            '{"teacher": "a", "objectives": {"soft-targets": {"temperature": "2"}}}',
            r"soft-targets\.temperature: input should be a valid number",
        ),
        (
            '{"teacher": "a", "objectives": {"soft-targets": {"weight": -1}}}',
            r"soft-targets\.weight: input should be greater than or equal to 0",
        ),
        ('{"teacher": "a", "objectives": {"soft-targets": -1}}', "greater than or equal to 0"),
        ('{"teacher": "a", "objectives": {"soft-targets": 0}}', "nothing to learn"),
        ('{"teacher": "a", "layers": 3}', "layers needs init"),
        ('{"teacher": "a", "init": "first"}', "init: first needs layers"),
        ('{"teacher": ["a", "a"]}', "names one twice"),
        ('{"teacher": {"a": 0}}', "greater than 0"),
        ('{"teacher": []}', "at least 1"),
        ("{}", "Field required"),
    ],
)
def test_parameters_that_mean_nothing_are_refused(text, message):
    with pytest.raises(ValidationError, match=message):
        Distill.model_validate_json(text, strict=True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [('{"teacher": "a"}', ("a",)), ('{"teacher": ["a", "b"]}', ("a", "b")), ('{"teacher": {"a": 1, "b": 2.5}}', ("a", "b"))],
)
def test_teachers_and_objectives_are_named_for_the_plan(text, expected):
    made = Distill.model_validate_json(text, strict=True)
    assert made.needs().teachers == expected
    assert made.needs().plugins["objective"] == ("soft-targets",)


def test_unknown_objective_is_left_to_the_check_of_plugins():
    made = Distill.model_validate_json('{"teacher": "a", "objectives": {"soft-target": 1.0}}', strict=True)
    assert made.needs().plugins["objective"] == ("soft-target",)
    with pytest.raises(PluginError, match="did you mean 'soft-targets'"):
        made._objectives()


def test_teacher_of_other_classes_is_refused(ctx):
    ctx.models["finetune"] = bert(0, num_labels=4)
    with pytest.raises(UnsupportedModel, match="teacher finetune tells 4 classes apart and the student 3"):
        step().apply(bert(9), ctx)


@pytest.mark.parametrize(
    ("settings", "refused"),
    [
        ({"objectives": {"hidden-states": 1.0}}, True),
        ({"cache_teacher": False}, True),
        ({}, False),
        ({"cache_teacher": True}, False),
    ],
)
def test_teacher_with_another_tokenizer_is_refused_where_it_would_read_what_the_student_does(tmp_path, settings, refused):
    for name in ("mine", "theirs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tokenizer.json").write_text(name)
    folders = tmp_path / "mine", {"finetune": tmp_path / "theirs"}
    if not refused:
        step(**settings).check(*folders)
        return
    with pytest.raises(UnsupportedModel, match=r"read different inputs \(tokenizer\.json differ\)"):
        step(**settings).check(*folders)


@pytest.mark.parametrize("name", ["hubert", "whisper"])
def test_no_layer_is_dropped_while_states_are_looked_at(name):
    module, seen = FAMILIES[name].make().train(), []
    held = [part for part in (module.config, *module.modules()) if isinstance(getattr(part, "layerdrop", None), float)]
    for part in held:
        part.layerdrop = 1.0
    for block in anatomy_of(module).blocks:
        module.get_submodule(block.id).register_forward_hook(lambda *_: seen.append(1))
    FAMILIES[name].outputs(module)
    assert seen == []
    with unabridged(module):
        FAMILIES[name].outputs(module)
    assert len(seen) == len(anatomy_of(module).blocks)
    assert held
    assert all(part.layerdrop == 1.0 for part in held)


@pytest.mark.parametrize("name", ["hubert", "wav2vec2"])
def test_no_frame_is_masked_while_states_are_imitated(name):
    module = FAMILIES[name].make().train()
    for part in module.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
        if isinstance(getattr(part, "dropout", None), float):
            part.dropout = 0.0
    config = module.config
    config.mask_time_prob, config.mask_time_length, config.layerdrop = 0.9, 2, 0.0
    plain = FAMILIES[name].outputs(module.eval())
    module.train()
    assert not torch.allclose(FAMILIES[name].outputs(module), plain, atol=1e-3)
    with unabridged(module):
        torch.testing.assert_close(FAMILIES[name].outputs(module), plain)
    assert config.apply_spec_augment


def test_cache_is_refused_for_attention_maps():
    with pytest.raises(ValidationError, match="cache_teacher keeps no attention maps, and attention-maps looks at them: leave"):
        step(objectives={"attention-maps": 1.0}, cache_teacher=True)
    assert step(objectives={"attention-maps": 0.0, "soft-targets": 1.0}, cache_teacher=True)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-3), ("bf16", 0.03)])
@pytest.mark.parametrize("objectives", [{"hidden-states": 1.0, "soft-targets": 0.5}, {"layer-to-layer": 1.0}, {"relations": 1.0}])
def test_kept_states_teach_as_a_teacher_that_runs(ctx, objectives, precision, tolerance):
    settings = {"objectives": objectives, "epochs": 1, "precision": precision, "dropout": False}
    curves = []
    for cache in (True, False):
        step(**settings, cache_teacher=cache).apply(bert(9), ctx)
        note = [note for note in ctx.notes if getattr(note, "title", "").startswith("Losses")][-1]
        curves.append([value for curve in note.curves.values() for _, value in curve])
    assert curves[0] == pytest.approx(curves[1], rel=tolerance)
    assert any("computed once:" in note.text for note in ctx.notes if isinstance(note, Remark))


def test_compile_is_refused_for_objectives_that_look_inside():
    with pytest.raises(ValidationError, match="compile: true hides what hidden-states looks at inside of the student"):
        step(objectives={"soft-targets": 1.0, "hidden-states": 1.0}, compile=True)


def test_more_layers_than_there_are_is_refused(ctx):
    with pytest.raises(UnsupportedModel, match="take 9 layers of a model that has 4"):
        step(init="first", layers=9).apply(bert(9), ctx)


def test_teacher_stays_as_it_was(ctx):
    model = ctx.model("finetune")
    made = teacher("finetune", model, (), student=bert(9), ctx=ctx, settings=step(), cache=True, words=64)
    assert made.answers is not None
    assert made.answers.logits.shape == (36, 3)
    assert not any(parameter.requires_grad for parameter in made.module.parameters())
