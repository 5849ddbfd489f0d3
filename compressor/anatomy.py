"""Where the parts of a model are: blocks with their attention and feed-forward, embeddings, convolutions, norms and head.

Stock families are rows of a table; what differs from block to block (heads, widths) is read from the modules themselves.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from compressor import registry
from compressor.errors import UnsupportedModel, did_you_mean

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Attention:
    """Multi-head attention of one block; all paths lead from the root module."""

    module: str
    """What returns `(output, maps)`; it holds the projections, except that BERT keeps `output` beside it."""
    query: str
    key: str
    value: str
    output: str
    heads: int
    head_size: int
    key_value_groups: int = 1
    """Query heads that share one key and value head."""


@dataclass(frozen=True)
class FeedForward:
    """`down(act(up(x)))`, or `down(act(gate(x)) * up(x))` where there is a gate; paths lead from the root module."""

    up: str
    gate: str | None
    down: str
    width: int
    """Number of inner neurons."""


@dataclass(frozen=True)
class Block:
    """One layer of the stack. A sub-layer that has nothing left but its bias is None."""

    id: str
    """Path from the root module, as in `bert.encoder.layer.3`."""
    attention: Attention | None
    feed_forward: FeedForward | None
    norms: tuple[str, ...] = ()
    """Paths of the norm of the attention and of the norm of the feed-forward."""


@dataclass(frozen=True)
class Convolution:
    """A convolution before the blocks whose output channels only one other module reads; paths lead from the root module."""

    conv: str
    norm: str | None
    """Norm of its own output, before the activation."""
    reader: str
    """The convolution or the linear layer that reads the channels."""
    through: str | None = None
    """A norm over the channels that they pass on the way to the reader."""

    @property
    def entry(self) -> str:
        """The first module that the channels enter."""
        return self.through or self.reader


@dataclass(frozen=True)
class Anatomy:
    """The parts of one module, as paths from its root."""

    family: str
    stack: str
    """Path of the `ModuleList` of the blocks."""
    blocks: tuple[Block, ...]
    embeddings: tuple[str, ...]
    """Modules and parameters that come before the first block."""
    convolutions: tuple[str, ...]
    extractor: tuple[Convolution, ...]
    """Those of them whose channels can go, in order; what writes the residual stream is none of them."""
    head: tuple[str, ...]
    hidden_size: int
    row: Row
    """The row of the table that this was read by."""

    def block(self, block_id: str) -> Block:
        """The block of that id.

        Raises:
            UnsupportedModel: there is none; the message has a near name.
        """
        for block in self.blocks:
            if block.id == block_id:
                return block
        known = [block.id for block in self.blocks]
        raise UnsupportedModel(f"this {self.family} model has no block '{block_id}'{did_you_mean(block_id, known)}")

    def part_of(self, parameter: str) -> str:
        """`embeddings`, `layer 3 attention`, `layer 3 feed-forward`, `head` or `other`: what a parameter belongs to."""
        if _under(parameter, (self.stack,)):
            index, inner = parameter[len(self.stack) + 1 :].split(".", 1)
            return f"layer {index} {'attention' if _under(inner, self.row.attention_part) else 'feed-forward'}"
        if _under(parameter, self.embeddings):
            return "embeddings"
        return "head" if _under(parameter, self.head) else "other"


@dataclass(frozen=True)
class Row:
    """How a family names its parts. Paths lead from the trunk, those of a block from the block."""

    family: str
    model_types: tuple[str, ...]
    trunks: tuple[str, ...]
    """Where the trunk may lie: the root itself (empty), or under the name that a model with a task head gives it."""
    stack: str
    attention: str
    projections: tuple[str, str, str, str]
    """Query, key, value and output."""
    up: str
    down: str
    norms: tuple[str, str]
    embeddings: tuple[str, ...]
    head: tuple[str, ...] = ()
    """Parts of the trunk that belong to the head; what stands beside the trunk always does."""
    gate: str | None = None
    gated: tuple[str, str] | None = None
    """`up` and `down` of the variant that has a gate."""
    heads_attributes: tuple[str, ...] = ("num_heads",)
    """Attributes of the attention module that hold the number of heads."""
    head_size_attribute: str = "head_dim"
    config_width: str = "intermediate_size"
    """Config field of one width for all blocks."""
    config_head_size: str | None = None
    """Config field that sets heads free from hidden size, where the family has one."""
    width_in_hidden_sizes: bool = False
    """True where the config gives the width in multiples of the hidden size."""
    chain: tuple[str, ...] = ()
    """Convolutions that read one another; the last one writes the residual stream."""
    extractor: str | None = None
    """A list of layers, each with its `conv` and perhaps a `layer_norm`."""
    projection: tuple[str, str] | None = None
    """The norm, which may be absent, and the linear layer that read the extractor."""

    @property
    def attention_part(self) -> tuple[str, ...]:
        """Parts of a block that count as its attention: the modules that hold it, and its norm and layer scale."""
        return (self.attention.split(".")[0], self.norms[0], "layer_scale1")


BERT = Row(
    family="bert",
    model_types=("bert",),
    trunks=("", "bert"),
    stack="encoder.layer",
    attention="attention.self",
    projections=("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"),
    up="intermediate.dense",
    down="output.dense",
    norms=("attention.output.LayerNorm", "output.LayerNorm"),
    embeddings=("embeddings",),
    head=("pooler",),
    heads_attributes=("num_attention_heads",),
    head_size_attribute="attention_head_size",
)

ROBERTA = Row(
    family="roberta",
    model_types=("roberta", "xlm-roberta", "camembert"),
    trunks=("", "roberta"),
    stack="encoder.layer",
    attention="attention.self",
    projections=("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"),
    up="intermediate.dense",
    down="output.dense",
    norms=("attention.output.LayerNorm", "output.LayerNorm"),
    embeddings=("embeddings",),
    head=("pooler",),
    heads_attributes=("num_attention_heads",),
    head_size_attribute="attention_head_size",
)

DISTILBERT = Row(
    family="distilbert",
    model_types=("distilbert",),
    trunks=("", "distilbert"),
    stack="transformer.layer",
    attention="attention",
    projections=("attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin"),
    up="ffn.lin1",
    down="ffn.lin2",
    norms=("sa_layer_norm", "output_layer_norm"),
    embeddings=("embeddings",),
    heads_attributes=("n_heads",),
    head_size_attribute="attention_head_size",
    config_width="hidden_dim",
)

VIT = Row(
    family="vit",
    model_types=("vit",),
    trunks=("", "vit"),
    stack="layers",
    attention="attention",
    projections=("attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj"),
    up="mlp.fc1",
    down="mlp.fc2",
    norms=("layernorm_before", "layernorm_after"),
    embeddings=("embeddings",),
    head=("pooler",),
    heads_attributes=("num_attention_heads",),
    config_head_size="head_dim",
)

DINOV2 = Row(
    family="dinov2",
    model_types=("dinov2",),
    trunks=("", "dinov2"),
    stack="encoder.layer",
    attention="attention",
    projections=("attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj"),
    up="mlp.fc1",
    down="mlp.fc2",
    gate="mlp.gate_proj",
    gated=("mlp.up_proj", "mlp.down_proj"),
    norms=("norm1", "norm2"),
    embeddings=("embeddings",),
    heads_attributes=("num_attention_heads",),
    config_width="mlp_ratio",
    config_head_size="head_dim",
    width_in_hidden_sizes=True,
)

WHISPER_ENCODER = Row(
    family="whisper-encoder",
    model_types=("whisper",),
    trunks=("", "encoder", "model.encoder"),
    stack="layers",
    attention="self_attn",
    projections=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"),
    up="fc1",
    down="fc2",
    norms=("self_attn_layer_norm", "final_layer_norm"),
    embeddings=("conv1", "conv2", "embed_positions"),
    chain=("conv1", "conv2"),
    config_width="encoder_ffn_dim",
)

WAV2VEC2 = Row(
    family="wav2vec2",
    model_types=("wav2vec2",),
    trunks=("", "wav2vec2"),
    stack="encoder.layers",
    attention="attention",
    projections=("attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.out_proj"),
    up="feed_forward.intermediate_dense",
    down="feed_forward.output_dense",
    norms=("layer_norm", "final_layer_norm"),
    embeddings=("feature_extractor", "feature_projection", "masked_spec_embed", "encoder.pos_conv_embed"),
    extractor="feature_extractor.conv_layers",
    projection=("feature_projection.layer_norm", "feature_projection.projection"),
)

HUBERT = Row(
    family="hubert",
    model_types=("hubert",),
    trunks=("", "hubert"),
    stack="encoder.layers",
    attention="attention",
    projections=("attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.out_proj"),
    up="feed_forward.intermediate_dense",
    down="feed_forward.output_dense",
    norms=("layer_norm", "final_layer_norm"),
    embeddings=("feature_extractor", "feature_projection", "masked_spec_embed", "encoder.pos_conv_embed"),
    extractor="feature_extractor.conv_layers",
    projection=("feature_projection.layer_norm", "feature_projection.projection"),
)


def anatomy_of(module: nn.Module) -> Anatomy:
    """Read the parts of a model, also of one on meta and of one whose blocks were cut to different sizes.

    Raises:
        UnsupportedModel: no row of the table fits; the message names the closest ones.
    """
    model_type = str(getattr(getattr(module, "config", None), "model_type", ""))
    rows = [registry.load("anatomy", name) for name in registry.names("anatomy")]
    for row in rows:
        if model_type in row.model_types:
            for trunk in row.trunks:
                if _find(module, _join(trunk, row.stack)) is not None:
                    return _read(module, row, trunk)
    raise UnsupportedModel(_refusal(module, model_type, rows))


def _read(root: Any, row: Row, trunk: str) -> Anatomy:
    stack = _join(trunk, row.stack)
    return Anatomy(
        family=row.family,
        stack=stack,
        blocks=tuple(_block(root, row, f"{stack}.{index}") for index, _ in root.get_submodule(stack).named_children()),
        embeddings=tuple(path for name in row.embeddings if _find(root, path := _join(trunk, name)) is not None),
        convolutions=tuple(_convolutions(root, trunk)),
        extractor=tuple(_extractor(root, row, trunk)),
        head=tuple(_head(root, row, trunk)),
        hidden_size=root.config.hidden_size,
        row=row,
    )


def _block(root: nn.Module, row: Row, path: str) -> Block:
    block = root.get_submodule(path)
    norms = tuple(f"{path}.{name}" for name in row.norms if _find(block, name) is not None)
    return Block(path, _attention(block, row, path), _feed_forward(block, row, path), norms)


def _attention(block: nn.Module, row: Row, path: str) -> Attention | None:
    query, key, *_ = (_find(block, name) for name in row.projections)
    if query is None:
        return None
    head_size: int = getattr(_find(block, row.attention), row.head_size_attribute)
    query_rows, key_rows = query.weight.shape[0], key.weight.shape[0]
    names = ("module", "query", "key", "value", "output")
    paths = {name: f"{path}.{inner}" for name, inner in zip(names, (row.attention, *row.projections), strict=True)}
    return Attention(**paths, heads=query_rows // head_size, head_size=head_size, key_value_groups=query_rows // key_rows)


def _feed_forward(block: nn.Module, row: Row, path: str) -> FeedForward | None:
    gate = row.gate if row.gate is not None and _find(block, row.gate) is not None else None
    up, down = row.gated if gate is not None and row.gated is not None else (row.up, row.down)
    weight = getattr(_find(block, up), "weight", None)
    if weight is None:
        return None
    return FeedForward(f"{path}.{up}", gate and f"{path}.{gate}", f"{path}.{down}", weight.shape[0])


def _convolutions(root: nn.Module, trunk: str) -> Iterator[str]:
    from torch import nn

    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return (_join(trunk, name) for name, module in root.get_submodule(trunk).named_modules() if isinstance(module, kinds))


def _extractor(root: nn.Module, row: Row, trunk: str) -> Iterator[Convolution]:
    for conv, reader in pairwise(_join(trunk, name) for name in row.chain):
        yield Convolution(conv, None, reader)
    if row.extractor is None or row.projection is None:
        return
    stack = _join(trunk, row.extractor)
    layers = [f"{stack}.{name}" for name, _ in root.get_submodule(stack).named_children()]
    through, reader = (_join(trunk, name) for name in row.projection)
    ends = [*((f"{layer}.conv", None) for layer in layers[1:]), (reader, through if _find(root, through) is not None else None)]
    for layer, (read_by, passed) in zip(layers, ends, strict=True):
        norm = f"{layer}.layer_norm"
        yield Convolution(f"{layer}.conv", norm if _find(root, norm) is not None else None, read_by, passed)


def _head(root: nn.Module, row: Row, trunk: str) -> Iterator[str]:
    yield from (path for name in row.head if _find(root, path := _join(trunk, name)) is not None)
    if trunk:
        top = trunk.split(".")[0]
        yield from (name for name, child in root.named_children() if name != top and any(True for _ in child.parameters()))
        yield from (name for name, _ in root.named_parameters(recurse=False))


def _refusal(module: nn.Module, model_type: str, rows: list[Row]) -> str:
    families = {name: row.family for row in rows for name in (*row.model_types, row.family)}
    near = difflib.get_close_matches(model_type, families, n=3, cutoff=0.4)
    closest = sorted({families[name] for name in near}) or sorted(set(families.values()))
    what = f"{type(module).__name__} (model type '{model_type}')" if model_type else type(module).__name__
    return f"no anatomy row fits {what}; closest: {', '.join(closest)}; another row is one entry point of 'compressor.anatomy'"


def _find(module: nn.Module, path: str) -> Any:
    """The submodule or parameter at a path, or None."""
    found: Any = module
    for name in path.split("."):
        found = getattr(found, name, None)
    return found


def _join(trunk: str, path: str) -> str:
    return f"{trunk}.{path}" if trunk else path


def _under(name: str, paths: tuple[str, ...]) -> bool:
    return any(name == path or name.startswith(f"{path}.") for path in paths)
