"""A network that denoises, asked for rows and steps instead of its own parametrisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compressor.tasks.generation.description import Description, output_of
from compressor.tasks.generation.process import TIME_SCALE, Levels, like

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Denoiser:
    """A network and how it draws; times are tensors `[B]` in [0, 1], rows and noise `[B, C, H, W]`."""

    module: Any
    how: Description
    guidance: float | torch.Tensor = 1.0
    """At which it is asked: one, or of each row, `[B]`. A network that is told it answers in one evaluation, others take two."""

    def at(self, t: torch.Tensor) -> Levels:
        """Levels of noise at times."""
        return self.how.process.at(t.double().cpu().numpy())

    def told(self, x: torch.Tensor, t: torch.Tensor, label: torch.Tensor, span: torch.Tensor | None = None) -> torch.Tensor:
        """The network's own output, guided where it is; `span` to where a step ends, if it is told one."""
        import torch

        levels = self.at(t)
        given, time = _like(self.how.process.scale(levels), x) * x, x.new_tensor(levels.time)
        others: dict[str, Any] = {}
        if self.how.spans:
            others["span"] = torch.zeros_like(time) if span is None else (TIME_SCALE * span).to(x.dtype)
        if self.how.scales:
            others["scale"] = torch.ones_like(time) * self.guidance
        if self.how.scales or (isinstance(self.guidance, float) and self.guidance == 1):
            alone: torch.Tensor = output_of(self.module, given, time, label, **others).float()
            return alone
        labels = torch.cat([label, torch.full_like(label, self.how.empty or 0)])
        others = {name: torch.cat([each, each]) for name, each in others.items()}
        both = output_of(self.module, torch.cat([given, given]), torch.cat([time, time]), labels, **others).float()
        with_label: torch.Tensor
        without: torch.Tensor
        with_label, without = both.chunk(2)
        away = self.guidance if isinstance(self.guidance, float) else self.guidance[:, None, None, None]
        return without + away * (with_label - without)

    def row(self, x: torch.Tensor, t: torch.Tensor, label: torch.Tensor, span: torch.Tensor | None = None) -> torch.Tensor:
        """The clean row that it finds in `x`."""
        skip, gain = self.how.process.clean(self.at(t))
        return _like(skip, x) * x + _like(gain, x) * self.told(x, t, label, span)

    def moved(self, x: torch.Tensor, t: torch.Tensor, to: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """One straight step (DDIM) from time `t` down to another one."""
        keep, add = self.how.process.step(self.at(t), self.at(to))
        return _like(keep, x) * x + _like(add, x) * self.row(x, t, label, t - to)

    def noised(self, rows: torch.Tensor, t: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Rows at times."""
        levels = self.at(t)
        return _like(levels.alpha, rows) * rows + _like(levels.sigma, rows) * noise

    def output_for(self, row: torch.Tensor, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """What the network would have to tell of `x` so that this row follows."""
        skip, gain = self.how.process.clean(self.at(t))
        return (row - _like(skip, x) * x) / _like(gain, x)

    def row_that_leads(self, x: torch.Tensor, t: torch.Tensor, to: torch.Tensor, ended: torch.Tensor) -> torch.Tensor:
        """The row by which one straight step from `x` ends in `ended`: (ended - keep * x) / add, as in progressive distillation."""
        keep, add = self.how.process.step(self.at(t), self.at(to))
        return (ended - _like(keep, x) * x) / _like(add, x)


def grid_times(rows: torch.Tensor, steps: int | torch.Tensor) -> torch.Tensor:
    """Times, `[B]`, at which one of `steps` even steps begins: 1, 1 - 1 / steps, ..., 1 / steps."""
    import torch

    count = torch.as_tensor(steps, device=rows.device).expand(len(rows))
    return 1 - (torch.rand(len(rows), device=rows.device, dtype=torch.float64) * count).floor() / count


def _like(values: NDArray[np.float64], x: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = like(values, x)
    return found
