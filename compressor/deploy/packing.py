"""Whole numbers of few bits as the kernels of runtimes have them in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from compressor.errors import UnsupportedModel

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from compressor.model.quantization.grids import WeightGrid


def packed(whole: NDArray[np.int8], bits: int, group: int) -> NDArray[np.uint8]:
    """Whole numbers `[outputs, inputs]` as `MatMulNBits` has them: `[outputs, groups, group * bits / 8]`, the first in the lowest bits.

    They are stored above `2 ** (bits - 1)`, which is also what rows are filled up with.
    """
    import numpy as np

    middle = 2 ** (bits - 1)
    lifted = (whole.astype(np.int16) + middle).astype(np.uint8)
    filled = np.pad(lifted, ((0, 0), (0, -lifted.shape[1] % group)), constant_values=middle)
    return _in_bytes(filled, bits).reshape(len(whole), -1, group * bits // 8)


def packed_zeros(zero: NDArray[np.float32], bits: int) -> NDArray[np.uint8]:
    """Zero points `[outputs, groups]`: each output's lie in whole bytes."""
    import numpy as np

    lifted = (zero + 2 ** (bits - 1)).astype(np.uint8)
    return _in_bytes(np.pad(lifted, ((0, 0), (0, -lifted.shape[1] % (8 // bits)))), bits).reshape(-1)


def _in_bytes(values: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    import numpy as np

    several = values.reshape(-1, 8 // bits)
    shifted = several << (bits * np.arange(8 // bits, dtype=np.uint8))
    whole: NDArray[np.uint8] = np.bitwise_or.reduce(shifted, axis=1).astype(np.uint8)
    return whole


# ------------------------------------------------------------------ GGUF

BLOCK, LONG_BLOCK = 32, 256
"""Weights of one scale in a GGUF file: of `Q8_0` and `Q4_0`, and of `TQ2_0`."""


def gguf_type(grid: WeightGrid) -> str:
    """The type of a GGUF file whose matrices are on a grid; rows with one step each have it again in every block.

    Raises:
        UnsupportedModel: there is none.
    """
    group = grid.group if grid.granularity == "group" else None
    if grid.symmetric and grid.bits == "ternary" and group == LONG_BLOCK:
        return "TQ2_0"
    if grid.symmetric and grid.stored_bits == 8 and grid.granularity != "tensor" and group in (None, BLOCK):
        return "Q8_0"
    if grid.symmetric and grid.stored_bits == 4 and group == BLOCK:
        return "Q4_0"
    raise UnsupportedModel(
        f"GGUF files have no type for {grid.told()}: 8 or 4 bits with a step for {BLOCK} inputs, or ternary with one for {LONG_BLOCK}"
    )


def gguf_blocks(whole: NDArray[np.int8], step: NDArray[np.float32], kind: str) -> NDArray[np.uint8]:
    """Whole numbers `[outputs, inputs]` with steps `[outputs, groups]` as rows of bytes of a GGUF type; steps become float16.

    Raises:
        UnsupportedModel: blocks do not divide the rows.
    """
    import numpy as np

    size = LONG_BLOCK if kind == "TQ2_0" else BLOCK
    outputs, inputs = whole.shape
    if inputs % size:
        raise UnsupportedModel(f"rows of {inputs} weights are not made of blocks of {size}, as {kind} of GGUF files has them")
    parts = whole.reshape(outputs, -1, size).astype(np.int16)
    steps = np.broadcast_to(step, parts.shape[:2]).astype(np.float16)[..., None]
    scales = np.ascontiguousarray(steps).view(np.uint8)
    if kind == "Q8_0":
        fields = (scales, parts.astype(np.int8).view(np.uint8))
    elif kind == "Q4_0":  # the first half of a block in the low bits, the second in the high ones
        low, high = np.split((parts + 8).astype(np.uint8), 2, axis=-1)
        fields = (scales, _together((low, high), bits=4))
    else:  # 128 weights in 32 bytes: each byte holds four, 32 apart
        four = (parts + 1).astype(np.uint8).reshape(*parts.shape[:2], 2, 4, 32)
        quarters = [four[..., at, :] for at in range(4)]
        fields = (_together(quarters, bits=2).reshape(*parts.shape[:2], 64), scales)
    return np.concatenate(fields, axis=-1).reshape(outputs, -1)


def _together(parts: Sequence[NDArray[np.uint8]], *, bits: int) -> NDArray[np.uint8]:
    """Bytes that hold each part in so many bits, the first in the lowest."""
    import numpy as np

    shifts = (bits * np.arange(len(parts), dtype=np.uint8)).reshape(-1, *(1,) * parts[0].ndim)
    found: NDArray[np.uint8] = np.bitwise_or.reduce(np.stack(parts) << shifts).astype(np.uint8)
    return found
