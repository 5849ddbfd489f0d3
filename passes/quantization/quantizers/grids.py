"""Groups of weights on a grid of few numbers, rounded by ONNX Runtime's own kernels or chosen otherwise, as its operators hold them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SMALLEST_GROUP = 16
"""Weights of one scale that a table is cut into at least."""
SMALLEST = {8: 16, 4: 16, 2: 32}
"""Weights of one scale that products have kernels for, by their bits: shorter groups run scalar code, 200 times as long."""


@dataclass(frozen=True)
class Grid:
    """What weights are rounded to: `scale x (n - zero)`, `n` of 0 to `2 ** bits - 1`, a scale for each group along the summed axis."""

    bits: int
    """8, 4 or 2."""
    group: int
    """Weights of one scale, a power of two from 16 on; the last group of a row may hold fewer."""
    symmetric: bool = True
    """True where `zero` is the middle, `2 ** (bits - 1)`, for all groups; False where each group has its own."""

    @property
    def middle(self) -> int:
        """What stands for 0 where all groups have the same."""
        return 1 << (self.bits - 1)

    @property
    def most(self) -> int:
        """The largest number."""
        return (1 << self.bits) - 1

    def within(self, width: int) -> Grid:
        """This grid for rows of `width` weights: no group is longer than the next power of two, where it would hold nothing."""
        group = self.group
        while group > SMALLEST[self.bits] and group // 2 >= width:
            group //= 2
        return Grid(self.bits, group, self.symmetric)

    def dividing(self, width: int) -> Grid | None:
        """This grid with the largest group that divides rows of `width` weights; None where none of 16 or more does."""
        group = self.group
        while group >= SMALLEST[self.bits]:
            if width % group == 0:
                return Grid(self.bits, group, self.symmetric)
            group //= 2
        return None


@dataclass(frozen=True)
class Blocks:
    """A matrix `[rows, width]` on a grid, as `MatMulNBits` and `GatherBlockQuantized` read it."""

    grid: Grid
    width: int
    packed: NDArray[np.uint8]
    """`[rows, groups, bytes]`: numbers side by side, those of the lowest bits first."""
    scales: NDArray[np.float32]
    """`[rows, groups]`."""
    zeros: NDArray[np.uint8] | None
    """`[rows, bytes]`, packed as the numbers are; None where the grid is symmetric."""

    @property
    def nbytes(self) -> int:
        """Bytes of all parts."""
        return int(self.packed.nbytes + self.scales.nbytes + (self.zeros.nbytes if self.zeros is not None else 0))

    def values(self) -> NDArray[np.float32]:
        """The matrix that it stands for, `[rows, width]`."""
        import numpy as np

        numbers = unpacked(self.packed, self.grid.bits).astype(np.float32)
        zeros: Any = self.grid.middle
        if self.zeros is not None:
            zeros = unpacked(self.zeros, self.grid.bits)[:, : self.scales.shape[1], None].astype(np.float32)
        found = (numbers - zeros) * self.scales[..., None]
        return np.ascontiguousarray(found.reshape(len(found), -1)[:, : self.width])


def rounded(matrix: NDArray[np.float32], grid: Grid) -> Blocks:
    """The nearest numbers for `[rows, width]`, by ONNX Runtime's own kernels.

    A symmetric scale is the largest weight's through `-2 ** (bits - 1)`: that weight is exact, one of the other sign that is as large
    is one step short; all others are within half a step.
    """
    import numpy as np
    from onnxruntime.capi import _pybind_state as kernels

    rows, width = matrix.shape
    groups, each = -(-width // grid.group), 8 // grid.bits
    turned = np.zeros((groups * grid.group, rows), np.float32)
    turned[:width] = matrix.T
    packed = np.zeros((rows, groups, grid.group // each), np.uint8)
    scales, zeros = np.zeros((rows, groups), np.float32), np.zeros((rows, -(-groups // each)), np.uint8)
    quantise = getattr(kernels, f"quantize_matmul_{grid.bits}bits")
    quantise(packed, turned, scales, zeros, grid.group, rows, width, grid.symmetric)
    return Blocks(grid, width, packed, scales, None if grid.symmetric else zeros)


def held(numbers: NDArray[Any], scales: NDArray[np.float32], zeros: NDArray[Any], grid: Grid, width: int) -> Blocks:
    """Numbers that were chosen elsewhere.

    Args:
        numbers: `[rows, groups, group]`, 0 to `grid.most`.
        scales: `[rows, groups]`.
        zeros: `[rows, groups]`, as the numbers; not read where the grid is symmetric.
        grid: that they are on.
        width: weights of a row.
    """
    import numpy as np

    found = None if grid.symmetric else packed_up(zeros.astype(np.uint8), grid.bits)
    return Blocks(grid, width, packed_up(numbers.astype(np.uint8), grid.bits), scales.astype(np.float32), found)


def packed_up(numbers: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Numbers of `bits` bits side by side along the last axis, the lowest bits first; filled up with 0 to whole bytes."""
    import numpy as np

    each = 8 // bits
    lacks = -numbers.shape[-1] % each
    filled = np.concatenate([numbers, np.zeros((*numbers.shape[:-1], lacks), np.uint8)], axis=-1) if lacks else numbers
    parts = filled.reshape(*filled.shape[:-1], -1, each)
    found: NDArray[np.uint8] = np.zeros(parts.shape[:-1], np.uint8)
    for place in range(each):
        found |= parts[..., place] << np.uint8(place * bits)
    return found


def unpacked(packed: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """What `packed_up` packed, with what it was filled up with."""
    import numpy as np

    places = np.arange(8 // bits, dtype=np.uint8) * np.uint8(bits)
    found = (packed[..., None] >> places) & np.uint8((1 << bits) - 1)
    return found.reshape(*packed.shape[:-1], -1)
