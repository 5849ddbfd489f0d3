"""Where gates start: what matters least for its cost is lowest, nothing is out of reach, padding does not count."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import norm
from tensor_rows import SPLITS, Context, bert, dataset

from compressor.contracts import Progress
from compressor.model.anatomy import anatomy_of
from passes.gating import initialisation as gate_starts
from passes.gating.distill_and_prune import DistillAndPrune
from passes.gating.expected_size import SizeFormula, Term, parameters
from passes.gating.gating import DROPS, Gating
from passes.gating.initialisation import CENTRE, OPEN, SPREAD, start_by_importance
from passes.pruning.importance import data_scores
from passes.pruning.latency_budget import LatencyFormula, LatencyTable


def laid(model, kinds=("heads", "neurons")):
    return Gating(anatomy_of(model.module), kinds, drops=OPEN)


def started(tmp_path, model, kinds=("heads", "neurons"), formula=None, ctx=None):
    gating = laid(model, kinds)
    formula = formula or parameters(model.module, gating.anatomy, gating.places)
    start_by_importance(gating, model, formula, ctx or Context(tmp_path, {"source": model}))
    return {str(place): gating.gate(place).log_alpha.detach() for place in gating.places}


def unplugged(neurons, **shape):
    """A model whose first block does not read these neurons."""
    model = bert(1, **shape)
    block = anatomy_of(model.module).blocks[0]
    model.module.get_submodule(block.feed_forward.down).weight.data[:, list(neurons)] = 0
    return model


def test_neurons_that_do_nothing_start_lowest_and_within_reach(tmp_path):
    dead = [3, 10, 50]
    alpha = started(tmp_path, unplugged(dead))["neurons of bert.encoder.layer.0"]
    assert sorted(alpha.argsort()[:3].tolist()) == dead
    assert torch.isfinite(alpha).all()
    assert alpha.min() > CENTRE - 4 * SPREAD


MILLISECONDS = LatencyFormula(
    LatencyTable(10.0, {"heads": ((0.0, 2.0), (4.0, 10.0)), "neurons": ((0.0, 7.6), (64.0, 10.0))}),
    (("heads", 4), ("neurons", 64)) * 4,
)
"""8 ms of all heads of four blocks, and 2.4 of all neurons."""


@pytest.mark.parametrize(
    ("formula", "head", "neuron"), [(None, 4 * 8 * 32 + 3 * 8, 2 * 32 + 1), (MILLISECONDS, 8 / 16, 2.4 / 256)]
)
def test_gates_are_normally_distributed_over_the_cost(tmp_path, formula, head, neuron):
    alphas = started(tmp_path, bert(1), formula=formula)
    costs = np.concatenate([np.full(len(each), head if name.startswith("heads") else neuron) for name, each in alphas.items()])
    values = np.concatenate([each.numpy() for each in alphas.values()])
    order = values.argsort()
    shares = (costs[order].cumsum() - costs[order] / 2) / costs.sum()
    np.testing.assert_allclose(values[order], norm.ppf(shares, loc=2.5, scale=1.5), atol=1e-3)


def test_kinds_compare_by_what_they_add_beside_the_mean_of_their_kind(tmp_path):
    """All heads cost the same and so do all neurons, so what a kind costs in all and what a unit costs cancel out but for this."""
    model = bert(1)
    ctx = Context(tmp_path, {"source": model})
    alphas = started(tmp_path, model, ctx=ctx)
    batch = next(iter(ctx.task.batches(SPLITS["train"], None, batch_size=36)))
    anatomy = anatomy_of(model.module)
    adds = data_scores(model.module, anatomy, ("heads", "neurons"), importance="activation", task=ctx.task, batches=[batch])
    adds = {str(place): np.array(each) for place, each in adds.items()}
    mean = {kind: np.mean([each.mean() for name, each in adds.items() if name.startswith(kind)]) for kind in ("heads", "neurons")}
    relative = np.concatenate([adds[name] / mean[name.split()[0]] for name in alphas])
    ranked = np.concatenate([each.numpy() for each in alphas.values()])[relative.argsort()]
    assert (np.diff(ranked) > -1e-3).all(), "but for what the order of sums changes"


def test_how_much_a_kind_adds_as_a_whole_changes_no_start(tmp_path):
    model, louder = bert(1, num_hidden_layers=1), bert(1, num_hidden_layers=1)
    (block,) = anatomy_of(louder.module).blocks
    louder.module.get_submodule(block.feed_forward.down).weight.data *= 1024
    for mine, other in zip(started(tmp_path, model).values(), started(tmp_path, louder).values(), strict=True):
        torch.testing.assert_close(mine, other)


def test_units_that_cost_nothing_and_units_that_are_as_important_start_finite(tmp_path):
    """Of equals the first is the first to go."""
    free = SizeFormula(4.0, 0.0, (Term(1.0, (0,)),))
    alphas = started(tmp_path, unplugged(range(64), num_hidden_layers=1), formula=free)
    heads, neurons = alphas.values()
    assert torch.isfinite(torch.cat([heads, neurons])).all()
    assert (neurons.diff() >= 0).all()


@pytest.mark.parametrize("kinds", [("heads",), ("neurons",), ("heads", "feed-forward"), ("neurons", "attention")])
def test_gates_of_other_kinds_stay_as_they_are(tmp_path, kinds):
    alphas = started(tmp_path, bert(1), kinds)
    assert len(alphas) == 4 * len(kinds)
    moved, kept = (
        [each for name, each in alphas.items() if name.startswith(("heads", "neurons")) is ranked] for ranked in (True, False)
    )
    assert torch.cat(moved).median() == pytest.approx(2.5, abs=0.5)
    assert torch.cat(moved).std() == pytest.approx(1.5, abs=0.3)
    assert all(float(each) == pytest.approx(np.log(99), abs=0.05) for each in kept)


def test_no_row_is_read_where_nothing_is_ranked(tmp_path):
    ctx = Context(tmp_path, {})
    alphas = started(tmp_path, bert(1), ("attention", "feed-forward"), ctx=ctx)
    assert all(float(each) == pytest.approx(np.log(99), abs=0.05) for each in alphas.values())
    assert ctx.events == []


def test_512_rows_are_read_in_batches_of_16_and_no_row_in_training_mode(tmp_path):
    splits = {"train": dataset(1, 520)}
    ctx = Context(tmp_path, {}, data=SimpleNamespace(split=splits.__getitem__))
    model, training = bert(1, num_hidden_layers=1), bert(1, num_hidden_layers=1)
    training.module.train()
    for mine, other in zip(
        started(tmp_path, model, ctx=ctx).values(), started(tmp_path, training, ctx=ctx).values(), strict=True
    ):
        torch.testing.assert_close(mine, other)
    assert ctx.events == [Progress("importance", done, 32, "batches") for done in range(1, 33)] * 2
    assert training.module.training, "a copy is scored"


def test_kind_that_adds_nothing_at_all_starts_finite_and_below_the_other(tmp_path):
    model = bert(1)
    for block in anatomy_of(model.module).blocks:
        model.module.get_submodule(block.feed_forward.down).weight.data.zero_()
    alphas = started(tmp_path, model)
    heads, neurons = (
        torch.cat([each for name, each in alphas.items() if name.startswith(kind)]) for kind in ("heads", "neurons")
    )
    assert torch.isfinite(torch.cat([heads, neurons])).all()
    assert neurons.max() < heads.min()


@pytest.mark.parametrize(("start", "drops"), [("open", OPEN), ("paper", DROPS)])
def test_other_starts_are_by_kind_alone(tmp_path, monkeypatch, start, drops):
    seen = {}
    made = Gating.__init__

    def spied(self, *given, **named):
        made(self, *given, **named)
        seen.update({place.kind: self.gate(place).log_alpha.detach().clone() for place in self.places})

    monkeypatch.setattr(Gating, "__init__", spied)
    monkeypatch.setattr(gate_starts, "start_by_importance", lambda *_: pytest.fail("not asked for"))
    step = DistillAndPrune(
        teacher="source",
        sparsity=0.5,
        start=start,
        epochs=1,
        recovery_epochs=0,
        objectives={"layer-to-layer": 1.0},
        precision="fp32",
    )
    step.apply(bert(1), Context(tmp_path, {"source": bert(1)}))
    for kind, alpha in seen.items():
        expected = np.log((1 - drops[kind]) / drops[kind])
        assert abs(float(alpha.mean()) - expected) < 0.02
