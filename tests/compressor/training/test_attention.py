"""Attention of a training: chosen by time, with a margin, once, put back afterwards."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from tensor_rows import bert

from compressor.errors import UnsupportedModel
from compressor.model.dit import DiT
from compressor.training import attention
from compressor.training.attention import attending, fastest, is_measured
from compressor.training.settings import TrainingSettings


def context():
    known, notes = {}, []

    def remember(what, make):
        if str(what) not in known:
            known[str(what)] = make()
        return known[str(what)]

    return SimpleNamespace(device="cpu", remember=remember, note=notes.append, notes=notes)


@pytest.fixture
def clock(monkeypatch):
    """Time that goes on by what each implementation is said to take."""
    now = [0.0]
    monkeypatch.setattr("compressor.training.attention.time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(attention, "LEAST_PARAMETERS", 0)
    return now


def choice(clock, seconds, ctx=None):
    module = torch.nn.ModuleList([bert().module, torch.nn.Linear(2, 2)])
    ran = []

    def step():
        kind = module[0].config._attn_implementation
        ran.append(kind)
        clock[0] += seconds[kind]

    found = fastest(module, [step, step], {}, ctx or context())
    assert module[0].config._attn_implementation == "sdpa", "it was not put back"
    return found, ran


@pytest.mark.parametrize(("eager", "expected"), [(0.5, "eager"), (0.96, "eager"), (0.98, "sdpa"), (1.5, "sdpa")])
def test_other_implementation_wins_only_where_it_saves_more_than_the_margin(clock, eager, expected):
    ctx = context()
    found, ran = choice(clock, {"sdpa": 1.0, "eager": eager}, ctx)
    assert found == expected
    assert set(ran) == {"sdpa", "eager"}
    assert ctx.notes[0].text.startswith(f"Attention while training: {expected}; ")


def test_a_network_that_draws_attends_otherwise_meanwhile_and_tells_the_same():
    torch.manual_seed(0)
    network = DiT(8, 1, 3, width=16, heads=2, blocks=2)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # modulations begin with zeros
    given = torch.randn(2, 1, 8, 8), torch.tensor([10.0, 900.0]), torch.tensor([0, 3])

    def gradients():
        network.zero_grad()
        network(*given).square().mean().backward()
        return [parameter.grad for parameter in network.parameters()]

    whole = torch.nn.ModuleList([network, torch.nn.Linear(2, 2)])
    usual = gradients()
    with attending(whole, "eager"):
        assert {block.attention for block in network.blocks} == {"eager"}
        otherwise = gradients()
    assert network.attention == "sdpa"
    assert any(not torch.equal(one, other) for one, other in zip(usual, otherwise, strict=True))
    for one, other in zip(usual, otherwise, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    with pytest.raises(UnsupportedModel, match="attention: flash is not to be had of DiT"), attending(whole, "flash"):
        pass


@pytest.mark.parametrize(("eager", "rounds"), [(0.5, 1), (0.9, 2), (1.1, 2), (1.5, 1)])
def test_what_is_clear_at_once_is_not_asked_again(clock, eager, rounds):
    _, ran = choice(clock, {"sdpa": 1.0, "eager": eager})
    assert ran.count("eager") == ran.count("sdpa") == 1 + 2 * rounds


def test_what_was_measured_is_not_measured_again(clock):
    ctx = context()
    choice(clock, {"sdpa": 1.0, "eager": 0.5}, ctx)
    assert choice(clock, {"sdpa": 1.0, "eager": 2.0}, ctx) == ("eager", [])


@pytest.mark.parametrize(
    ("settings", "device", "expected"),
    [
        ({}, "cpu", True),
        ({"attention": "eager"}, "cpu", False),
        ({"attention": "sdpa"}, "cpu", False),
        ({"compile": True}, "cpu", False),
        ({}, "cuda", False),
    ],
)
def test_time_decides_where_the_plan_leaves_it_to_it_on_a_cpu(clock, settings, device, expected):
    assert is_measured(bert().module, TrainingSettings(**settings), device) is expected


def test_small_models_and_those_without_a_choice_are_not_measured():
    assert not is_measured(bert().module, TrainingSettings(), "cpu")
    assert not is_measured(torch.nn.Linear(2000, 1000), TrainingSettings(), "cpu")


def test_attention_is_as_asked_for_inside_and_as_before_outside():
    module = torch.nn.ModuleList([bert().module])
    with attending(module, "eager"):
        assert module[0].config._attn_implementation == "eager"
    assert module[0].config._attn_implementation == "sdpa"


def test_implementation_that_a_model_lacks_is_refused():
    module = bert().module
    type(module)._supports_sdpa, before = False, type(module)._supports_sdpa
    try:
        module.set_attn_implementation("eager")
        with (
            pytest.raises(UnsupportedModel, match="attention: sdpa is not to be had of BertForSequenceClassification"),
            attending(module, "sdpa"),
        ):
            pass
    finally:
        type(module)._supports_sdpa = before


def test_measuring_asks_nothing_of_the_other_processes(clock, tmp_path, monkeypatch):
    """One process measures alone while the others wait: a word to all of them would be taken for another."""
    from compressor.training import loop
    from compressor.training.group import Group, rows_of

    module = torch.nn.ModuleList([bert().module])
    rows = {"input_ids": torch.randint(0, 5, (4, 6)), "labels": torch.tensor([0, 1, 0, 1])}
    training = loop.Training(
        module,
        batches=lambda epoch: [rows, rows],
        step=lambda batch, moment: {"task": module[0](input_ids=batch["input_ids"]).logits.square().mean()},
        settings=TrainingSettings(precision="fp32"),
    )
    ctx = context()
    ctx.task, ctx.seed, ctx.folder, ctx.tell = SimpleNamespace(weight=rows_of), 0, tmp_path, lambda _: None
    made = loop._Loop(training, ctx, "finetune")
    monkeypatch.setattr(made.group, "size", 2)
    asked = []
    for name in ("gathered", "summed", "sum_gradients"):
        monkeypatch.setattr(Group, name, lambda *_: asked.append("collective"))
    assert made._attention() in ("sdpa", "eager")
    assert asked == []


def test_training_that_goes_on_keeps_its_own_attention(tmp_path, monkeypatch):
    """A machine that has found another one to be the fastest meanwhile changes no result."""
    from compressor.training import loop
    from compressor.training.checkpoint import INTERVAL
    from compressor.training.group import rows_of

    rows = {"input_ids": torch.randint(0, 5, (4, 6)), "labels": torch.tensor([0, 1, 0, 1])}
    seen = []

    def trained(fastest, *, dies_at):
        module = torch.nn.ModuleList([bert().module])

        def step(batch, moment):
            seen.append(module[0].config._attn_implementation)
            if len(seen) == dies_at:
                raise KeyboardInterrupt
            return {"task": module[0](input_ids=batch["input_ids"]).logits.square().mean()}

        settings = TrainingSettings(precision="fp32", epochs=1)
        training = loop.Training(module, batches=lambda epoch: [rows] * 4, step=step, settings=settings)
        monkeypatch.setattr(loop, "is_measured", lambda *_: True)
        monkeypatch.setattr(loop, "fastest", lambda *_: fastest)
        ctx = context()
        ctx.task, ctx.seed, ctx.folder, ctx.tell = SimpleNamespace(weight=rows_of), 0, tmp_path, lambda _: None
        return loop.train(training, ctx, work="finetune")

    monkeypatch.setenv(INTERVAL, "0")
    with pytest.raises(KeyboardInterrupt):
        trained("eager", dies_at=3)
    assert trained("sdpa", dies_at=None).attention == "eager"
    assert seen == ["eager"] * 5
