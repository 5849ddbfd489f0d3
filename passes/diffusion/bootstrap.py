"""One loss for fewer steps: the student's output is held against one that follows from steps of a teacher, or of itself, without a gradient.

Methods differ in where a step begins and ends and in who makes the smaller steps that it is to equal: times are in [0, 1], 1 is noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from compressor.contracts import Batch, derived_seed
from compressor.tasks.generation.description import Description
from passes.diffusion.denoiser import Denoiser, grid_times

if TYPE_CHECKING:
    import torch

Bootstrap: TypeAlias = Literal["progressive", "shortcut", "consistency", "meanflow", "boot"]


@dataclass(frozen=True, eq=False)
class Lesson:
    """Noisy rows, and what a student is to tell of them."""

    x: torch.Tensor
    t: torch.Tensor
    span: torch.Tensor
    """Of the step that the student is asked for: `[B]`."""
    output: torch.Tensor
    """What it is to tell, without a gradient."""


@dataclass(frozen=True, eq=False)
class Pair:
    """A teacher and its student, and in how many steps one of them draws."""

    teacher: Denoiser
    student: Denoiser
    steps: int
    """Of the student, where it learns one number of them; else of the finest steps that are taken."""
    share: float = 0.25
    """Share of the rows that learn from the student's own steps, of methods that have both kinds."""

    def lesson(self, method: Bootstrap, rows: torch.Tensor, label: torch.Tensor) -> Lesson:
        """What is learned of a batch; noise and times come from torch's generator."""
        import torch

        with torch.no_grad():
            return METHODS[method](self, rows, torch.randn_like(rows), label)

    def loss(self, method: Bootstrap, rows: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """Mean squared error of the student's output, which for `flow` is a velocity; of `meanflow` each row counts by the inverse of its own."""
        lesson = self.lesson(method, rows, label)
        found = self.student.told(lesson.x, lesson.t, label, lesson.span)
        apart = (found - lesson.output).square().flatten(1).mean(1)
        if method == "meanflow":  # derivatives make some targets large: without this they are all that is learned
            return (apart / (apart.detach() + ADAPTED)).mean()
        return apart.mean()

    def own(self, rows: torch.Tensor) -> int:
        """How many of these rows, the first ones, learn from the student's own steps: their share, rounded by chance so that it holds on average."""
        import torch

        return min(len(rows), int(self.share * len(rows) + torch.rand(()).item()))


def _progressive(pair: Pair, rows: torch.Tensor, noise: torch.Tensor, label: torch.Tensor) -> Lesson:
    """Two steps of the teacher are one of the student (Salimans and Ho, 2022, arXiv:2202.00512)."""
    t = grid_times(rows, pair.steps)
    to = (t - 1 / pair.steps).clamp(min=0)
    x = pair.student.noised(rows, t, noise)
    return _led(pair, pair.teacher, x, t, to, label)


def _led(pair: Pair, by: Denoiser, x: torch.Tensor, t: torch.Tensor, to: torch.Tensor, label: torch.Tensor) -> Lesson:
    """What the student tells so that its one step ends where two half steps of another one do."""
    half = (t + to) / 2
    ended = by.moved(by.moved(x, t, half, label), half, to, label)
    row = pair.student.row_that_leads(x, t, to, ended)
    return Lesson(x, t, t - to, pair.student.output_for(row, x, t))


def finest(steps: int) -> int:
    """How many of the shortest step that shortcut learns are 1: the power of 2, 2 at least, that is not below `steps`."""
    return 1 << max(1, (steps - 1).bit_length())


def _shortcut(pair: Pair, rows: torch.Tensor, noise: torch.Tensor, label: torch.Tensor) -> Lesson:
    """Steps of length 1, 1/2, 1/4, ...: from two of its own, and the shortest as the teacher's (Frans et al., 2024, arXiv:2410.12557)."""
    import torch

    own, most = pair.own(rows), finest(pair.steps)
    counts = 2 ** torch.randint(most.bit_length() - 1, (len(rows),), device=rows.device).double()
    counts[own:] = most
    t = grid_times(rows, counts)
    to = (t - 1 / counts).clamp(min=0)
    x = pair.student.noised(rows, t, noise)
    output = torch.empty_like(x)
    if own:
        output[:own] = _led(pair, pair.student, x[:own], t[:own], to[:own], label[:own]).output
    if own < len(rows):
        output[own:] = pair.student.output_for(pair.teacher.row(x[own:], t[own:], label[own:]), x[own:], t[own:])
    return Lesson(x, t, t - to, output)


def _consistency(pair: Pair, rows: torch.Tensor, noise: torch.Tensor, label: torch.Tensor) -> Lesson:
    """The row found at a time is the one found a step of the teacher later (Song et al., 2023, arXiv:2303.01469), at the end where that led."""
    import torch

    t = grid_times(rows, pair.steps)
    to = (t - 1 / pair.steps).clamp(min=0)
    to = torch.where(to < NOTHING, torch.zeros_like(to), to)
    x = pair.student.noised(rows, t, noise)
    nearer = pair.teacher.moved(x, t, to, label)
    row = pair.student.row(nearer, to, label, to)
    return Lesson(x, t, t, pair.student.output_for(row, x, t))


def _meanflow(pair: Pair, rows: torch.Tensor, noise: torch.Tensor, label: torch.Tensor) -> Lesson:
    """The mean velocity of a step by how it changes along the teacher's path: u = v - span * du/dt (Geng et al., 2025, arXiv:2505.13447)."""
    import torch

    own = pair.own(rows)
    times = torch.rand(2, len(rows), device=rows.device, dtype=torch.float64)
    t, to = times.max(0).values.clamp(min=MOMENT), times.min(0).values
    to[own:] = t[own:]
    x = pair.student.noised(rows, t, noise)
    output = pair.teacher.told(x, t, label)
    if own:
        span = (t - to)[:own, None, None, None].to(x.dtype)
        output[:own] -= span * _change(pair.student, x[:own], t[:own], to[:own], output[:own], label[:own])
    return Lesson(x, t, t - to, output)


def _change(
    student: Denoiser, x: torch.Tensor, t: torch.Tensor, to: torch.Tensor, velocity: torch.Tensor, label: torch.Tensor
) -> torch.Tensor:
    """Of what a student tells of steps from `t` to `to`: how fast it changes with `t`, `x` moving with a velocity meanwhile.

    By a difference: the fastest waves that a network is told a time by turn more than a hundred times in [0, 1], and an exact derivative is
    mostly theirs.
    """
    import torch

    later, earlier = (t + AROUND).clamp(max=1), torch.maximum(t - AROUND, to)

    def told(time: torch.Tensor) -> torch.Tensor:
        moved = x + (time - t).to(x.dtype)[:, None, None, None] * velocity
        return student.told(moved, time, label, time - to)

    return (told(later) - told(earlier)) / (later - earlier).to(x.dtype)[:, None, None, None]


def _boot(pair: Pair, rows: torch.Tensor, noise: torch.Tensor, label: torch.Tensor) -> Lesson:
    """A step from noise to any time is one that ends a little earlier, and one of the teacher (Gu et al., 2023, arXiv:2306.05544): of rows nothing
    is read but their shape."""
    import torch

    start = torch.ones(len(rows), device=rows.device, dtype=torch.float64)
    t = grid_times(rows, pair.steps)
    to = (t - 1 / pair.steps).clamp(min=0)
    ended = pair.teacher.moved(pair.student.moved(noise, start, t, label), t, to, label)
    row = pair.student.row_that_leads(noise, start, to, ended)
    return Lesson(noise, start, start - to, pair.student.output_for(row, noise, start))


METHODS: Mapping[Bootstrap, Callable[[Pair, torch.Tensor, torch.Tensor, torch.Tensor], Lesson]] = {
    "progressive": _progressive,
    "shortcut": _shortcut,
    "consistency": _consistency,
    "meanflow": _meanflow,
    "boot": _boot,
}


@dataclass(frozen=True)
class Imagined:
    """Batches without end that read no row: blank pictures, and labels drawn evenly by a seed."""

    how: Description
    batch_size: int
    seed: int

    def __iter__(self) -> Iterator[Batch]:
        import numpy as np
        import torch

        draw = np.random.default_rng(derived_seed(self.seed, "imagined"))
        while True:
            labels = torch.from_numpy(draw.integers(max(1, self.how.classes), size=self.batch_size))
            known = labels if self.how.classes else torch.full_like(labels, self.how.empty or 0)
            yield {"clean": torch.zeros(self.batch_size, *self.how.shape), "labels": known}


NOTHING, MOMENT, ADAPTED = 1e-9, 1e-3, 1e-3
AROUND = 0.03
"""Time before and after a moment by which a change is told."""
