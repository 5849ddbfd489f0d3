"""Interpolated targets: what is imitated begins near the student's own answers and moves to the teacher's while it learns (TAID)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field, PrivateAttr, model_validator
from typing_extensions import override

from compressor.contracts import Outputs
from compressor.model.token_losses import Chunk
from passes.objectives.soft_targets import kl
from passes.objectives.token_objective import TokenObjective

if TYPE_CHECKING:
    import torch

    from compressor.contracts.anatomy import Anatomy

EPSILON = 1e-15
"""Keeps a change of a loss of 0 finite."""


class InterpolatedTargets(TokenObjective):
    """Imitate `softmax((1 - t) · student + t · teacher)` of logits; the teacher's share t rises, faster while the loss falls.

    The student's part of the target has no gradient. The loss is the KL from the target to the student, which the paper's cross-entropy
    equals but for the target's entropy; so it is 0 where both models are equal, and gradients are the same.
    """

    paper: ClassVar[str] = "Shing et al., TAID: Temporally Adaptive Interpolated Distillation, 2025, arXiv:2501.16937"

    start: float = Field(0.4, ge=0, le=1, description="the teacher's share at the start")
    end: float = Field(1.0, ge=0, le=1, description="the teacher's share at the end")
    rate: float = Field(5e-4, ge=0, le=1, description="how fast the share rises beyond its straight line, at most, a step")
    momentum: float = Field(0.99, ge=0, lt=1, description="how slowly the measured fall of the loss follows")
    temperature: float = Field(1.0, gt=0, le=1000, description="divides the logits before the softmax")

    _share: Any = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if self.end < self.start:
            raise ValueError(f"the teacher's share rises: end ({self.end:g}) lies below start ({self.start:g})")
        return self

    @override
    def projections(self, student: Anatomy, teacher: Anatomy) -> torch.nn.Module | None:
        """The share, which goes on where a killed training does."""
        state: torch.nn.Module = _share(self.start)
        return state

    @override
    def at(self, state: Any, *, step: int, done: float, before: float | None) -> Self:
        """This objective with the share of a step: `t <- min(end, max(line, t + rate · sigmoid(m) · (1 - t)))`.

        `m` follows the relative fall of the loss from one step to the next.
        """
        if state is not None and step != state.at:
            state.at = step
            _advance(state, self, done, before)
        found = self.model_copy()
        found._share = None if state is None else state.share
        return found

    @override
    def values(self, chunk: Chunk, teacher: Outputs) -> torch.Tensor:
        """The divergence from the target, token by token."""
        share = self.start if self._share is None else self._share
        target = (1 - share) * chunk.logits.detach() + share * chunk.of(teacher)
        if self.temperature == 1:
            return kl(target.log_softmax(dim=-1), chunk.logs)
        return self.temperature**2 * kl(*((each / self.temperature).log_softmax(dim=-1) for each in (target, chunk.logits)))


def _share(start: float) -> Any:
    """The state: buffers alone, which checkpoints keep."""
    import torch

    state: Any = torch.nn.Module()
    for name, value in {"share": start, "fall": 0.0, "loss": math.nan}.items():
        state.register_buffer(name, torch.tensor(value))
    state.at = -1
    return state


def _advance(state: Any, given: InterpolatedTargets, done: float, before: float | None) -> None:
    """One step on; `before` is the loss of the step before."""
    share, line = state.share, given.start + (given.end - given.start) * done
    if before is not None:
        known = ~state.loss.isnan()
        fall = given.momentum * state.fall + (1 - given.momentum) * (state.loss - before) / (state.loss + EPSILON)
        state.fall.copy_(fall.where(known, state.fall))
        risen = share + given.rate * state.fall.sigmoid() * (1 - share)
        share = risen.where(known, share)
        state.loss.fill_(before)
    state.share.copy_(share.clamp(min=line).clamp(max=given.end))
