"""The edits that the built-in passes share: keep these heads, these feed-forward neurons, these channels, these blocks.

Indices and block ids are those of the module as the edit finds it, after the edits before it.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, NonNegativeInt

from compressor.contracts import Edit
from compressor.contracts.anatomy import Anatomy, Attention, Convolution, FeedForward
from compressor.errors import UnsupportedModel, did_you_mean
from compressor.model.anatomy import anatomy_of, outputs_of, trunk_config

if TYPE_CHECKING:
    from torch import nn

    from compressor.model.modules import Constant


def _ascending(indices: tuple[int, ...]) -> tuple[int, ...]:
    if list(indices) != sorted(set(indices)):
        raise ValueError(f"indices must ascend without repeats, got {indices}")
    return indices


Indices = Annotated[tuple[NonNegativeInt, ...], AfterValidator(_ascending)]


class KeepHeads(Edit):
    """Keep these attention heads of one block, in their order; without any, the attention adds only its output bias.

    Where several heads share a key and a value they go together: the numbers are those of such groups.
    """

    kind: ClassVar[str] = "keep-heads"
    in_weights: ClassVar[bool] = True
    cuts: ClassVar[bool] = True
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"block": "bert.encoder.layer.0", "heads": (0, 2)},
        {"block": "bert.encoder.layer.1", "heads": ()},
    )

    block: str
    heads: Indices

    def apply(self, module: nn.Module) -> None:
        anatomy = anatomy_of(module)
        attention = anatomy.block(self.block).attention
        _check_allowed(anatomy, "heads" if self.heads else "attention")
        if attention is None:
            raise UnsupportedModel(f"{self.block} has no attention heads left to choose from")
        _check(self.heads, attention.units, f"heads of {self.block}")
        if self.heads:
            _slice_heads(module, attention, self.heads, anatomy.row.heads_attributes)
        else:
            _remove_attention(module, attention, anatomy)

    def describe(self) -> str:
        return f"{self.block}: keep {_count(self.heads, 'head')}"


class KeepNeurons(Edit):
    """Keep these inner neurons of one block's feed-forward, in their order; without any, it adds only its output bias."""

    kind: ClassVar[str] = "keep-neurons"
    in_weights: ClassVar[bool] = True
    cuts: ClassVar[bool] = True
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"block": "bert.encoder.layer.0", "neurons": tuple(range(0, 64, 3))},
        {"block": "bert.encoder.layer.1", "neurons": ()},
    )

    block: str
    neurons: Indices

    def apply(self, module: nn.Module) -> None:
        anatomy = anatomy_of(module)
        feed_forward = anatomy.block(self.block).feed_forward
        _check_allowed(anatomy, "neurons" if self.neurons else "feed-forward")
        if feed_forward is None:
            raise UnsupportedModel(f"{self.block} has no feed-forward neurons left to choose from")
        _check(self.neurons, feed_forward.width, f"neurons of {self.block}")
        if self.neurons:
            _slice_neurons(module, feed_forward, self.neurons)
        else:
            _remove_feed_forward(module, feed_forward)

    def describe(self) -> str:
        return f"{self.block}: keep {_count(self.neurons, 'feed-forward neuron')}"


class KeepChannels(Edit):
    """Keep these output channels of a convolution before the blocks, in their order, and the inputs that read them.

    With `scale`, a vector of ones comes before the norm that the channels pass: what a mask leaves of them is stored there.
    """

    kind: ClassVar[str] = "keep-channels"
    in_weights: ClassVar[bool] = True
    cuts: ClassVar[bool] = True
    tried_on: ClassVar[Literal["bert", "hubert", "whisper", "dit"]] = "hubert"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"conv": "hubert.feature_extractor.conv_layers.0.conv", "channels": (0, 2, 5)},
        {"conv": "hubert.feature_extractor.conv_layers.1.conv", "channels": (1, 3), "scale": True},
    )

    conv: str
    channels: Annotated[Indices, Field(min_length=1)]
    scale: bool = False

    def apply(self, module: nn.Module) -> None:
        anatomy = anatomy_of(module)
        known = [each.conv for each in anatomy.extractor]
        if self.conv not in known:
            raise UnsupportedModel(
                f"this {anatomy.family} model has no convolution '{self.conv}' whose channels can go{did_you_mean(self.conv, known)}"
            )
        found = anatomy.extractor[known.index(self.conv)]
        _check(self.channels, module.get_submodule(self.conv).get_parameter("weight").shape[0], f"channels of {self.conv}")
        if self.scale and found.through is None:
            raise UnsupportedModel(f"no norm comes after {self.conv}: there is no place for a scale")
        _slice_channels(module, found, self.channels)
        if self.scale:
            _scale(module, found, len(self.channels))

    def describe(self) -> str:
        return f"{self.conv}: keep {_count(self.channels, 'channel')}"


class KeepBlocks(Edit):
    """Keep these blocks of the stack, in their order, and number them anew."""

    kind: ClassVar[str] = "keep-blocks"
    in_weights: ClassVar[bool] = True
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({"blocks": ("bert.encoder.layer.1",)},)

    blocks: tuple[str, ...]

    def apply(self, module: nn.Module) -> None:
        anatomy = anatomy_of(module)
        _check_allowed(anatomy, "layers")
        order = [block.id for block in anatomy.blocks]
        kept = [order.index(anatomy.block(block).id) for block in self.blocks]
        if getattr(module, "depths", ()):
            raise UnsupportedModel("the network runs blocks by a schedule, which counts them: let blocks go before it has one")
        if not kept:
            raise UnsupportedModel(f"at least one of the {len(order)} blocks of {anatomy.stack} must stay")
        if kept != sorted(set(kept)):
            raise UnsupportedModel(f"blocks must be kept in their order and once each, got {', '.join(self.blocks)}")
        _slice_stack(module, anatomy, kept)
        _cut_config(module, anatomy, kept)

    def describe(self) -> str:
        return f"keep {_count(self.blocks, 'block')}: {', '.join(block.rsplit('.', 1)[-1] for block in self.blocks)}"


class LiftLength(Edit):
    """Let a Whisper encoder take inputs of any length up to its positions, not of 30 seconds only."""

    kind: ClassVar[str] = "lift-length"
    in_weights: ClassVar[bool] = True
    tried_on: ClassVar[Literal["bert", "hubert", "whisper", "dit"]] = "whisper"

    def apply(self, module: nn.Module) -> None:
        from transformers.models.whisper.modeling_whisper import WhisperEncoder

        from compressor.model.whisper import WhisperEncoder as Free

        found = [part for part in module.modules() if type(part) is WhisperEncoder]
        if not found:
            raise UnsupportedModel("lift-length fits encoders of Whisper only, and there is none here that has its length fixed")
        for encoder in found:
            encoder.__class__ = Free

    def describe(self) -> str:
        return "take inputs of any length"


def _count(things: Sequence[object], name: str) -> str:
    return f"{len(things) or 'no'} {name}{'' if len(things) == 1 else 's'}"


def _check_allowed(anatomy: Anatomy, part: str) -> None:
    if part in anatomy.row.without:
        raise UnsupportedModel(f"{part} of a model of family {anatomy.family} cannot go: {anatomy.row.without[part]}")


def _check(indices: tuple[int, ...], count: int, what: str) -> None:
    if indices and indices[-1] >= count:
        raise UnsupportedModel(f"{what}: {indices[-1]} is out of range, there are {count} (0 to {count - 1})")


def _check_in_float(module: nn.Module, *paths: str) -> None:
    """Before the first of several layers is cut: an edit that is refused leaves the module as it was."""
    for path in paths:
        if hasattr(module.get_submodule(path), "weight_quantizer"):
            raise UnsupportedModel(
                f"'{path}' is quantised, and a quantised layer keeps its inputs and outputs: cut the model before it is quantised"
            )


# ------------------------------------------------------------------ heads


def _slice_heads(module: nn.Module, attention: Attention, heads: tuple[int, ...], attributes: tuple[str, ...]) -> None:
    _check_in_float(module, attention.query, attention.key, attention.value, attention.output)
    sizes = {attention.key: attention.head_size, attention.value: attention.head_size}
    sizes |= dict.fromkeys((attention.query, attention.output), attention.key_value_groups * attention.head_size)
    for path in dict.fromkeys((attention.query, attention.key, attention.value)):
        _keep(module.get_submodule(path), rows=_channels(heads, sizes[path]), of=sizes[path] * attention.units)
    channels = _channels(heads, sizes[attention.output])
    _keep(module.get_submodule(attention.output), columns=channels)
    core: Any = module.get_submodule(attention.module)
    for name in attributes:
        setattr(core, name, len(heads) * attention.key_value_groups)
    for name in ("all_head_size", "split_size"):
        if hasattr(core, name):
            setattr(core, name, len(channels))


def _channels(units: Sequence[int], size: int) -> list[int]:
    return [unit * size + channel for unit in units for channel in range(size)]


def _remove_attention(module: nn.Module, attention: Attention, anatomy: Anatomy) -> None:
    from compressor.model.modules import Narrow, NoHeads

    constant = _constant(module.get_submodule(attention.output))
    if not anatomy.row.attention:  # the block computes it: from one channel, and nobody reads what comes of that
        for path in dict.fromkeys((attention.query, attention.key, attention.value)):
            _put(module, path, Narrow())
        for name in anatomy.row.heads_attributes:
            setattr(module.get_submodule(attention.module), name, 1)
        _put(module, attention.output, constant)
    elif attention.output.startswith(f"{attention.module}."):
        _put(module, attention.module, NoHeads((attention.output[len(attention.module) + 1 :], constant)))
    else:
        _put(module, attention.output, constant)
        _put(module, attention.module, NoHeads())


# ------------------------------------------------------------------ neurons


def _slice_neurons(module: nn.Module, feed_forward: FeedForward, neurons: tuple[int, ...]) -> None:
    _check_in_float(module, *_ups(feed_forward), feed_forward.down)
    for path in _ups(feed_forward):
        _keep(module.get_submodule(path), rows=neurons, of=feed_forward.width)
    _keep(module.get_submodule(feed_forward.down), columns=neurons)


def _remove_feed_forward(module: nn.Module, feed_forward: FeedForward) -> None:
    from compressor.model.modules import Narrow

    _put(module, feed_forward.down, _constant(module.get_submodule(feed_forward.down)))
    ups = _ups(feed_forward)
    for path in ups:
        _put(module, path, Narrow(2 if feed_forward.gate is not None and len(ups) == 1 else 1))


def _ups(feed_forward: FeedForward) -> tuple[str, ...]:
    """What writes the neurons: one module where gate and values are one matrix."""
    return tuple(dict.fromkeys(path for path in (feed_forward.up, feed_forward.gate) if path is not None))


# ------------------------------------------------------------------ channels


def _slice_channels(module: nn.Module, found: Convolution, channels: tuple[int, ...]) -> None:
    _check_in_float(module, found.conv, found.reader)
    conv: Any = module.get_submodule(found.conv)
    _keep_convolution(conv, rows=channels)
    for path in (found.norm, found.through):
        if path is not None:
            _keep_norm(module.get_submodule(path), channels)
    reader: Any = module.get_submodule(found.reader)
    if hasattr(reader, "in_channels"):
        _keep_convolution(reader, columns=channels)
    else:
        _keep(reader, columns=channels)


def _keep_convolution(conv: Any, *, rows: Sequence[int] | None = None, columns: Sequence[int] | None = None) -> None:
    if rows is not None:
        _replace(conv, "weight", dim=0, kept=rows)
        if conv.bias is not None:
            _replace(conv, "bias", dim=0, kept=rows)
        conv.out_channels = len(rows)
    if columns is not None:
        _replace(conv, "weight", dim=1, kept=columns)
        conv.in_channels = len(columns)


def _keep_norm(norm: Any, channels: Sequence[int]) -> None:
    """A layer norm over the channels, one by channel, or one with a scale before it."""
    if hasattr(norm, "scale"):
        _replace(norm, "scale", dim=0, kept=channels)
        norm = norm.norm
    for name in ("weight", "bias"):
        _replace(norm, name, dim=0, kept=channels)
    if hasattr(norm, "num_groups"):
        norm.num_groups = norm.num_channels = len(channels)
    else:
        norm.normalized_shape = (len(channels),)


def _scale(module: nn.Module, found: Convolution, channels: int) -> None:
    from compressor.model.modules import ScaledNorm

    assert found.through is not None
    norm = module.get_submodule(found.through)
    if not isinstance(norm, ScaledNorm):
        _put(module, found.through, ScaledNorm(norm, channels))


# ------------------------------------------------------------------ blocks


def _slice_stack(module: Any, anatomy: Anatomy, kept: list[int]) -> None:
    from torch import nn

    stack = module.get_submodule(anatomy.stack)
    blocks = list(stack.children())
    for index, old in enumerate(kept):
        for part in blocks[old].modules():
            if getattr(part, "layer_idx", None) is not None:
                part.layer_idx = index
    _put(module, anatomy.stack, nn.ModuleList(blocks[old] for old in kept))
    owner = module.get_submodule(anatomy.stack.rpartition(".")[0])
    if hasattr(owner, "n_layers"):
        owner.n_layers = len(kept)
    # a weighted sum over hidden states has one weight for what enters the first block and one a block
    weights = getattr(module, "layer_weights", None)
    if weights is not None:
        _replace(module, "layer_weights", dim=0, kept=[0, *(old + 1 for old in kept)])


def _cut_config(module: Any, anatomy: Anatomy, kept: list[int]) -> None:
    config, name = trunk_config(module), anatomy.row.config_layers
    if isinstance(config, MutableMapping):  # a network's own
        config[name] = len(kept)
        return
    layer_types = getattr(config, "layer_types", None)
    if layer_types is not None and len(layer_types) == len(anatomy.blocks):
        config.layer_types = [layer_types[old] for old in kept]
    setattr(config, name, len(kept))
    if hasattr(config, "stage_names"):
        config.stage_names = config.stage_names[: len(kept) + 1]
        config.set_output_features_output_indices(out_features=None, out_indices=None)


# ------------------------------------------------------------------ tensors


def _keep(linear: Any, *, rows: Sequence[int] | None = None, columns: Sequence[int] | None = None, of: int = 0) -> None:
    """Slice a linear layer's outputs (`rows` of each run of `of`, as some layers are several in one) or its inputs in place."""
    inward, outward = (1, 0) if not hasattr(linear, "nf") else (0, 1)  # GPT-2 keeps its weights as [inputs, outputs]
    if rows is not None:
        every = [start + row for start in range(0, linear.weight.shape[outward], of) for row in rows]
        _replace(linear, "weight", dim=outward, kept=every)
        if linear.bias is not None:
            _replace(linear, "bias", dim=0, kept=every)
        setattr(linear, "nf" if outward else "out_features", len(every))
    if columns is not None:
        _replace(linear, "weight", dim=inward, kept=columns)
        setattr(linear, "nx" if outward else "in_features", len(columns))


def _replace(owner: nn.Module, name: str, *, dim: int, kept: Sequence[int]) -> None:
    import torch

    old = owner.get_parameter(name)
    index = torch.tensor(list(kept), dtype=torch.long, device=old.device)
    setattr(owner, name, torch.nn.Parameter(old.detach().index_select(dim, index), requires_grad=old.requires_grad))


def _constant(linear: Any) -> Constant:
    from compressor.model.modules import Constant

    return Constant(outputs_of(linear), linear.bias)


def _put(module: nn.Module, path: str, part: nn.Module) -> None:
    part.train(module.get_submodule(path).training)
    owner, _, name = path.rpartition(".")
    setattr(module.get_submodule(owner), name, part)
