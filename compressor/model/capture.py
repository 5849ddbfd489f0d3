"""Inner features of a forward pass: what leaves blocks, attention maps and scores, queries, keys, values, what attention adds, and that normed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from compressor.contracts import Feature, Want
from compressor.errors import UnsupportedModel

if TYPE_CHECKING:
    import torch

    from compressor.contracts.anatomy import Anatomy, Attention

Found = dict[Feature, "torch.Tensor"]
PROJECTIONS = ("query", "key", "value")
MADE = ("attention-norm", "attention-score")
"""Kinds that take several modules to be called."""
SCORES, MAPS = "attention scores", "attention maps"
"""How a row names them among what its family does not hand out."""


@contextmanager
def captured(module: torch.nn.Module, want: Want) -> Iterator[Found]:
    """Collect features during the forward passes inside; a block without attention gives no attention map.

    Raises:
        UnsupportedModel: a block is not there or has no attention, or the model hands out no features of a kind; by the end of the block also
            where a module that hands one out was not called.
    """
    from compressor.model.anatomy import anatomy_of

    found: Found = {}
    if not want:
        yield found
        return
    anatomy = anatomy_of(module)
    if getattr(module, "depths", ()):
        raise UnsupportedModel(
            "the network runs fewer blocks for some rows than for others: what passes inside is not of every row"
        )
    hooks = [handle for feature in want.features for handle in _hooked(module, anatomy, feature, found)]
    config: Any = module.config
    before = getattr(config, "_attn_implementation", None)
    try:
        if want.of("attention-map"):
            if why := anatomy.row.without.get(MAPS):
                raise UnsupportedModel(f"a model of family {anatomy.family} hands out no attention-map: {why}")
            config._attn_implementation = "eager"  # the only one that hands out its maps
        yield found
        if lacking := [feature for feature in want.features if feature.kind in MADE and feature not in found]:
            raise UnsupportedModel(
                f"a model of family {anatomy.family} hands out no {lacking[0]}: its modules are not called one by one"
            )
    finally:
        if before is not None:
            config._attn_implementation = before
        for handle in hooks:
            handle.remove()


def _hooked(module: torch.nn.Module, anatomy: Anatomy, feature: Feature, found: Found) -> Iterator[Any]:
    """The hook of one feature; none for the map of a block without attention."""
    if feature == Feature("hidden-state", anatomy.stack):
        first = module.get_submodule(anatomy.blocks[0].id)
        yield first.register_forward_pre_hook(_keep_input(feature, found), with_kwargs=True)
    elif feature.kind == "hidden-state":
        yield module.get_submodule(feature.block).register_forward_hook(_keep(feature, found, 0))
    elif (attention := anatomy.block(feature.block).attention) is None:
        if feature.kind != "attention-map":
            raise UnsupportedModel(f"{feature.block} has no attention left, so that there is no {feature.kind}")
    elif feature.kind == "attention-map":
        yield module.get_submodule(attention.module).register_forward_hook(_keep(feature, found, 1))
    elif feature.kind == "attention-update":
        yield module.get_submodule(attention.output).register_forward_hook(_keep(feature, found, 0))
    elif feature.kind in PROJECTIONS:
        path, part = _projection(attention, feature.kind)
        yield module.get_submodule(path).register_forward_hook(_keep(feature, found, 0, part))
    elif feature.kind == "attention-norm":
        yield from _after_attention(module, attention, anatomy.block(feature.block).norms, feature, found)
    elif feature.kind == "attention-score":
        if why := anatomy.row.without.get(SCORES):
            raise UnsupportedModel(f"a model of family {anatomy.family} hands out no {feature.kind}: {why}")
        yield from _scored(module, attention, feature, found)
    else:
        raise UnsupportedModel(f"a model of family {anatomy.family} hands out no {feature.kind}")


def _projection(attention: Attention, kind: str) -> tuple[str, int | None]:
    """The module that makes queries, keys or values, and which third of what it makes where one matrix makes all three."""
    paths = (attention.query, attention.key, attention.value)
    at = PROJECTIONS.index(kind)
    return paths[at], at if attention.query == attention.key else None


def _after_attention(
    module: torch.nn.Module, attention: Attention, norms: Sequence[str], feature: Feature, found: Found
) -> Iterator[Any]:
    """The first norm that is called after attention has written: its own where norms come last, else that of what comes next."""
    written: list[bool] = []

    def write(*_: object) -> None:
        written.append(True)

    def normed(_module: torch.nn.Module, _inputs: object, output: torch.Tensor) -> None:
        if written:
            written.clear()
            found[feature] = output

    yield module.get_submodule(attention.output).register_forward_hook(write)
    for path in norms:
        yield module.get_submodule(path).register_forward_hook(normed)


def _scored(module: torch.nn.Module, attention: Attention, feature: Feature, found: Found) -> Iterator[Any]:
    """Products of queries and keys over the root of a head's size, head by head, before any mask."""
    made: Found = {}
    sides = [Feature("query", feature.block), Feature("key", feature.block)]
    for side in sides:
        path, part = _projection(attention, side.kind)
        yield module.get_submodule(path).register_forward_hook(_keep(side, made, 0, part))

    def score(*_: object) -> None:
        if len(made) == len(sides):
            query, key = (_by_head(made.pop(side), attention.head_size) for side in sides)
            key = key.repeat_interleave(attention.key_value_groups, dim=1)
            found[feature] = query @ key.transpose(-1, -2) * attention.head_size**-0.5

    yield module.get_submodule(attention.module).register_forward_hook(score)


def _by_head(states: torch.Tensor, size: int) -> torch.Tensor:
    """`[B, heads, T, size]` of `[B, T, heads * size]`."""
    return states.reshape(*states.shape[:-1], -1, size).transpose(1, 2)


def _keep(feature: Feature, found: Found, which: int, part: int | None = None) -> Callable[..., None]:
    """A hook that keeps one of several outputs, or one of three parts of it."""

    def hook(_module: torch.nn.Module, _inputs: object, output: Any) -> None:
        value = output[which] if isinstance(output, tuple) else output
        if value is not None:
            found[feature] = value if part is None else value.chunk(3, dim=-1)[part]

    return hook


def _keep_input(feature: Feature, found: Found) -> Callable[..., None]:
    def hook(_module: torch.nn.Module, given: tuple[torch.Tensor, ...], named: Mapping[str, torch.Tensor]) -> None:
        found[feature] = given[0] if given else named["hidden_states"]

    return hook
