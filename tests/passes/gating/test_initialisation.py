"""Where gates start: what matters least for its cost is lowest, nothing is out of reach, padding does not count."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import norm
from tensor_rows import Context, bert

from compressor.model.anatomy import anatomy_of
from passes.gating import initialisation as gate_starts
from passes.gating.distill_and_prune import DistillAndPrune
from passes.gating.expected_size import parameters
from passes.gating.gating import DROPS, Gating
from passes.gating.initialisation import CENTRE, OPEN, SPREAD, start_by_importance


def started(tmp_path, model):
    gating = Gating(anatomy_of(model.module), ("heads", "neurons"), drops=OPEN)
    formula = parameters(model.module, gating.anatomy, gating.places)
    start_by_importance(gating, model, formula, Context(tmp_path, {"source": model}))
    return {str(place): gating.gate(place).log_alpha.detach() for place in gating.places}


def unplugged(neurons):
    """A model whose first block does not read these neurons."""
    model = bert(1)
    block = anatomy_of(model.module).blocks[0]
    model.module.get_submodule(block.feed_forward.down).weight.data[:, neurons] = 0
    return model


def test_neurons_that_do_nothing_start_lowest_and_within_reach(tmp_path):
    dead = [3, 10, 50]
    alpha = started(tmp_path, unplugged(dead))["neurons of bert.encoder.layer.0"]
    assert sorted(alpha.argsort()[:3].tolist()) == dead
    assert torch.isfinite(alpha).all()
    assert alpha.min() > CENTRE - 4 * SPREAD


def test_gates_are_normally_distributed_over_the_cost(tmp_path):
    alphas = started(tmp_path, bert(1))
    head, neuron = 4 * 8 * 32 + 3 * 8, 2 * 32 + 1
    costs = np.concatenate([np.full(len(each), head if name.startswith("heads") else neuron) for name, each in alphas.items()])
    values = np.concatenate([each.numpy() for each in alphas.values()])
    order = values.argsort()
    shares = (costs[order].cumsum() - costs[order] / 2) / costs.sum()
    np.testing.assert_allclose(values[order], CENTRE + SPREAD * norm.ppf(shares), atol=1e-4)


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
