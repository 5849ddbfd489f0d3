from __future__ import annotations

import itertools
import math
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from compressor.contracts import Progress
from compressor.errors import MissingDependency, OutOfMemory, PluginError, TrainingDiverged
from compressor.training.checkpoint import INTERVAL, RESCUED
from compressor.training.group import parts, rows_of
from compressor.training.learners import Learner, Learning, parameter_groups, rate
from compressor.training.loop import Training, train
from compressor.training.settings import TrainingSettings, resolved_precision

LOSS = "task"


def network(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Dropout(0.1), torch.nn.Linear(8, 2))


def batches(epoch):
    draw = torch.Generator().manual_seed(epoch)
    made = []
    for _ in range(8):
        inputs = torch.randn(16, 4, generator=draw)
        made.append({"inputs": inputs, "labels": (inputs.sum(-1) > 0).long()})
    return made


def context(folder=None, *, seed=0, told=None, weight=rows_of):
    """What a training takes from the run around it."""
    return SimpleNamespace(
        task=SimpleNamespace(weight=weight),
        seed=seed,
        device="cpu",
        folder=folder or Path(tempfile.mkdtemp()),
        tell=(told if told is not None else []).append,
    )


def run(module, *, step=None, evaluate=None, seed=0, told=None, batches=batches, folder=None, learners=(), **settings):
    def usual(batch):
        return {LOSS: torch.nn.functional.cross_entropy(module(batch["inputs"]), batch["labels"])}

    training = Training(
        module,
        batches=batches,
        step=lambda batch, moment: (step or usual)(batch),
        settings=TrainingSettings.model_validate({"learning_rate": 0.02, "precision": "fp32", **settings}),
        learners=learners,
        evaluate=evaluate,
    )
    return train(training, context(folder, seed=seed, told=told), work="finetune")


def same(one, two):
    return all(torch.equal(one.state_dict()[name], two.state_dict()[name]) for name in one.state_dict())


def test_train_gives_the_same_bits_when_the_seed_is_the_same():
    one, two, other = network(), network(), network()
    logs = [run(one, seed=1), run(two, seed=1), run(other, seed=2)]
    assert same(one, two)
    assert logs[0].losses == logs[1].losses
    assert not same(one, other)  # dropout is drawn from the seed


def test_train_lowers_the_loss():
    log = run(network(), epochs=6)
    curve = [loss for _, loss in log.losses[LOSS]]
    assert [at for at, _ in log.losses[LOSS]] == list(range(1, 49))
    assert sum(curve[-8:]) < 0.6 * sum(curve[:8])
    assert (log.kept_epoch, log.precision, log.validation) == (6, "fp32", ())
    assert log.rows_per_second > 0


def test_train_leaves_the_module_in_eval_mode():
    module = network()
    run(module, epochs=1)
    assert not any(part.training for part in module.modules())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_train_raises_naming_the_step_when_a_loss_is_not_finite(value):
    module, steps = network(), []

    def step(batch):
        steps.append(batch)
        loss = module(batch["inputs"]).mean()
        return {"task": loss, "teacher": loss * value if len(steps) == 5 else loss}

    with pytest.raises(TrainingDiverged, match=r"'teacher' is (nan|-?inf) at step 5 of 24: .*learning_rate \(now 0.02\)"):
        run(module, step=step)
    assert all(torch.isfinite(parameter).all() for parameter in module.parameters())


def rising(module, *, start, end, at=9):
    """Losses of one value up to a step, and of another from then on."""
    steps = []

    def step(batch):
        steps.append(batch)
        return {"task": module(batch["inputs"]).mean() * 0 + (start if len(steps) < at else end)}

    return step


def test_loss_that_ends_an_epoch_far_above_its_start_is_stopped_and_good_weights_are_kept(tmp_path):
    module = network()
    with pytest.raises(TrainingDiverged) as diverged:
        run(module, step=rising(module, start=0.7, end=7.1), evaluate=lambda: 0.5, folder=tmp_path, epochs=9)
    kept = tmp_path / "training-finetune" / RESCUED
    assert str(diverged.value) == (
        "the loss is 7.1 or more, and began with 0.7, at step 32 of 72: try a lower learning_rate (now 0.02), "
        f"a longer warmup (now 0.1), or precision: fp32; the weights of the best epoch are kept in {kept}"
    )
    assert set(load_file(kept)) == set(module.state_dict())


@pytest.mark.parametrize(("start", "end"), [(0.7, 6.9), (0.0, 0.9), (7.0, 0.7)])
def test_loss_that_rises_less_goes_on(start, end):
    module = network()
    run(module, step=rising(module, start=start, end=end), epochs=9)


def test_loss_may_peak_on_the_way():
    module, values = network(), iter([0.7] * 8 + [70.0] * 15 + [0.7] * 9)
    run(module, step=lambda batch: {"task": module(batch["inputs"]).mean() * 0 + next(values)}, epochs=4)


@pytest.mark.parametrize("said", ["CUDA out of memory. Tried to allocate 2 GiB", "DefaultCPUAllocator: can't allocate memory"])
def test_memory_that_runs_out_is_told_with_what_to_do(said):
    module = network()

    def step(batch):
        raise RuntimeError(said)

    with pytest.raises(OutOfMemory) as raised:
        run(module, step=step)
    assert str(raised.value) == (
        "out of memory at step 1 of 24: try accumulate: 2 (now 1; the same step in more parts) or a smaller batch_size (now 16)"
    )


def test_train_restores_the_best_epoch_when_checkpoint_is_best():
    module, states, values = network(), [], iter([0.5, 0.9, 0.7])

    def evaluate():
        assert not module.training
        states.append({name: tensor.clone() for name, tensor in module.state_dict().items()})
        return next(values)

    log = run(module, evaluate=evaluate, checkpoint="best")
    assert log.kept_epoch == 2
    assert log.validation == ((8.0, 0.5), (16.0, 0.9), (24.0, 0.7))
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in module.state_dict().items())
    assert not torch.equal(states[1]["0.weight"], states[2]["0.weight"])


def test_train_keeps_the_last_epoch_when_checkpoint_is_last():
    module, states, values = network(), [], iter([0.9, 0.5])

    def evaluate():
        states.append(module.state_dict()["0.weight"].clone())
        return next(values)

    assert run(module, evaluate=evaluate, checkpoint="last", epochs=2).kept_epoch == 2
    assert torch.equal(module.state_dict()["0.weight"], states[1])


def test_train_asks_for_each_epoch_once_and_tells_every_step():
    asked, told = [], []

    def counted(epoch):
        asked.append(epoch)
        return batches(epoch)

    log = run(network(), batches=counted, told=told, epochs=3)
    assert asked == [0, 1, 2]
    assert [(event.work, event.done, event.total) for event in told] == [("finetune", at, 24) for at in range(1, 25)]
    assert isinstance(told[-1], Progress)
    assert told[-1].values == {LOSS: log.losses[LOSS][-1][1]}


def test_train_leaves_frozen_parameters_as_they_are():
    module = network()
    module[0].requires_grad_(requires_grad=False)
    before = module[0].weight.clone()
    run(module, epochs=1)
    assert torch.equal(module[0].weight, before)


def test_train_minimises_the_sum_of_losses():
    module = torch.nn.Linear(1, 1, bias=False)

    def step(batch):
        value = module.weight.sum()
        return {"pull": (value - 1) ** 2, "push": (value + 1) ** 2}

    run(module, step=step, epochs=30, weight_decay=0.0, schedule="cosine")
    assert module.weight.item() == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_train_falls_and_ends_when_the_schedule_is(schedule):
    log = run(network(), epochs=4, schedule=schedule, warmup=0.0)
    curve = [loss for _, loss in log.losses[LOSS]]
    assert sum(curve[-8:]) < sum(curve[:8])


def test_train_learns_in_bf16():
    log = run(network(), epochs=4, precision="bf16")
    curve = [loss for _, loss in log.losses[LOSS]]
    assert log.precision == "bf16"
    assert sum(curve[-8:]) < 0.8 * sum(curve[:8])


def test_resolved_precision_is_what_was_asked_for():
    assert resolved_precision("bf16", "cpu") == "bf16"
    assert resolved_precision("fp32", "cpu") == "fp32"
    assert resolved_precision("auto", "cpu") in ("bf16", "fp32")


def test_train_takes_its_own_precision_when_an_earlier_training_had_another():
    assert [run(network(), epochs=1, precision=each).precision for each in ("fp32", "bf16", "fp32")] == ["fp32", "bf16", "fp32"]


def test_train_raises_naming_the_step_when_a_gradient_is_not_finite():
    module = network()

    def step(batch):
        return {LOSS: (module(batch["inputs"]) * 0).square().sum().sqrt()}  # 0, with a slope that is not finite

    with pytest.raises(TrainingDiverged, match=r"norm of the gradients is nan at step 1 of 24: .*precision: fp32"):
        run(module, step=step)
    assert all(torch.isfinite(parameter).all() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("linear", [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]),
        ("cosine", [0.5, 1.0, 1.0, 0.853553, 0.5, 0.146447]),
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_rate_rises_and_falls_as_the_schedule_says(schedule, expected):
    settings = TrainingSettings(schedule=schedule, warmup=2 / 6)
    assert [rate(at, 6, settings) for at in range(6)] == pytest.approx(expected, abs=1e-6)


def test_matrices_decay_and_biases_and_norms_do_not():
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.LayerNorm(3))
    matrices, rest = parameter_groups(tuple(module.parameters()), 0.1)
    assert [(len(each["params"]), each["weight_decay"]) for each in (matrices, rest)] == [(1, 0.1), (3, 0.0)]


@pytest.mark.parametrize(("dropout", "changed"), [(True, True), (False, False)])
def test_dropout_is_off_when_it_is_told_so(dropout, changed):
    seen = []

    class Watched(torch.nn.Dropout):
        def forward(self, values):
            dropped = super().forward(values)
            seen.append(bool((dropped != values).any()))
            return dropped

    module = torch.nn.Sequential(network(), Watched(0.5))
    run(module, epochs=2, dropout=dropout, evaluate=lambda: 1.0)
    assert any(seen) == changed


@pytest.mark.parametrize("accumulate", [2, 3, 32])
def test_accumulated_parts_give_the_losses_and_weights_of_the_whole_batch(accumulate):
    whole, cut = network(), network()
    whole[2].p = cut[2].p = 0.0  # dropout is drawn by part
    logs = [run(module, epochs=2, accumulate=each) for module, each in ((whole, 1), (cut, accumulate))]
    curves = [[loss for _, loss in log.losses[LOSS]] for log in logs]
    assert curves[1] == pytest.approx(curves[0], abs=1e-5)
    for name, tensor in cut.state_dict().items():
        torch.testing.assert_close(tensor, whole.state_dict()[name], rtol=1e-3, atol=1e-5)


def test_accumulated_parts_hold_as_many_rows_as_asked_for():
    module, seen = network(), []

    def step(batch):
        seen.append(len(batch["inputs"]))
        return {LOSS: module(batch["inputs"]).square().mean()}

    log = run(module, step=step, epochs=1, accumulate=3)
    assert seen == [6, 5, 5] * 8
    assert len(log.losses[LOSS]) == 8


@pytest.mark.parametrize(("rows", "size", "accumulate"), [(16, 1, 1), (16, 2, 1), (5, 2, 2), (3, 2, 4), (1, 3, 1)])
def test_parts_of_all_processes_are_the_rows_of_the_batch(rows, size, accumulate):
    batch = {"row": torch.arange(rows), "inputs": torch.randn(rows, 2)}
    found = [each for rank in range(size) for each in parts(batch, rank, size, accumulate)]
    assert sorted(row for part, share in found if share for row in part["row"].tolist()) == list(range(rows))
    assert sum(share for _, share in found) == pytest.approx(1)
    assert all(share == pytest.approx(len(part["row"]) / rows) for part, share in found if share)
    assert all(len(part["row"]) == 1 for part, share in found if not share)
    assert all(list(parts(batch, rank, size, accumulate)) for rank in range(size))


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # of torch's own compiler
def test_compiled_training_gives_the_losses_of_one_that_is_not_and_leaves_the_module_as_it_was(monkeypatch):
    plain, fast = network(), network()
    plain[2].p = fast[2].p = 0.0
    calls = []
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda forward, **options: calls.append(options) or compile_(forward, **options))
    curves = [
        [loss for _, loss in run(module, epochs=1, compile=on).losses[LOSS]] for module, on in ((plain, False), (fast, True))
    ]
    assert curves[1] == pytest.approx(curves[0], abs=1e-5)
    assert calls == [{"dynamic": True}]
    assert "forward" not in vars(fast)


def test_compile_is_refused_where_there_is_no_compiler(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingDependency, match=r"compile: true needs a C\+\+ compiler, and there is no g\+\+"):
        run(network(), compile=True)


# ------------------------------------------------------------------ several optimisers


CRITIC, GENERATOR = (True, True, True, True, True, False), (False, False, False, False, False, True)


class Pair(torch.nn.Module):
    """Two parts that take turns, five steps to one."""

    def __init__(self):
        super().__init__()
        self.critic, self.generator = network(1), network(2)

    def learners(self, ema=0.9):
        return (
            Learner("critic", tuple(self.critic.parameters()), 0.02, 0.01, updates=CRITIC),
            Learner("generator", tuple(self.generator.parameters()), 0.01, updates=GENERATOR, ema=ema),
        )

    def step(self, batch, moment):
        whose = "critic" if "critic" in moment.updates else "generator"
        made = self.critic(batch["inputs"]) + self.generator(batch["inputs"])
        return {whose: torch.nn.functional.cross_entropy(made, batch["labels"])}


def taken(pair, folder=None, *, each_step=lambda moment: None, **settings):
    """A training of a pair."""

    def step(batch, moment):
        each_step(moment)
        return pair.step(batch, moment)

    shape = {"learning_rate": 0.02, "precision": "fp32", **settings}
    settings = TrainingSettings.model_validate(shape)
    return train(Training(pair, batches, step, settings, learners=pair.learners()), context(folder), work="pair")


def copies(module):
    return [parameter.detach().clone() for parameter in module.parameters()]


def test_learners_update_in_their_steps_of_a_cycle_and_in_no_other():
    pair, seen = Pair(), []
    log = taken(
        pair, each_step=lambda moment: seen.append((moment.updates, copies(pair.critic), copies(pair.generator))), steps=13
    )
    assert [set(updates) for updates, *_ in seen] == [{"critic"}] * 5 + [{"generator"}] + [{"critic"}] * 5 + [{"generator"}] + [
        {"critic"}
    ]
    for (updates, *before), (_, *after) in itertools.pairwise(seen):
        changed = [any(not torch.equal(*each) for each in zip(*both, strict=True)) for both in zip(before, after, strict=True)]
        assert changed == ["critic" in updates, "generator" in updates]
    assert [at for at, _ in log.losses["generator"]] == [6, 12]
    assert [at for at, _ in log.losses["critic"]] == [1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 13]


def test_training_ends_with_the_average_of_a_learner_that_keeps_one():
    pair, states, started = Pair(), [], copies(Pair().generator)
    taken(pair, each_step=lambda _: states.append(copies(pair.generator)), steps=13)
    expected = started
    for decay, now in ((2 / 11, states[6]), (3 / 12, states[12])):  # after each update; 0.9 once there were 80
        expected = [decay * kept + (1 - decay) * value for kept, value in zip(expected, now, strict=True)]
    for mine, wanted in zip(pair.generator.parameters(), expected, strict=True):
        torch.testing.assert_close(mine, wanted)
        assert not torch.equal(mine, states[12][0])


def test_average_of_a_short_training_is_not_where_it_began():
    """A decay of 0.999 would keep nine tenths of the first weights after 100 updates."""
    layer = torch.nn.Linear(4, 4, bias=False)
    (started,) = copies(layer)
    learning = Learning(Learner("layer", tuple(layer.parameters()), 0.01, ema=0.999))
    for _ in range(100):
        layer.weight.grad = torch.ones_like(layer.weight)
        learning.update(1.0)
    way = (learning.average[0] - started) / (layer.weight.detach() - started)
    assert way.min() > 0.8


def test_average_is_what_is_evaluated_and_training_goes_on_from_the_weights():
    pair, during, at = Pair(), [], []
    training = Training(
        pair,
        batches,
        lambda batch, moment: at.append(copies(pair.generator)) or pair.step(batch, moment),
        TrainingSettings(precision="fp32", epochs=2, checkpoint="last"),
        learners=pair.learners(),
        evaluate=lambda: during.append(copies(pair.generator)) or 0.5,
    )
    train(training, context(), work="pair")
    assert not torch.equal(during[0][0], at[7][0]), "after step 8, where the generator was last updated in step 6"
    assert torch.equal(at[8][0], at[7][0]), "the critic's turn: the generator's weights came back"
    assert torch.equal(during[1][0], next(pair.generator.parameters()))


def dies(pair, folder, at):
    """A training that breaks off where a checkpoint was written at every step."""

    class Dead(Exception): ...

    def each_step(moment):
        if moment.step == at:
            raise Dead

    with pytest.raises(Dead):
        taken(pair, folder, each_step=each_step)


@pytest.mark.parametrize("at", [3, 5, 6, 8, 20])
def test_two_optimisers_go_on_where_they_were_with_equal_bytes(tmp_path, monkeypatch, at):
    unbroken, broken = Pair(), Pair()
    whole = taken(unbroken)
    monkeypatch.setenv(INTERVAL, "0")
    dies(broken, tmp_path, at)
    steps = []
    log = taken(Pair(), tmp_path / "other")
    assert log.losses == whole.losses
    again = Pair()
    log = taken(again, tmp_path, each_step=lambda moment: steps.append(moment.step))
    assert steps == list(range(at, 24))
    assert log.losses == whole.losses
    assert same(again, unbroken)


def test_learners_that_share_a_parameter_or_a_name_are_refused():
    module = network()
    parameters = tuple(module.parameters())
    for learners, what in (
        ((Learner("a", parameters, 1e-3), Learner("b", parameters[:1], 1e-3)), "two of a, b share"),
        ((Learner("a", parameters[:1], 1e-3), Learner("a", parameters[1:], 1e-3)), "names of their own"),
        ((Learner("weights", parameters, 1e-3),), "other than 'weights'"),
        ((Learner("a", parameters, 1e-3, updates=(False,)),), "a never updates"),
    ):
        with pytest.raises(PluginError, match=what):
            run(module, learners=learners)


def test_losses_that_take_turns_are_judged_by_those_of_their_kind():
    """A small loss followed by a large one of another name has not risen."""
    module, steps = network(), []

    def step(batch):
        steps.append(batch)
        name, value = ("small", 0.05) if len(steps) % 2 else ("large", 5.0)
        return {name: module(batch["inputs"]).mean() * 0 + value}

    assert set(run(module, step=step, epochs=6).losses) == {"small", "large"}


def test_loss_that_runs_away_among_others_is_stopped():
    module, steps = network(), []

    def step(batch):
        steps.append(batch)
        rare = {"rare": module(batch["inputs"]).mean() * 0 + (0.5 if len(steps) < 9 else 50.0)} if len(steps) % 2 else {}
        return rare or {"task": module(batch["inputs"]).mean() * 0 + 5.0}

    with pytest.raises(TrainingDiverged, match=r"the loss is 50 or more, and began with 0.5"):
        run(module, step=step, epochs=9)


def test_step_without_a_loss_goes_by():
    module, steps = network(), []

    def step(batch):
        steps.append(batch)
        return {LOSS: module(batch["inputs"]).square().mean()} if len(steps) % 3 == 0 else {}

    assert [at for at, _ in run(module, step=step, epochs=1).losses[LOSS]] == [3, 6]


# ------------------------------------------------------------------ steps, and what parts count


def test_training_by_steps_takes_as_many_and_evaluates_at_the_end():
    asked, values = [], []

    def endless(epoch):
        asked.append(epoch)
        return (batch for number in itertools.count() for batch in batches(number))

    log = run(network(), batches=endless, steps=21, evaluate=lambda: values.append(1) or 0.5)
    assert (asked, log.validation, log.kept_epoch) == ([0], ((21.0, 0.5),), 1)
    log = run(network(), steps=21, evaluate=lambda: 0.5)
    assert log.validation == ((8.0, 0.5), (16.0, 0.5), (21.0, 0.5))


def test_validation_is_looked_at_evenly_where_a_plan_says_how_often():
    log = run(network(), steps=21, validations=4, evaluate=lambda: 0.5)
    assert [at for at, _ in log.validation] == [6.0, 11.0, 16.0, 21.0]
    assert log.seen == (96.0, 176.0, 256.0, 336.0)
    assert log.counted == 21 * 16
    log = run(network(), epochs=2, validations=1, evaluate=lambda: 0.5)
    assert log.validation == ((16.0, 0.5),)
    assert len(run(network(), steps=2, validations=9, evaluate=lambda: 0.5).validation) == 2


def test_batches_without_a_length_need_steps():
    with pytest.raises(PluginError, match="need `steps`"):
        run(network(), batches=lambda epoch: iter(batches(epoch)))


@pytest.mark.parametrize("accumulate", [2, 3])
def test_parts_weighed_by_valid_tokens_give_the_loss_of_the_whole_batch(accumulate):
    """A loss that is a mean over tokens, of rows with one to five of them."""

    def ragged(epoch):
        return [{**batch, "mask": (torch.arange(5) <= torch.arange(16)[:, None] % 5).float()} for batch in batches(epoch)]

    def losses(module):
        def step(batch):
            each = torch.nn.functional.cross_entropy(module(batch["inputs"]), batch["labels"], reduction="none")
            return {LOSS: (each[:, None] * batch["mask"]).sum() / batch["mask"].sum()}

        return step

    def trained(parts, weight):
        module = network()
        module[2].p = 0.0
        training = Training(
            module, ragged, lambda batch, _: losses(module)(batch), TrainingSettings(precision="fp32", accumulate=parts, epochs=1)
        )
        log = train(training, context(weight=weight), work="finetune")
        return [loss for _, loss in log.losses[LOSS]]

    def tokens(batch):
        return float(batch["mask"].sum())

    assert trained(accumulate, tokens) == pytest.approx(trained(1, tokens), abs=1e-5)
    assert trained(accumulate, rows_of) != pytest.approx(trained(1, rows_of), abs=1e-5)


# ------------------------------------------------------------------ speed that changes nothing else


def wide(seed=0, p=0.0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(4, 512), torch.nn.Dropout(p), torch.nn.Linear(512, 2))


@pytest.mark.parametrize("max_grad_norm", [0.01, 1.0, 1e6])
def test_training_gives_the_weights_of_a_bare_loop(max_grad_norm):
    module, other = wide(), wide()
    run(module, epochs=2, max_grad_norm=max_grad_norm, weight_decay=0.0, warmup=0.0, schedule="constant")
    optimiser = torch.optim.AdamW(other.parameters(), lr=0.02, weight_decay=0.0)
    for batch in [*batches(0), *batches(1)]:
        torch.nn.functional.cross_entropy(other(batch["inputs"]), batch["labels"]).backward()
        torch.nn.utils.clip_grad_norm_(other.parameters(), max_grad_norm)
        optimiser.step()
        optimiser.zero_grad()
    for mine, wanted in zip(module.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-3, atol=1e-4)


def test_dropout_by_bits_goes_on_where_it_was_with_equal_bytes(tmp_path, monkeypatch):
    unbroken, broken, again, seen = wide(p=0.3), wide(p=0.3), wide(p=0.3), []
    whole = run(unbroken)
    monkeypatch.setenv(INTERVAL, "0")

    class Dead(Exception): ...

    def step(batch):
        seen.append(batch)
        if len(seen) == 12:
            raise Dead
        return {LOSS: torch.nn.functional.cross_entropy(broken(batch["inputs"]), batch["labels"])}

    with pytest.raises(Dead):
        run(broken, step=step, folder=tmp_path)
    told = []
    log = run(again, folder=tmp_path, told=told)
    assert told[0].text == "finetune: goes on at step 11 of 24"
    assert log.losses == whole.losses
    assert same(again, unbroken)
