"""Grids are exact, gradients pass straight through where nothing is cut off, steps learn as LSQ says, and the edit puts it all into layers."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from families import ALL, MORE
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tensor_rows import Rows, bert

from compressor.contracts import Scheme
from compressor.deploy.packing import packed, packed_zeros
from compressor.errors import UnsupportedModel
from compressor.model.edits import KeepHeads, KeepNeurons
from compressor.model.model import Model
from compressor.model.quantization.grids import InputGrid, WeightGrid, scheme_of
from compressor.model.quantization.layers import InputQuantizer, QuantizedLinear, WeightQuantizer, quantized_layers, quantizers
from compressor.model.quantization.quantize import Quantize
from compressor.model.quantization.rounding import (
    CLIP,
    THRESHOLD,
    Rounded,
    integers,
    number_of_steps,
    rounded_rows,
    rounded_weights,
    started,
    within,
)

few = settings(max_examples=25, deadline=None, derandomize=True)
GRIDS = [
    WeightGrid(bits=bits, granularity=by, group=32 if by == "group" else None, steps=steps, symmetric=symmetric)
    for bits in (8, 7, 4, 3, 2, "ternary")
    for by in ("tensor", "channel", "group")
    for steps in ("max", "mean", "learned")
    for symmetric in (True, False)
    if not (bits == "ternary" and steps == "max") and (symmetric or steps == "max")
]


def drawn(seed: int, *shape: int, scale: float = 0.1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def learned(weight: torch.Tensor, grid: WeightGrid) -> torch.Tensor | None:
    return started(weight, grid) if grid.steps == "learned" else None


# ------------------------------------------------------------------ grids


@pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: grid.told())
def test_weights_stand_on_their_grid_exactly(grid):
    weight = drawn(0, 6, 80)
    weight[2] = 0.0  # any step has a row of zeros
    logs = learned(weight, grid)
    rounded, found = rounded_weights(weight, grid, logs), integers(weight, grid, logs)
    low, high = grid.bounds
    assert (found.whole.min() >= low, found.whole.max() <= high) == (True, True)
    steps = found.step.repeat_interleave(grid.group or weight.shape[1], dim=1)[:, : weight.shape[1]]
    zeros = 0 if found.zero is None else found.zero.repeat_interleave(grid.group or weight.shape[1], dim=1)[:, : weight.shape[1]]
    assert torch.equal(rounded, (found.whole - zeros) * steps)
    assert rounded[2].eq(0).all(), "zero is on every grid"
    assert found.step.numel() == number_of_steps((6, 80), grid)
    if grid.steps == "max":
        half = 0.5 if grid.symmetric else 1.0  # the zero point is rounded too
        assert ((rounded - weight).abs() <= half * steps * (1 + 1e-5)).all()
    assert torch.equal(rounded_weights(torch.zeros(6, 80), grid, logs), torch.zeros(6, 80))


@few
@given(st.integers(0, 10_000))
def test_ternary_weights_have_the_best_step_of_their_support(seed):
    weight = drawn(seed, 4, 96)
    grid = WeightGrid(bits="ternary", granularity="channel", steps="mean")
    rounded, found = rounded_weights(weight, grid), integers(weight, grid)
    for row, values, step in zip(weight, rounded, found.step[:, 0], strict=True):
        assert set(values.unique().tolist()) <= {-step.item(), 0.0, step.item()}
        support = row.abs() > THRESHOLD * row.abs().mean()
        assert torch.equal(values != 0, support)
        signs = row.sign() * support
        best = (row * signs).sum() / signs.square().sum()  # least squares
        torch.testing.assert_close(step, best)
        error = (row - values).square().sum()
        assert all((row - other * signs).square().sum() >= error - 1e-9 for other in (0.9 * step, 1.1 * step))


@few
@given(st.integers(0, 10_000), st.sampled_from([None, 32]))
def test_rows_of_activations_have_a_step_each(seed, block):
    x = drawn(seed, 3, 5, 80, scale=1.0)
    x[0, 0] *= 1000
    grid = InputGrid(ranges="dynamic", block=block)
    found = rounded_rows(x, grid)
    for row, rounded in zip(x.reshape(-1, 80), found.reshape(-1, 80), strict=True):
        for at in range(0, 80, block or 80):
            part, is_ = row[at : at + (block or 80)], rounded[at : at + (block or 80)]
            step = part.abs().max() / 127
            torch.testing.assert_close(is_, (part / step).round() * step, rtol=0, atol=1e-6 * float(part.abs().max()))
    assert rounded_rows(torch.zeros(2, 80), grid).eq(0).all()


def test_packed_weights_come_back():
    draw = np.random.default_rng(0)
    for bits in (8, 4, 2):
        middle = 2 ** (bits - 1)
        whole = draw.integers(-middle, middle, (5, 70)).astype(np.int8)
        bytes_ = packed(whole, bits, 32)
        assert bytes_.shape == (5, 3, 32 * bits // 8)
        flat = (
            np.stack([(bytes_ >> shift) & (2**bits - 1) for shift in range(0, 8, bits)], -1).reshape(5, -1).astype(int) - middle
        )
        assert np.array_equal(flat[:, :70], whole)
        assert (flat[:, 70:] == 0).all(), "what fills a row up adds nothing"
        zero = draw.integers(-middle, middle, (5, 3))
        lifted = packed_zeros(zero.astype(np.float32), bits).reshape(5, -1)
        back = (
            np.stack([(lifted >> shift) & (2**bits - 1) for shift in range(0, 8, bits)], -1).reshape(5, -1).astype(int) - middle
        )
        assert np.array_equal(back[:, :3], zero)


@pytest.mark.parametrize(
    ("kind", "given", "said"),
    [
        (WeightGrid, {"granularity": "group"}, "group goes with"),
        (WeightGrid, {"bits": "ternary"}, "ternary weights have steps"),
        (WeightGrid, {"symmetric": False, "steps": "learned"}, "has steps: max"),
        (InputGrid, {"block": 32}, "block goes with"),
        (InputGrid, {"ranges": "dynamic", "symmetric": False}, "dynamic ranges are symmetric"),
    ],
)
def test_grids_that_cannot_be_are_refused(kind, given, said):
    with pytest.raises(ValidationError, match=said):
        kind(**given)


# ------------------------------------------------------------------ gradients


def surrogate(x: torch.Tensor, step: torch.Tensor, at: torch.Tensor, low: int, high: int) -> torch.Tensor:
    """What LSQ differentiates: the rounding error stays what it is at a step, `at`; what is cut off is the end of the grid."""
    scaled, there = x / step, x / at
    inside = (there >= low) & (there <= high)
    return torch.where(inside, scaled + there.round() - there, there.round().clamp(low, high)) * step


@few
@given(st.integers(0, 10_000), st.sampled_from([(-8, 7), (-1, 1), (-128, 127)]))
def test_gradient_of_a_learned_step_is_that_of_finite_differences(seed, bounds):
    x = drawn(seed, 200, scale=1.0).double()
    towards = drawn(seed + 1, 200).double()
    step = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    (Rounded.apply(x, step, None, *bounds, 0.25) * towards).sum().backward()
    tiny = 1e-7
    ends = [(surrogate(x, step.detach() + sign * tiny, step.detach(), *bounds) * towards).sum() for sign in (1, -1)]
    assert step.grad.item() == pytest.approx(0.25 * (ends[0] - ends[1]).item() / (2 * tiny), rel=1e-5, abs=1e-6)


def test_steps_of_pact_learn_from_what_is_cut_off_alone():
    """The gradient of where a grid cuts, `step * high`, is the sum of the gradients above it, less that below."""
    x = torch.tensor([-3.0, -0.5, 0.2, 0.65, 0.9, 4.0], dtype=torch.float64)
    towards = torch.tensor([1.0, 10.0, 100.0, 1000.0, 1e4, 1e5], dtype=torch.float64)
    step = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    (Rounded.apply(x, step, None, -7, 7, 1.0, True) * towards).sum().backward()
    assert step.grad.item() / 7 == pytest.approx(1e4 + 1e5 - 1.0)


def test_gradient_passes_where_nothing_is_cut_off():
    x = torch.tensor([-2.0, -0.81, -0.79, 0.0, 0.3, 0.69, 0.71, 2.0], requires_grad=True)
    Rounded.apply(x, torch.tensor(0.1), None, -8, 7, 1.0).sum().backward()
    assert x.grad.tolist() == [0, 0, 1, 1, 1, 1, 0, 0]
    above = torch.tensor([-0.21, -0.19, 1.29, 1.31], requires_grad=True)
    Rounded.apply(above, torch.tensor(0.1), torch.tensor(-6.0), -8, 7, 1.0).sum().backward()
    assert above.grad.tolist() == [0, 1, 1, 0], "a zero point moves the ends"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("ends", [(-128.0, 127.0), (-CLIP, CLIP), (0.0, 15.0)])
def test_ends_of_an_interval_belong_to_it_and_the_next_numbers_do_not(ends, dtype):
    low, high = (torch.tensor(end, dtype=dtype) for end in ends)
    infinity = torch.tensor(math.inf, dtype=dtype)
    outside = torch.nextafter(low, -infinity), torch.nextafter(high, infinity), -infinity, infinity
    x = torch.stack([low, high, (low + high) / 2, *outside])
    values = torch.arange(1, 8, dtype=dtype)
    assert within(*ends, x, values).tolist() == [1, 2, 3, 0, 0, 0, 0]
    assert within(low, high, x, values).tolist() == [1, 2, 3, 0, 0, 0, 0]


def test_gradient_of_ternary_weights_ends_where_they_are_clipped():
    weight = torch.tensor([[0.1, -0.5, CLIP - 0.01, CLIP + 0.01]], requires_grad=True)
    rounded_weights(weight, WeightGrid(bits="ternary", steps="mean")).sum().backward()
    assert weight.grad.tolist() == [[1, 1, 1, 0]]


def test_gradient_of_the_greatest_weight_passes():
    weight = drawn(3, 5, 40).requires_grad_()
    rounded_weights(weight, WeightGrid(bits=4)).sum().backward()
    assert weight.grad.eq(1).all()


@pytest.mark.parametrize("bits", [4, 3, 2, "ternary"])
@pytest.mark.parametrize("group", [32, 64, 128])
def test_learned_steps_start_no_worse_than_any_other_step_of_the_same_grid(bits, group):
    """Neither than LSQ's own start, nor than the greatest magnitude as the last whole number, for any run of weights."""
    grid = WeightGrid(bits=bits, granularity="group", group=group, steps="learned")
    weight = drawn(3, 16, 256)
    weight[3, 5], weight[4] = 4.0, 0.0  # one that stands out, and runs of zeros
    runs = weight.reshape(-1, group)

    def off(steps: torch.Tensor) -> torch.Tensor:
        return (rounded_weights(weight, grid, torch.log(steps)) - weight).reshape(-1, group).square().sum(1)

    own = 2 * runs.abs().mean(1) / math.sqrt(grid.bounds[1])
    widest = runs.abs().amax(1) / grid.bounds[1]
    found = off(started(weight, grid).exp())
    for others in (own, widest, 0.8 * widest):
        assert (found <= off(others.clamp(min=1e-9)) * (1 + 1e-5)).all()
    if bits == 4:
        assert found.sum() < 0.5 * off(own.clamp(min=1e-9)).sum(), "LSQ's own is made for long trainings"


def test_learned_steps_move_towards_less_error():
    weight = drawn(0, 4, 64)
    grid = WeightGrid(bits=2, granularity="group", group=32, steps="learned")
    logs = torch.nn.Parameter(started(weight, grid) + 1.0)
    before = (rounded_weights(weight, grid, logs) - weight).square().sum().item()
    optimiser = torch.optim.Adam([logs], lr=0.02)
    for _ in range(100):
        optimiser.zero_grad()
        (rounded_weights(weight, grid, logs) - weight).square().sum().backward()
        optimiser.step()
    assert (rounded_weights(weight, grid, logs) - weight).square().sum().item() < 0.6 * before


# ------------------------------------------------------------------ the edit

FIRST = "bert.encoder.layer.0"
READ = tuple(f"{FIRST}.attention.self.{name}" for name in ("query", "key", "value"))


def quantised(model: Model, **given) -> Model:
    model.apply(
        Quantize(**{"layers": (READ, (f"{FIRST}.output.dense",)), "weights": WeightGrid(), "inputs": InputGrid(), **given})
    )
    for each in quantizers(model.module):
        if isinstance(each, InputQuantizer):
            each.start(-3.0, 3.0, 1.0)
    for layer in quantized_layers(model.module).values():
        layer.weight_quantizer.start(layer.weight)
    return model


def logits(model: Model) -> torch.Tensor:
    batch = {"input_ids": torch.arange(1, 13).reshape(2, 6), "attention_mask": torch.ones(2, 6, dtype=torch.long)}
    with torch.no_grad():
        return Rows().forward(model.module.eval(), batch).main


def test_layers_that_read_one_tensor_share_what_rounds_it(tmp_path):
    model = quantised(bert())
    layers = quantized_layers(model.module)
    assert set(layers) == {*READ, f"{FIRST}.output.dense"}
    assert len({id(layers[path].input_quantizer) for path in layers}) == 2
    model.save(tmp_path)
    again = quantized_layers(Model.load(tmp_path).module)
    assert len({id(again[path].input_quantizer) for path in again}) == 2
    assert isinstance(again[READ[0]], torch.nn.Linear)


def test_tensor_that_several_layers_read_is_rounded_once(monkeypatch):
    model, rounded = quantised(bert()), []
    on_grid = InputQuantizer._on_grid
    monkeypatch.setattr(InputQuantizer, "_on_grid", lambda self, x: rounded.append(x) or on_grid(self, x))
    first = logits(model)
    assert len(rounded) == 2, "one for queries, keys and values"
    assert torch.equal(logits(model), first)
    assert len(rounded) == 4
    shared = quantized_layers(model.module)[READ[0]].input_quantizer
    assert shared._rounded is None, "nothing is held after the last reader"
    x = torch.randn(2, 3, 32)
    one = shared(x)
    assert shared(x) is one
    assert torch.equal(shared(x.clone()), one), "another tensor is rounded by itself"
    assert torch.equal(shared(x), one)
    x.mul_(0.5)
    assert not torch.equal(shared(x), one), "and one that changed"
    assert model.copy().module.get_submodule(READ[0]).input_quantizer._rounded is None


def test_weights_that_stay_as_they_are_between_calls_without_gradients_are_rounded_once(monkeypatch):
    from compressor.model.quantization import layers

    weight, calls = torch.nn.Parameter(drawn(0, 8, 64)), []
    monkeypatch.setattr(layers, "rounded_weights", lambda *given: calls.append(1) or rounded_weights(*given))
    quantizer = WeightQuantizer(WeightGrid(bits=4, granularity="group", group=32, steps="learned"), weight)
    quantizer.start(weight)
    with torch.no_grad():
        assert quantizer(weight) is quantizer(weight)
    assert len(calls) == 1
    quantizer(weight).sum().backward()
    assert copy.deepcopy(quantizer)._rounded is None
    with torch.no_grad():
        quantizer(weight)
    assert len(calls) == 3


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("steps", ["learned", "max"])
def test_weights_that_were_kept_rounded_follow_what_changes_them(steps, fused):
    weight = torch.nn.Parameter(drawn(0, 8, 64))
    quantizer = WeightQuantizer(WeightGrid(bits=4, granularity="group", group=32, steps=steps), weight)
    quantizer.start(weight)
    parameters = [weight, *quantizer.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=0.05, fused=fused)

    def stands() -> bool:
        with torch.no_grad():
            return torch.equal(quantizer(weight), rounded_weights(weight, quantizer.grid, quantizer.log_step))

    assert stands()
    quantizer(weight).square().sum().backward()
    assert stands()
    optimizer.step()
    assert stands()
    optimizer.zero_grad()
    assert stands()
    with torch.no_grad():
        for each in parameters:
            each.add_(0.3)
            assert stands()
    weight.data = weight.data + 0.5
    assert stands()
    quantizer.double()
    weight.data = weight.data.double()
    assert stands()


def test_quantisers_that_are_off_are_the_identity():
    plain, model = bert(), quantised(bert())
    assert not torch.equal(logits(plain), logits(model))
    for each in quantizers(model.module):
        each.on = False
    assert torch.equal(logits(plain), logits(model))


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"inputs": None},
        {"inputs": InputGrid(symmetric=False, learned=False)},
        {
            "weights": WeightGrid(bits=2, granularity="group", group=16, steps="learned"),
            "inputs": InputGrid(ranges="dynamic", block=16),
        },
    ],
)
def test_quantised_model_comes_back_to_the_bit_and_says_how_small_it_is(tmp_path, given):
    model = quantised(bert(), **given)
    model.save(tmp_path / "a")
    again = Model.load(tmp_path / "a")
    again.save(tmp_path / "b")
    assert torch.equal(logits(model), logits(again))
    for name in ("model.safetensors", "blueprint.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    weights = [layer.weight.numel() for layer in quantized_layers(model.module).values()]
    bits = given.get("weights", WeightGrid()).stored_bits
    saved = bert().stored_bytes() - model.stored_bytes()
    assert saved == pytest.approx(sum(weights) * (32 - bits) / 8, rel=0.15)
    assert 0 < saved < sum(weights) * (32 - bits) / 8


def test_head_that_is_tied_to_its_table_is_rounded_as_the_table_is(tmp_path):
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(0)
    config = BertConfig(vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64)
    model = Model.wrap(BertForMaskedLM(config).eval())
    names = ("bert.embeddings.word_embeddings", "cls.predictions.decoder")
    model.apply(Quantize(layers=((names[0],),), weights=WeightGrid(bits=4)))
    model.apply(Quantize(layers=((names[1],),), weights=WeightGrid(bits=8), inputs=InputGrid()))
    model.save(tmp_path)
    for module in (model.module, Model.load(tmp_path).module):
        table, head = (module.get_submodule(name) for name in names)
        assert head.weight is table.weight
        assert head.weight_quantizer is table.weight_quantizer
        rows = table(torch.arange(50)[None])[0]
        assert torch.equal(rows, head.weight_quantizer(head.weight))
        assert head.stored_bytes() < 50 * 4 + 1 < table.stored_bytes()


def test_rows_of_a_table_are_rounded_each_by_itself():
    model = bert()
    table = "bert.embeddings.word_embeddings"
    whole = rounded_weights(model.module.get_submodule(table).weight.detach(), WeightGrid())
    model.apply(Quantize(layers=((table,),), weights=WeightGrid()))
    assert torch.equal(model.module.get_submodule(table)(torch.arange(50)), whole)


@pytest.mark.parametrize("family", sorted({**ALL, **MORE}))
def test_linear_layers_of_every_family_take_quantisers_on_meta_and_off(family, tmp_path):
    from passes.quantization_aware.choice import linear_layers, table_of

    tiny = {**ALL, **MORE}[family]
    module = tiny.make()
    chosen, _ = linear_layers(module, head=True, exclude=())
    model = Model.wrap(module)
    model.apply(Quantize(layers=tuple((path,) for path in chosen), weights=WeightGrid(), inputs=InputGrid(ranges="dynamic")))
    if table := table_of(module)[0]:
        model.apply(Quantize(layers=((table,),), weights=WeightGrid()))
    model.save(tmp_path)
    exact, found = tiny.outputs(tiny.make()), tiny.outputs(model.module)
    assert torch.equal(found, tiny.outputs(Model.load(tmp_path).module))
    assert (found - exact).square().mean().sqrt() < 0.1 * exact.std()


def test_what_the_edit_does_not_fit_is_refused():
    model = bert()
    for layers, more, said in [
        ((("bert.no",),), {}, "there is no layer 'bert.no'"),
        (((f"{FIRST}.output.LayerNorm",),), {}, "is LayerNorm"),
        ((READ, READ), {}, "named twice"),
        ((("bert.embeddings.word_embeddings",),), {"inputs": InputGrid()}, "reads no activations"),
    ]:
        with pytest.raises(UnsupportedModel, match=said):
            model.apply(Quantize(layers=layers, weights=WeightGrid(), **more))
    assert not quantized_layers(model.module)
    with pytest.raises(UnsupportedModel, match="is quantised already"):
        quantised(quantised(model))
    with pytest.raises(UnsupportedModel, match="cut the model before it is quantised"):
        quantised(bert(), layers=((f"{FIRST}.intermediate.dense",),)).apply(KeepNeurons(block=FIRST, neurons=(0, 1)))


def test_edit_that_is_refused_half_way_has_cut_nothing():
    for layer, edit in (
        ("output.dense", KeepNeurons(block=FIRST, neurons=(0, 1))),
        ("attention.output.dense", KeepHeads(block=FIRST, heads=(0,))),
    ):
        model = quantised(bert(), layers=((f"{FIRST}.{layer}",),))
        before = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
        with pytest.raises(UnsupportedModel, match=f"'{FIRST}.{layer}' is quantised"):
            model.apply(edit)
        after = model.module.state_dict()
        assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_scheme_says_what_kernels_are_needed():
    ternary = WeightGrid(bits="ternary", granularity="group", group=64, steps="mean")
    assert scheme_of(ternary, InputGrid(ranges="dynamic", block=64)) == Scheme("ternary", "int8", "group", 64, dynamic=True)
    assert scheme_of(WeightGrid(bits=3, granularity="channel", steps="learned"), None) == Scheme("int4", "fp32", "channel")
    assert Scheme("int8", "uint8").runs(Scheme("int8", "int8"))
    assert not Scheme("int8", "uint8").runs(Scheme("int8", "int8", dynamic=True))
    assert not Scheme("int4", "int8", "group", 32, dynamic=True).runs(Scheme("int4", "int8", "group", 64, dynamic=True))


def test_static_steps_start_by_what_passes():
    device = torch.device("cpu")
    symmetric = InputQuantizer(InputGrid(), device)
    symmetric.start(-1.0, 4.0, 0.5)
    assert symmetric.log_step.exp().item() == pytest.approx(4 / 127)
    zeroed = InputQuantizer(InputGrid(symmetric=False), device)
    zeroed.start(-1.0, 4.0, 0.5)
    assert (zeroed.log_step.exp().item(), zeroed.zero.item()) == (pytest.approx(5 / 255), -77)
    x = torch.tensor([0.0, -1.0, 4.0])
    assert torch.allclose(zeroed(x), x, atol=0.01)
    assert zeroed(x)[0] == 0
    few = InputQuantizer(InputGrid(bits=4), device)
    few.start(-1.0, 4.0, 0.5)
    assert few.log_step.exp().item() == pytest.approx(2 * 0.5 / math.sqrt(7))
    nothing = InputQuantizer(InputGrid(), device)
    nothing.start(0.0, 0.0, 0.0)
    assert nothing(torch.zeros(3)).eq(0).all()


def test_quantised_linear_keeps_double_precision():
    layer = torch.nn.Linear(4, 3).double()
    grid = WeightGrid()
    layer.__class__ = QuantizedLinear
    layer.weight_quantizer, layer.input_quantizer, layer.borrows = WeightQuantizer(grid, layer.weight), torch.nn.Identity(), False
    assert layer(torch.ones(2, 4, dtype=torch.float64)).dtype == torch.float64
