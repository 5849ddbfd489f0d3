"""Inner features of a forward pass: what leaves blocks, and attention maps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from compressor.contracts import Want

if TYPE_CHECKING:
    import torch


@contextmanager
def captured(module: torch.nn.Module, want: Want) -> Iterator[tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]]:
    """Collect block outputs and attention maps during the forward passes inside."""
    from compressor.model.anatomy import anatomy_of

    hidden_states: dict[str, torch.Tensor] = {}
    attention_maps: dict[str, torch.Tensor] = {}
    if not (want.hidden_states or want.attention_maps):
        yield hidden_states, attention_maps
        return
    anatomy = anatomy_of(module)

    def keep(into: dict[str, torch.Tensor], name: str, which: int) -> Callable[..., None]:
        def hook(_module: torch.nn.Module, _inputs: object, output: Any) -> None:
            value = output[which] if isinstance(output, tuple) else output
            if value is not None:
                into[name] = value

        return hook

    def keep_input(name: str) -> Callable[..., None]:
        def hook(_module: torch.nn.Module, given: tuple[torch.Tensor, ...], named: Mapping[str, torch.Tensor]) -> None:
            hidden_states[name] = given[0] if given else named["hidden_states"]

        return hook

    hooks = []
    for name in want.hidden_states:
        if name == anatomy.stack:
            first = module.get_submodule(anatomy.blocks[0].id)
            hooks.append(first.register_forward_pre_hook(keep_input(name), with_kwargs=True))
        else:
            hooks.append(module.get_submodule(name).register_forward_hook(keep(hidden_states, name, 0)))
    for name in want.attention_maps:
        attention = anatomy.block(name).attention
        if attention is not None:
            hooks.append(module.get_submodule(attention.module).register_forward_hook(keep(attention_maps, name, 1)))
    config: Any = module.config
    before = config._attn_implementation
    try:
        if want.attention_maps:
            config._attn_implementation = "eager"  # the only one that hands out its maps
        yield hidden_states, attention_maps
    finally:
        config._attn_implementation = before
        for handle in hooks:
            handle.remove()
