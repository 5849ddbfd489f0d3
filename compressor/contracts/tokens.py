"""Logits over a vocabulary for every token, put off: computed where they are read, and of as few tokens at a time as are looked at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch

NEVER = -1e4
"""The logarithm of a probability that is 0 in any precision: 0 times it is 0, and 0 times -inf is no number."""


@runtime_checkable
class Later(Protocol):
    """What stands for logits `[B, T, words]` before anybody reads them."""

    @property
    def device(self) -> torch.device: ...

    def at(self, tokens: torch.Tensor, like: torch.Tensor | None = None) -> torch.Tensor:
        """Logits `[n, words]` in float32 of some tokens, by their numbers in `[B * T]`; `like` are another model's logits of them."""
        ...

    def whole(self) -> torch.Tensor:
        """Logits `[B, T, words]` of all tokens."""
        ...


@dataclass(frozen=True, eq=False)
class TokenLogits:
    """What a language model's head has still to do: `logits = after(states @ weightᵀ + bias)`.

    A task whose `forward` gives these as the main output trains by `compressor.model.token_losses.mean_cross_entropy`: its loss is the
    mean cross-entropy of the labels.
    """

    states: torch.Tensor
    """What enters the head: `[B, T, D]`."""
    weight: torch.Tensor
    """`[words, D]`, the embedding where both are tied."""
    bias: torch.Tensor | None = None
    """`[words]`."""
    labels: torch.Tensor | None = None
    """The token that each position is to tell, the next one: `[B, T]`; below 0 where a position does not count. None: all count."""
    dtype: torch.dtype | None = None
    """What the product is computed in; that of the states unless given."""
    after: Callable[[torch.Tensor], torch.Tensor] | None = None
    """What the model does to the product, number by number: a scale, or a cap."""

    @property
    def device(self) -> torch.device:
        """Where they lie."""
        return self.states.device

    def counted(self) -> torch.Tensor:
        """Numbers in `[B * T]` of the positions that count."""
        import torch

        if self.labels is None:
            return torch.arange(self.states.shape[:-1].numel(), device=self.device)
        return (self.labels.flatten() >= 0).nonzero()[:, 0]

    def at(self, tokens: torch.Tensor, like: torch.Tensor | None = None) -> torch.Tensor:
        """Logits `[n, words]` of some tokens in float32, by their numbers in `[B * T]`."""
        return self._logits(self.states.flatten(0, -2)[tokens])

    def whole(self) -> torch.Tensor:
        """Logits `[B, T, words]` of all tokens."""
        return self._logits(self.states)

    def finished(self, product: torch.Tensor) -> torch.Tensor:
        """Logits in float32 of the product of states and weight."""
        found = in_full(product) if self.bias is None else in_full(product) + self.bias
        return found if self.after is None else self.after(found)

    def _logits(self, states: torch.Tensor) -> torch.Tensor:
        import torch

        dtype = self.dtype or states.dtype
        learned = torch.is_grad_enabled() and self.weight.requires_grad
        with torch.autocast(self.device.type, enabled=False):
            return self.finished(states.to(dtype) @ (self.weight.to(dtype) if learned else self._cast).T)

    @cached_property
    def _cast(self) -> torch.Tensor:
        """The weight in the product's type, without a gradient: made once for all tokens that are looked at a few at a time."""
        return self.weight.detach().to(self.dtype or self.states.dtype)


@dataclass(frozen=True, eq=False)
class LikeliestLogits:
    """Logits of which only the likeliest words were kept, and how probable all others are together.

    The others share that probability as the logits that these are held against (`like`) share theirs. A divergence of the two is then
    one of `kept + 1` classes: where it is a KL (or another f-divergence) of temperature 1 it is too small, by the others' probability
    times the divergence among them, and 0 where both models are equal.
    """

    words: torch.Tensor
    """The likeliest ones, `[B, T, kept]`."""
    logs: torch.Tensor
    """Their log-probabilities, `[B, T, kept]`."""
    rest: torch.Tensor
    """The log-probability of all others together, `[B, T]`."""
    vocabulary: int
    """How many words there are."""

    @property
    def device(self) -> torch.device:
        """Where they lie."""
        return self.words.device

    def at(self, tokens: torch.Tensor, like: torch.Tensor | None = None) -> torch.Tensor:
        """Log-probabilities `[n, words]` of some tokens, which add up to 1; the others' are even unless `like` says how to share."""
        import torch

        words, logs, rest = (each.flatten(0, 1)[tokens] for each in (self.words, self.logs, self.rest))
        words, logs, rest = words.long(), in_full(logs), in_full(rest)
        every = torch.logaddexp(logs.logsumexp(dim=-1), rest)[:, None]  # 0 but for how they were rounded when they were kept
        logs, rest = ((each - every).clamp(min=NEVER) for each in (logs, rest[:, None]))
        shape = (len(tokens), self.vocabulary)
        shares = logs.new_zeros(shape) if like is None or like.shape != shape else like.detach().to(logs.dtype, copy=True)
        shares.scatter_(-1, words, -torch.inf)
        if self.vocabulary > words.shape[-1]:
            shares = shares.log_softmax(dim=-1).add_(rest)
        return shares.scatter_(-1, words, logs)

    def whole(self) -> torch.Tensor:
        """Log-probabilities `[B, T, words]`, the others' even."""
        import torch

        shape = self.words.shape[:-1]
        return self.at(torch.arange(shape.numel(), device=self.device)).reshape(*shape, self.vocabulary)


def in_full(logits: torch.Tensor) -> torch.Tensor:
    """Logits in float32 at least: losses are computed in that."""
    import torch

    return logits.to(torch.promote_types(logits.dtype, torch.float32))
