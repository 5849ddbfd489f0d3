"""Losses over a vocabulary, computed for a few tokens at a time: neither the logits of all tokens nor their gradients are ever kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias

from compressor.contracts.features import Outputs
from compressor.contracts.tokens import LikeliestLogits, TokenLogits, in_full
from compressor.errors import UnsupportedModel

if TYPE_CHECKING:
    import torch

CHUNK_BYTES = 2**25
"""Of the logits that are looked at together, in float32; a loss needs a few times as much beside them."""


@dataclass(frozen=True, eq=False)
class Chunk:
    """A few tokens: what the model says of them, and what others do."""

    tokens: torch.Tensor
    """Their numbers in `[B * T]`, `[n]`."""
    logits: torch.Tensor
    """The model's own, `[n, words]` in float32."""
    labels: torch.Tensor | None
    """What is to be told, `[n]`."""
    _others: dict[int, torch.Tensor] = field(default_factory=dict)
    _logs: dict[int, torch.Tensor] = field(default_factory=dict)

    @property
    def logs(self) -> torch.Tensor:
        """The model's own log-probabilities, computed once for all losses."""
        if id(self) not in self._logs:
            self._logs[id(self)] = self.logits.log_softmax(dim=-1)
        return self._logs[id(self)]

    def logs_of(self, others: Outputs) -> torch.Tensor:
        """Log-probabilities `[n, words]` of another model, without gradients, computed once."""
        if id(others) not in self._logs:
            found = self.of(others)
            self._logs[id(others)] = found if isinstance(others.later, LikeliestLogits) else found.log_softmax(dim=-1)
        return self._logs[id(others)]

    def of(self, others: Outputs) -> torch.Tensor:
        """Logits `[n, words]` of another model, without gradients, computed once."""
        import torch

        if id(others) not in self._others:
            with torch.no_grad():
                later = others.later
                found = others.main.flatten(0, -2)[self.tokens] if later is None else later.at(self.tokens, self.logits)
            self._others[id(others)] = found
        return self._others[id(others)]


TokenLoss: TypeAlias = "Callable[[Chunk], torch.Tensor]"
"""Values `[n]` of a loss, token by token."""


def token_means(
    logits: TokenLogits, losses: Mapping[str, TokenLoss], weights: Mapping[str, float] | None = None
) -> dict[str, torch.Tensor]:
    """Losses by name, each the mean over the tokens that count, times its weight; 0 where none counts.

    Their gradients are computed with them, chunk by chunk, so that a chunk's logits are computed once: the head is worked through as
    often as in a plain step, whatever the number of losses. So the sum of what is returned can be learned from, times any number, and
    no single one of several.

    Args:
        logits: the head's work that is put off.
        losses: values by token, each of its own.
        weights: by name; 1 unless given.
    """
    import torch

    tokens = logits.counted()
    states = logits.states.flatten(0, -2)[tokens]
    work = _Work(logits, tokens, tuple(losses.values()), tuple((weights or {}).get(name, 1.0) for name in losses))
    learns = torch.is_grad_enabled() and (states.requires_grad or logits.weight.requires_grad)
    found = _function().apply(states, logits.weight, logits.bias, work, learns)
    return dict(zip(losses, found.unbind(), strict=True))


def cross_entropy(chunk: Chunk) -> torch.Tensor:
    """What the labels cost, token by token, in nats."""
    assert chunk.labels is not None
    return -chunk.logs.gather(-1, chunk.labels[:, None])[:, 0]


def mean_cross_entropy(logits: TokenLogits) -> torch.Tensor:
    """The loss of a language model: a mean over the tokens that count, in nats."""
    return token_means(logits, {"cross-entropy": cross_entropy})["cross-entropy"]


def chunks(logits: TokenLogits, tokens: torch.Tensor) -> Iterator[torch.Tensor]:
    """Numbers of tokens, so many together as `CHUNK_BYTES` allow."""
    size = max(1, CHUNK_BYTES // (4 * logits.weight.shape[0]))
    for start in range(0, len(tokens), size):
        yield tokens[start : start + size]


def token_logits(module: torch.nn.Module, inputs: Mapping[str, Any], labels: torch.Tensor | None = None) -> TokenLogits:
    """What a causal language model of transformers says of its inputs, its head put off.

    Args:
        module: the whole model.
        inputs: of its trunk, by name.
        labels: the token that each position is to tell, `[B, T]`; below 0 where none counts.

    Raises:
        UnsupportedModel: its head is no linear layer.
    """
    import torch

    from compressor.model.quantization.layers import operands

    model: Any = module
    head = model.get_output_embeddings()
    if not isinstance(head, torch.nn.Linear):
        raise UnsupportedModel(f"the head of a language model is a linear layer, and this one is {type(head).__name__}")
    states = getattr(model, model.base_model_prefix)(**inputs, use_cache=False).last_hidden_state
    device = states.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states.dtype
    states, weight = operands(head, states)
    return TokenLogits(states, weight, head.bias, labels, dtype, _after(model.config.get_text_config()))


def _after(config: Any) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """What a family does to the product of its head."""
    scale = (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)
    cap: float | None = getattr(config, "final_logit_softcapping", None)
    if scale == 1 and cap is None:
        return None

    def after(product: torch.Tensor) -> torch.Tensor:
        scaled = product * scale
        return scaled if cap is None else cap * (scaled / cap).tanh()

    return after


@dataclass(frozen=True, eq=False)
class _Work:
    """What is to be computed for each chunk."""

    logits: TokenLogits
    tokens: torch.Tensor
    losses: tuple[TokenLoss, ...]
    weights: tuple[float, ...]

    def values(self, tokens: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """A chunk's part of each loss, `[losses]`."""
        import torch

        labels = self.logits.labels
        chunk = Chunk(tokens, logits, None if labels is None else labels.flatten()[tokens])
        parts = zip(self.losses, self.weights, strict=True)
        return torch.stack([loss(chunk).sum() * (weight / len(self.tokens)) for loss, weight in parts])


class _Gradients:
    """Gradients of all chunks, added up."""

    def __init__(self, states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        import torch

        self.states = torch.empty_like(states)
        self.weight = torch.zeros_like(weight) if weight.requires_grad else None
        self.bias = torch.zeros_like(bias) if bias is not None and bias.requires_grad else None

    def add(self, at: slice, of_logits: torch.Tensor, states: torch.Tensor, weight: torch.Tensor) -> None:
        """What the gradient of a chunk's logits `[n, words]` says of its states, the weight and the bias."""
        if self.bias is not None:
            self.bias += of_logits.sum(dim=0)
        product = of_logits.to(weight.dtype)
        self.states[at] = product @ weight
        if self.weight is None:
            return
        if self.weight.dtype == weight.dtype:
            self.weight.addmm_(product.T, states.to(weight.dtype))
        else:
            self.weight += product.T @ states.to(weight.dtype)

    def scaled(self, by: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Of states, weight and bias, times a number, in place."""
        found = (self.states, self.weight, self.bias)
        return found if by == 1 else tuple(None if each is None else each.mul_(by) for each in found)


def _learned(
    states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, work: _Work
) -> tuple[torch.Tensor, _Gradients]:
    """The losses, and what they say of everything that is learned."""
    import torch

    gradients = _Gradients(states, weight, bias)
    found = torch.zeros(len(work.losses), device=states.device, dtype=torch.promote_types(states.dtype, torch.float32))
    cast, at = weight.detach().to(work.logits.dtype or states.dtype), 0
    for tokens in chunks(work.logits, work.tokens):
        here = slice(at, at + len(tokens))
        product = in_full(states[here].to(cast.dtype) @ cast.T).requires_grad_()
        with torch.enable_grad():
            values = work.values(tokens, work.logits.finished(product))
            (of_logits,) = torch.autograd.grad(values.sum(), product)
        found += values.detach()
        gradients.add(here, of_logits, states[here], cast)
        at = here.stop
    return found, gradients


@cache
def _function() -> Any:
    """The step of automatic differentiation, made once: torch is imported where it is needed."""
    import torch

    class Chunked(torch.autograd.Function):
        """Losses whose gradients are known with them."""

        @staticmethod
        def forward(ctx: Any, states: torch.Tensor, weight: torch.Tensor, bias: Any, work: _Work, learns: bool) -> torch.Tensor:
            with torch.autocast(states.device.type, enabled=False):
                if learns:
                    found, ctx.gradients = _learned(states.detach(), weight, bias, work)
                    return found
                parts = [work.values(tokens, work.logits.at(tokens)) for tokens in chunks(work.logits, work.tokens)]
            return torch.stack(parts).sum(dim=0) if parts else torch.zeros(len(work.losses), device=states.device)

        @staticmethod
        def backward(ctx: Any, given: torch.Tensor) -> Any:
            if not torch.equal(given, given[:1].expand_as(given)):
                raise RuntimeError("of losses whose gradients were computed together, only the sum can be learned from")
            gradients, ctx.gradients = ctx.gradients.scaled(given[0]), None
            return (*gradients, None, None)

    return Chunked
