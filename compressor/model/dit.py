"""A small transformer that denoises pictures: Peebles and Xie, Scalable Diffusion Models with Transformers, 2023, arXiv:2212.09748.

Written anew for pictures of a few thousand pixels and for export: every axis but the batch is fixed, and nothing depends on values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import nn
from torch.nn import functional

from compressor.model.depths import NOISE, running

FREQUENCIES = 32
"""Sines and cosines that a time is told by."""
LONGEST = 10_000.0
"""Period, over 2 pi, of the slowest of them."""
SCALED = 100.0
"""What a scale is multiplied with, so that the waves tell scales apart that differ by a tenth."""
SPREAD = 0.02
"""Standard deviation of what embeddings begin with."""


class DiT(nn.Module):
    """A picture in patches, blocks whose norms are shifted and scaled by time and label, and a linear head; a label may be none.

    With the sizes that are its defaults it has 1.85 million parameters.
    """

    version: ClassVar[int] = 1
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"size": 8, "channels": 1, "classes": 3, "patch": 4, "width": 16, "blocks": 2, "heads": 2},
        {"size": 8, "channels": 3, "classes": 0, "patch": 2, "width": 16, "blocks": 1, "heads": 4},
        {"size": (8, 12), "channels": 1, "classes": 3, "patch": 4, "width": 16, "blocks": 2, "heads": 2},
    )

    def __init__(
        self,
        size: int | Sequence[int] = 28,
        channels: int = 1,
        classes: int = 10,
        *,
        patch: int = 4,
        width: int = 128,
        blocks: int = 6,
        heads: int = 4,
    ) -> None:
        """Blocks add nothing and the head tells zeros until they are trained.

        Args:
            size: of pictures, in pixels: height and width, or one number for both.
            channels: of pictures.
            classes: labels from 0; the one after the last says nothing.
            patch: height and width of what is one token.
            width: of tokens; a multiple of `heads`.
            blocks: how many.
            heads: of attention in each block.
        """
        super().__init__()
        edges = (size, size) if isinstance(size, int) else tuple(size)
        smallest = min(*edges, channels, patch, width, blocks, heads)
        if len(edges) != 2 or smallest < 1 or classes < 0 or any(edge % patch for edge in edges) or width % heads:
            raise ValueError(
                f"pictures of {size} pixels in patches of {patch}, tokens of {width} in {heads} heads: neither may leave a rest"
            )
        shape = {"channels": channels, "classes": classes, "patch": patch, "width": width, "blocks": blocks, "heads": heads}
        self.config: dict[str, Any] = {"size": size if isinstance(size, int) else list(size), **shape}
        self.grid = (edges[0] // patch, edges[1] // patch)
        """Patches of a picture, down and across."""
        self.patches = nn.Linear(channels * patch * patch, width)
        self.positions = nn.Parameter(SPREAD * torch.randn(self.grid[0] * self.grid[1], width))
        self.time = nn.Sequential(nn.Linear(2 * FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))
        self.span: nn.Module | None = None
        self.scale: nn.Module | None = None
        self.budget: nn.Module | None = None
        self.depths: tuple[int, ...] = ()
        self.keep_last = 0
        self.labels = nn.Embedding(classes + 1, width)
        nn.init.normal_(self.labels.weight, std=SPREAD)
        self.blocks = nn.ModuleList(DiTBlock(width, heads) for _ in range(blocks))
        self.modulation = _zeros(nn.Linear(width, 2 * width))
        self.head = _zeros(nn.Linear(width, channels * patch * patch))

    def forward(
        self,
        sample: torch.Tensor,
        time: torch.Tensor,
        label: torch.Tensor,
        span: torch.Tensor | None = None,
        scale: torch.Tensor | None = None,
        blocks: int | torch.Tensor | None = None,
    ) -> torch.Tensor:
        """What the network tells of noisy pictures, of their shape.

        Args:
            sample: `[B, channels, height, width]`.
            time: `[B]`, in thousandths.
            label: `[B]`; the number of classes stands for none.
            span: `[B]`, the time to where a step ends; heeded after the edit `tell-span`.
            scale: `[B]`, how far to move away from what would be told without a label; heeded after the edit `tell-scale`.
            blocks: how many run, of all rows or of each, `[B]`; heeded after the edit `schedule-depth`, which says it by the time.
        """
        x, told = self.states(sample, time, label, span, scale, blocks)
        shift, widen = self.modulation(told).unsqueeze(1).chunk(2, dim=-1)
        return self._joined(self.head(_modulated(x, shift, widen)))

    def states(
        self,
        sample: torch.Tensor,
        time: torch.Tensor,
        label: torch.Tensor,
        span: torch.Tensor | None = None,
        scale: torch.Tensor | None = None,
        blocks: int | torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What reaches the head, `[B, T, D]`, and what blocks and head are told, `[B, D]`; arguments as of `forward`."""
        x: torch.Tensor = self.patches(self._cut(sample)) + self.positions
        dtype = self.patches.weight.dtype
        told = self.time(_waves(time).to(dtype)) + self.labels(label)
        if self.span is not None and span is not None:
            told = told + self.span(_waves(span).to(dtype))
        if self.scale is not None and scale is not None:
            told = told + self.scale(_waves(SCALED * scale).to(dtype))
        if self.depths and blocks is None:
            blocks = self.depth_at(time)
        if self.budget is not None and blocks is not None:
            told = told + self.budget(_waves(NOISE * blocks / len(self.blocks) * torch.ones_like(time)).to(dtype))
        told = functional.silu(told)
        return self._through(x, told, blocks), told

    def depth_at(self, time: torch.Tensor) -> torch.Tensor:
        """How many blocks run at times `[B]`, by the schedule; a time between two bins is of the noisier one."""
        bins = (time * len(self.depths) / NOISE).long().clamp(0, len(self.depths) - 1)
        return torch.tensor(self.depths, device=time.device)[bins]

    def _through(self, x: torch.Tensor, told: torch.Tensor, blocks: int | torch.Tensor | None) -> torch.Tensor:
        """Through the blocks that run; where rows differ in that, each block computes those that it runs for."""
        total = len(self.blocks)
        if not isinstance(blocks, torch.Tensor):
            for number in running(total, blocks or total, self.keep_last):
                x = self.blocks[number](x, told)
            return x
        for number, block in enumerate(self.blocks):
            (rows,) = torch.where((number < blocks - self.keep_last) | (number >= total - self.keep_last) | (blocks >= total))
            if len(rows) == len(x):
                x = block(x, told)
            elif len(rows):
                x = x.index_copy(0, rows, block(x[rows], told[rows]).to(x.dtype))
        return x

    @property
    def attention(self) -> str:
        """How its blocks compute attention: `sdpa`, or `eager` by plain products. A training may choose; exports take the first."""
        return str(self.blocks[0].attention)

    def attend(self, implementation: str) -> None:
        """Compute attention otherwise.

        Raises:
            ValueError: it is neither `sdpa` nor `eager`.
        """
        if implementation not in ("sdpa", "eager"):
            raise ValueError(f"{implementation!r} is neither sdpa nor eager")
        for block in self.blocks:
            assert isinstance(block, DiTBlock)
            block.attention = implementation

    def tell(self, what: Literal["span", "scale", "budget"]) -> None:
        """Add an embedding of one more number, which changes nothing until it is learned: its second layer begins with zeros."""
        first, width = self.patches.weight, self.config["width"]
        with torch.device(first.device):
            layers = nn.Sequential(nn.Linear(2 * FREQUENCIES, width), nn.SiLU(), _zeros(nn.Linear(width, width)))
        setattr(self, what, layers.to(first.dtype))

    def _cut(self, sample: torch.Tensor) -> torch.Tensor:
        """`[B, tokens, channels * patch * patch]`."""
        channels, patch, (down, across) = self.config["channels"], self.config["patch"], self.grid
        cut = sample.reshape(-1, channels, down, patch, across, patch)
        return cut.permute(0, 2, 4, 1, 3, 5).reshape(-1, down * across, channels * patch * patch)

    def _joined(self, tokens: torch.Tensor) -> torch.Tensor:
        channels, patch, (down, across) = self.config["channels"], self.config["patch"], self.grid
        cut = tokens.reshape(-1, down, across, channels, patch, patch)
        return cut.permute(0, 3, 1, 4, 2, 5).reshape(-1, channels, down * patch, across * patch)


class DiTBlock(nn.Module):
    """Attention and a feed-forward part, each behind a norm that is shifted and scaled, and gated."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_size, self.attention = heads, width // heads, "sdpa"
        self.modulation = _zeros(nn.Linear(width, 6 * width))
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.output = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        """`[B, T, D]` to the same, by what is told, `[B, D]`."""
        shift, scale, gate, later_shift, later_scale, later_gate = self.modulation(told).unsqueeze(1).chunk(6, dim=-1)
        inner = _modulated(x, shift, scale)
        parts = (layer(inner).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value))
        attended = _attended if self.attention == "eager" else functional.scaled_dot_product_attention
        seen = attended(*parts).transpose(1, 2).flatten(2)
        x = x + gate * self.output(seen)
        inner = _modulated(x, later_shift, later_scale)
        grown: torch.Tensor = x + later_gate * self.down(functional.gelu(self.up(inner), approximate="tanh"))
        return grown


def _attended(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Attention `[B, heads, T, D]` by plain products: torch's own kernel is slow backwards in bf16 on processors, for so few tokens."""
    shares = torch.softmax(query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5, dim=-1)
    return shares.to(value.dtype) @ value


def _modulated(x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    changed: torch.Tensor = functional.layer_norm(x, x.shape[-1:]) * (1 + scale) + shift
    return changed


def _waves(time: torch.Tensor) -> torch.Tensor:
    """Sines and cosines of times `[B]`: `[B, 2 * FREQUENCIES]`."""
    steps = torch.arange(FREQUENCIES, dtype=torch.float32, device=time.device)
    angles = time[:, None] * torch.exp(-math.log(LONGEST) / FREQUENCIES * steps)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def _zeros(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
