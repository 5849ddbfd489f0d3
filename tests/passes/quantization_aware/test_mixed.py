"""Bits of layers: chosen exactly under a budget that is kept, narrowed in stages, and started block by block."""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from pydantic import ValidationError
from rounded_students import assert_alike, context, deployed, outputs, step, trained, wide
from tensor_rows import SPLITS, Context

from compressor.contracts import Dialect, Scheme
from compressor.contracts.notes import Remark, Series, Table
from compressor.errors import CompressorError, UnsupportedModel
from compressor.model.quantization.layers import quantized_layers
from passes.quantization_aware.blocks import BlockTraining, Line, start_by_blocks, start_rows
from passes.quantization_aware.mixed import ATTEMPTS, cheapest
from passes.quantization_aware.widths import at_least, planned
from targets.llama_cpp import LlamaCpp
from targets.onnxruntime import OnnxRuntime
from targets.openvino import OpenVino

STACK = "bert.encoder.layer"

# ------------------------------------------------------------------ the choice

ITEM = st.lists(st.tuples(st.integers(1, 60), st.integers(0, 1000)), min_size=1, max_size=3)


@given(st.lists(ITEM, min_size=1, max_size=6), st.integers(0, 240))
@settings(max_examples=150, deadline=None)
def test_the_cheapest_choice_keeps_the_budget_and_no_other_is_cheaper(items, room):
    sizes = [[size for size, _ in item] for item in items]
    costs = [[float(cost) for _, cost in item] for item in items]
    found = cheapest(sizes, costs, room)

    def told(choice):
        return (
            sum(cost[at] for cost, at in zip(costs, choice, strict=True)),
            sum(size[at] for size, at in zip(sizes, choice, strict=True)),
        )

    fitting = [told(choice) for choice in product(*(range(len(item)) for item in items)) if told(choice)[1] <= room]
    assert (found is None) == (not fitting)
    if found is not None:
        assert told(found) == min(fitting)


def bits_of(model):
    return {path: layer.weight_quantizer.grid.bits for path, layer in quantized_layers(model.module).items()}


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
    """Bytes of students whose layers all have 8 bits by group, and all 2."""
    folder = tmp_path_factory.mktemp("ends")
    return tuple(trained(folder / str(bits), epochs=1, weights=bits, granularity="group")[0].stored_bytes() for bits in (8, 2))


@pytest.mark.parametrize("share", [0.0, 0.5, 0.8, 1.0])
def test_budget_in_bytes_is_kept_by_the_stored_student(tmp_path, ends, share):
    most, least = ends
    budget = int(least + share * (most - least))
    one = {"granularity": "group", "mixed": {"widths": (8, 4, 2), "bytes": budget}}
    model, ctx = trained(tmp_path, epochs=1, **one)
    assert model.stored_bytes() <= budget
    found = {bits for path, bits in bits_of(model).items() if "embeddings" not in path}
    assert found == {0.0: {2}, 1.0: {8}}.get(share, found)
    assert len(found) > 1 or share in (0.0, 1.0)
    (table,) = (note for note in ctx.notes if isinstance(note, Table) and note.title.startswith("Bits chosen"))
    assert [row[1] for row in table.rows] == [str(bits_of(model)[row[0].split(", ")[0]]) for row in table.rows]
    assert all("[" in cell for row in table.rows for cell in row[3:])
    assert [note for note in ctx.notes if isinstance(note, Remark) and "fewest bits" in note.text]
    assert len({bits_of(model)[f"{STACK}.0.attention.self.{name}"] for name in ("query", "key", "value")}) == 1


def test_budget_that_cannot_be_kept_is_refused_with_the_least(tmp_path, ends):
    with pytest.raises(CompressorError, match=f"with the fewest bits it is {ends[1]:,} bytes"):
        trained(tmp_path, epochs=1, granularity="group", mixed={"widths": (8, 4, 2), "bytes": ends[1] - 1})


def test_budget_that_cannot_be_kept_is_refused_before_anything_is_measured(tmp_path):
    source = wide()
    ctx = context(tmp_path, source)
    with pytest.raises(CompressorError, match="cannot be kept"):
        step(mixed={"bytes": 1}).apply(source, ctx)
    assert not ctx.events


def test_layer_that_costs_more_gets_more_bits(tmp_path, ends):
    """One that its block's sum is made of loses most by few bits."""
    source = wide()
    loud = f"{STACK}.1.output.dense"
    source.module.get_submodule(loud).weight.data *= 20
    model, ctx = trained(
        tmp_path, source, epochs=1, granularity="group", mixed={"widths": (8, 4, 2), "bytes": int(1.15 * ends[1])}
    )
    found = bits_of(model)
    assert found[loud] == max(bits for path, bits in found.items() if "embeddings" not in path)
    assert any(loud in note.text for note in ctx.notes if isinstance(note, Remark))


@pytest.mark.parametrize("widths", [(8, 4), (4, 8)])
def test_bits_that_a_plan_names_are_those_of_all_that_read_the_tensor(tmp_path, widths):
    most = {"widths": widths, "bytes": 10**6}
    model, _ = trained(tmp_path, epochs=1, granularity="group", mixed=most, layer_bits={"attention.self.value": 2})
    found = bits_of(model)
    assert {found[f"{STACK}.{at}.attention.self.{name}"] for at in (0, 1) for name in ("query", "key", "value")} == {2}
    assert found[f"{STACK}.0.output.dense"] == 8
    with pytest.raises(CompressorError, match=r"layer_bits gives .* different bits"):
        trained(tmp_path, granularity="group", mixed=most, layer_bits={"self.value": 2, "self.key": 4})


def test_bytes_of_rows_that_groups_do_not_divide_are_those_of_the_file(tmp_path):
    """A file has whole groups: a budget counts what it fills them up with."""
    source = wide(hidden_size=48, intermediate_size=80)
    model, _ = trained(tmp_path, source, epochs=1, weights=4, granularity="group")
    _, built = deployed(model, OnnxRuntime(), tmp_path)
    graph = onnx.load(built / "model.onnx").graph
    sizes = {each.name: numpy_helper.to_array(each, str(built)).nbytes for each in graph.initializer}
    packed = {name for node in graph.node if node.op_type == "MatMulNBits" for name in node.input[1:3]}
    layers = {path: each for path, each in quantized_layers(model.module).items() if "embeddings" not in path}
    counted = sum(each.weight_quantizer.stored_bytes(each.weight) for each in layers.values())
    assert counted == sum(sizes[name] for name in packed)


def test_students_of_mixed_bits_are_deployed_as_they_were_trained(tmp_path, ends):
    model, _ = trained(tmp_path, epochs=1, mixed={"widths": (8, 4), "bytes": int(1.6 * ends[1])})
    assert {4, 8} <= set(bits_of(model).values())
    for target in (OnnxRuntime(), OpenVino()):
        assert_alike(deployed(model, target, tmp_path)[0], outputs(model))


class Clock:
    """Times by the bits of the weights, which a budget asks a target for."""

    def __init__(self, monkeypatch, slow=1.0):
        self.asked, self._kept, self.slow = 0, {}, slow
        monkeypatch.setattr(Context, "measure", lambda _ctx, *asked: self.measure(*asked), raising=False)
        monkeypatch.setattr(Context, "remember", lambda _ctx, what, make: self.remember(what, make), raising=False)

    def measure(self, models, target, workload):
        assert (target, workload.length) == ("cpu", 16)
        self.asked += 1
        return [self.time(model) for model in models]

    def time(self, model):
        layers = [layer for path, layer in quantized_layers(model.module).items() if "embeddings" not in path]
        if not layers:
            return 10.0
        sizes = [layer.weight.numel() * int(layer.weight_quantizer.grid.bits) for layer in layers]
        mixed = len({layer.weight_quantizer.grid.bits for layer in layers}) > 1
        return (self.slow if mixed else 1.0) * sum(sizes) / sum(layer.weight.numel() for layer in layers)

    def remember(self, what, make):
        if repr(what) not in self._kept:
            self._kept[repr(what)] = make()
        return self._kept[repr(what)]


@pytest.mark.parametrize(("budget", "most"), [({"ms": 5.4}, 5.4), ({"ratio": 0.55}, 5.5)])
@pytest.mark.parametrize("slow", [1.0, 1.2])
def test_budget_in_milliseconds_is_kept_as_measured(tmp_path, monkeypatch, budget, most, slow):
    """A mix that is slower than the forecast is measured, and mended."""
    source = wide()
    ctx = context(tmp_path, source)
    clock = Clock(monkeypatch, slow)
    latency = {"target": "cpu", "length": 16, **budget}
    model = step(epochs=1, granularity="group", mixed={"widths": (8, 4, 2), "latency": latency}).apply(source, ctx)
    assert clock.time(model) <= most
    assert len({bits for path, bits in bits_of(model).items() if "embeddings" not in path}) > 1


def test_equal_bits_that_keep_a_budget_are_taken_where_no_mix_does(tmp_path, monkeypatch):
    source = wide()
    ctx = context(tmp_path, source)
    clock = Clock(monkeypatch, slow=3.0)
    latency = {"target": "cpu", "length": 16, "ms": 5.0}
    model = step(epochs=1, granularity="group", mixed={"widths": (8, 4, 2), "latency": latency}).apply(source, ctx)
    assert clock.time(model) <= 5.0
    assert {bits for path, bits in bits_of(model).items() if "embeddings" not in path} == {4}, "the cheapest that does"


def test_budget_in_milliseconds_that_nothing_keeps_is_refused(tmp_path, monkeypatch):
    source = wide()
    ctx = context(tmp_path, source)
    clock = Clock(monkeypatch)
    one = step(epochs=1, granularity="group", mixed={"latency": {"target": "cpu", "length": 16, "ms": 3.0}})
    with pytest.raises(CompressorError, match="3 ms cannot be kept: the fastest of the choices that were measured takes 4"):
        one.apply(source, ctx)
    assert clock.asked <= 2 + ATTEMPTS


def test_only_widths_with_kernels_on_the_targets_can_be_chosen():
    one = step(mixed={"widths": (8, 4, 2), "bytes": 10**6}, granularity="group")
    assert one.refuses(OnnxRuntime.dialect) == {}
    assert "int2 weights" in one.refuses(LlamaCpp.dialect)["mixed"]
    four = Dialect(format="onnx", schemes=(Scheme("int4", "int8", "group", 32, dynamic=True),))
    assert set(one.refuses(four)) == {"mixed"}


# ------------------------------------------------------------------ bits of a plan


def test_bits_of_layers_are_those_of_the_longest_part_that_is_named(tmp_path):
    paths = ("a.query", "a.key", "b.query")
    assert planned(paths, 4, {"a.": 8, "a.query": 2}) == {"a.query": 2, "a.key": 8, "b.query": 4}
    for order in (("layer", "query"), ("query", "layer")):  # plans that differ in order alone share a stored result
        others = {part: {"layer": 8, "query": 2}[part] for part in order}
        assert planned(["layer.query"], 4, others) == {"layer.query": 2}
    assert at_least({"a": 2, "b": "ternary", "c": 8}, 4) == {"a": 4, "b": 4, "c": 8}
    model, _ = trained(
        tmp_path,
        epochs=1,
        weights=4,
        granularity="group",
        layer_bits={"layer.1": 8, "layer.1.output": "ternary"},
        step_sizes="mean",
    )
    found = bits_of(model)
    assert found[f"{STACK}.0.output.dense"] == 4
    assert found[f"{STACK}.1.intermediate.dense"] == 8
    assert found[f"{STACK}.1.output.dense"] == "ternary"
    assert_alike(deployed(model, OnnxRuntime(), tmp_path)[0], outputs(model))


def test_layers_that_read_one_tensor_may_have_different_bits(tmp_path):
    model, _ = trained(tmp_path, epochs=1, weights=4, layer_bits={"attention.self.value": 8})
    found = bits_of(model)
    assert (found[f"{STACK}.0.attention.self.query"], found[f"{STACK}.0.attention.self.value"]) == (4, 8)
    assert_alike(deployed(model, OnnxRuntime(), tmp_path)[0], outputs(model))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"mixed": {"widths": [8, 4]}}, "mixed needs either `bytes` or `latency`"),
        ({"mixed": {"widths": [8, 8], "bytes": 10}}, "widths names one twice"),
        ({"weights": 4, "mixed": {"bytes": 10}}, "nothing would heed weights"),
        ({"mixed": {"latency": {"target": "cpu", "ms": 1.0, "points": 2}}}, "nothing would heed points"),
        ({"weights": 4, "progressive": [4]}, "progressive names falling bits"),
        ({"weights": 2, "progressive": [4, 8]}, "progressive names falling bits"),
        ({"layer_bits": {"query": 5}}, "layer_bits"),
    ],
)
def test_bits_that_do_not_go_together_are_refused(given, said):
    with pytest.raises(ValidationError, match=said):
        step(**given)


def test_what_a_stage_alone_heeds_can_be_said():
    """Eight bits have static activations, which four have not."""
    with pytest.raises(ValidationError, match="nothing would heed calibration"):
        step(weights=4, calibration=64)
    assert step(weights=4, progressive=[8], calibration=64).calibration == 64


def test_layer_bits_that_name_nothing_are_refused_with_the_nearest_name(tmp_path):
    with pytest.raises(UnsupportedModel, match=r"layer_bits: no layer has 'qurey' in its path \(did you mean 'query'"):
        trained(tmp_path, layer_bits={"qurey": 4})


# ------------------------------------------------------------------ stages


def test_bits_fall_in_stages_that_share_the_steps(tmp_path):
    model, ctx = trained(tmp_path, weights=2, progressive=[8, 4])
    assert {bits for path, bits in bits_of(model).items() if "embeddings" not in path} == {2}
    curves = {
        note.title: note.curves["soft-targets"] for note in ctx.notes if isinstance(note, Series) and "Losses" in note.title
    }
    assert [len(curve) for curve in curves.values()] == [9, 9, 9]
    assert [title.split("(")[0] for title in curves] == [
        "Losses by weight, 8 bits or more ",
        "Losses by weight, 4 bits or more ",
        "Losses by weight ",
    ]
    other, _ = trained(tmp_path / "at once", weights=2)
    assert not np.array_equal(outputs(model), outputs(other))
    assert len(model.edits) == len(other.edits), "no trace of the stages"
    assert_alike(deployed(model, OnnxRuntime(), tmp_path)[0], outputs(model))


def test_each_stage_rounds_to_its_own_bits(tmp_path):
    """Where nothing is learned and nothing dropped, a stage's losses are what its bits cost."""
    source = wide(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    _, ctx = trained(tmp_path, source, weights=2, progressive=[8, 4], learning_rate=1e-9)
    curves = [note.curves["soft-targets"] for note in ctx.notes if isinstance(note, Series) and "Losses" in note.title]
    eight, four, two = (np.mean([loss for _, loss in curve]) for curve in curves)
    assert 0 < 4 * eight < four < two / 4


# ------------------------------------------------------------------ block by block


def test_a_line_of_blocks_computes_what_the_model_does():
    source = wide(num_hidden_layers=3)
    batch = {name: torch.tensor(SPLITS["train"][:4][name]) for name in ("input_ids", "attention_mask")}
    from rounded_students import Task

    line = Line.of(source.module, Task(), batch)
    states, mask = line.entering(batch), None
    with torch.no_grad():
        for path in line.blocks:
            states, mask = line.through(path, batch, states)
        expected = source.module.bert(**batch).last_hidden_state
    torch.testing.assert_close(states, expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(mask, batch["attention_mask"])
    assert not [each for each in line.blocks if "forward" in vars(source.module.get_submodule(each))], "all is as it was"


def test_block_by_block_start_brings_each_block_nearer(tmp_path):
    model, ctx = trained(tmp_path, weights=2, block_wise=40, epochs=9, learning_rate=3e-3)
    (curves,) = (note.curves for note in ctx.notes if isinstance(note, Series) and note.title.startswith("Block by block"))
    assert list(curves) == ["0", "1"]
    for curve in curves.values():
        values = [loss for _, loss in curve]
        assert sum(values[-3:]) < 0.9 * sum(values[:3])
    steps = 81 // 5
    assert {len(curve) for curve in curves.values()} == {steps}
    assert_alike(deployed(model, OnnxRuntime(), tmp_path)[0], outputs(model))


def test_rows_of_the_start_are_spread_over_all_training_rows(tmp_path):
    """The first ones alone may be all of one kind."""
    ctx = context(tmp_path)
    rows = [ids for batch in start_rows(wide(), BlockTraining(step(), 27, 12, 1e-3), ctx) for ids in batch["input_ids"].tolist()]
    assert rows == SPLITS["train"].select(range(0, 36, 3))[:]["input_ids"]


def test_cost_of_the_start_is_two_forward_passes_and_a_fifth_of_the_steps(tmp_path, monkeypatch):
    """Blocks that compute are counted; those that hand on what they read cost nothing."""
    counted = SimpleNamespace(forward=0, trained=0)
    from transformers.models.bert.modeling_bert import BertLayer

    plain = BertLayer.forward

    def counting(self, *args, **named):
        kind = "trained" if torch.is_grad_enabled() else "forward"
        setattr(counted, kind, getattr(counted, kind) + 1)
        return plain(self, *args, **named)

    source = wide()
    ctx, one = context(tmp_path, source), step(weights=4, block_wise=40)
    placement, widths = one._placed(source, ctx)
    student = one._rounded(source, placement, widths)
    monkeypatch.setattr(BertLayer, "forward", counting)
    start_by_blocks(student, source, BlockTraining(one, 27, 40, 1e-3), ctx)
    batches, blocks = 9, 2
    assert counted.forward == 2 * blocks * (batches + 1), "and one batch that shows how blocks are called"
    assert counted.trained == blocks * (27 // 5)


def test_start_is_refused_where_blocks_cannot_be_run_one_by_one():
    from families import MORE
    from rounded_students import Task

    for family, said in (("albert", "not called once each, in order"), ("wavlm", "hand on more than states")):
        with pytest.raises(UnsupportedModel, match=said):
            Line.of(MORE[family].make().eval(), Task(), MORE[family].inputs())
