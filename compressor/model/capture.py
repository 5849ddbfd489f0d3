"""Inner features of a forward pass: what leaves blocks, attention maps, queries, keys, values, and what attention adds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from compressor.contracts import Feature, Want
from compressor.errors import UnsupportedModel

if TYPE_CHECKING:
    import torch

    from compressor.contracts.anatomy import Anatomy

Found = dict[Feature, "torch.Tensor"]
PROJECTIONS = ("query", "key", "value")


@contextmanager
def captured(module: torch.nn.Module, want: Want) -> Iterator[Found]:
    """Collect features during the forward passes inside; a block without attention gives no attention map.

    Raises:
        UnsupportedModel: a block is not there or has no attention, or the model hands out no features of a kind.
    """
    from compressor.model.anatomy import anatomy_of

    found: Found = {}
    if not want:
        yield found
        return
    anatomy = anatomy_of(module)
    hooks = [handle for feature in want.features for handle in _hooked(module, anatomy, feature, found)]
    config: Any = module.config
    before = config._attn_implementation
    try:
        if want.of("attention-map"):
            config._attn_implementation = "eager"  # the only one that hands out its maps
        yield found
    finally:
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
    elif feature.kind == "attention-output":
        yield module.get_submodule(attention.output).register_forward_hook(_keep(feature, found, 0))
    elif feature.kind in PROJECTIONS:
        paths = (attention.query, attention.key, attention.value)
        at = PROJECTIONS.index(feature.kind)
        part = at if attention.query == attention.key else None  # one matrix makes all three
        yield module.get_submodule(paths[at]).register_forward_hook(_keep(feature, found, 0, part))
    else:
        raise UnsupportedModel(f"a model of family {anatomy.family} hands out no {feature.kind}")


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
