"""Dropout on a CPU at a fraction of its usual cost: 16 random bits per element, four elements to a word of a small generator.

torch draws a whole number per element and divides a mask of floats by what stays. Here a mask is made of the bits themselves, by three
integer operations in place. Every dropout takes a seed from torch's generator: it is as reproducible, and a training that goes on from
a checkpoint draws what it would have drawn.
"""

from __future__ import annotations

import numpy as np
import torch

LEVELS = 1 << 16
"""Values of 16 bits: an element is dropped with a probability rounded to one part in so many."""
SMALLEST = 4096
"""Elements below which torch's own dropout is as fast."""
LOWEST = -(1 << 15)
SEEDS = 1 << 62


def dropout(values: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
    """`torch.nn.functional.dropout`; that of many values on a CPU is computed by `dropped`."""
    level = round(p * LEVELS)
    usual = inplace or values.device.type != "cpu" or values.dtype not in (torch.float32, torch.bfloat16)
    if not training or usual or values.numel() < SMALLEST or not 0 < level < LEVELS:
        return torch.nn.functional.dropout(values, p, training, inplace)
    return dropped(values, level)


def dropped(values: torch.Tensor, level: int) -> torch.Tensor:
    """Values of which each is 0 with probability `level / LEVELS`, and else divided by the probability that it stays."""
    return values * _mask(values.shape, level, values.dtype)


def _mask(shape: torch.Size, level: int, dtype: torch.dtype) -> torch.Tensor:
    """Zeros, and what the others are multiplied by."""
    count = shape.numel()
    words = np.random.SFC64(int(torch.randint(SEEDS, ()))).random_raw(-(-count // 4))
    bits = torch.from_numpy(words.view(np.int16)[:count]).view(shape)
    scale = LEVELS / (LEVELS - level)
    below = LOWEST + level - 1  # the largest of the values that are dropped
    stays = bits.clamp_(below, below + 1).sub_(below)
    if dtype == torch.bfloat16:  # its bits are those of an integer: 0 or 1 times the bits of the scale
        return stays.mul_(int(torch.tensor(scale, dtype=dtype).view(torch.int16))).view(dtype)
    ones = stays.mul_(int(torch.tensor(1.0, dtype=torch.bfloat16).view(torch.int16))).view(torch.bfloat16)
    return ones.to(dtype).mul_(scale)
