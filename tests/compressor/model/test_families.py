"""What can go from families with shared, fused, gated and grouped parts: cut equals silenced, and the rest is refused with its reason."""

from __future__ import annotations

import pytest
import torch
from families import ALL, DRAWING, HIDDEN, LAYERS, WIDTH
from families import MORE as TRANSFORMERS

from compressor.contracts import registry
from compressor.errors import UnsupportedModel
from compressor.model.anatomy import anatomy_of, family_of
from compressor.model.blueprint import blueprint_of
from compressor.model.costs import cost_of, matrix
from compressor.model.edits import KeepBlocks, KeepHeads, KeepNeurons
from compressor.model.model import Model
from passes.gating.gating import Gating, pruned

MORE = TRANSFORMERS | DRAWING
KINDS = ("heads", "attention", "neurons", "feed-forward")


def edit_of(kind, block, kept):
    return KeepHeads(block=block, heads=kept) if kind in ("heads", "attention") else KeepNeurons(block=block, neurons=kept)


def kept_of(kind, count=4):
    """Of so many units the first and the last, of heads that share a key and a value one group."""
    return {"heads": (0, 3) if count == 4 else (1,), "neurons": tuple(range(0, 64, 3))}.get(kind, ())


def silence(module, units, kept):
    """What is not kept is read with zeros."""
    size = units.size if units.kind in ("heads", "neurons") else 1
    columns = [c for c in range(matrix(module.get_submodule(units.reader)).shape[1]) if c // size not in kept]
    with torch.no_grad():
        matrix(module.get_submodule(units.reader))[:, columns] = 0


@pytest.mark.parametrize("name", MORE)
def test_row_reads_the_parts_of_the_family(name):
    module = MORE[name].make()
    anatomy = anatomy_of(module)
    assert anatomy.family == MORE[name].row == family_of(module)
    assert (anatomy.hidden_size, len(anatomy.blocks)) == (HIDDEN, 1 if name == "albert" else LAYERS)
    for block in anatomy.blocks:
        width = 4 * HIDDEN if name in DRAWING else WIDTH
        assert (block.attention.heads, block.attention.head_size, block.feed_forward.width) == (4, 8, width)
    parts = {anatomy.part_of(parameter) for parameter, _ in module.named_parameters()}
    assert {"embeddings", "layer 0 attention", "layer 0 feed-forward"} <= parts


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MORE)
def test_cut_equals_silenced_or_is_refused_with_the_reason_of_the_row(name, kind):
    tiny = MORE[name]
    module, silenced = tiny.make(), tiny.make()
    anatomy = anatomy_of(module)
    block = anatomy.blocks[-1].id
    found = [units for units in anatomy.units((kind,)) if units.where == block]
    if not found:
        with pytest.raises(UnsupportedModel) as refused:
            edit_of(kind, block, kept_of(kind)).apply(module)
        assert anatomy.row.without[kind] in str(refused.value)
        return
    kept = kept_of(kind, found[0].count)
    silence(silenced, found[0], kept)
    edit_of(kind, block, kept).apply(module)
    assert not torch.allclose(tiny.outputs(module), tiny.outputs(tiny.make()))
    torch.testing.assert_close(tiny.outputs(module), tiny.outputs(silenced), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MORE)
def test_layers_go_where_the_row_does_not_say_why_not(name):
    tiny = MORE[name]
    module, bypassed = tiny.make(), tiny.make()
    blocks = [block.id for block in anatomy_of(module).blocks]
    edit = KeepBlocks(blocks=(blocks[0], *blocks[2:]))
    if "layers" in anatomy_of(module).row.without:
        with pytest.raises(UnsupportedModel, match="cannot go: "):
            edit.apply(module)
        return
    wrap = (lambda states: (states,)) if name == "mpnet" else (lambda states: states)
    bypassed.get_submodule(blocks[1]).forward = lambda hidden_states, *_, **__: wrap(hidden_states)
    blueprint = blueprint_of(module).extended(edit)
    edit.apply(module)
    torch.testing.assert_close(tiny.outputs(module), tiny.outputs(bypassed))
    assert name in DRAWING or blueprint.plain_config(module) is not None


@pytest.mark.parametrize("name", MORE)
def test_masked_by_gates_equals_pruned_and_loads_again(name, tmp_path):
    tiny = MORE[name]
    model = Model.wrap(tiny.make())
    anatomy = anatomy_of(model.module)
    kinds = tuple(kind for kind in KINDS if anatomy.units((kind,)))
    gating = Gating(anatomy, kinds).eval()
    draw = torch.Generator().manual_seed(0)
    for place in gating.places:
        gating.gate(place).log_alpha.data = torch.randn(place.count, generator=draw)
        last = place.where == anatomy.blocks[-1].id and "attention" not in anatomy.row.without
        count = 0 if last and place.kind == "neurons" else max(1, place.count // 2)
        gating.keep({place: tuple(sorted(torch.randperm(place.count, generator=draw)[:count].tolist()))})
    with gating.attached(model.module):
        masked = tiny.outputs(model.module)
        gating.check_seen()
    small = pruned(model, gating)
    assert small.weights < model.weights
    torch.testing.assert_close(tiny.outputs(small.module), masked, rtol=1e-4, atol=1e-5)
    small.save(tmp_path / "small")
    assert torch.equal(tiny.outputs(Model.load(tmp_path / "small").module), tiny.outputs(small.module))


def test_fused_parts_count_once():
    fused = anatomy_of(MORE["modernbert"].make())
    module = MORE["modernbert"].make()
    heads, neurons = fused.units(("heads", "neurons"))[:2]
    assert (heads.writers, neurons.writers) == (("model.layers.0.attn.Wqkv",), ("model.layers.0.mlp.Wi",))
    assert (cost_of(module, heads).parameters, cost_of(module, neurons).parameters) == (4 * 8 * HIDDEN, 3 * HIDDEN)


def test_grouped_heads_are_units_together():
    anatomy = anatomy_of(MORE["qwen3"].make())
    groups = anatomy.units(("heads",))
    assert [(each.count, each.size) for each in groups] == [(2, 16)] * LAYERS
    whole = anatomy.units(("attention",))[0]
    module = MORE["qwen3"].make()
    assert cost_of(module, groups[0]).macs(10) * 2 == cost_of(module, whole).macs(10) == 10 * 3 * 32 * 32 + 2 * 100 * 32


def test_every_row_has_a_tiny_model():
    rows = {registry.load("anatomy", name).family for name in registry.names("anatomy")}
    assert {tiny.row for tiny in (ALL | MORE).values()} == rows
