"""Gates over every family: what is cut away computes what the masks did, and has the size that the formula says."""

from __future__ import annotations

import random
from functools import cache

import pytest
import torch
import transformers
from families import ALL, FAMILIES
from torch.utils.flop_counter import FlopCounterMode
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from compressor.errors import UnsupportedModel
from compressor.model.anatomy import anatomy_of
from compressor.model.edits import KeepChannels, LiftLength
from compressor.model.model import Model
from passes.gating.expected_size import multiply_accumulates, parameters
from passes.gating.gates import Gate
from passes.gating.gating import Gating, edits, masks_after_training, pruned

UNITS = ("heads", "neurons")
SUB_LAYERS = ("attention", "feed-forward")
TOKENS = 9


def gated(module, kinds, *, seed, zero=False):
    """Gates whose choice is random, in float64; with `zero` about half of the places in blocks have none left."""
    torch.manual_seed(seed)
    draw = random.Random(seed)
    gating = Gating(anatomy_of(module), kinds).double().eval()
    for place in gating.places:
        gate = gating.gate(place)
        gate.log_alpha.data = torch.randn(place.count, dtype=torch.float64)
        none = zero and place.kind != "channels" and draw.random() < 0.5
        count = 0 if none else draw.randint(1, place.count)
        gate.keep(torch.tensor(sorted(draw.sample(range(place.count), count)), dtype=torch.long))
    return gating


def kinds_of(module, kinds):
    return (*kinds, "channels") if anatomy_of(module).extractor else kinds


def outputs(tiny, module):
    given = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in tiny.inputs().items()}
    with torch.no_grad():
        found = module(**given)
    return found.logits if "logits" in found else found.last_hidden_state


def scope(module, anatomy, places):
    """Number of the parameters that the formula counts, found by name."""
    prefixes = [anatomy.stack]
    if any(place.kind == "channels" for place in places):
        prefixes += [path for each in anatomy.extractor for path in (each.conv, each.norm, each.through, each.reader) if path]
    return sum(
        tensor.numel() for name, tensor in module.named_parameters() if name.startswith(tuple(f"{each}." for each in prefixes))
    )


@pytest.mark.parametrize("zero", [False, True], ids=["some", "none"])
@pytest.mark.parametrize("kinds", [UNITS, SUB_LAYERS, (*UNITS, *SUB_LAYERS)], ids=["units", "sub-layers", "both"])
@pytest.mark.parametrize("name", ALL)
def test_what_is_cut_away_computes_what_the_masks_did(name, kinds, zero):
    for seed in range(3):
        module = ALL[name].make(seed).double()
        gating = gated(module, kinds_of(module, kinds), seed=seed, zero=zero)
        small = pruned(Model.wrap(module), gating)
        with gating.attached(module):
            expected = outputs(ALL[name], module)
            gating.check_seen()
        found = outputs(ALL[name], small.module.double())
        assert float((found - expected).abs().max() / expected.abs().max()) < 1e-10
        assert float((outputs(ALL[name], module) - expected).abs().max()) > 1e-6, "the masks do nothing"


@pytest.mark.parametrize("zero", [False, True], ids=["some", "none"])
@pytest.mark.parametrize("kinds", [UNITS, SUB_LAYERS, (*UNITS, *SUB_LAYERS)], ids=["units", "sub-layers", "both"])
@pytest.mark.parametrize("name", ALL)
def test_formula_is_the_real_number_of_parameters(name, kinds, zero):
    for seed in range(5):
        module = ALL[name].make()
        gating = gated(module, kinds_of(module, kinds), seed=seed, zero=zero)
        check_formula(module, gating)


def check_formula(module, gating):
    anatomy = anatomy_of(module)
    formula = parameters(module, anatomy, gating.places)
    assert formula.whole == scope(module, anatomy, gating.places)
    counts = [float((mask > 0).sum()) for mask in masks_after_training(gating).values()]
    for edit in edits(gating):
        edit.apply(module)
    assert formula.of(counts) == scope(module, anatomy, gating.places)


REAL = {
    "bert-base": lambda: transformers.BertModel(transformers.BertConfig()),
    "minilm": lambda: transformers.BertModel(
        transformers.BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
    ),
    "vit-base": lambda: transformers.ViTModel(transformers.ViTConfig()),
    "dinov2-small": lambda: transformers.Dinov2Model(transformers.Dinov2Config(hidden_size=384, num_attention_heads=6)),
    "hubert-base": lambda: transformers.HubertModel(transformers.HubertConfig()),
    "wav2vec2-large": lambda: transformers.Wav2Vec2Model(
        transformers.Wav2Vec2Config(
            hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096,
            feat_extract_norm="layer", do_stable_layer_norm=True, conv_bias=True,
        )
    ),
    "whisper-tiny": lambda: WhisperEncoder(
        transformers.WhisperConfig(d_model=384, encoder_layers=4, encoder_attention_heads=6, encoder_ffn_dim=1536)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REAL)
def test_formula_holds_at_real_shapes(name):
    for seed in range(2):
        with torch.device("meta"):
            module = REAL[name]()
        gating = gated(module, kinds_of(module, UNITS), seed=seed, zero=True)
        check_formula(module, gating)


def test_whisper_tiny_has_the_layers_that_the_paper_of_its_model_says():
    with torch.device("meta"):
        module = REAL["whisper-tiny"]()
    anatomy = anatomy_of(module)
    assert parameters(module, anatomy, Gating(anatomy, UNITS).places).whole == 7_096_320


def one_row(tiny, module):
    """One row; of sounds just as much as makes so many tokens."""
    given = {name: tensor[:1] for name, tensor in tiny.inputs().items()}
    if "input_values" in given:
        lengths = module._get_feat_extract_output_lengths
        samples = next(samples for samples in range(1, 10_000) if int(lengths(samples)) == TOKENS)
        return {"input_values": torch.randn(1, samples)}, TOKENS
    if "input_features" in given:
        return {"input_features": given["input_features"][..., : 2 * TOKENS - 1]}, TOKENS
    if "input_ids" in given:
        return given, given["input_ids"].shape[1]
    return given, tokens_of(module, given)


def tokens_of(module, given):
    seen = []
    first = module.get_submodule(anatomy_of(module).blocks[0].id)
    handle = first.register_forward_pre_hook(
        lambda _, args, named: seen.append((args or tuple(named.values()))[0]), with_kwargs=True
    )
    with torch.no_grad():
        module(**given)
    handle.remove()
    return seen[0].shape[1]


def counted(module, given):
    module.config._attn_implementation = "eager"  # the counter does not see into the fused kernel of processors
    module.requires_grad_(False)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(**given)
    return counter.get_total_flops() / 2


def free(name, seed):
    """A model that takes inputs of any length."""
    model = Model.wrap(ALL[name].make(seed))
    if anatomy_of(model.module).family == "whisper-encoder":
        model.apply(LiftLength())
    model.module.eval()
    return model


@cache
def counted_whole(name):
    """One row, its tokens, and what a whole model does with it, whatever its weights are."""
    module = free(name, 0).module
    given, tokens = one_row(ALL[name], module)
    return given, tokens, counted(module, given)


@pytest.mark.parametrize("zero", [False, True], ids=["some", "none"])
@pytest.mark.parametrize("kinds", [UNITS, SUB_LAYERS, (*UNITS, *SUB_LAYERS)], ids=["units", "sub-layers", "both"])
@pytest.mark.parametrize("name", ALL)
def test_formula_saves_what_a_counter_sees_go(name, kinds, zero):
    for seed in range(3):
        model = free(name, seed)
        module = model.module
        given, tokens, before = counted_whole(name)
        gating = gated(module, kinds_of(module, kinds), seed=seed, zero=zero)
        formula = multiply_accumulates(module, anatomy_of(module), gating.places, tokens=tokens)
        counts = [float((mask > 0).sum()) for mask in masks_after_training(gating).values()]
        small = pruned(model, gating).module.float().eval()
        after = counted(small, given)
        assert formula.of([float(place.count) for place in gating.places]) == pytest.approx(formula.whole)
        assert 0 < formula.whole <= before
        assert formula.whole - formula.of(counts) == pytest.approx(before - after)


def test_expected_size_is_the_mean_size_of_sampled_models():
    module = FAMILIES["hubert"].make()
    anatomy = anatomy_of(module)
    torch.manual_seed(0)
    gating = Gating(anatomy, ("heads", "neurons", "channels"))
    for place in gating.places:
        gating.gate(place).log_alpha.data = torch.randn(place.count)
    formula = parameters(module, anatomy, gating.places)
    with torch.no_grad():
        drawn = [[float((gating.gate(place).sample() > 0).sum()) for place in gating.places] for _ in range(1000)]
        expected = float(formula.of(gating.expected()))
    sizes = [formula.of(counts) for counts in drawn]
    spread = torch.tensor(sizes).std() / len(sizes) ** 0.5
    assert abs(sum(sizes) / len(sizes) - expected) < 4 * spread


def test_masks_are_drawn_anew_in_each_forward_pass_and_leave_the_model_alone():
    tiny = FAMILIES["bert"]
    module = tiny.make()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    plain = tiny.outputs(module)
    gating = Gating(anatomy_of(module), UNITS)
    with gating.attached(module):
        one, two = tiny.outputs(module), tiny.outputs(module)
        assert not torch.equal(one, two)
        gating.eval()
        assert torch.equal(tiny.outputs(module), tiny.outputs(module))
    assert torch.equal(tiny.outputs(module), plain)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_pruning_a_pruned_model_again_keeps_its_scale():
    tiny = FAMILIES["hubert"]
    module = tiny.make().double()
    once = pruned(Model.wrap(module), gated(module, ("channels",), seed=1))
    gating = gated(once.module.double(), ("channels", *UNITS), seed=2)
    twice = pruned(once, gating)
    with gating.attached(once.module):
        expected = outputs(tiny, once.module)
    assert float((outputs(tiny, twice.module.double()) - expected).abs().max()) < 1e-10
    check_formula(once.module, gating)


def test_pruned_model_is_saved_and_loaded_to_the_bit(tmp_path):
    tiny = FAMILIES["wav2vec2"]
    module = tiny.make()
    small = pruned(Model.wrap(module), gated(module, ("channels", *UNITS), seed=4, zero=True))
    small.save(tmp_path)
    assert torch.equal(tiny.outputs(Model.load(tmp_path).module), tiny.outputs(small.module))


def test_units_that_are_not_there_are_refused():
    module = FAMILIES["bert"].make()
    with pytest.raises(UnsupportedModel, match="this bert model has no channels to gate"):
        Gating(anatomy_of(module), ("heads", "channels"))


def test_convolution_without_channels_is_refused():
    module = FAMILIES["wav2vec2"].make()
    gating = gated(module, ("channels",), seed=0)
    gate = gating.gate(gating.places[0])
    assert isinstance(gate, Gate)
    gate.keep(torch.empty(0, dtype=torch.long))
    with pytest.raises(UnsupportedModel, match="would lose all its channels"):
        pruned(Model.wrap(module), gating)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"conv": "hubert.feature_extractor.conv_layers.7.conv", "channels": (0,)}, r"no convolution 'hubert.*did you mean"),
        ({"conv": "hubert.feature_extractor.conv_layers.0.conv", "channels": (16,)}, r"16 is out of range, there are 16"),
        ({"conv": "hubert.feature_extractor.conv_layers.0.conv", "channels": (1,), "scale": True}, "no norm comes after"),
    ],
)
def test_channels_that_cannot_be_kept_are_refused(edit, message):
    with pytest.raises(UnsupportedModel, match=message):
        KeepChannels(**edit).apply(FAMILIES["hubert"].make())
