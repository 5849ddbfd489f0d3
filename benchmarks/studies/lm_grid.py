"""How far fine-tuned weights are from the grid of 4 bits that their source came from, in steps of it.

SmolLM2-135M-Instruct is there as a file of Q4_1: each 32 weights of a row are one of 16 evenly spaced values, the least and the greatest of which
are among them. So the source in float says what the grid is: the step is a fifteenth of what the run spans.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

GROUP, LEVELS = 32, 15
"""Weights of a run, and steps between its least and its greatest value."""
ON_GRID = 0.01
"""Steps that a weight of the source may be off: scales are numbers of float16, weights of float32."""
FILE = "model.safetensors"
SPREAD = 12**-0.5
"""Root mean square, in steps, of a weight's distance to the nearest value where it lies anywhere alike."""


@dataclass(frozen=True)
class Apart:
    """Of all matrices in blocks whose source lies on the grid."""

    matrices: int
    """How many do."""
    others: int
    """How many matrices in blocks do not."""
    weights: int
    moved: float
    """Root mean square of what fine-tuning changed, in steps."""
    elsewhere: float
    """Share of the weights whose nearest value of the grid is another one than the source's."""
    off: float
    """Root mean square of the distance to the nearest value, in steps."""

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Apart:
        """From JSON."""
        return cls(**values)


def apart(source: Path, tuned: Path) -> dict[str, Any]:
    """Of two folders with the same matrices, as JSON."""
    matrices = others = weights = 0
    moved = elsewhere = off = 0.0
    for before, after in _matrices(source, tuned):
        place = on_grid(before)
        if place is None:
            others += 1
            continue
        least, step = place
        now = (_runs(after) - least) / step
        nearest, was = now.round().clamp(0, LEVELS), ((_runs(before) - least) / step).round()
        matrices, weights = matrices + 1, weights + before.numel()
        moved += float((now - was).square().sum())
        elsewhere += float((nearest != was).sum())
        off += float((now - nearest).square().sum())
    count = max(1, weights)
    return asdict(Apart(matrices, others, weights, (moved / count) ** 0.5, elsewhere / count, (off / count) ** 0.5))


def on_grid(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Least values and steps, `[runs, 1]` each, of a matrix `[outputs, inputs]` whose runs lie on a grid; None where they do not."""
    if matrix.shape[1] % GROUP:
        return None
    runs = _runs(matrix)
    least = runs.amin(1, keepdim=True)
    step = (runs.amax(1, keepdim=True) - least) / LEVELS
    step = step.where(step > 0, step.new_ones(()))
    places = (runs - least) / step
    return (least, step) if float((places - places.round()).abs().max()) <= ON_GRID else None


def _runs(matrix: torch.Tensor) -> torch.Tensor:
    return matrix.double().reshape(-1, GROUP)


def _matrices(source: Path, tuned: Path) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Those in blocks, of both."""
    from safetensors import safe_open

    with safe_open(source / FILE, "pt") as before, safe_open(tuned / FILE, "pt") as after:
        for name in before.keys():  # noqa: SIM118 - it is no dictionary
            if ".layers." in name and len(before.get_slice(name).get_shape()) == 2:
                yield before.get_tensor(name), after.get_tensor(name)


def told(found: Apart) -> Iterator[str]:
    """In words."""
    lies = f"of {found.matrices + found.others} matrices in blocks {found.matrices} lie on it ({found.weights / 1e6:.0f} million weights)"
    yield f"- The source's weights come from a file of 4 bits (Q4_1: 16 values for each {GROUP} weights of a row); {lies}."
    if not found.matrices:
        yield "  How far fine-tuning went from it cannot be said."
        return
    yield f"  Fine-tuning moved them by {found.moved:.3f} steps of that grid (root mean square); {found.elsewhere:.4%} are nearest to another value"
    yield f"  now than they came from, and they lie {found.off:.3f} steps from the nearest one (weights that lie anywhere alike: {SPREAD:.3f})."
