"""Rounding to grids, with straight-through gradients: what is cut off at the ends has none.

Learned steps: Esser et al., Learned Step Size Quantization, 2020, arXiv:1902.08153; Choi et al., PACT, 2018, arXiv:1805.06085.
Ternary weights: Li et al., Ternary Weight Networks, 2016,
arXiv:1605.04711; their form for 4 bits: Zhang et al., TernaryBERT, 2020, arXiv:2009.12812.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, NamedTuple

import torch

from compressor.model.quantization.grids import InputGrid, WeightGrid

THRESHOLD = 0.7
"""Of the mean magnitude: what is smaller becomes 0 in ternary weights."""
SMALLEST, LARGEST = 2.0**-24, 65504.0
"""Positive numbers of float16."""
CLIP = 2.5
"""Ternary weights beyond it have no gradient."""
STARTS = tuple(share / 20 for share in range(20, 5, -1))
"""Of the step at which the greatest magnitude is the last whole number: what learned steps may start from."""


class Rounded(torch.autograd.Function):
    """`(clamp(round(x / step) + zero, low, high) - zero) * step`.

    The gradient of `x` passes where nothing is cut off: everywhere, to the last bit, where the step was made of the greatest magnitude itself, and
    `share` is None. That of `step` is LSQ's: `round(x / step) - x / step` where nothing is cut off, else the
    whole number at that end; it is summed over what shares a step and multiplied with `share`. With `ends` only what is cut off has a part in it,
    as in PACT.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        step: torch.Tensor,
        zero: torch.Tensor | None,
        low: int,
        high: int,
        share: float | None,
        ends: bool = False,
    ) -> torch.Tensor:
        if share is not None:
            ctx.save_for_backward(x, step, zero)
        ctx.low, ctx.high, ctx.share, ctx.ends = low, high, share, ends
        return whole(x, step, zero, low, high).mul_(step)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        (gradient,) = gradients
        if ctx.share is None:
            return gradient, *(None,) * 6
        x, step, zero = ctx.saved_tensors
        scaled = x / step
        low, high = (ctx.low, ctx.high) if zero is None else (ctx.low - zero, ctx.high - zero)
        passed, of_step = within(low, high, scaled, gradient), None
        if ctx.needs_input_grad[1]:
            rounded = whole(x, step, zero, ctx.low, ctx.high)
            off = rounded - within(low, high, scaled, rounded if ctx.ends else scaled)
            of_step = off.mul_(gradient).sum_to_size(step.shape) * ctx.share
        return passed, of_step, *(None,) * 5


def whole(x: torch.Tensor, step: torch.Tensor, zero: torch.Tensor | None, low: int, high: int) -> torch.Tensor:
    """The whole numbers of the nearest values of a grid, those that 0 has taken off: 0 itself is always 0."""
    if zero is None:
        return (x / step).round_().clamp_(low, high)
    return (x / step).round_().add_(zero).clamp_(low, high).sub_(zero)


def within(low: float | torch.Tensor, high: float | torch.Tensor, x: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """`values` where `low <= x <= high`, else 0; all of one shape.

    Between numbers by a kernel that leaves out the ends themselves, and is several times as fast as masks on a CPU: they move by one number.
    """
    if isinstance(low, torch.Tensor) or isinstance(high, torch.Tensor):
        return torch.where((x >= low) & (x <= high), values, 0.0)
    found: torch.Tensor = torch.ops.aten.hardtanh_backward(values, x, *_beyond(low, high, x.dtype))
    return found


@cache
def _beyond(low: float, high: float, dtype: torch.dtype) -> tuple[float, float]:
    """The next numbers outside of an interval."""
    infinity = torch.tensor([-math.inf, math.inf], dtype=dtype)
    below, above = torch.nextafter(torch.tensor([low, high], dtype=dtype), infinity).tolist()
    return below, above


class _Ternary(torch.autograd.Function):
    """Signs of what is above a threshold, times a step; the gradient passes within `CLIP`."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, step: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return signs_above(x, threshold).mul_(step)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return within(-CLIP, CLIP, x, gradients[0]), None, None


def signs_above(x: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
    """-1, 0 or 1: the sign of what is greater than a threshold in magnitude."""
    return x.abs().gt_(threshold).mul_(x.sign())  # in place numbers stay numbers: arithmetic with truth values is slow


class Integers(NamedTuple):
    """Weights as whole numbers. A weight is `(whole - zero) * step`."""

    whole: torch.Tensor
    """`[outputs, inputs]`, int8."""
    step: torch.Tensor
    """`[outputs, groups]`; one of both where the matrix has one step."""
    zero: torch.Tensor | None
    """Of the shape of `step`; None where it is 0."""


# ------------------------------------------------------------------ weights


def rounded_weights(weight: torch.Tensor, grid: WeightGrid, log_step: torch.Tensor | None = None) -> torch.Tensor:
    """Weights `[outputs, inputs]` on their grid.

    Args:
        weight: what is learned.
        grid: the grid.
        log_step: logarithms of learned steps, one for each; None unless they are learned.
    """
    parts = _parted(weight, grid)
    step, zero, threshold = _step(parts, weight, grid, log_step)
    low, high = grid.bounds
    if threshold is not None:
        found: torch.Tensor = _Ternary.apply(parts, step, threshold)  # type: ignore[no-untyped-call]
    else:
        share = None if grid.steps == "max" else 1 / math.sqrt(parts.shape[1] * high)
        found = Rounded.apply(parts, step, zero, low, high, share)  # type: ignore[no-untyped-call]
    return _together(found, weight, grid)


def integers(weight: torch.Tensor, grid: WeightGrid, log_step: torch.Tensor | None = None) -> Integers:
    """The same as whole numbers with steps, to be written into files."""
    with torch.no_grad():
        parts = _parted(weight, grid)
        step, zero, threshold = _step(parts, weight, grid, log_step)
        low, high = grid.bounds
        found = whole(parts, step, zero, low, high) if threshold is None else signs_above(parts, threshold)
        found = found if zero is None else found + zero
        rows = 1 if grid.granularity == "tensor" else weight.shape[0]
        zeros = None if zero is None else zero.reshape(rows, -1)
        return Integers(_together(found, weight, grid).to(torch.int8), step.reshape(rows, -1), zeros)


def started(weight: torch.Tensor, grid: WeightGrid) -> torch.Tensor:
    """Logarithms of the steps that learning starts from: of `STARTS` those whose rounding is off least, in the mean of squares, for each run.

    LSQ's own start, `2 mean|w| / sqrt(high)`, is among them. It is nearly twice as coarse as the greatest magnitude asks for where 64 weights
    share a step of 4 bits, and a short training does not make that good.
    """
    with torch.no_grad():
        parts, (low, high) = _parted(weight, grid), grid.bounds
        sizes = parts.abs()
        mean = sizes.sum(1, keepdim=True) / _counts(weight, grid)
        best = _positive(2 * mean / math.sqrt(high))
        least = _off(parts, best, low, high)
        widest = _positive(sizes.amax(1, keepdim=True) / high)
        for share in STARTS:
            step = widest * share
            off = _off(parts, step, low, high)
            best, least = torch.where(off < least, step, best), torch.minimum(off, least)
        return torch.log(best[:, 0])


def _off(parts: torch.Tensor, step: torch.Tensor, low: int, high: int) -> torch.Tensor:
    """Sums of squares of what rounding changes, `[steps, 1]`."""
    return whole(parts, step, None, low, high).mul_(step).sub_(parts).square_().sum(1, keepdim=True)


def number_of_steps(shape: tuple[int, int], grid: WeightGrid) -> int:
    """How many steps a matrix `[outputs, inputs]` has."""
    if grid.granularity == "tensor":
        return 1
    return shape[0] * (1 if grid.group is None else -(-shape[1] // grid.group))


def _parted(weight: torch.Tensor, grid: WeightGrid) -> torch.Tensor:
    """`[steps, weights of one step]`; runs that are cut short at the end of a row are filled up with 0."""
    if grid.granularity == "tensor":
        return weight.reshape(1, -1)
    if grid.group is None:
        return weight
    return torch.nn.functional.pad(weight, (0, -weight.shape[1] % grid.group)).reshape(-1, grid.group)


def _together(parts: torch.Tensor, weight: torch.Tensor, grid: WeightGrid) -> torch.Tensor:
    """`_parted` taken back."""
    if grid.group is None:
        return parts.reshape(weight.shape)
    return parts.reshape(weight.shape[0], -1)[:, : weight.shape[1]]


def _counts(weight: torch.Tensor, grid: WeightGrid) -> torch.Tensor:
    """How many weights have each step, `[steps, 1]`."""
    return _parted(torch.ones_like(weight), grid).sum(1, keepdim=True)


def _step(
    parts: torch.Tensor, weight: torch.Tensor, grid: WeightGrid, log_step: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """Step, zero point and threshold of each row of `parts`, `[steps, 1]` each."""
    if log_step is not None:
        step, zero, threshold = log_step.exp()[:, None], None, None
    else:
        step, zero, threshold = _found(parts, weight, grid)
    return (in_float16(step) if grid.float16_steps else step), zero, threshold


def _found(
    parts: torch.Tensor, weight: torch.Tensor, grid: WeightGrid
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """The same where steps are made of the weights."""
    low, high = grid.bounds
    with torch.no_grad():
        if grid.steps == "mean":
            sizes = parts.abs()
            mean = sizes.sum(1, keepdim=True) / _counts(weight, grid)
            if grid.bits == "ternary":
                threshold = THRESHOLD * mean
                return _positive(_mean_above(sizes, threshold)), None, threshold
            return _positive(2 * _mean_above(sizes, mean) / (2**grid.bits - 1)), None, None
        if grid.symmetric:
            return _positive(parts.abs().amax(1, keepdim=True) / high), None, None
        least, most = (each.clamp(*ends) for each, ends in _ends(parts))
        step = _positive((most - least) / (high - low))
        return step, (low - least / step).round(), None


def _ends(parts: torch.Tensor) -> tuple[tuple[torch.Tensor, tuple[float, float]], ...]:
    """The least and the greatest value, and on which side of 0 they are held: 0 is on every grid."""
    return (
        (parts.amin(1, keepdim=True), (-math.inf, 0.0)),
        (parts.amax(1, keepdim=True), (0.0, math.inf)),
    )


def _mean_above(sizes: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
    above = sizes.clone().gt_(threshold)
    return (sizes * above).sum(1, keepdim=True) / above.sum(1, keepdim=True).clamp(min=1)


def _positive(step: torch.Tensor) -> torch.Tensor:
    """1 where all values are 0: any step has them."""
    return torch.where(step > 0, step, torch.ones_like(step))


def in_float16(step: torch.Tensor) -> torch.Tensor:
    """Steps as float16 has them, none of them 0; the gradient passes."""
    nearest = step.detach().clamp(SMALLEST, LARGEST).half().to(step.dtype)
    return step + (nearest - step).detach()


# ------------------------------------------------------------------ activations


def rounded_rows(x: torch.Tensor, grid: InputGrid) -> torch.Tensor:
    """`[..., features]` on grids with a step for each row, or for each block of a row: the greatest magnitude is the last whole number."""
    low, high = grid.bounds
    width = x.shape[-1]
    block = grid.block or width
    parts = torch.nn.functional.pad(x, (0, -width % block)).unflatten(-1, (-1, block))  # type: ignore[no-untyped-call]
    with torch.no_grad():
        step = _positive(parts.abs().amax(-1, keepdim=True) / high)
    found: torch.Tensor = Rounded.apply(parts, step, None, low, high, None)  # type: ignore[no-untyped-call]
    if grid.float16_steps:  # rounded by the step itself, and scaled back by what is kept of it
        found = found * (in_float16(step) / step)
    return found.flatten(-2)[..., :width]
