"""GPTQ: weights rounded one column after the other, what each rounding did to the outputs made good in the columns that follow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from passes.quantization.quantizers.grids import Blocks, Grid, held

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

DAMPING = 0.01
"""Added to the diagonal of the second moments, as a share of its mean."""
COLUMNS = 128
"""Columns whose effect on those behind is collected before it is applied; no fewer than a group."""


def gptq(matrix: NDArray[np.float32], moments: NDArray[np.float64], grid: Grid) -> Blocks:
    """A matrix `[rows, width]` on a grid so that its products with inputs of these second moments change least.

    Frantar et al., GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers, 2022, arXiv:2210.17323. A group's
    scale is read off its weights as they are when its first column is reached. ONNX Runtime has a function of this name too, which gives
    back products on one grid and has them rounded again on another: what was made good would be lost.

    Args:
        matrix: its rows are outputs.
        moments: `[width, width]`, the sum of `x x^T` over inputs; only their proportions matter.
        grid: of 8, 4 or 2 bits.
    """
    import numpy as np
    import torch

    rows, width = matrix.shape
    groups = -(-width // grid.group)
    weights = torch.zeros(rows, groups * grid.group)
    weights[:, :width] = torch.from_numpy(np.ascontiguousarray(matrix))
    factor = _factor(moments, weights.shape[1])
    numbers = torch.zeros(rows, weights.shape[1])
    scales, zeros = torch.zeros(rows, groups), torch.zeros(rows, groups)
    chunk = max(COLUMNS, grid.group)
    for begin in range(0, weights.shape[1], chunk):
        end = min(begin + chunk, weights.shape[1])
        errors = torch.zeros(rows, end - begin)
        for at in range(begin, end):
            group = at // grid.group
            if at % grid.group == 0:
                scales[:, group], zeros[:, group] = steps(weights[:, at : at + grid.group], grid)
            scale, zero = scales[:, group], zeros[:, group]
            numbers[:, at] = (weights[:, at] / scale + zero).round().clamp(0, grid.most)
            error = (weights[:, at] - (numbers[:, at] - zero) * scale) / factor[at, at]
            weights[:, at:end] -= error[:, None] * factor[at, at:end]
            errors[:, at - begin] = error
        weights[:, end:] -= errors @ factor[begin:end, end:]
    return held(numbers.reshape(rows, groups, -1).numpy(), scales.numpy(), zeros.numpy(), grid, width)


def steps(group: torch.Tensor, grid: Grid) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero of each row of a group `[rows, n]`, as ONNX Runtime's kernels choose them; `[rows]` each."""
    import torch

    if grid.symmetric:
        largest = group.gather(1, group.abs().argmax(1, keepdim=True))[:, 0]
        scale = largest / -grid.middle
        return torch.where(scale == 0, 1.0, scale), torch.full_like(scale, grid.middle)
    least, most = group.amin(1).clamp(max=0), group.amax(1).clamp(min=0)
    scale = (most - least) / grid.most
    scale = torch.where(scale == 0, 1.0, scale)
    return scale, (-least / scale).round().clamp(0, grid.most)


def _factor(moments: NDArray[np.float64], filled: int) -> torch.Tensor:
    """The upper Cholesky factor of the inverse of the damped moments, 1 where rows were filled up to their length.

    It is 1 too in columns that no calibration row reads, which are rounded to nearest by that: other rows may read them.
    """
    import torch

    width, full = len(moments), torch.eye(filled, dtype=torch.float64)
    full[:width, :width] = torch.from_numpy(moments)
    diagonal = full.diagonal()[:width]
    unused = torch.nonzero(diagonal == 0)[:, 0]
    diagonal += DAMPING * diagonal.mean()
    full[unused, unused] = 1.0
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(full))
    factor: torch.Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor.float()
