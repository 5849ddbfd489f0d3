"""Where the parts of a model are, as plain data: blocks with their attention and feed-forward, embeddings, convolutions, norms, head."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from compressor.errors import UnsupportedModel, did_you_mean


@dataclass(frozen=True)
class Attention:
    """Multi-head attention of one block; all paths lead from the root module."""

    module: str
    """What returns `(output, maps)`; it holds the projections, except that BERT keeps `output` beside it. The block, where that holds them."""
    query: str
    key: str
    value: str
    output: str
    heads: int
    head_size: int
    key_value_groups: int = 1
    """Query heads that share one key and value head."""

    @property
    def units(self) -> int:
        """What can go one by one: heads, or groups of those that share a key and a value."""
        return self.heads // self.key_value_groups


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


UnitKind: TypeAlias = Literal["channels", "heads", "attention", "neurons", "feed-forward", "layers"]
"""Kinds of units; heads that share a key and a value are one unit; `attention` and `feed-forward` are whole sub-layers, one unit each."""


@dataclass(frozen=True)
class Units:
    """Alike parts of one place of a model, which can go one by one."""

    kind: UnitKind
    where: str
    """Id of the block, path of the convolution, or path of the stack for whole layers."""
    count: int
    size: int
    """How many inputs of the reader are one unit."""
    writers: tuple[str, ...]
    """Modules that write the units: their outputs lie side by side, in the order of the units. Blocks, for layers."""
    reader: str
    """The module that reads them: the one that writes a sub-layer's output, or the first that channels enter. The stack, for layers."""

    def __str__(self) -> str:
        return f"{self.kind} of {self.where}"


@dataclass(frozen=True)
class Convolution:
    """A convolution before the blocks whose output channels only one other module reads; paths lead from the root module."""

    conv: str
    norm: str | None
    """Norm of its own output, before the activation."""
    reader: str
    """The convolution or the linear layer that reads the channels."""
    channels: int
    through: str | None = None
    """A norm over the channels that they pass on the way to the reader."""

    @property
    def entry(self) -> str:
        """The first module that the channels enter."""
        return self.through or self.reader


@dataclass(frozen=True)
class Insides:
    """What may be worked on inside of a model: enough to refuse a step before the model is built."""

    family: str
    known: bool
    """Whether a row fits, so that there are parts to work on."""
    without: Mapping[str, str]
    """Why some parts cannot be worked on, by part."""


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

    @property
    def insides(self) -> Insides:
        """What may be worked on."""
        return Insides(self.family, bool(self.blocks), dict(self.row.without))

    @classmethod
    def bare(cls, family: str, hidden_size: int) -> Anatomy:
        """Of a model that no row fits: it has a family, and no block that is known."""
        row = Row(family, (), (), "", "", ("", "", "", ""), "", "", ("", ""), ())
        return cls(family, "", (), (), (), (), (), hidden_size, row)

    def units(self, kinds: Iterable[UnitKind]) -> tuple[Units, ...]:
        """The units of some kinds, without those of which the row says that nothing can work on them.

        Channels come first, in order, then block by block heads (or groups of heads that share a key and a value), attention,
        neurons and feed-forward, whole layers last.
        """
        wanted = set(kinds) - set(self.row.without)
        return tuple(units for units in self._every_unit() if units.kind in wanted)

    def _every_unit(self) -> Iterator[Units]:
        for each in self.extractor:
            yield Units("channels", each.conv, each.channels, 1, (each.conv,), each.entry)
        for block in self.blocks:
            yield from _units_of_attention(block)
            yield from _units_of_feed_forward(block)
        if self.blocks:
            ids = tuple(block.id for block in self.blocks)
            yield Units("layers", self.stack, len(ids), self.hidden_size, ids, self.stack)

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
        """`embeddings`, `layer 3 attention`, `layer 3 feed-forward`, `layer 3 modulation`, `head` or `other`: what a parameter belongs to."""
        if _under(parameter, (self.stack,)):
            index, inner = parameter[len(self.stack) + 1 :].split(".", 1)
            return f"layer {index} {self.row.part_of_block(inner)}"
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
    """Empty where the block itself holds the projections."""
    projections: tuple[str, str, str, str]
    """Query, key, value and output."""
    up: str
    down: str
    norms: tuple[str, str] | tuple[()]
    """None where they have no weights and are no modules."""
    embeddings: tuple[str, ...]
    head: tuple[str, ...] = ()
    """Parts of the trunk that belong to the head; what stands beside the trunk always does."""
    gate: str | None = None
    gated: tuple[str, str] | None = None
    """`up` and `down` of the variant that has a gate."""
    heads_attributes: tuple[str, ...] = ("num_heads",)
    """Attributes of the attention module that hold the number of heads."""
    head_size_attribute: str = "head_dim"
    """Attribute of the attention module that holds the size of a head; where it has none, the configuration says it by `config_head_size`."""
    config_width: str = "intermediate_size"
    """Config field of one width for all blocks."""
    config_head_size: str | None = None
    """Config field that sets heads free from hidden size, where the family has one."""
    config_layers: str = "num_hidden_layers"
    """Config field of the number of blocks."""
    stream: str | None = None
    """What writes the residual stream first and is as wide as it is, where the configuration does not say the hidden size."""
    modulation: tuple[str, ...] = ()
    """Parts of a block that tell it of time and label."""
    width_in_hidden_sizes: bool = False
    """True where the config gives the width in multiples of the hidden size."""
    chain: tuple[str, ...] = ()
    """Convolutions that read one another; the last one writes the residual stream."""
    extractor: str | None = None
    """A list of layers, each with its `conv` and perhaps a `layer_norm`."""
    projection: tuple[str, str] | None = None
    """The norm, which may be absent, and the linear layer that read the extractor."""

    without: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Parts that no pass can work on, each with the reason: kinds of units, `features`, `attention maps` or `attention scores`."""

    @property
    def attention_part(self) -> tuple[str, ...]:
        """Parts of a block that count as its attention: the modules that hold it, and its norm and layer scale."""
        if not self.attention:
            return self.projections
        attention, inner = self.attention.split("."), self.up.split(".")
        shared = next(depth for depth, name in enumerate(attention) if name != inner[depth])
        return (".".join(attention[: shared + 1]), *self.norms[:1], "layer_scale1", "lambda_1")

    def part_of_block(self, inner: str) -> str:
        """`attention`, `feed-forward` or `modulation`: what a parameter of a block belongs to, by its path from there."""
        if _under(inner, self.modulation):
            return "modulation"
        return "attention" if _under(inner, self.attention_part) else "feed-forward"


def _units_of_attention(block: Block) -> Iterator[Units]:
    if (each := block.attention) is None:
        return
    writers = tuple(dict.fromkeys((each.query, each.key, each.value)))
    yield Units("heads", block.id, each.units, each.key_value_groups * each.head_size, writers, each.output)
    yield Units("attention", block.id, 1, each.heads * each.head_size, writers, each.output)


def _units_of_feed_forward(block: Block) -> Iterator[Units]:
    if (each := block.feed_forward) is None:
        return
    writers = tuple(dict.fromkeys(path for path in (each.up, each.gate) if path))
    yield Units("neurons", block.id, each.width, 1, writers, each.down)
    yield Units("feed-forward", block.id, 1, each.width, writers, each.down)


def _under(name: str, paths: tuple[str, ...]) -> bool:
    return any(name == path or name.startswith(f"{path}.") for path in paths)
