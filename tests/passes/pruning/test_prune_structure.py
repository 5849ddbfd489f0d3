from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from transformers import BertConfig, BertForSequenceClassification, ViTConfig, ViTForImageClassification

from compressor.contracts import Event, Outputs, Workload
from compressor.contracts.notes import Bars, Note, Remark, Table
from compressor.errors import CompressorError, UnsupportedModel
from compressor.model.anatomy import anatomy_of
from compressor.model.model import Model
from passes.pruning import ranking as removal
from passes.pruning.costs import macs_cost, weights_cost
from passes.pruning.importance import data_scores, magnitude_scores
from passes.pruning.prune_structure import PruneStructure
from passes.pruning.ranking import ladder, shed, uniform

LENGTH = 6


def bert(seed: int = 0, *, layers: int = 3) -> Model:
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=64,
        num_labels=3,
        max_position_embeddings=16,
    )
    module = BertForSequenceClassification(config).eval()
    for parameter in module.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return Model.wrap(module, {})


def vit() -> Model:
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, image_size=8, patch_size=4, num_labels=3
    )
    return Model.wrap(ViTForImageClassification(config).eval(), {})


def rows(count: int = 24) -> datasets.Dataset:
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(1, 50, (count, LENGTH), generator=draw).tolist()
    masks = [[1] * (LENGTH - row % 3) + [0] * (row % 3) for row in range(count)]
    return datasets.Dataset.from_dict({"input_ids": ids, "attention_mask": masks, "labels": [row % 3 for row in range(count)]})


class Task:
    """Rows that are tensors already, through the real model."""

    def batches(self, rows, files, *, batch_size, shuffle_seed=None):
        for at in range(0, len(rows), batch_size):
            yield {name: torch.tensor(values) for name, values in rows[at : at + batch_size].items()}

    def forward(self, module, batch, want=None):
        given = {name: tensor for name, tensor in batch.items() if name != "labels"}
        return Outputs(module(**given).logits, mask=batch.get("attention_mask"))

    def loss(self, outputs, batch):
        return torch.nn.functional.cross_entropy(outputs.logits, batch["labels"])


def milliseconds(model: Model) -> float:
    anatomy = anatomy_of(model.module)
    heads = [block.attention.heads if block.attention else 0 for block in anatomy.blocks]
    widths = [block.feed_forward.width if block.feed_forward else 0 for block in anatomy.blocks]
    return 1.0 + 0.4 * len(anatomy.blocks) + 0.5 * sum(heads) + 0.02 * sum(widths)


@dataclass(frozen=True)
class Context:
    folder: Path
    task: Any = field(default_factory=Task)
    data: Any = field(default_factory=lambda: SimpleNamespace(split=lambda name: {"train": rows()}[name]))
    seed: int = 0
    device: str = "cpu"
    dialect: None = None
    clock: Callable[[Model], float] = milliseconds
    notes: list[Note] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    measured: list[int] = field(default_factory=list)
    known: dict[str, Any] = field(default_factory=dict)

    def measure(self, models: Sequence[Model], target: str, workload: Workload) -> Sequence[float]:
        self.measured.append(len(models))
        return [self.clock(model) for model in models]

    def remember(self, what: Mapping[str, Any], make: Callable[[], Any]) -> Any:
        import json

        key = json.dumps(what, sort_keys=True)
        if key not in self.known:
            self.known[key] = json.dumps(make())
        return json.loads(self.known[key])

    def tell(self, event: Event) -> None:
        self.events.append(event)

    def note(self, note: Note) -> None:
        self.notes.append(note)


@pytest.fixture
def ctx(tmp_path):
    return Context(tmp_path)


def logits(model: Model) -> torch.Tensor:
    batch = next(Task().batches(rows(), None, batch_size=24))
    with torch.no_grad():
        return Task().forward(model.module, batch).logits


def counts(model: Model) -> list[tuple[int, int]]:
    blocks = anatomy_of(model.module).blocks
    return [(block.attention.heads, block.feed_forward.width) for block in blocks if block.attention and block.feed_forward]


def unplugged(model: Model, *, heads: Mapping[int, Sequence[int]], neurons: Mapping[int, Sequence[int]]) -> Model:
    """The same model with the columns that read these units set to zero: units that make no difference."""
    model = model.copy()
    for at, block in enumerate(anatomy_of(model.module).blocks):
        output = model.module.get_submodule(block.attention.output).weight.data
        down = model.module.get_submodule(block.feed_forward.down).weight.data
        for head in heads.get(at, ()):
            output[:, head * 8 : head * 8 + 8] = 0
        down[:, list(neurons.get(at, ()))] = 0
    return model


# ------------------------------------------------------------------ removal


def test_ladder_removes_the_least_important_first_and_keeps_multiples():
    rungs = ladder("neurons", "b", [5, 1, 4, 2, 3, 9, 8, 7, 6, 0], round_to=4, least=1)
    assert rungs.rungs == ((9, 1), (3, 4, 2, 0))
    assert [rungs.count(taken) for taken in range(3)] == [10, 8, 4]
    assert rungs.kept(1) == (0, 2, 3, 4, 5, 6, 7, 8)
    assert rungs.importance == (1.0, 14.0)


def test_ladder_leaves_the_least_number():
    assert ladder("heads", "b", [1.0, 2.0, 3.0], least=2).rungs == ((0,),)
    assert ladder("heads", "b", [1.0, 2.0], least=0).count(2) == 0
    assert ladder("neurons", "b", [1.0] * 8, round_to=16).rungs == ()


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.lists(st.floats(0, 10), min_size=2, max_size=9), min_size=1, max_size=5), st.floats(0, 1))
def test_shed_meets_the_budget_or_takes_all_and_never_more_than_one_step_too_much(scores, fraction):
    ladders = [ladder("heads", str(at), values) for at, values in enumerate(scores)]

    def cost(each, count):
        return (1.0 + int(each.block)) * count

    possible = removal.total(ladders, cost, [0] * len(ladders)) - removal.total(
        ladders, cost, [len(each.rungs) for each in ladders]
    )
    full = removal.total(ladders, cost, [0] * len(ladders))
    excess = fraction * 1.2 * possible
    saved = full - removal.total(ladders, cost, shed(ladders, cost, excess))
    assert saved >= min(excess, possible) - 1e-6
    assert saved <= excess + len(ladders) + 1e-6


def test_shed_takes_what_is_cheap_for_its_importance():
    cheap, dear = ladder("heads", "cheap", [2.0, 2.0, 9.0]), ladder("heads", "dear", [1.0, 1.0, 9.0])
    assert shed([cheap, dear], lambda each, count: count * (4.0 if each.block == "cheap" else 1.0), 8.0) == (2, 0)


def test_shed_looks_beyond_a_flat_stretch_of_the_cost():
    stepped = ladder("heads", "a", [1.0] * 4)
    even = ladder("heads", "b", [1.0] * 4)
    steps = {4: 10.0, 3: 10.0, 2: 2.0, 1: 2.0, 0: 0.0}
    assert shed([stepped, even], lambda each, count: steps[count] if each.block == "a" else count * 2.5, 5.0) == (2, 0)


def test_uniform_keeps_the_same_share_everywhere():
    ladders = [ladder("heads", "a", [3.0, 1.0, 2.0, 4.0]), ladder("heads", "b", [0.1, 0.1, 0.1, 0.1])]
    assert uniform(ladders, lambda _, count: float(count), 3.0) == (2, 2)


# ------------------------------------------------------------------ importance


def by_place(scores):
    return {(units.kind, units.where): values for units, values in scores.items()}


@pytest.mark.parametrize("importance", ["taylor", "activation"])
def test_importance_is_zero_for_units_that_nothing_reads(importance):
    model = unplugged(bert(), heads={0: [2], 1: [0, 3]}, neurons={2: range(5, 25)})
    module, anatomy = model.module, anatomy_of(model.module)
    batches = Task().batches(rows(), None, batch_size=8)
    scores = data_scores(module, anatomy, ("heads", "neurons"), importance=importance, task=Task(), batches=batches)
    blocks = [block.id for block in anatomy.blocks]
    silent = [
        (kind, blocks.index(block), unit)
        for (kind, block), values in by_place(scores).items()
        for unit, value in enumerate(values)
        if value < 1e-9
    ]
    assert silent == [("heads", 0, 2), ("heads", 1, 0), ("heads", 1, 3), *(("neurons", 2, unit) for unit in range(5, 25))]


def test_taylor_is_the_slope_of_each_rows_loss_along_the_gate():
    model = bert()
    anatomy = anatomy_of(model.module)
    batch = next(Task().batches(rows(4), None, batch_size=4))
    scores = by_place(data_scores(model.module, anatomy, ("heads", "neurons"), importance="taylor", task=Task(), batches=[batch]))

    def losses(path: str, columns: slice, gate: float) -> torch.Tensor:
        gated = model.copy()
        gated.module.double().get_submodule(path).weight.data[:, columns] *= gate
        with torch.no_grad():
            outputs = Task().forward(gated.module, batch)
        return torch.nn.functional.cross_entropy(outputs.logits, batch["labels"], reduction="none")

    step = 1e-4
    for kind, path, columns, unit in [
        ("heads", anatomy.blocks[1].attention.output, slice(8, 16), 1),
        ("neurons", anatomy.blocks[2].feed_forward.down, slice(7, 8), 7),
    ]:
        block = anatomy.blocks[1 if kind == "heads" else 2].id
        slope = (losses(path, columns, 1 + step) - losses(path, columns, 1 - step)) / (2 * step)
        assert scores[kind, block][unit] == pytest.approx(slope.abs().mean().item(), rel=1e-3)


def test_activation_does_not_see_padding():
    model = bert()
    anatomy = anatomy_of(model.module)
    short = next(Task().batches(rows(3), None, batch_size=3))
    padded = {name: torch.nn.functional.pad(given, (0, 4)) if given.ndim == 2 else given for name, given in short.items()}
    one, other = (
        data_scores(model.module, anatomy, ("heads", "neurons"), importance="activation", task=Task(), batches=[batch])
        for batch in (short, padded)
    )
    for place, values in one.items():
        assert other[place] == pytest.approx(values, rel=1e-4)


def test_activation_of_a_layer_that_changes_nothing_is_zero():
    model = vit()
    anatomy = anatomy_of(model.module)
    for path in (anatomy.blocks[1].attention.output, anatomy.blocks[1].feed_forward.down):
        for parameter in model.module.get_submodule(path).parameters():
            parameter.data.zero_()
    task = Task()
    batch = {"pixel_values": torch.randn(4, 3, 8, 8), "labels": torch.tensor([0, 1, 2, 0])}
    for importance in ("activation", "taylor"):
        (scores,) = data_scores(model.module, anatomy, ("layers",), importance=importance, task=task, batches=[batch]).values()
        assert scores[1] == pytest.approx(0.0, abs=1e-6)
        assert scores[0] > 1e-4


def test_magnitude_finds_units_with_small_weights():
    model = bert()
    anatomy = anatomy_of(model.module)
    attention, inner = anatomy.blocks[1].attention, anatomy.blocks[1].feed_forward
    for path in (attention.query, attention.key, attention.value):
        model.module.get_submodule(path).weight.data[8:16] *= 0.01
    model.module.get_submodule(attention.output).weight.data[:, 8:16] *= 0.01
    model.module.get_submodule(inner.up).weight.data[30] *= 0.01
    model.module.get_submodule(inner.down).weight.data[:, 30] *= 0.01
    scores = by_place(magnitude_scores(model.module, anatomy, ("heads", "neurons", "layers")))
    heads, neurons = scores["heads", anatomy.blocks[1].id], scores["neurons", anatomy.blocks[1].id]
    assert heads.index(min(heads)) == 1
    assert neurons.index(min(neurons)) == 30
    assert sum(heads) / len(heads) == pytest.approx(1.0)


# ------------------------------------------------------------------ the pass


@pytest.mark.parametrize("importance", ["magnitude", "taylor", "activation", "random"])
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_pruned_model_equals_the_masked_one(ctx, importance, scope):
    model = bert()
    before = logits(model)
    pruned = PruneStructure(keep=0.5, importance=importance, scope=scope, round_to=8).apply(model, ctx)
    removed_heads, removed_neurons = {}, {}
    for edit in pruned.edits:
        at = int(edit.block.rsplit(".", 1)[1])
        if edit.kind == "keep-heads":
            removed_heads[at] = [head for head in range(4) if head not in edit.heads]
        else:
            removed_neurons[at] = [neuron for neuron in range(64) if neuron not in edit.neurons]
    masked = unplugged(model, heads=removed_heads, neurons=removed_neurons)
    torch.testing.assert_close(logits(pruned), logits(masked), rtol=1e-4, atol=1e-5)
    assert torch.equal(logits(model), before)
    assert all(width % 8 == 0 and heads >= 1 for heads, width in counts(pruned))
    if scope == "layer":
        assert counts(pruned) == [(2, 32)] * 3


@pytest.mark.parametrize("importance", ["taylor", "activation"])
def test_units_that_do_nothing_are_the_ones_that_go(ctx, importance):
    dead = {0: range(48), 1: range(16, 64), 2: range(8, 56)}
    model = unplugged(bert(), heads={0: [1, 2, 3], 1: [0, 1, 3], 2: [2]}, neurons=dead)
    pruned = PruneStructure(keep={"heads": 5 / 12, "neurons": 0.25}, importance=importance).apply(model, ctx)
    assert counts(pruned) == [(1, 16), (1, 16), (3, 16)]
    torch.testing.assert_close(logits(pruned), logits(model), rtol=1e-4, atol=1e-5)


def test_keep_by_kind_rounds_to_the_nearest(ctx):
    model = bert()
    pruned = PruneStructure(keep={"heads": 0.55, "neurons": 0.3}, scope="layer", importance="magnitude", round_to=16).apply(
        model, ctx
    )
    assert counts(pruned) == [(2, 16)] * 3


@pytest.mark.parametrize("limit", [0.9, 30_000])
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_budget_in_parameters_is_met_closely(ctx, limit, scope):
    model = bert()
    pruned = PruneStructure(parameters=limit, importance="magnitude", scope=scope, round_to=8).apply(model, ctx)
    goal = limit * model.weights if limit < 1 else limit
    assert pruned.weights <= goal
    assert pruned.weights > goal - (2500 if scope == "global" else 8000)


@pytest.mark.parametrize("importance", ["taylor", "random"])
def test_widths_are_met_block_by_block_down_to_none(ctx, importance):
    pruned = PruneStructure(widths={"heads": (0, 4, 1), "neurons": (64, 0, 7)}, importance=importance).apply(bert(), ctx)
    blocks = anatomy_of(pruned.module).blocks
    assert [block.attention.heads if block.attention else 0 for block in blocks] == [0, 4, 1]
    assert [block.feed_forward.width if block.feed_forward else 0 for block in blocks] == [64, 0, 7]


def test_widths_of_one_kind_leave_the_other_alone(ctx):
    assert counts(PruneStructure(widths={"heads": (1, 2, 3)}).apply(bert(), ctx)) == [(1, 64), (2, 64), (3, 64)]


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ({"heads": (1, 1)}, "has 2 numbers, the model has heads in 3 blocks"),
        ({"heads": (1, 5, 1)}, "5 are to stay in .*which has 4"),
    ],
)
def test_widths_that_do_not_fit_are_refused(ctx, widths, message):
    with pytest.raises(CompressorError, match=message):
        PruneStructure(widths=widths, importance="random").apply(bert(), ctx)


def test_cost_in_parameters_is_what_the_model_really_loses(ctx):
    model = bert()
    cost = weights_cost(model.module, anatomy_of(model.module))
    pruned = PruneStructure(keep=0.6, importance="random", round_to=8).apply(model, ctx)
    lost = 0.0
    for block, (heads, width) in zip(anatomy_of(model.module).blocks, counts(pruned), strict=True):
        for kind, before, after in (("heads", 4, heads), ("neurons", 64, width)):
            each = ladder(kind, block.id, [0.0] * before)
            lost += cost(each, before) - cost(each, after)
    assert model.weights - pruned.weights == pytest.approx(lost)


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_budget_in_macs_is_met(ctx, scope):
    model = bert()
    pruned = PruneStructure(macs=0.5, importance="magnitude", scope=scope, round_to=4, tokens=16).apply(model, ctx)

    def macs(given: Model) -> float:
        return sum(16 * (4 * 32 * 8 * heads + 2 * 32 * width) + 2 * 16**2 * 8 * heads for heads, width in counts(given))

    anatomy = anatomy_of(model.module)
    cost = macs_cost(model.module, anatomy, tokens=16)
    assert cost(ladder("layers", "", [0.0] * 3), 3) == pytest.approx(macs(model))
    assert macs(pruned) <= 0.5 * macs(model)
    assert macs(pruned) > 0.35 * macs(model)


def test_layers_that_do_nothing_are_the_ones_that_go(ctx):
    model = bert(layers=4)
    block = anatomy_of(model.module).blocks[2]
    for path in (block.attention.output, block.feed_forward.down):
        for parameter in model.module.get_submodule(path).parameters():
            parameter.data.zero_()
    pruned = PruneStructure(units=("layers",), keep=0.75, importance="activation").apply(model, ctx)
    assert [edit.blocks for edit in pruned.edits] == [tuple(f"bert.encoder.layer.{at}" for at in (0, 1, 3))]


@pytest.mark.parametrize("importance", ["magnitude", "taylor", "random"])
def test_layers_heads_and_neurons_go_with_a_share_of_each(ctx, importance):
    step = PruneStructure(keep={"heads": 0.5, "layers": 0.5, "neurons": 0.5}, scope="layer", importance=importance)
    assert counts(step.apply(bert(layers=4), ctx)) == [(2, 32)] * 2


def test_vision_model_is_pruned_too(ctx):
    pruned = PruneStructure(keep=0.5, importance="magnitude", scope="layer").apply(vit(), ctx)
    assert counts(pruned) == [(2, 32)] * 2


def test_notes_show_widths_counts_and_importance(ctx):
    PruneStructure(keep=0.5, importance="magnitude").apply(bert(), ctx)
    remark, table, heads, neurons = ctx.notes
    assert isinstance(remark, Remark)
    assert "of 12 heads" in remark.text
    assert isinstance(table, Table)
    assert table.columns == ("block", "kind", "before", "after")
    assert isinstance(heads, Bars)
    assert len(heads.values) == 12
    assert set(heads.marked) < set(heads.values)
    assert isinstance(neurons, Bars)
    assert list(neurons.values) == ["layer 0", "layer 1", "layer 2"]


# ------------------------------------------------------------------ latency


def latency(**changes: Any) -> PruneStructure:
    budget = {"target": "cpu", "ratio": 0.5, **changes.pop("latency", {})}
    return PruneStructure.model_validate({"importance": "magnitude", "round_to": 8, "latency": budget, **changes})


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_latency_budget_is_met_where_the_table_is_right(ctx, scope):
    model = bert()
    pruned = latency(scope=scope).apply(model, ctx)
    assert milliseconds(pruned) <= 0.5 * milliseconds(model) * 1.001
    assert milliseconds(pruned) > 0.5 * milliseconds(model) * (0.9 if scope == "global" else 0.7)
    assert "is met" in next(note.text for note in ctx.notes if isinstance(note, Remark))


def test_latency_budget_is_corrected_when_the_outcome_misses_the_prediction(tmp_path):
    def clock(model: Model) -> float:
        # together the two save less than each alone, which a table of one kind at a time cannot show
        heads, widths = (sum(each) for each in zip(*counts(model), strict=True))
        return 1 + 0.5 * heads + 0.02 * widths + 0.1 * (12 - heads) * (192 - widths) / 48

    ctx = Context(tmp_path, clock=clock)
    model = bert()
    pruned = latency(latency={"ratio": 0.6}).apply(model, ctx)
    assert clock(pruned) <= 0.6 * clock(model) * 1.05
    assert len(ctx.measured) > 2


def test_latency_budget_in_milliseconds_is_met(ctx):
    assert milliseconds(latency(latency={"ratio": None, "ms": 7.0}).apply(bert(), ctx)) <= 7.0 * 1.05


def test_latency_of_decoding_is_that_of_a_token(tmp_path):
    asked = []

    class Timed(Context):
        def measure(self, models, target, workload):
            asked.append(workload)
            return [workload.steps * each for each in super().measure(models, target, workload)]

    ctx, decode = Timed(tmp_path), {"kind": "decode", "steps": 4, "length": 64}
    pruned = latency(latency={"ratio": None, "ms": 7.0, **decode}).apply(bert(), ctx)
    assert 7.0 * 0.9 < milliseconds(pruned) <= 7.0 * 1.05
    assert {str(each) for each in asked} == {"decode, batch 1, length 64, 4 steps"}
    (table,) = (note for note in ctx.notes if isinstance(note, Table) and note.title.startswith("Latency"))
    assert table.columns == ("kind", "left", "ms a token")
    first = len(ctx.measured)
    latency(latency={"ratio": 0.6, "length": 64, "kind": "prefill"}).apply(
        bert(), Context(tmp_path, known=ctx.known, measured=ctx.measured)
    )
    assert ctx.measured[first] == ctx.measured[0], "a table of another kind of call is another table"
    with pytest.raises(ValidationError, match="nothing would heed steps, as forward is one call"):
        latency(latency={"steps": 4})


def test_latency_of_layers_is_met(ctx):
    pruned = latency(units=("layers",), latency={"ratio": 0.6}).apply(bert(layers=4), ctx)
    assert len(counts(pruned)) == 2


def test_latency_table_is_measured_once(ctx):
    latency().apply(bert(), ctx)
    first = list(ctx.measured)
    assert first[0] == 7
    latency().apply(bert(seed=1), ctx)
    assert ctx.measured[len(first) :] == [2]


def test_latency_budget_out_of_reach_is_refused_with_the_figures(ctx):
    with pytest.raises(CompressorError, match=r"cannot be met on cpu: 0\.5 ms is the goal, 12 ms"):
        latency(latency={"ratio": None, "ms": 0.5}).apply(bert(), ctx)


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "exactly one of keep, parameters, macs, latency and widths, found none"),
        ('{"keep": 0.5, "macs": 0.5}', "found keep and macs"),
        ('{"keep": 1.5}', "less than 1"),
        ('{"keep": {"hads": 0.5}}', "'heads', 'neurons' or 'layers'"),
        ('{"units": ["heads"], "keep": {"neurons": 0.5}}', "leave `units` out"),
        ('{"units": ["heads", "layers"], "keep": 0.5}', "only with a share of each"),
        ('{"units": ["heads", "heads"], "keep": 0.5}', "names a kind twice"),
        ('{"parameters": 1.5}', "a fraction below 1 or a whole number"),
        ('{"latency": {"target": "cpu"}}', "either `ratio` or `ms`"),
        ('{"latency": {"target": "cpu", "ratio": 0.5, "ms": 3}}', "either `ratio` or `ms`"),
        ('{"units": ["heads"], "widths": {"heads": [1]}}', "leave units out"),
        ('{"widths": {}}', "at least 1"),
        ('{"keep": 0.5, "importence": "taylor"}', "Extra inputs"),
    ],
)
def test_parameters_that_contradict_each_other_are_refused(text, message):
    with pytest.raises(ValidationError, match=message):
        PruneStructure.model_validate_json(text, strict=True)


def test_plan_values_are_read_strictly():
    text = '{"units": ["heads"], "latency": {"target": "cpu", "ratio": 0.5, "batch": 8}}'
    step = PruneStructure.model_validate_json(text, strict=True)
    assert step.units == ("heads",)
    assert step.needs().targets == ("cpu",)


def test_budget_out_of_reach_is_refused_with_the_figures(ctx):
    with pytest.raises(CompressorError, match="parameters cannot come down to 100"):
        PruneStructure(parameters=100, importance="magnitude").apply(bert(), ctx)


def test_model_without_such_units_is_refused(ctx):
    model = bert(layers=1)
    bare = PruneStructure(units=("heads",), keep=0.1, min_heads=0, importance="magnitude").apply(model, ctx)
    with pytest.raises(UnsupportedModel, match="has no heads to remove"):
        PruneStructure(units=("heads",), keep=0.5, importance="magnitude").apply(bare, ctx)
