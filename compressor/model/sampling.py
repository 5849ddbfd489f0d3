"""Tokens that language models make of prompts, without gradients: drawn by numbers that each row brings, so that they are the same again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import torch

Choose: TypeAlias = "Callable[[int, Sequence[torch.Tensor]], torch.Tensor]"
"""The next tokens `[B]`, of their number from 0 and the logits `[B, words]` of each model."""


def drawn(logits: torch.Tensor, uniform: torch.Tensor, *, temperature: float = 1.0, top_p: float = 1.0) -> torch.Tensor:
    """One token of each row `[B]`, by its place in the probabilities in falling order.

    Args:
        logits: `[B, words]`.
        uniform: numbers in [0, 1), `[B]`.
        temperature: divides the logits; 0 takes the likeliest token.
        top_p: only the likeliest tokens that have so much of the probability together can be drawn.
    """
    if temperature == 0:
        return logits.argmax(dim=-1)
    shares, order = (logits.double() / temperature).softmax(dim=-1).sort(dim=-1, descending=True)
    before = shares.cumsum(dim=-1) - shares
    shares = shares.masked_fill(before >= top_p, 0.0)
    total = shares.cumsum(dim=-1)
    place = (total <= (uniform.double() * total[:, -1])[:, None]).sum(dim=-1, keepdim=True)
    last = (shares > 0).sum(dim=-1, keepdim=True) - 1
    return order.gather(-1, place.minimum(last))[:, 0]


def uniforms(seed: int, rows: Sequence[int], count: int, device: torch.device) -> torch.Tensor:
    """Numbers in [0, 1) for each row, `[B, count]`, which depend on nothing but the seed and the row's number."""
    import numpy as np
    import torch

    found = np.stack([np.random.default_rng([seed, row]).random(count) for row in rows])
    return torch.from_numpy(found).to(device)


@dataclass(eq=False)
class _Reader:
    """A model with what it has read."""

    module: Any
    cache: Any = None

    def read(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Logits `[B, words]` after new tokens `[B, T]`; `mask` `[B, read before + T]` says which of all are none."""
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        given = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, "past_key_values": self.cache}
        found = self.module(**given, use_cache=True, logits_to_keep=1)
        self.cache = found.past_key_values
        logits: torch.Tensor = found.logits[:, -1].float()
        return logits


def continued(
    modules: Sequence[torch.nn.Module],
    ids: torch.Tensor,
    mask: torch.Tensor,
    *,
    count: int,
    choose: Choose,
    ends: Sequence[int] = (),
) -> torch.Tensor:
    """Tokens after prompts: `[B, at most count]`. Every model reads all of them, and `choose` says which comes next.

    Args:
        modules: language models of transformers, which have their words in common.
        ids: prompts `[B, T]`, filled up on the left.
        mask: 1 where they are text.
        count: how many tokens, at most.
        choose: the next token of each row.
        ends: tokens after which a row is over: no more are made when all rows are, and what a row has after its end says nothing.
    """
    import torch

    made, readers, new = list[torch.Tensor](), [_Reader(module) for module in modules], ids
    last, over = torch.tensor(list(ends), device=ids.device), torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    with torch.no_grad(), ExitStack() as stack:
        for module in modules:
            stack.enter_context(_at_rest(module))
        for at in range(count):
            token = choose(at, [reader.read(new, mask) for reader in readers])
            made.append(token)
            over |= torch.isin(token, last)
            if ends and bool(over.all()):
                break
            new, mask = token[:, None], torch.nn.functional.pad(mask, (0, 1), value=1)
    return torch.stack(made, dim=1)


@contextmanager
def _at_rest(module: torch.nn.Module) -> Iterator[None]:
    """Without dropout meanwhile."""
    was = {name: each.training for name, each in module.named_modules()}
    module.eval()
    try:
        yield
    finally:
        for name, each in module.named_modules():
            each.training = was[name]
