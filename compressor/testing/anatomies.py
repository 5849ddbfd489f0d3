"""What holds for anatomy rows: every path leads somewhere, sizes agree, and what is cut by them is what they say it is."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from compressor.contracts import registry
from compressor.contracts.anatomy import Anatomy, Attention, Block, FeedForward, Row
from compressor.model.anatomy import anatomy_of
from compressor.model.costs import matrix
from compressor.model.edits import KeepBlocks, KeepHeads, KeepNeurons
from compressor.tasks.tiny import shaken
from compressor.testing.subject import Subject, Unchecked

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

SMALL: dict[str, Any] = {
    "hidden_size": 32, "d_model": 32, "dim": 32, "embedding_size": 32,
    "num_hidden_layers": 2, "n_layers": 2, "encoder_layers": 2, "decoder_layers": 1,
    "num_attention_heads": 4, "n_heads": 4, "num_key_value_heads": 4, "head_dim": 8, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "intermediate_size": 64, "hidden_dim": 64, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64,
    "vocab_size": 64, "max_position_embeddings": 40, "image_size": 16, "patch_size": 8, "num_mel_bins": 8,
    "max_source_positions": 10, "max_target_positions": 8,
    "conv_dim": (16, 16), "conv_stride": (5, 2), "conv_kernel": (10, 3),
    "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
    "suppress_tokens": None, "begin_suppress_tokens": None,
}  # fmt: skip
"""Fields of configurations that say how large a model is, by every name that a family has for them."""
DENOISER: dict[str, Any] = {
    "num_attention_heads": 4, "attention_head_dim": 8, "in_channels": 1, "num_layers": 2, "sample_size": 8, "patch_size": 4,
    "num_embeds_ada_norm": 3, "norm_num_groups": 1,
}  # fmt: skip
"""Of a small transformer of diffusers that draws pictures of classes."""
CLOSE = 1e-4
MAPS = "attention maps"


def finds_its_parts(subject: Subject) -> None:
    """Blocks, projections, feed-forward, norms and embeddings are there, and their sizes agree with each other."""
    module = tiny_module(subject)
    row: Row = subject.plugin
    with subject.during("anatomy_of"):
        anatomy = anatomy_of(module)
    subject.require(anatomy.row is row, f"a model of type '{row.model_types[0]}' is read by the row of '{anatomy.family}'")
    config: Any = module.config
    layers = config[row.config_layers] if isinstance(config, Mapping) else getattr(config, row.config_layers)
    found = len(anatomy.blocks)
    subject.require(found == layers or "layers" in row.without, f"finds {found} blocks, the configuration says {layers}")
    subject.require(bool(anatomy.embeddings), "finds no embeddings")
    for block in anatomy.blocks:
        _check_block(subject, module, block)
    for name, _ in module.named_parameters():
        with subject.during(f"part_of('{name}')"):
            anatomy.part_of(name)


def cuts_what_it_says(subject: Subject) -> None:
    """Removing a head, a neuron or a block that adds nothing leaves the outputs as they were."""
    row: Row = subject.plugin
    module = tiny_module(subject)
    anatomy = anatomy_of(module)
    block = anatomy.blocks[-1]
    attention, feed_forward = block.attention, block.feed_forward
    assert attention is not None
    assert feed_forward is not None  # `finds_its_parts` says it better
    if anatomy.units(("heads",)) and attention.units > 1:
        size = attention.key_value_groups * attention.head_size
        head = slice(size, 2 * size)
        _zero(module, attention.output, head)
        _unchanged(subject, module, KeepHeads(block=block.id, heads=(0, *range(2, attention.units))), "a head")
    _zero(module, feed_forward.down, slice(1, 2))
    _unchanged(subject, module, KeepNeurons(block=block.id, neurons=(0, *range(2, feed_forward.width))), "a feed-forward neuron")
    if "layers" in row.without:
        return
    edit = KeepBlocks(blocks=(anatomy.blocks[0].id,))
    with subject.during("keeping one block"):
        edit.apply(module)
        outputs_of(module)
    subject.require(len(anatomy_of(module).blocks) == 1, f"{row.stack} has more than the one block that was kept")


def captures_its_blocks(subject: Subject) -> None:
    """Each block puts out hidden states `[B, T, D]`, and each attention module its maps `[B, H, T, T]`."""
    module: Any = tiny_module(subject)
    anatomy = anatomy_of(module)
    if "features" in anatomy.row.without:
        raise Unchecked(f"features: {anatomy.row.without['features']}")
    states, maps = _captured(module, anatomy)
    for block in anatomy.blocks:
        subject.require(block.id in states, f"{block.id} is not run")
        shape = tuple(states[block.id].shape)
        subject.require(
            len(shape) == 3 and shape[-1] == anatomy.hidden_size,
            f"{block.id} puts out {shape}, expected [B, T, {anatomy.hidden_size}]",
        )
        if MAPS in anatomy.row.without:
            continue
        assert block.attention is not None
        subject.require(block.id in maps, f"{block.attention.module} gives no attention maps as its second output")
        found = tuple(maps[block.id].shape)
        expected = (shape[0], block.attention.heads, shape[1], shape[1])
        subject.require(found == expected, f"{block.attention.module} gives maps of {found}, expected {expected}")


ANATOMY = (finds_its_parts, cuts_what_it_says, captures_its_blocks)


def tiny_module(subject: Subject) -> PreTrainedModel:
    """A random module of two blocks that the row is for: the encoder where there is a decoder too.

    Raises:
        Unchecked: the library has no such family, or it does not come in small by the usual names.
    """
    import transformers

    row: Row = subject.plugin
    model_type = row.model_types[0]
    denoiser: PreTrainedModel | None = _denoiser(model_type)
    if denoiser is not None:
        return denoiser
    try:
        stock = transformers.AutoConfig.for_model(model_type)
        config = transformers.AutoConfig.for_model(
            model_type, **{name: size for name, size in SMALL.items() if hasattr(stock, name)}
        )
        config._attn_implementation = "eager"  # the only one that hands out its maps
        auto: Any = transformers.AutoModel
        module: Any = shaken(lambda: auto.from_config(config))
        if config.is_encoder_decoder:
            module = module.get_encoder()
        outputs_of(module)
    except Exception as error:
        raise Unchecked(f"no tiny '{model_type}' can be made here ({type(error).__name__}: {error})") from error
    found: PreTrainedModel = module
    return found


def _denoiser(model_type: str) -> Any:
    """A random network that draws, of that class: of ours or of diffusers; None where neither has it."""
    ours = {cls.__name__: cls for cls in map(partial(registry.load, "network"), registry.names("network"))}
    if model_type in ours:
        return shaken(lambda: ours[model_type](**ours[model_type].examples[0]))
    try:
        import diffusers
    except ImportError:
        return None
    theirs = getattr(diffusers, model_type, None)
    return None if theirs is None else shaken(lambda: theirs(**DENOISER))


def outputs_of(module: Any) -> torch.Tensor:
    """The last hidden states of a module for made-up inputs; of one that draws, what it tells of noise."""
    import torch

    if isinstance(module.config, Mapping):
        return _told(module)
    with torch.no_grad():
        hidden: torch.Tensor = module(**_inputs(module)).last_hidden_state
    return hidden


def _told(module: Any) -> torch.Tensor:
    import torch

    from compressor.tasks.generation.description import facts_of, output_of

    shape, *_ = facts_of(module)
    sample = torch.linspace(-3, 30, 2 * math.prod(shape)).sin().reshape(2, *shape)
    with torch.no_grad():
        found: torch.Tensor = output_of(module, sample, torch.tensor([900.0, 20.0]), torch.tensor([0, 2]))
    return found


def _inputs(module: Any) -> dict[str, torch.Tensor]:
    import torch

    config, name = module.config, module.main_input_name
    if name == "input_ids":
        return {name: torch.arange(3, 19).reshape(2, 8)}
    shapes = {
        "pixel_values": (2, 3, SMALL["image_size"], SMALL["image_size"]),
        "input_values": (2, 400),
        "input_features": (2, SMALL["num_mel_bins"], 2 * getattr(config, "max_source_positions", 10)),
    }
    size = shapes[name]
    return {name: torch.linspace(-3, 30, torch.Size(size).numel()).sin().reshape(size)}


def _check_block(subject: Subject, module: PreTrainedModel, block: Block) -> None:
    subject.require(block.attention is not None, f"finds no attention in {block.id}")
    subject.require(block.feed_forward is not None, f"finds no feed-forward in {block.id}")
    assert block.attention is not None
    assert block.feed_forward is not None
    norms = len(subject.plugin.norms)
    subject.require(len(block.norms) == norms, f"finds {len(block.norms)} of the {norms} norms of {block.id}")
    _check_attention(subject, module, block.attention)
    _check_feed_forward(subject, module, block.feed_forward)


def _check_attention(subject: Subject, module: PreTrainedModel, attention: Attention) -> None:
    inner = attention.heads * attention.head_size
    sizes = {
        attention.query: (inner, None),
        attention.key: (inner // attention.key_value_groups, None),
        attention.value: (inner // attention.key_value_groups, None),
        attention.output: (None, inner),
    } | ({attention.query: (3 * inner, None)} if attention.query == attention.key else {})
    subject.require(attention.heads > 1, f"finds {attention.heads} heads in {attention.module}")
    _check_sizes(subject, module, sizes)


def _check_feed_forward(subject: Subject, module: PreTrainedModel, feed_forward: FeedForward) -> None:
    ups, width = [path for path in (feed_forward.up, feed_forward.gate) if path], feed_forward.width
    rows = 2 * width if feed_forward.up == feed_forward.gate else width
    _check_sizes(subject, module, {**dict.fromkeys(ups, (rows, None)), feed_forward.down: (None, width)})


def _check_sizes(subject: Subject, module: PreTrainedModel, sizes: dict[str, tuple[int | None, int | None]]) -> None:
    for path, expected in sizes.items():
        with subject.during(f"looking for {path}"):
            weight: Any = matrix(module.get_submodule(path))
        fits = weight.ndim == 2 and all(want in (None, size) for want, size in zip(expected, weight.shape, strict=True))
        subject.require(fits, f"{path} is of {tuple(weight.shape)}, expected {expected} (outputs, inputs)")


def _zero(module: PreTrainedModel, path: str, columns: slice) -> None:
    """Have some inputs of a linear layer add nothing."""
    import torch

    with torch.no_grad():
        matrix(module.get_submodule(path))[:, columns] = 0.0


def _unchanged(subject: Subject, module: PreTrainedModel, edit: KeepHeads | KeepNeurons, what: str) -> None:
    before, cut = outputs_of(module), copy.deepcopy(module)
    with subject.during(f"removing {what}"):
        edit.apply(cut)
        after = outputs_of(cut)
    error = float((after - before).abs().max() / before.abs().max())
    subject.require(error < CLOSE, f"removing {what} that adds nothing changes the outputs by {error:.2g} of the largest")


def _captured(module: Any, anatomy: Anatomy) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    from compressor.contracts import Outputs, Want
    from compressor.model.capture import captured

    blocks = tuple(block.id for block in anatomy.blocks)
    want = Want(hidden_states=blocks, attention_maps=() if MAPS in anatomy.row.without else blocks)
    with captured(module, want) as found:
        outputs_of(module)
    outputs = Outputs(next(iter(found.values())), found)
    return outputs.of("hidden-state"), outputs.of("attention-map")
